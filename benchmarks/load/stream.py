"""The bytes that are sent and the bytes that must come back, and the check that they do.

Every payload begins with its channel and its number, so that no message looks like the one before it, or like one of
another channel. Numbers begin again after `Stream.cycle` messages, more than can be on the way, and so do the bytes:
the expected bytes of a read are a slice, and a read is checked with one comparison.
"""

from collections.abc import Callable

from benchmarks.load.client import BUFFER, VIEW, Client
from benchmarks.load.row import Row
from wsbroker.bench.client import make_frame, split_frames
from wsbroker.websocket.frames import TEXT, encode_frame


class Stream:
    """The messages of one channel, as the bytes that are sent and that must come back.

    Args:
        prefix: what stands before the payload on its way to the server: ``"P channel "``.
        channel: its number.
        size: bytes of a payload.
        in_flight: how many may be on the way at most.
    """

    def __init__(self, prefix: bytes, channel: int, size: int, in_flight: int) -> None:
        self.cycle = max(16, 1 << (4 * in_flight - 1).bit_length())
        self._channel = b"%06d." % channel
        payloads = [(self._channel + b"%04d." % number).ljust(size, b"x")[:size] for number in range(self.cycle)]
        outgoing = [make_frame(TEXT, prefix + payload) for payload in payloads]
        self.out_size = len(outgoing[0])
        self.in_size = len(encode_frame(TEXT, payloads[0]))
        self.in_cycle = self.in_size * self.cycle
        # Twice, so that what begins in the first half needs no second comparison.
        self.expected = b"".join([encode_frame(TEXT, payload) for payload in payloads] * 2)
        self._outgoing = b"".join(outgoing * 2)

    def encode_outgoing(self, number: int, count: int) -> bytes:
        """Returns the frames of `count` messages from this number on, in one piece."""
        first = number % self.cycle
        if count <= self.cycle:
            return self._outgoing[first * self.out_size : (first + count) * self.out_size]
        return self.encode_outgoing(number, self.cycle) + self.encode_outgoing(number, count - self.cycle)

    def matches_at(self, data: memoryview, position: int) -> bool:
        """Whether these bytes are what must come at this byte of the stream."""
        pieces = range(0, len(data), self.in_cycle)
        place = position % self.in_cycle
        return all(self.expected.startswith(data[at : at + self.in_cycle], place) for at in pieces)

    def encode_expected(self, number: int) -> bytes:
        """Returns the frame of one message as it must come."""
        start = number % self.cycle * self.in_size
        return self.expected[start : start + self.in_size]

    def parse_number(self, payload: bytes) -> int | None:
        """Returns the number in a payload; None if the payload is none of this channel's."""
        if payload[:7] != self._channel or not payload[7:11].isdigit():
            return None
        number = int(payload[7:11])
        return number if number < self.cycle else None


class Receiver:
    """Checks what comes on a connection against a stream: each read is compared with what must come at its place.

    Args:
        advanced: called with how many messages had come before, and how many now.
    """

    def __init__(self, client: Client, stream: Stream, advanced: Callable[[int, int], None]) -> None:
        self.client = client
        self.count = 0
        """How many messages have come or were passed over."""
        self.advanced = advanced
        self._stream = stream
        self._in_size = stream.in_size
        self._in_cycle = stream.in_cycle
        self._expected = stream.expected
        self._received = 0
        self._rest = b""
        self._lost = 0
        self._unexpected = 0
        client.on_bytes = self._compare_read

    def add_problems(self, row: Row, sent: int) -> None:
        """Adds the messages that did not come as they should to a row, once all that was sent should have come."""
        row.lost += self._lost + (0 if self.client.has_ended else max(sent - self.count, 0))
        row.unexpected += self._unexpected

    def _compare_read(self, size: int) -> None:
        """Compares a read with the expected bytes; looks at its frames if they differ. Called by the client."""
        received = self._received
        place = received % self._in_cycle
        if (size <= self._in_cycle and self._expected.startswith(VIEW[:size], place)) or (
            size > self._in_cycle and self._stream.matches_at(VIEW[:size], received)
        ):
            self._received = received = received + size
            before = self.count
            count = received // self._in_size
            if count != before:
                self.count = count
                advanced = self.advanced
                advanced(before, count)
        else:
            self._rest = self._stream.encode_expected(self.count)[: received - self.count * self._in_size]
            self.client.on_bytes = self._scan_frames
            self._scan_frames(size)

    def _scan_frames(self, size: int) -> None:
        """Handles each frame of a read that was not expected, such as a ping, until the stream is right again."""
        data = self._rest + BUFFER[:size]
        stream, before, begin = self._stream, self.count, 0
        for first, start, end in split_frames(data):
            frame, begin = data[begin:end], end
            if first & 8:
                self.client.handle_control(first, data[start:end])
                continue
            number = stream.parse_number(data[start:end])
            ahead = stream.cycle if number is None else (number - self.count) % stream.cycle
            is_late = ahead >= stream.cycle // 2  # or doubled, or foreign
            if not is_late:
                self._lost += ahead
                self.count += ahead + 1
            if is_late or frame != stream.encode_expected(self.count - 1):
                self._unexpected += 1
        self._rest = data[begin:]
        if self.count != before:
            self.advanced(before, self.count)
        if stream.encode_expected(self.count).startswith(self._rest) and len(self._rest) < self._in_size:
            self._received = self.count * self._in_size + len(self._rest)
            self.client.on_bytes = self._compare_read
