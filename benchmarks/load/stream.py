"""The bytes that are sent and the bytes that must come back, made once: both repeat after a number of messages.

Every payload begins with its channel and its number, so that no message looks like the one before it, or like one of
another channel. Numbers begin again after `Stream.cycle` messages, more than can be on the way, and so do the bytes:
the expected bytes of a read are a slice, and a read is checked with one comparison.
"""

from wsbroker.bench.client import make_frame
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
        self.cycle = 16
        while self.cycle < 4 * in_flight:
            self.cycle *= 2
        payloads = [self._payload(channel, number, size) for number in range(self.cycle)]
        outgoing = [make_frame(TEXT, prefix + payload) for payload in payloads]
        self.out_size = len(outgoing[0])
        self.in_size = len(encode_frame(TEXT, payloads[0]))
        self.in_cycle = self.in_size * self.cycle
        # Twice, so that what begins in the first half needs no second comparison.
        self.expected = b"".join([encode_frame(TEXT, payload) for payload in payloads] * 2)
        self._outgoing = b"".join(outgoing * 2)
        self._channel = b"%06d." % channel

    @staticmethod
    def _payload(channel: int, number: int, size: int) -> bytes:
        """Returns the payload of a number: channel, number, padding."""
        return (b"%06d.%04d." % (channel, number)).ljust(size, b"x")[:size]

    def encode_outgoing(self, number: int, count: int) -> bytes:
        """Returns the frames of `count` messages from this number on, in one piece."""
        pieces = []
        while count > 0:
            first = number % self.cycle
            now = min(count, self.cycle)
            pieces.append(self._outgoing[first * self.out_size : (first + now) * self.out_size])
            number += now
            count -= now
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def matches_at(self, data: memoryview, position: int) -> bool:
        """Whether these bytes are what must come at this byte of the stream."""
        at, size = 0, len(data)
        while at < size:
            piece = min(size - at, self.in_cycle)
            if not self.expected.startswith(data[at : at + piece], (position + at) % self.in_cycle):
                return False
            at += piece
        return True

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


class Order:
    """Counts lost, doubled and misplaced messages of a connection by their numbers."""

    def __init__(self, cycle: int) -> None:
        self.due = 0
        """How many messages came, or were passed over."""
        self.doubled = 0
        self.reordered = 0
        self._cycle = cycle
        self._missing: set[int] = set()

    @property
    def lost(self) -> int:
        """Messages that were passed over and have not come since."""
        return len(self._missing)

    def record_number(self, number: int) -> None:
        """Counts the next message; its number repeats after the cycle."""
        ahead = (number - self.due) % self._cycle
        if ahead < self._cycle // 2:
            self._missing.update(range(self.due, self.due + ahead))
            self.due += ahead + 1
            return
        late = self.due + ahead - self._cycle
        if late in self._missing:
            self._missing.discard(late)
            self.reordered += 1
        else:
            self.doubled += 1
