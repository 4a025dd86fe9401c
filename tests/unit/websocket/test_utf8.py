"""Text in pieces: valid to the end, or wrong at the first byte that cannot be."""

import pytest

from wsbroker.websocket.utf8 import Utf8Validator, decode_utf8

VALID = ["", "a", "κόσμε", "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff", "a€𐍈é" * 20]
# What may not stand in UTF-8, and how many of its bytes must have been seen before that is sure.
WRONG = [
    (b"\x80", 1),
    (b"\xbf", 1),
    (b"\xc0\x80", 1),
    (b"\xc1\xbf", 1),
    (b"\xc2a", 2),
    (b"\xc2\xc2", 2),
    (b"\xe0\x80\x80", 2),
    (b"\xe0\x9f\xbf", 2),
    (b"\xe1a", 2),
    (b"\xe1\x80a", 3),
    (b"\xed\xa0\x80", 2),
    (b"\xed\xbf\xbf", 2),
    (b"\xef\xbf\xc0", 3),
    (b"\xf0\x80\x80\x80", 2),
    (b"\xf0\x8f\xbf\xbf", 2),
    (b"\xf1\x80\x80\xc0", 4),
    (b"\xf4\x90\x80\x80", 2),
    (b"\xf5\x80\x80\x80", 1),
    (b"\xff", 1),
    (b"\xfe", 1),
]


def fed(*pieces: bytes) -> list[bool]:
    validator = Utf8Validator()
    return [validator.feed(piece) for piece in pieces]


@pytest.mark.parametrize("text", VALID)
def test_a_valid_text_is_valid_however_it_is_cut(text: str) -> None:
    data = text.encode()
    assert decode_utf8(data) == text
    assert all(fed(*[data[index : index + 1] for index in range(len(data))]))
    for cut in range(len(data) + 1):
        assert all(fed(data[:cut], b"", data[cut:]))


@pytest.mark.parametrize("before", [b"", b"a", "€".encode(), b"long enough for every look back"])
@pytest.mark.parametrize(("wrong", "seen"), WRONG)
def test_a_wrong_byte_fails_at_once_and_not_earlier(before: bytes, wrong: bytes, seen: int) -> None:
    assert decode_utf8(before + wrong) is None
    bytewise = fed(before, *[wrong[index : index + 1] for index in range(seen)])
    assert bytewise == [True] * seen + [False]
    assert fed(before + wrong[:seen]) == [False]
    assert fed(before + wrong + b"more") == [False]
    if seen > 1:
        assert fed(before + wrong[: seen - 1], wrong[seen - 1 :]) == [True, False]


@pytest.mark.parametrize(
    "unfinished", [b"\xc3", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x90", b"\xf0\x90\x8d", b"\xed\x9f"]
)
def test_an_unfinished_character_may_go_on_but_not_end_a_text(unfinished: bytes) -> None:
    assert fed(b"text" + unfinished) == [True]
    assert decode_utf8(b"text" + unfinished) is None
    assert fed(b"text" + unfinished, b"text") == [True, False]


def test_a_surrogate_is_not_a_character() -> None:
    assert decode_utf8("\ud800".encode("utf-8", "surrogatepass")) is None


def test_a_byte_order_mark_is_a_character_like_others() -> None:
    assert decode_utf8(b"\xef\xbb\xbfa") == "\ufeffa"
