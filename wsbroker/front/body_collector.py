"""The body of one request while it is being read: its parts, and the future that resolves when the body is complete.

aiohttp's `StreamReader` would do it with an exception: stored in the stream, its traceback holds the frame that holds
the stream and all that was read, a cycle of about 1 MiB for each client that leaves in the middle of a body. Here the
end of a body is a value, and nothing is raised.
"""

import asyncio
from typing import Final

from aiohttp.streams import StreamReader

BODY_COMPLETE: Final = 0
"""The outcome of a body that has been read to its end; every other outcome is the status of the error response."""

_SMALL_PART_BYTES: Final = 4 * 1024
"""A part with fewer bytes is appended to the part before."""
_MAX_JOINED_BYTES: Final = 64 * 1024
"""The size from which a part of joined parts takes no more."""


class BodyCollector:
    """Collects the parts of one request's body until the body is complete, too long or abandoned.

    Args:
        content: the stream into which the parser puts the body.
        limit_bytes: the most bytes that the body may have; a longer body has the outcome 413.
        outcome: the future that is resolved once, with BODY_COMPLETE or the status of the error response.
    """

    __slots__ = ("_content", "_limit_bytes", "_parts", "outcome", "size_bytes")

    def __init__(self, content: StreamReader, limit_bytes: int, outcome: "asyncio.Future[int]") -> None:
        self._content: StreamReader | None = content
        self._limit_bytes = limit_bytes
        self._parts: list[bytes | bytearray] = []
        self.outcome: Final = outcome
        self.size_bytes = 0
        """Bytes collected so far."""

    def collect_available_bytes(self) -> None:
        """Moves the bytes that the parser has put into the stream to the collected parts.

        Sets the outcome if the body is complete now, is longer than the limit or failed to parse. Called after each
        slice that was parsed.
        """
        content = self._content
        if content is None:
            return
        if content.exception() is not None:
            self.set_outcome(400)
            return
        while part := content.read_nowait():
            self._append_part(part)
            if self.size_bytes > self._limit_bytes:
                self.set_outcome(413)
                return
        if content.is_eof():
            self.set_outcome(BODY_COMPLETE)

    def set_outcome(self, outcome: int) -> None:
        """Resolves the future `outcome`, if it is not resolved yet, and stops collecting.

        Args:
            outcome: BODY_COMPLETE, or the status of the error response; then the collected parts are dropped.
        """
        self._content = None
        if outcome != BODY_COMPLETE:
            self._parts.clear()
            self.size_bytes = 0
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def pop_body(self) -> bytes:
        """Returns the collected body and drops this object's parts of it."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _append_part(self, part: bytes) -> None:
        """Appends bytes of the request's body that were read; a small part is joined with the small part before.

        (An object for each small part would cost more than its bytes.)
        """
        self.size_bytes += len(part)
        parts = self._parts
        if len(part) >= _SMALL_PART_BYTES:
            parts.append(part)
            return
        previous = parts[-1] if parts else None
        if isinstance(previous, bytearray) and len(previous) < _MAX_JOINED_BYTES:
            previous += part
        else:
            parts.append(bytearray(part))
