"""The messages of the load, and the checks of what comes back."""

from typing import cast

import pytest

from benchmarks.load.client import BUFFER, Client
from benchmarks.load.row import Row
from benchmarks.load.stream import Receiver, Stream
from kits.websocket_kit import decode
from wsbroker.bench.client import split_frames
from wsbroker.websocket.frames import encode_text


def test_a_stream_repeats_after_its_cycle_and_no_message_looks_like_the_next() -> None:
    stream = Stream(b"P c7 ", 7, 64, in_flight=8)
    sent = [str(event[1]) for event in decode(stream.encode_outgoing(0, stream.cycle))]
    assert stream.cycle == 32
    assert len(set(sent)) == stream.cycle
    assert all(text.startswith("P c7 000007.") and len(text) == 64 + len("P c7 ") for text in sent)
    assert stream.encode_outgoing(5, 3) == stream.encode_outgoing(5 + stream.cycle, 3)


def test_more_than_a_cycle_may_be_sent_at_once() -> None:
    stream = Stream(b"E ", 0, 12, in_flight=1)
    assert len(decode(stream.encode_outgoing(3, 40))) == 40


def test_the_expected_bytes_are_those_that_a_server_sends() -> None:
    stream = Stream(b"E ", 3, 200, in_flight=4)
    came = b"".join(encode_text(str(event[1])[2:]) for event in decode(stream.encode_outgoing(10, 50)))
    assert stream.matches_at(memoryview(came), 10 * stream.in_size)
    assert not stream.matches_at(memoryview(came), 11 * stream.in_size)
    assert [stream.parse_number(came[start:end]) for _, start, end in split_frames(came)] == [
        number % stream.cycle for number in range(10, 60)
    ]


def test_a_payload_of_another_channel_has_no_number() -> None:
    stream = Stream(b"", 1, 12, in_flight=1)
    assert stream.parse_number(b"000001.0003.") == 3
    for payload in (b"000002.0003.", b"000001.9999.", b"000001.x", b"", b"hello, world"):
        assert stream.parse_number(payload) is None


@pytest.mark.parametrize(
    "data", [b"", b"\x81", b"\x81\x7e", b"\x81\x7e\x00", b"\x81\x05abc", b"\x81\x7f" + b"\x00" * 7]
)
def test_a_frame_that_is_not_whole_is_none(data: bytes) -> None:
    assert list(split_frames(data)) == []


class FakeClient:
    """A connection whose reads the test makes."""

    def __init__(self) -> None:
        self.has_ended = False
        self.controls: list[tuple[int, bytes]] = []
        self.on_bytes = self._refuse_bytes

    def handle_control(self, first: int, payload: bytes) -> None:
        self.controls.append((first & 15, payload))

    def feed(self, data: bytes, size: int = 1 << 16) -> None:
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            BUFFER[: len(piece)] = piece
            self.on_bytes(len(piece))

    def _refuse_bytes(self, size: int) -> None:
        raise AssertionError(size)


class Tally:
    """Counts the advances of a receiver."""

    def __init__(self, size: int = 20, in_flight: int = 8) -> None:
        self.client = FakeClient()
        self.stream = Stream(b"E ", 0, size, in_flight)
        self.count = 0
        self.receiver = Receiver(cast(Client, self.client), self.stream, self._advanced)

    def frames(self, *numbers: int) -> bytes:
        return b"".join(self.stream.encode_expected(number) for number in numbers)

    def problems(self, sent: int) -> tuple[int, int]:
        row = Row()
        self.receiver.add_problems(row, sent)
        assert self.count == self.receiver.count
        return row.lost, row.unexpected

    def _advanced(self, before: int, after: int) -> None:
        assert before == self.count < after
        self.count = after


@pytest.mark.parametrize("size", [1, 2, 5, 21, 22, 23, 44, 1000, 5000])
def test_a_right_stream_is_right_however_it_is_split(size: int) -> None:
    tally = Tally()
    tally.client.feed(tally.frames(*range(100)), size)
    assert tally.count == 100
    assert tally.problems(100) == (0, 0)
    assert tally.problems(103) == (3, 0)


@pytest.mark.parametrize("size", [1, 3, 22, 1000])
def test_a_ping_in_between_is_answered_and_changes_nothing(size: int) -> None:
    tally = Tally()
    tally.client.feed(tally.frames(*range(40)) + b"\x89\x02hi" + tally.frames(*range(40, 90)) + b"\x89\x00", size)
    tally.client.feed(tally.frames(90, 91), size)
    assert tally.client.controls == [(9, b"hi"), (9, b"")]
    assert tally.problems(92) == (0, 0)
    assert tally.count == 92


@pytest.mark.parametrize(
    ("numbers", "problems"),
    [
        ([0, 1, 3, 4], (1, 0)),
        ([0, 1, 1, 2, 3, 4], (0, 1)),
        ([0, 2, 1, 3, 4], (1, 1)),
        ([1, 2, 3, 4], (1, 0)),
        ([0, 1], (3, 0)),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 22, 1000])
def test_each_kind_of_problem_is_counted(numbers: list[int], problems: tuple[int, int], size: int) -> None:
    tally = Tally()
    tally.client.feed(tally.frames(*numbers), size)
    assert tally.problems(5) == problems


def test_a_changed_payload_is_unexpected_and_a_foreign_one_too() -> None:
    tally = Tally()
    wrong = tally.frames(1)[:-1] + b"!"
    tally.client.feed(tally.frames(0) + wrong + tally.frames(2))
    assert tally.problems(3) == (0, 1)
    tally.client.feed(encode_text("hello") + tally.frames(3))
    assert tally.problems(4) == (0, 2)


def test_a_connection_that_ended_has_lost_nothing_more() -> None:
    tally = Tally()
    tally.client.feed(tally.frames(0))
    tally.client.has_ended = True
    assert tally.problems(50) == (0, 0)
