"""The decoder: RFC 6455 section 5 from the server's side, its limits, and what it holds while it waits."""

import sys
import tracemalloc

import pytest

from kits.websocket_kit import KEY, Event, decode, feed, frame, pull, xored
from wsbroker.build import core_kind
from wsbroker.websocket.decoder import BINARY, CLOSE, FAILED, FRAGMENTS, NEED_DATA, PING, PONG, TEXT, Decoder
from wsbroker.websocket.frames import CONTINUATION


def failed(code: int, reason: str) -> list[Event]:
    return [("failed", code, reason)]


# --- messages


def test_the_masked_examples_of_the_rfc() -> None:
    assert decode(bytes.fromhex("81 85 37fa213d 7f9f4d5158")) == [("text", "Hello", 5)]
    assert decode(bytes.fromhex("8a 85 37fa213d 7f9f4d5158")) == [("pong", b"Hello", 5)]


def test_the_fragmented_example_of_the_rfc() -> None:
    assert decode(frame(TEXT, b"Hel", fin=False), frame(CONTINUATION, b"lo")) == [("text", "Hello", 5)]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 125, 126, 127, 65535, 65536, 70000])
def test_messages_of_every_length_encoding(size: int) -> None:
    assert decode(frame(TEXT, b"x" * size)) == [("text", "x" * size, size)]
    assert decode(frame(BINARY, b"\xff" * size)) == [("binary", b"\xff" * size, size)]


@pytest.mark.parametrize("length_bytes", [2, 8])
def test_a_longer_length_encoding_than_needed_is_let_in(length_bytes: int) -> None:
    assert decode(frame(TEXT, b"Hello", length_bytes=length_bytes)) == [("text", "Hello", 5)]


def test_the_size_of_a_text_is_that_of_its_utf8() -> None:
    assert decode(frame(TEXT, "κόσμε".encode())) == [("text", "κόσμε", 10)]


def test_many_messages_in_one_read_come_in_order() -> None:
    read = b"".join(frame(TEXT, b"%d" % number) for number in range(1000))
    assert [event[1] for event in decode(read)] == [str(number) for number in range(1000)]


def test_a_message_in_single_bytes_is_the_same_message() -> None:
    for size, length_bytes in ((0, 0), (5, 0), (126, 2), (300, 2), (300, 8)):
        data = frame(TEXT, b"x" * size) + frame(PING, b"p") + frame(BINARY, b"y" * size, length_bytes=length_bytes)
        reads = [data[index : index + 1] for index in range(len(data))]
        assert decode(*reads) == [("text", "x" * size, size), ("ping", b"p", 1), ("binary", b"y" * size, size)]


def test_every_fragment_has_its_own_key() -> None:
    reads = [
        frame(BINARY, b"abc", fin=False, key=b"1234"),
        frame(CONTINUATION, b"defgh", fin=False, key=b"\xff\xff\xff\xff"),
        frame(CONTINUATION, b"i", key=b"\0\0\0\0"),
    ]
    assert decode(b"".join(reads)) == decode(*reads) == [("binary", b"abcdefghi", 9)]


def test_empty_fragments_are_parts_like_others() -> None:
    reads = [frame(TEXT, b"", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, b"")]
    assert decode(*reads) == [("text", "", 0)]


def test_control_frames_come_through_between_fragments() -> None:
    data = (
        frame(TEXT, b"Hel", fin=False) + frame(PING, b"1") + frame(CONTINUATION, b"", fin=False) + frame(PONG, b"2")
    ) + frame(CONTINUATION, b"lo")
    assert decode(data) == [("ping", b"1", 1), ("pong", b"2", 1), ("text", "Hello", 5)]


def test_a_close_ends_a_message_that_is_still_missing_parts() -> None:
    assert decode(frame(TEXT, b"Hel", fin=False) + frame(CLOSE)) == [("close", 1005, "")]


# --- control frames


@pytest.mark.parametrize("payload", [b"", b"x", b"\xff\xfe", b"x" * 125])
def test_pings_and_pongs_bring_their_payload(payload: bytes) -> None:
    assert decode(frame(PING, payload)) == [("ping", payload, len(payload))]
    assert decode(frame(PONG, payload)) == [("pong", payload, len(payload))]


def test_an_empty_close_has_the_code_for_none() -> None:
    assert decode(frame(CLOSE)) == [("close", 1005, "")]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_a_close_brings_its_code_and_its_reason(code: int) -> None:
    assert decode(frame(CLOSE, code.to_bytes(2, "big"))) == [("close", code, "")]
    reason = "größe " * 15
    assert decode(frame(CLOSE, code.to_bytes(2, "big") + reason.encode())) == [("close", code, reason)]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_a_protocol_error(code: int) -> None:
    assert decode(frame(CLOSE, code.to_bytes(2, "big"))) == failed(1002, "close code is not allowed")


def test_half_a_close_code_is_a_protocol_error() -> None:
    assert decode(frame(CLOSE, b"\x03")) == failed(1002, "close code has one byte")


def test_a_close_reason_must_be_utf8() -> None:
    assert decode(frame(CLOSE, b"\x03\xe8\xce\xba\xff")) == failed(1007, "close reason is not UTF-8")


def test_what_follows_a_close_is_dropped() -> None:
    decoder = Decoder(100)
    assert feed(decoder, [frame(CLOSE) + frame(TEXT, b"late"), frame(TEXT, b"later"), b"\xff" * 1000]) == [
        ("close", 1005, "")
    ]
    assert (decoder.close_code, decoder.buffered_bytes, decoder.frame_count) == (1005, 0, 1)


# --- violations


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_reserved_bits_are_refused_while_there_are_no_extensions(opcode: int, rsv: int) -> None:
    assert decode(frame(opcode, rsv=rsv)) == failed(1002, "reserved bits are set")


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("fin", [True, False])
def test_reserved_opcodes_are_refused(opcode: int, fin: bool) -> None:
    assert decode(frame(opcode, b"Hello", fin=fin)) == failed(1002, "reserved opcode")
    assert decode(frame(TEXT, fin=False) + frame(opcode, b"Hello", fin=fin)) == failed(1002, "reserved opcode")


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_a_client_must_mask(opcode: int) -> None:
    assert decode(frame(opcode, b"Hello", key=None)) == failed(1002, "frame is not masked")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frames_are_never_fragmented(opcode: int) -> None:
    assert decode(frame(opcode, fin=False)) == failed(1002, "control frame is fragmented")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize(("size", "length_bytes"), [(126, 2), (65536, 8), (5, 2), (5, 8)])
def test_control_frames_have_at_most_125_bytes_and_the_short_length(opcode: int, size: int, length_bytes: int) -> None:
    data = frame(opcode, b"x" * size, length_bytes=length_bytes)
    assert decode(data) == failed(1002, "control frame is too long")
    assert decode(data[:2]) == failed(1002, "control frame is too long")


@pytest.mark.parametrize("fin", [True, False])
def test_nothing_cannot_be_continued(fin: bool) -> None:
    assert decode(frame(CONTINUATION, b"lo", fin=fin)) == failed(1002, "continuation of nothing")
    message = frame(TEXT, b"Hel", fin=False) + frame(CONTINUATION, b"lo")
    assert decode(message + frame(CONTINUATION, fin=fin)) == [
        ("text", "Hello", 5),
        ("failed", 1002, "continuation of nothing"),
    ]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
def test_a_message_must_end_before_the_next_one(opcode: int, fin: bool) -> None:
    data = frame(TEXT, b"Hel", fin=False) + frame(opcode, b"lo", fin=fin)
    assert decode(data) == failed(1002, "new message inside a fragmented one")


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, (1 << 63) + 5])
def test_a_length_with_its_top_bit_set_is_a_protocol_error_and_not_a_big_message(length: int) -> None:
    head = bytes([0x82, 0xFF]) + length.to_bytes(8, "big") + KEY
    assert decode(head) == failed(1002, "length has its top bit set")


def test_nothing_is_decoded_after_a_failure() -> None:
    decoder = Decoder(100)
    assert feed(decoder, [frame(TEXT, b"ok") + frame(3) + frame(TEXT, b"late")]) == [
        ("text", "ok", 2),
        ("failed", 1002, "reserved opcode"),
    ]
    assert feed(decoder, [frame(TEXT, b"later")] * 3) == []
    assert (decoder.close_code, decoder.close_reason, decoder.buffered_bytes) == (1002, "reserved opcode", 0)


def test_a_failure_waits_for_the_messages_before_it() -> None:
    decoder = Decoder(100)
    decoder.receive_data(frame(TEXT, b"ok") + b"\xff\xff")
    assert decoder.next_event() == TEXT
    assert decoder.next_event() == FAILED
    assert decoder.next_event() == NEED_DATA


# --- text


def test_a_text_must_be_utf8() -> None:
    assert decode(frame(TEXT, b"\xce\xba\xff")) == failed(1007, "text is not UTF-8")
    assert decode(frame(TEXT, b"\xed\xa0\x80")) == failed(1007, "text is not UTF-8")
    assert decode(frame(BINARY, b"\xff")) == [("binary", b"\xff", 1)]


def test_a_text_may_be_cut_inside_a_character() -> None:
    data = "κόσμε𐍈".encode()
    for cut in range(len(data) + 1):
        reads = [frame(TEXT, data[:cut], fin=False), frame(CONTINUATION, data[cut:])]
        assert decode(*reads) == decode(b"".join(reads)) == [("text", "κόσμε𐍈", len(data))]


def test_a_text_may_not_end_inside_a_character() -> None:
    assert decode(frame(TEXT, b"\xce")) == failed(1007, "text is not UTF-8")
    assert decode(frame(TEXT, b"\xce", fin=False), frame(CONTINUATION)) == failed(1007, "text is not UTF-8")


def test_a_wrong_text_fails_with_the_fragment_that_makes_it_wrong() -> None:
    # Autobahn 6.4.1: the second fragment is wrong, the third never needed.
    reads = [frame(TEXT, "κόσμε".encode(), fin=False), frame(CONTINUATION, b"\xf4\x90\x80\x80", fin=False)]
    assert decode(*reads) == failed(1007, "text is not UTF-8")


def test_a_wrong_text_fails_with_the_byte_that_makes_it_wrong() -> None:
    # Autobahn 6.4.2 to 6.4.4: F4 alone may go on, F4 90 may not; whether in frames or in reads of one frame.
    decoder = Decoder(100)
    assert feed(decoder, [frame(TEXT, b"ok\xf4", fin=False)]) == []
    assert feed(decoder, [frame(CONTINUATION, b"\x90", fin=False)]) == failed(1007, "text is not UTF-8")
    whole = frame(TEXT, b"ok\xf4\x90\x80\x80edited")
    decoder = Decoder(100)
    assert feed(decoder, [whole[:9]]) == []
    assert feed(decoder, [whole[9:10]]) == failed(1007, "text is not UTF-8")


# --- the size limit


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [0, 1, 125, 126, 65536])
def test_a_message_may_have_as_many_bytes_as_the_limit_and_no_more(opcode: int, limit: int) -> None:
    assert decode(frame(opcode, b"x" * limit), max_message_size=limit)[0][2] == limit
    assert decode(frame(opcode, b"x" * (limit + 1)), max_message_size=limit) == failed(1009, "message is too big")


@pytest.mark.parametrize("length", [101, 65536, (1 << 63) - 1])
def test_a_message_that_is_too_big_fails_with_its_header(length: int) -> None:
    head = bytes([0x82, 0xFF]) + length.to_bytes(8, "big") + KEY
    assert decode(head, max_message_size=100) == failed(1009, "message is too big")


@pytest.mark.parametrize("length", [51, (1 << 63) - 1])
def test_the_limit_holds_over_all_fragments(length: int) -> None:
    begun = frame(BINARY, b"x" * 30, fin=False) + frame(CONTINUATION, b"x" * 20, fin=False)
    assert decode(begun + frame(CONTINUATION, b"x" * 50), max_message_size=100) == [("binary", b"x" * 100, 100)]
    head = bytes([0x80, 0xFF]) + length.to_bytes(8, "big") + KEY
    assert decode(begun + head, max_message_size=100) == failed(1009, "message is too big")


def test_the_limit_does_not_count_control_frames() -> None:
    assert decode(frame(PING, b"x" * 125), max_message_size=0) == [("ping", b"x" * 125, 125)]


# --- the pull


def test_the_caller_may_stop_after_any_event_and_go_on_later() -> None:
    decoder = Decoder(100)
    decoder.receive_data(frame(TEXT, b"1") + frame(TEXT, b"2"))
    assert (decoder.next_event(), decoder.text) == (TEXT, "1")
    decoder.receive_data(frame(TEXT, b"3") + frame(TEXT, b"4")[:3])
    assert (decoder.next_event(), decoder.text) == (TEXT, "2")
    decoder.receive_data(frame(TEXT, b"4")[3:])
    decoder.receive_data(frame(TEXT, b"5"))
    assert [event[1] for event in pull(decoder)] == ["3", "4", "5"]


def test_what_comes_while_the_caller_has_stopped_keeps_its_order() -> None:
    numbers = [b"%03d" % number for number in range(300)]
    decoder = Decoder(100)
    texts: list[str] = []
    for at in range(0, 300, 3):
        decoder.receive_data(b"".join(frame(TEXT, number) for number in numbers[at : at + 3]))
        assert decoder.next_event() == TEXT  # one of three
        texts.append(decoder.text)
    texts += [str(event[1]) for event in pull(decoder)]
    assert texts == [number.decode() for number in numbers]


def test_frames_counts_whole_frames_of_all_kinds() -> None:
    decoder = Decoder(1000)
    feed(
        decoder, [frame(TEXT, b"a") + frame(TEXT, b"b", fin=False) + frame(PING) + frame(CONTINUATION, b"c" * 200)[:50]]
    )
    assert decoder.frame_count == 3
    feed(decoder, [frame(CONTINUATION, b"c" * 200)[50:] + frame(BINARY, b"d" * 300)[:250]])
    assert decoder.frame_count == 4
    feed(decoder, [frame(BINARY, b"d" * 300)[250:] + frame(CLOSE)])
    assert decoder.frame_count == 6


def test_buffered_counts_bytes_that_wait_to_be_decoded() -> None:
    decoder = Decoder(1000)
    assert decoder.buffered_bytes == 0
    message = frame(TEXT, b"x" * 200)
    decoder.receive_data(message)
    decoder.receive_data(message + frame(PING)[:3])
    assert decoder.buffered_bytes == 2 * len(message) + 3
    assert decoder.next_event() == TEXT
    assert decoder.buffered_bytes == len(message) + 3
    assert decoder.next_event() == TEXT
    assert decoder.next_event() == NEED_DATA
    assert decoder.buffered_bytes == 3
    decoder.receive_data(frame(PING)[3:])
    assert decoder.next_event() == PING
    assert decoder.buffered_bytes == 0


def test_an_empty_read_changes_nothing() -> None:
    assert decode(b"", frame(TEXT, b"a")[:3], b"", frame(TEXT, b"a")[3:], b"") == [("text", "a", 1)]


def test_needing_data_clears_the_last_message() -> None:
    decoder = Decoder(1000)
    decoder.receive_data(frame(TEXT, b"text") + frame(BINARY, b"data"))
    assert (decoder.next_event(), decoder.text) == (TEXT, "text")
    assert (decoder.next_event(), decoder.data) == (BINARY, b"data")
    assert decoder.next_event() == NEED_DATA
    assert (decoder.text, decoder.data) == ("", b"")


# --- memory


def held_bytes(reads: list[bytes], limit: int) -> int:
    """What a decoder holds after these reads, by tracemalloc."""
    decoder = Decoder(limit)
    tracemalloc.start()
    try:
        for read in reads:
            decoder.receive_data(bytes(bytearray(read)))  # a copy that nobody else holds
            while (kind := decoder.next_event()) != NEED_DATA:
                assert kind == FRAGMENTS
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_an_idle_decoder_is_small() -> None:
    if core_kind() == "interpreted":
        pytest.skip("an interpreted object has a dict")
    assert sys.getsizeof(Decoder(65536)) <= 128


def test_what_waits_for_the_rest_of_a_header_does_not_hold_its_whole_read() -> None:
    decoder = Decoder(1 << 20)
    tracemalloc.start()
    try:
        decoder.receive_data(frame(BINARY, b"x" * 100_000) + frame(PING)[:1])
        pull(decoder)
        assert tracemalloc.get_traced_memory()[0] < 2_000
        assert decoder.buffered_bytes == 1
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_message_in_tiny_fragments_holds_a_small_multiple_of_the_limit(size: int) -> None:
    limit = 10_000
    count = limit // size if size else limit
    fragments = [frame(BINARY, b"", fin=False)] + [frame(CONTINUATION, b"x" * size, fin=False)] * count
    assert held_bytes(fragments, limit) < 3 * limit
    assert held_bytes([b"".join(fragments)], limit) < 3 * limit


def test_a_big_message_in_many_reads_is_copied_a_bounded_number_of_times() -> None:
    size = 1 << 20
    data = frame(TEXT, b"x" * size)
    reads = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    decoder = Decoder(size)
    tracemalloc.start()
    try:
        for read in reads[:-1]:
            decoder.receive_data(read)
            assert decoder.next_event() == NEED_DATA
            assert decoder.buffered_bytes == 0  # nothing is put together again read by read
        assert tracemalloc.get_traced_memory()[1] < 4 * size
    finally:
        tracemalloc.stop()
    assert feed(decoder, reads[-1:]) == [("text", "x" * size, size)]


def test_reads_that_wait_in_tiny_pieces_hold_a_small_multiple_of_their_bytes() -> None:
    decoder = Decoder(1000)
    data = frame(BINARY, b"x" * 500) * 100
    tracemalloc.start()
    try:
        for at in range(0, len(data), 3):
            decoder.receive_data(data[at : at + 3])
        assert decoder.buffered_bytes == len(data)
        assert tracemalloc.get_traced_memory()[0] < 3 * len(data)
    finally:
        tracemalloc.stop()
    assert len(pull(decoder)) == 100


def test_a_failed_or_closed_decoder_holds_nothing() -> None:
    begun = frame(BINARY, b"x" * 50_000, fin=False)
    for end in (frame(CLOSE), frame(3)):
        decoder = Decoder(100_000)
        tracemalloc.start()
        try:
            feed(decoder, [begun + end + begun, begun])
            assert tracemalloc.get_traced_memory()[0] < 20_000  # other threads of the test runner allocate, too
        finally:
            tracemalloc.stop()


def test_a_decoder_is_idle_when_nothing_of_a_client_is_left_in_it() -> None:
    decoder = Decoder(100)
    assert decoder.is_idle
    whole = frame(TEXT, b"hello")
    for end in range(1, len(whole)):
        decoder.receive_data(whole[:end])
        assert not decoder.is_idle
        pull(decoder)
        assert not decoder.is_idle
        decoder.receive_data(whole[end:])
        assert len(pull(decoder)) == 1 and decoder.is_idle
    feed(decoder, [frame(TEXT, b"hello", fin=False)])
    assert not decoder.is_idle
    feed(decoder, [frame(CONTINUATION, b"")])
    assert decoder.is_idle
    feed(decoder, [frame(CLOSE)])
    assert not decoder.is_idle


def test_xored_is_what_the_frames_of_these_tests_carry() -> None:
    assert frame(TEXT, b"Hello") == b"\x81\x85" + KEY + xored(b"Hello") == bytes.fromhex("81 85 37fa213d 7f9f4d5158")


def test_what_is_decoded_can_be_given_back_in_the_middle_of_a_read() -> None:
    decoder = Decoder(1000)
    decoder.receive_data(frame(BINARY, b"first") + frame(BINARY, b"second") + frame(BINARY, b"third")[:-1])
    assert (decoder.next_event(), decoder.data) == (BINARY, b"first")
    waiting = decoder.buffered_bytes
    decoder.drop_decoded()
    decoder.drop_decoded()
    assert decoder.buffered_bytes == waiting
    assert (decoder.next_event(), decoder.data) == (BINARY, b"second")
    decoder.drop_decoded()
    assert decoder.next_event() == NEED_DATA
    decoder.receive_data(frame(BINARY, b"third")[-1:])
    assert (decoder.next_event(), decoder.data) == (BINARY, b"third")
