"""Whatever a client sends and however it is cut: the same events, nothing lost, nothing raised, nothing unbounded."""

from hypothesis import given
from hypothesis import strategies as st

from kits.websocket_kit import Event, decode, event_of, feed, frame, pull, xored
from wsbroker.websocket import masking
from wsbroker.websocket.decoder import BINARY, CLOSE, FRAGMENTS, NEED_DATA, PING, PONG, TEXT, Decoder
from wsbroker.websocket.frames import CONTINUATION, encode_close, encode_frame, encode_text
from wsbroker.websocket.utf8 import Utf8Validator, decode_utf8

KEYS = st.binary(min_size=4, max_size=4)
PAYLOADS = st.binary(max_size=300) | st.binary(max_size=20).map(lambda data: data * 40)
# Characters of each length in UTF-8, at the borders of every range of RFC 3629.
CHARACTERS = "\0a\x7f\x80é\u07ff\u0800€\ud7ff\ue000\uffff\U00010000𐍈\U0010ffff"
TEXTS = st.text(CHARACTERS, max_size=100)
FRAMES = st.builds(
    frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]) | st.integers(0, 15),
    PAYLOADS | TEXTS.map(str.encode),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 4]),
    key=st.none() | KEYS | KEYS | KEYS,
    length_bytes=st.none() | st.just(8),
)
STREAMS = st.lists(FRAMES, max_size=12).map(b"".join)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A message, in fragments with control frames between them, and the events that it must bring."""
    text = draw(st.none() | TEXTS)
    payload = draw(PAYLOADS) if text is None else text.encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    data = b""
    events: list[Event] = []
    for index, piece in enumerate(pieces):
        opcode = CONTINUATION if index else BINARY if text is None else TEXT
        data += frame(opcode, piece, fin=index == len(pieces) - 1, key=draw(KEYS))
        if index < len(pieces) - 1 and draw(st.booleans()):
            ping = draw(st.binary(max_size=125))
            data += frame(PING, ping, key=draw(KEYS))
            events.append(("ping", ping, len(ping)))
    events.append(("binary", payload, len(payload)) if text is None else ("text", text, len(payload)))
    return data, events


@st.composite
def cut(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in reads."""
    data = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return data, [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(st.lists(messages(), max_size=6), st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    sent: list[tuple[bytes, list[Event]]], data: st.DataObject
) -> None:
    _, reads = data.draw(cut(st.just(b"".join(part for part, _ in sent))))
    assert decode(*reads) == [event for _, events in sent for event in events]


@given(cut(STREAMS | st.binary(max_size=400)), st.sampled_from([0, 10, 300, 1 << 20]))
def test_any_stream_brings_the_same_events_however_it_is_cut(stream: tuple[bytes, list[bytes]], limit: int) -> None:
    data, reads = stream
    whole = Decoder(limit)
    expected = feed(whole, [data])
    for parts in (reads, [data[at : at + 1] for at in range(len(data))]):
        decoder = Decoder(limit)
        assert feed(decoder, parts) == expected
        assert decoder.buffered_bytes == whole.buffered_bytes
        if not expected or expected[-1][0] != "failed":  # a text that comes in pieces is refused before its frame ends
            assert decoder.frame_count == whole.frame_count


@given(cut(STREAMS), st.data())
def test_the_caller_may_stop_and_go_on_anywhere(stream: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    whole, reads = stream
    decoder = Decoder(1000)
    events = []
    for read in reads:
        decoder.receive_data(read)
        for _ in range(data.draw(st.integers(0, 3))):
            kind = decoder.next_event()
            if kind == NEED_DATA:
                break
            if kind != FRAGMENTS:
                events.append(event_of(decoder, kind))
    assert events + pull(decoder) == decode(whole, max_message_size=1000)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_never_raises_and_fails_at_most_once(reads: list[bytes]) -> None:
    events = decode(*reads)
    assert [event[0] for event in events[:-1] if event[0] in ("failed", "close")] == []


@given(PAYLOADS, KEYS, st.integers(0, 20))
def test_every_way_of_unmasking_takes_off_what_the_rfc_puts_on(payload: bytes, key: bytes, start: int) -> None:
    data = bytes(start) + xored(payload, key)
    word = masking.read_key(key, 0)
    for way in (masking.unmask, masking.unmask_by_words, masking.unmask_by_number):
        assert way(data, start, len(payload), word) == payload


@given(st.binary(max_size=100), KEYS, st.integers(0, 100))
def test_a_payload_can_be_unmasked_in_two_pieces(payload: bytes, key: bytes, size: int) -> None:
    size = min(size, len(payload))
    masked, word = xored(payload, key), masking.read_key(key, 0)
    first = masking.unmask(masked, 0, size, word)
    second = masking.unmask(masked, size, len(payload) - size, masking.rotate_key(word, size))
    assert first + second == payload


@given(cut(TEXTS.map(str.encode) | st.binary(max_size=40)))
def test_a_text_in_pieces_is_judged_like_the_whole(stream: tuple[bytes, list[bytes]]) -> None:
    data, pieces = stream
    validator = Utf8Validator()
    could_go_on = all(validator.feed(piece) for piece in pieces)
    # What can go on is whole, or becomes whole with one of these continuations.
    ends = ["", "\x80", "\x80\x80", "\x80\x80\x80", "\xbf", "\xbf\x80", "\xbf\x80\x80", "\x90\x80\x80", "\x90\x80"]
    can_go_on = any(decode_utf8(data + end.encode("latin-1")) is not None for end in ends)
    assert could_go_on == can_go_on


def read_server_frame(data: bytes) -> tuple[int, bytes]:
    """A server's frame, read by the letter of RFC 6455 section 5.2."""
    size, at = data[1], 2
    if size == 126:
        size, at = int.from_bytes(data[2:4], "big"), 4
        assert size > 125
    elif size == 127:
        size, at = int.from_bytes(data[2:10], "big"), 10
        assert size > 65535
    assert len(data) == at + size
    return data[0], data[at:]


@given(st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG]), PAYLOADS | st.integers(0, 70000).map(bytes))
def test_a_server_frame_reads_back(opcode: int, payload: bytes) -> None:
    assert read_server_frame(encode_frame(opcode, payload)) == (0x80 | opcode, payload)


@given(TEXTS)
def test_a_server_text_reads_back(text: str) -> None:
    assert read_server_frame(encode_text(text)) == (0x80 | TEXT, text.encode())


@given(st.integers(1000, 1003) | st.integers(3000, 4999), TEXTS | TEXTS.map(lambda text: text * 10))
def test_a_server_close_reads_back_up_to_what_fits(code: int, reason: str) -> None:
    first, payload = read_server_frame(encode_close(code, reason))
    assert (first, payload[:2]) == (0x80 | CLOSE, code.to_bytes(2, "big"))
    sent = payload[2:].decode()
    assert reason.startswith(sent)
    assert len(payload) <= 125
    assert sent == reason or len((sent + reason[len(sent)]).encode()) > 123
