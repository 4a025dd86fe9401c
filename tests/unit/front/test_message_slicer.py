"""Where the input of a connection is divided into slices."""

import random

import pytest

from wsbroker.front.message_slicer import EMPTY_LINE, MAX_BODY_SLICE_BYTES, MAX_SLICE_BYTES, MessageSlicer

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
MESSAGES = [HEAD, b"\r\n" + HEAD, CHUNKED, b"1\r\na\r\n0\r\n\r\n", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\nX: y\r\n\r\n"]


def slices(slicer: MessageSlicer, segments: list[bytes]) -> list[bytes]:
    """Returns all slices of some segments of input."""
    found = []
    for segment in segments:
        start = 0
        while start < len(segment):
            end = slicer.find_slice_end(segment, start)
            assert start < end <= len(segment)
            found.append(segment[start:end])
            start = end
    return found


def test_no_slice_goes_beyond_the_end_of_a_message_however_the_segments_come() -> None:
    chance = random.Random(8)
    for _ in range(300):
        messages = [chance.choice(MESSAGES) for _ in range(6)]
        data = b"".join(messages)
        cuts = sorted(chance.sample(range(1, len(data)), chance.randrange(8)))
        segments = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        found = slices(MessageSlicer(256), segments)
        assert b"".join(found) == data
        ends, position = set(), 0
        for part in found:
            position += len(part)
            ends.add(position)
        position = 0
        for message in messages:
            position += len(message)
            assert position in ends


@pytest.mark.parametrize("max_lines", [1, 7, 256])
def test_no_slice_has_more_lines_than_it_may(max_lines: int) -> None:
    slicer = MessageSlicer(max_lines)
    data = b"1\r\na\r\n" * 3000 + b"x" * 5000 + b"\n" * 3000 + b"0\r\n\r\n"
    start = 0
    while start < len(data):
        end = slicer.find_slice_end(data, start)
        assert slicer.slice_lines == data.count(b"\n", start, end) <= max_lines
        assert end - start <= MAX_SLICE_BYTES
        start = end


def test_a_body_of_known_length_is_cut_at_its_end_and_its_lines_do_not_count() -> None:
    slicer = MessageSlicer(4)
    slicer.remaining_body_bytes = MAX_BODY_SLICE_BYTES + 10
    data = EMPTY_LINE * ((MAX_BODY_SLICE_BYTES + 12) // 4)
    first = slicer.find_slice_end(data, 0)
    assert (first, slicer.slice_lines, slicer.remaining_body_bytes) == (MAX_BODY_SLICE_BYTES, 0, 10)
    assert (slicer.find_slice_end(data, first), slicer.remaining_body_bytes) == (MAX_BODY_SLICE_BYTES + 10, 0)
