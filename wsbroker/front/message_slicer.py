"""Divides the bytes of an HTTP/1.1 connection into slices, so that the parser stops where a message ends. Sans-I/O.

aiohttp's parser parses everything that it is given at once, and drops what stands behind a request with an Upgrade that
it does not know. Slices mend both: each is little work, and none goes beyond the end of a message.

A slice ends at the first of: the end of a body whose length is known; an empty line (a head and a chunked body both end
with CRLF CRLF, and nowhere else: RFC 9112 sections 2.1 and 7.1); `max_lines` line breaks; `MAX_SLICE_BYTES`
(`MAX_BODY_SLICE_BYTES` within a body of known length, whose bytes the parser does not look at).
"""

from typing import Final

EMPTY_LINE: Final = b"\r\n\r\n"
"""The end of a line and the empty line behind it."""
MAX_SLICE_BYTES: Final = 16 * 1024
"""The most bytes in a slice of heads or chunks."""
MAX_BODY_SLICE_BYTES: Final = 64 * 1024
"""The most bytes in a slice of a body whose length is known."""


class MessageSlicer:
    """Finds where the slices of one connection's input end.

    Args:
        max_lines: the most line breaks in a slice. Every costly step of the parser (a field, a chunk, a trailer) ends
            a line.
    """

    __slots__ = ("_previous_tail", "_max_lines", "slice_lines", "remaining_body_bytes")

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self._previous_tail = b""
        """The last bytes before the next slice, up to three: an empty line may begin in them."""
        self.remaining_body_bytes = 0
        """Bytes of a body with a known length that stand in no slice yet. The caller sets it behind each head."""
        self.slice_lines = 0
        """Line breaks in the slice found last; 0 within a body of known length."""

    def find_slice_end(self, data: bytes, start: int) -> int:
        """Returns the index in `data` behind the next slice, which has at least one byte, and counts its line breaks.

        Args:
            data: bytes that were read from the connection and are not all parsed yet.
            start: the index of the first byte that is in no slice yet.
        """
        size = len(data)
        if self.remaining_body_bytes:
            end = min(size, start + self.remaining_body_bytes, start + MAX_BODY_SLICE_BYTES)
            self.remaining_body_bytes -= end - start
            self.slice_lines = 0
            return end
        end = min(size, start + MAX_SLICE_BYTES)
        previous_tail = self._previous_tail
        index = (previous_tail + data[start : start + 3]).find(EMPTY_LINE) if previous_tail else -1
        if index >= 0:
            end = min(end, start + index + len(EMPTY_LINE) - len(previous_tail))
        else:
            index = data.find(EMPTY_LINE, start, end)
            if index >= 0:
                end = index + len(EMPTY_LINE)
        lines = data.count(b"\n", start, end)
        while lines > self._max_lines:
            end = start + (end - start) // 2
            lines = data.count(b"\n", start, end)
        self.slice_lines = lines
        tail = (previous_tail + data[max(start, end - 4) : end])[-4:]
        self._previous_tail = b"" if tail == EMPTY_LINE else tail[-3:]
        return end
