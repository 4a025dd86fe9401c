"""The body of one request while it is being read: its parts, and the future that tells when it is whole or given up.

aiohttp's `StreamReader` would do it with an exception: stored in the stream, its traceback holds the frame that holds
the stream and all that was read, a cycle of about 1 MiB for each client that leaves in the middle of a body. Here the
end of a body is a value, and nothing is raised.
"""

import asyncio
from typing import Final

from aiohttp.streams import StreamReader

WHOLE: Final = 0
"""The outcome of a body that has been read to its end; every other outcome is the status of the answer."""

_SMALL: Final = 4 * 1024
_JOINED: Final = 64 * 1024


class Upload:
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

    def collect(self) -> None:
        """Takes what the parser has put there, and ends the upload if that was all of it or too much."""
        content = self._content
        if content is None:
            return
        if content.exception() is not None:
            self.end(400)
            return
        while part := content.read_nowait():
            self._add(part)
            if self.size_bytes > self._limit_bytes:
                self.end(413)
                return
        if content.is_eof():
            self.end(WHOLE)

    def end(self, outcome: int) -> None:
        """Sets the outcome, if it is not set yet. Unless the body is whole, what was collected is let go."""
        self._content = None
        if outcome != WHOLE:
            self._parts.clear()
            self.size_bytes = 0
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def take(self) -> bytes:
        """Returns the body and lets it go."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _add(self, part: bytes) -> None:
        """Appends a part; small ones are joined, for an object of its own would cost more than their bytes."""
        self.size_bytes += len(part)
        parts = self._parts
        if len(part) >= _SMALL:
            parts.append(part)
            return
        last = parts[-1] if parts else None
        if isinstance(last, bytearray) and len(last) < _JOINED:
            last += part
        else:
            parts.append(bytearray(part))
