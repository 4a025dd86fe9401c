"""Makes a client's WebSocket frames, right and wrong ones, and lists the events that a decoder makes of them."""

from collections.abc import Iterable

from wsbroker.websocket.decoder import BINARY, CLOSE, FAILED, FRAGMENTS, NEED_DATA, PING, PONG, TEXT, Decoder

KEY = b"\x37\xfa\x21\x3d"
"""The masking key of the examples in RFC 6455 section 5.7."""

Event = tuple[object, ...]


def xored(payload: bytes, key: bytes = KEY) -> bytes:
    """Returns a payload masked with a key, byte by byte as RFC 6455 section 5.3 defines it."""
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    length_bytes: int | None = None,
) -> bytes:
    """Returns a frame as a client sends it, or a wrong one.

    Args:
        key: the masking key; None makes an unmasked frame.
        length_bytes: 0, 2 or 8 bytes of extended length, also where fewer would do.
    """
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | rsv << 4 | opcode, short | (0x80 if key is not None else 0)])
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    return head + payload if key is None else head + key + xored(payload, key)


def event_of(decoder: Decoder, kind: int) -> Event:
    """Returns the decoder's newest event with all its values as a tuple, to compare."""
    if kind == TEXT:
        return ("text", decoder.text, decoder.payload_bytes)
    if kind == BINARY:
        return ("binary", decoder.data, decoder.payload_bytes)
    if kind in (PING, PONG):
        return ("ping" if kind == PING else "pong", decoder.data, decoder.payload_bytes)
    if kind == CLOSE:
        return ("close", decoder.close_code, decoder.close_reason)
    assert kind == FAILED, kind
    return ("failed", decoder.close_code, decoder.close_reason)


def pull(decoder: Decoder) -> list[Event]:
    """Returns all events of a decoder until it needs data."""
    events = []
    while (kind := decoder.next_event()) != NEED_DATA:
        if kind != FRAGMENTS:
            events.append(event_of(decoder, kind))
    return events


def decode(*reads: bytes, max_message_size: int = 1 << 20) -> list[Event]:
    """Returns all events that a new decoder makes of these reads."""
    return feed(Decoder(max_message_size), reads)


def feed(decoder: Decoder, reads: Iterable[bytes]) -> list[Event]:
    """Returns all events that a decoder makes of further reads; takes the events after each read."""
    events = []
    for read in reads:
        decoder.receive_data(read)
        events += pull(decoder)
    return events
