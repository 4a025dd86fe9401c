"""Encodes frames from the server to a client: text, binary, Close and control frames; opcodes and their limits.

A server's frames are never masked (RFC 6455 section 5.1) and we never fragment: every frame here has FIN set.
The bytes are made once and shared by all receivers of a publication.
"""

from typing import Final

from mypy_extensions import i64

from wsbroker.websocket.closing import ABNORMAL, NO_STATUS, TLS_FAILED

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

MAX_CONTROL_BYTES: Final = 125
"""Largest payload of a control frame (RFC 6455 section 5.5)."""
MAX_REASON_BYTES: Final = 123
"""Largest reason of a Close frame: MAX_CONTROL_BYTES without the two bytes of the code."""

_FIN: Final = 0x80
_BYTE: Final = [bytes([value]) for value in range(256)]
# Heads of short messages, ready made: one concatenation, so one allocation and one copy of the payload. Measured for
# 64 B / 1 KiB (benchmarks/micro/test_websocket.py): table 50 ns, joining single bytes 75 / 125, a BytesWriter
# 135 / 360.
_TEXT_HEADS: Final = [bytes([_FIN | TEXT, size]) for size in range(126)]
_BINARY_HEADS: Final = [bytes([_FIN | BINARY, size]) for size in range(126)]


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """Returns one unmasked frame with FIN set and the shortest length encoding.

    Args:
        opcode: one of this module's opcodes.
        payload: for control frames at most 125 bytes (the caller's duty).

    Source: RFC 6455 section 5.2. Cost: one copy of the payload.
    """
    size: i64 = len(payload)
    if size < 126:
        if opcode == TEXT:
            return _TEXT_HEADS[size] + payload
        if opcode == BINARY:
            return _BINARY_HEADS[size] + payload
        return b"%b%b%b" % (_BYTE[_FIN | opcode], _BYTE[size], payload)
    if size < 65536:
        return b"%b\x7e%b%b%b" % (_BYTE[_FIN | opcode], _BYTE[size >> 8], _BYTE[size & 0xFF], payload)
    return b"%b\x7f%b%b" % (_BYTE[_FIN | opcode], int(size).to_bytes(8, "big"), payload)


def encode_text(text: str) -> bytes:
    """Returns the frame of a text message.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate, which UTF-8 cannot carry.
    """
    return encode_frame(TEXT, text.encode("utf-8"))


def encode_close(code: int, reason: str) -> bytes:
    """Returns a Close frame with a close code and a reason.

    Args:
        code: 0, 1005, 1006 and 1015 say that there is no code: the frame is then empty, for they must not be sent.
        reason: cut to 123 bytes of UTF-8 on a character border; a lone surrogate becomes ``?``, for a Close must
            always be possible.

    Raises:
        ValueError: the code does not fit the frame's two bytes.

    Source: RFC 6455 sections 5.5.1 and 7.4.1.
    """
    if code == 0 or code == NO_STATUS or code == ABNORMAL or code == TLS_FAILED:
        return encode_frame(CLOSE, b"")
    if not 0 < code < 65536:
        raise ValueError(f"a close code has 16 bits, {code} does not fit")
    return encode_frame(CLOSE, code.to_bytes(2, "big") + _truncate_reason(reason.encode("utf-8", "replace")))


def _truncate_reason(reason: bytes) -> bytes:
    """Returns the UTF-8 reason of a Close frame, cut to MAX_REASON_BYTES at the end of a whole character."""
    if len(reason) <= MAX_REASON_BYTES:
        return reason
    end = MAX_REASON_BYTES
    while reason[end] & 0xC0 == 0x80:  # the first byte left out must begin a character
        end -= 1
    return reason[:end]


def check_message(data: object) -> None:
    """Raises the errors of `encode_message` without making a frame; called for a message without a receiver."""
    if isinstance(data, str):
        if not data.isascii():
            data.encode("utf-8")
    elif not isinstance(data, bytes):
        encode_message(data)


def encode_message(data: object) -> bytes:
    """Returns the frame of a message: a text frame for `str`, a binary frame for `bytes`.

    Raises:
        UnicodeEncodeError: the text has lone surrogates (it is a ValueError).
        TypeError: neither `str` nor `bytes`.
    """
    if isinstance(data, str):
        return encode_text(data)
    if isinstance(data, bytes):
        return encode_frame(BINARY, data)
    raise TypeError("a message is str or bytes here, not " + type(data).__name__)
