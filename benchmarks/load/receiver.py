"""A connection on which a stream comes back: every read is compared with what must come at that place."""

from collections.abc import Callable

from benchmarks.load.client import BUFFER, VIEW, Client
from benchmarks.load.row import Row
from benchmarks.load.stream import Order, Stream
from wsbroker.bench.client import split_frames


class Receiver:
    """Checks what comes on a connection against a stream: each read is compared with what must come at its place.

    Args:
        advanced: called with how many messages had come before, and how many now.
    """

    def __init__(self, client: Client, stream: Stream, advanced: Callable[[int, int], None]) -> None:
        self.client = client
        self.count = 0
        """How many messages have come or were passed over."""
        self.mangled = 0
        self._stream = stream
        self._in_size = stream.in_size
        self._in_cycle = stream.in_cycle
        self._expected = stream.expected
        self._advanced = advanced
        self._received = 0
        self._rest = b""
        self._order: Order | None = None
        client.on_bytes = self._compare_read

    def stop_counting(self) -> None:
        """Goes on checking, but calls `advanced` no more."""
        self._advanced = _ignore_advance

    def add_problems(self, row: Row, sent: int) -> None:
        """Adds losses, doubles and disorder to a row, once all that was sent should have come."""
        row.mangled += self.mangled
        if not self.client.has_ended:
            row.lost += max(sent - self.count, 0)
        if self._order is not None:
            row.lost += self._order.lost
            row.doubled += self._order.doubled
            row.reordered += self._order.reordered

    def _compare_read(self, size: int) -> None:
        """Compares a read with the expected bytes; looks at its frames if they differ. Called by the client."""
        received = self._received
        place = received % self._in_cycle
        if size <= self._in_cycle and self._expected.startswith(VIEW[:size], place):
            self._received = received = received + size
            before = self.count
            count = received // self._in_size
            if count != before:
                self.count = count
                advanced = self._advanced
                advanced(before, count)
        elif size > self._in_cycle and self._stream.matches_at(VIEW[:size], received):
            self._received = received + size
            before, self.count = self.count, self._received // self._in_size
            self._advanced(before, self.count)
        else:
            start = self.count % self._stream.cycle * self._in_size
            self._rest = self._expected[start : start + received - self.count * self._in_size]
            self.client.on_bytes = self._scan_frames
            self._scan_frames(size)

    def _scan_frames(self, size: int) -> None:
        """Handles each frame of a read that was not expected, such as a ping, until the stream is right again."""
        data = self._rest + BUFFER[:size]
        stream, begin = self._stream, 0
        if self._order is None:
            self._order = Order(stream.cycle)
        order = self._order
        order.due = self.count
        for first, start, end in split_frames(data):
            frame, begin = data[begin:end], end
            if first & 8:
                self.client.handle_control(first, data[start:end])
                continue
            number = stream.parse_number(data[start:end])
            if number is None or frame != stream.encode_expected(number):
                self.mangled += 1
            if number is not None:
                order.record_number(number)
        self._rest = data[begin:]
        before, self.count = self.count, order.due
        if order.due != before:
            self._advanced(before, order.due)
        if stream.matches_at(memoryview(self._rest), self.count * self._in_size) and len(self._rest) < self._in_size:
            self._received = self.count * self._in_size + len(self._rest)
            self.client.on_bytes = self._compare_read


def _ignore_advance(before: int, after: int) -> None:
    """Does nothing: takes the place of `advanced` after `stop_counting`."""
