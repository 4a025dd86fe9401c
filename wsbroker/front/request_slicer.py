"""Divides the bytes of an HTTP/1.1 connection into slices, so that the parser stops where a message ends. Sans-I/O.

aiohttp's parser takes whatever it is given at once, and drops what stands behind a request with an Upgrade that it does
not know. Slices mend both: each is small work, and none goes beyond the end of a message.

A slice ends at the first of: the end of a body whose length is known; an empty line (a head and a chunked body both end
with CRLF CRLF, and nowhere else: RFC 9112 sections 2.1 and 7.1); `max_parse_lines` line breaks; `MAX_SLICE_BYTES` (`MAX_BODY_SLICE_BYTES`
within a body of known length, whose bytes the parser does not look at).
"""

from typing import Final

EMPTY_LINE: Final = b"\r\n\r\n"
MAX_SLICE_BYTES: Final = 16 * 1024
MAX_BODY_SLICE_BYTES: Final = 64 * 1024


class MessageSlicer:
    """Knows where the next slice of one connection ends.

    Args:
        max_lines: line breaks in a slice. Every step of the parser that costs (a field, a chunk, a trailer) ends a
            line.
    """

    __slots__ = ("_previous_tail", "_max_lines", "slice_lines", "remaining_body_bytes")

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self._previous_tail = b""
        """The last bytes of the slices before: an empty line may begin there."""
        self.remaining_body_bytes = 0
        """Bytes of a body with a known length that have not been cut off yet. The caller sets it behind each head."""
        self.slice_lines = 0
        """Line breaks in the slice that was cut off last; 0 within a body of known length."""

    def find_slice_end(self, data: bytes, start: int) -> int:
        """Returns the index behind the next slice, which begins at `start` and has at least one byte."""
        size = len(data)
        if self.remaining_body_bytes:
            end = min(size, start + self.remaining_body_bytes, start + MAX_BODY_SLICE_BYTES)
            self.remaining_body_bytes -= end - start
            self.slice_lines = 0
            return end
        end = min(size, start + MAX_SLICE_BYTES)
        before = self._previous_tail
        found = (before + data[start : start + 3]).find(EMPTY_LINE) if before else -1
        if found >= 0:
            end = min(end, start + found + len(EMPTY_LINE) - len(before))
        else:
            found = data.find(EMPTY_LINE, start, end)
            if found >= 0:
                end = found + len(EMPTY_LINE)
        lines = data.count(b"\n", start, end)
        while lines > self._max_lines:
            end = start + (end - start) // 2
            lines = data.count(b"\n", start, end)
        self.slice_lines = lines
        last = (before + data[max(start, end - 4) : end])[-4:]
        self._previous_tail = b"" if last == EMPTY_LINE else last[-3:]
        return end
