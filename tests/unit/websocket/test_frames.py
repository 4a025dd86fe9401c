"""The server's frames, byte by byte."""

import pytest

from wsbroker.websocket import frames
from wsbroker.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT


def test_the_opcodes_are_those_of_the_rfc() -> None:
    assert (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG) == (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)


def test_the_unmasked_examples_of_the_rfc() -> None:
    assert frames.encode_frame(TEXT, b"Hello") == bytes.fromhex("81 05 48 65 6c 6c 6f")
    assert frames.encode_frame(PING, b"Hello") == bytes.fromhex("89 05 48 65 6c 6c 6f")
    assert frames.encode_frame(BINARY, bytes(256)) == bytes.fromhex("82 7e 01 00") + bytes(256)
    assert frames.encode_frame(BINARY, bytes(65536)) == bytes.fromhex("82 7f 00 00 00 00 00 01 00 00") + bytes(65536)


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize(
    ("size", "length"),
    [
        *[(0, "00"), (1, "01"), (125, "7d"), (126, "7e 00 7e"), (127, "7e 00 7f"), (255, "7e 00 ff")],
        *[(256, "7e 01 00"), (65535, "7e ff ff"), (65536, "7f 0000000000010000"), (70000, "7f 0000000000011170")],
    ],
)
def test_a_frame_has_fin_and_the_shortest_length_and_no_mask(opcode: int, size: int, length: str) -> None:
    payload = b"\x5a" * size
    assert frames.encode_frame(opcode, payload) == bytes([0x80 | opcode]) + bytes.fromhex(length) + payload


@pytest.mark.parametrize("text", ["", "Hello", "κόσμε", "𐍈" * 100, "\0"])
def test_a_text_goes_out_as_utf8(text: str) -> None:
    assert frames.encode_text(text) == frames.encode_frame(TEXT, text.encode())


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_text_with_a_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        frames.encode_text(text)


def test_a_close_carries_its_code_and_its_reason() -> None:
    assert frames.encode_close(1000, "") == bytes.fromhex("88 02 03e8")
    assert frames.encode_close(4999, "bye") == bytes.fromhex("88 05 1387") + b"bye"
    assert frames.encode_close(65535, "") == bytes.fromhex("88 02 ffff")


@pytest.mark.parametrize("code", [0, 1005, 1006, 1015])
def test_a_close_without_a_code_is_empty_whatever_the_reason(code: int) -> None:
    assert frames.encode_close(code, "never sent") == bytes.fromhex("88 00")


@pytest.mark.parametrize("code", [-1, 65536, 1 << 70])
def test_a_code_that_does_not_fit_the_frame_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match=f"a close code has 16 bits, {code} does not fit"):
        frames.encode_close(code, "")


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("x" * 123, b"x" * 123),
        ("x" * 124, b"x" * 123),
        ("é" * 61 + "x", "é".encode() * 61 + b"x"),
        ("é" * 62, "é".encode() * 61),
        ("x" * 121 + "€", b"x" * 121),
        ("x" * 120 + "€", b"x" * 120 + "€".encode()),
        ("x" * 122 + "𐍈", b"x" * 122),
        ("x" * 120 + "𐍈", b"x" * 120),
        ("𐍈" * 1000, "𐍈".encode() * 30),
    ],
)
def test_a_reason_is_cut_to_123_bytes_on_a_character_border(reason: str, sent: bytes) -> None:
    assert frames.encode_close(1000, reason) == bytes([0x88, 2 + len(sent)]) + b"\x03\xe8" + sent


def test_a_lone_surrogate_in_a_reason_cannot_prevent_a_close() -> None:
    assert frames.encode_close(1000, "a\ud800b") == bytes.fromhex("88 05 03e8") + b"a?b"
