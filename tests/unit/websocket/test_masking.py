"""The mask: both ways of taking it off do the same, at every size and offset."""

import random
from collections.abc import Callable

import pytest

from kits.websocket_kit import KEY, xored
from wsbroker.websocket import masking

Unmask = Callable[[bytes, int, int, int], bytes]
WAYS = [masking.unmask, masking.unmask_by_words, masking.unmask_by_number]
SIGNED_KEYS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\x80\0\0\0", b"\x7f\x80\x7f\x80", KEY]


@pytest.mark.parametrize("way", WAYS)
def test_the_masked_example_of_the_rfc(way: Unmask) -> None:
    data = bytes.fromhex("81 85 37fa213d 7f9f4d5158")
    assert way(data, 6, 5, masking.read_key(data, 2)) == b"Hello"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", SIGNED_KEYS)
def test_every_size_and_offset_up_to_some_words(way: Unmask, key: bytes) -> None:
    random_bytes = random.Random(1).randbytes
    word = masking.read_key(key, 0)
    for start in range(10):
        for size in range(75):
            payload = random_bytes(size)
            before, after = random_bytes(start), random_bytes(start)
            assert way(before + xored(payload, key) + after, start, size, word) == payload
            assert way(before + xored(payload, key), start, size, word) == payload


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1000, 16383, 16384, 16385, 70001])
def test_large_payloads(way: Unmask, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    assert way(b"12345678" + xored(payload), 8, size, masking.read_key(KEY, 0)) == payload


@pytest.mark.parametrize("way", WAYS)
def test_a_result_is_not_changed_by_the_next_one(way: Unmask) -> None:
    word = masking.read_key(KEY, 0)
    first = way(xored(b"first payload"), 0, 13, word)
    assert way(xored(b"second one, longer"), 0, 18, word) == b"second one, longer"
    assert first == b"first payload"


@pytest.mark.parametrize("key", SIGNED_KEYS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 6, 7, 1 << 40, (1 << 62) + 3])
def test_a_key_goes_on_where_the_last_piece_ended(key: bytes, size: int) -> None:
    phase = size % 4
    assert masking.rotate_key(masking.read_key(key, 0), size) == masking.read_key(key[phase:] + key[:phase], 0)


def test_a_key_is_read_where_it_stands() -> None:
    assert masking.read_key(b"\x82\x81" + KEY + b"x", 2) == masking.read_key(KEY, 0)
    assert masking.read_key(b"\x01\x02\x03\x04", 0) == 0x0403020104030201
