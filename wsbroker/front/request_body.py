"""The body of one request while it is being read: its parts, and the future that tells when it is whole or given up.

aiohttp's `StreamReader` would do it with an exception: stored in the stream, its traceback holds the frame that holds
the stream and all that was read, a cycle of about 1 MiB for each client that leaves in the middle of a body. Here the
end of a body is a value, and nothing is raised.
"""

import asyncio
from typing import Final

from aiohttp.streams import StreamReader

BODY_COMPLETE: Final = 0
"""The outcome of a body that has been read to its end; every other outcome is the status of the answer."""

_SMALL_PART_BYTES: Final = 4 * 1024
_MAX_JOINED_BYTES: Final = 64 * 1024


class BodyCollector:
    """Collects a body.

    Args:
        content: where the parser puts it.
        limit_bytes: a body that is longer has the outcome 413.
        outcome: set once, to WHOLE or a status. Not set at once if the body is not whole yet.
    """

    __slots__ = ("_content", "_limit_bytes", "_parts", "outcome", "size_bytes")

    def __init__(self, content: StreamReader, limit_bytes: int, outcome: "asyncio.Future[int]") -> None:
        self._content: StreamReader | None = content
        self._limit_bytes = limit_bytes
        self._parts: list[bytes | bytearray] = []
        self.outcome: Final = outcome
        self.size_bytes = 0
        """What has been collected."""

    def collect_available_bytes(self) -> None:
        """Takes what the parser has put there, and ends the upload if that was all of it or too much."""
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
        """Sets the outcome, if it is not set yet. Unless the body is whole, what was collected is let go."""
        self._content = None
        if outcome != BODY_COMPLETE:
            self._parts.clear()
            self.size_bytes = 0
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def pop_body(self) -> bytes:
        """Returns the body and lets it go."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _append_part(self, part: bytes) -> None:
        """Appends a part; small ones are joined, for an object of its own would cost more than their bytes."""
        self.size_bytes += len(part)
        parts = self._parts
        if len(part) >= _SMALL_PART_BYTES:
            parts.append(part)
            return
        last = parts[-1] if parts else None
        if isinstance(last, bytearray) and len(last) < _MAX_JOINED_BYTES:
            last += part
        else:
            parts.append(bytearray(part))
