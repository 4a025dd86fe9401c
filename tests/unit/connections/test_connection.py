"""Connections: the close handshake both ways, pings, limits of reading and writing, time."""

import asyncio
import sys
from typing import cast

import pytest

from kits.broker_kit import frames_of
from kits.connections_kit import HEAD, Bench, PaperTransport, client_frame, close_frame, text
from wsbroker.broker.limits import BATCH_BYTES, DROP_OLD, FRAME_OVERHEAD_BYTES, SCARCE_INBOX_BYTES, Limits
from wsbroker.build import core_kind
from wsbroker.connections.connection import Connection
from wsbroker.connections.connections import ConnectionSettings


def test_a_connection_is_one_small_object_without_a_dict() -> None:
    connection, _ = Bench().connect()
    if core_kind() == "compiled":
        assert not hasattr(connection, "__dict__")
        assert sys.getsizeof(connection) <= 352


def test_the_101_comes_first_and_what_was_sent_before_it_behind() -> None:
    bench = Bench()
    connection = bench.sockets.admit_connection(0)
    assert connection is not None
    bench.broker.send(connection.id, "welcome")
    bench.loop.run()
    other, transport = bench.connect()
    assert transport.written == HEAD
    bench.broker.send(other.id, "hello")
    bench.loop.run()
    assert transport.frames == [(1, b"hello")]


def test_what_came_in_with_the_request_is_read() -> None:
    bench = Bench()
    connection, _ = bench.connect(text("early"))
    bench.loop.run()
    assert bench.messages == [("early", connection.id, None)]


def test_a_token_set_by_one_message_is_seen_by_the_next_of_the_same_segment() -> None:
    seen: list[tuple[object, object]] = []

    def handler(data: str, socket_id: int, token: object) -> None:
        seen.append((data, token))
        bench.broker.set_token(socket_id, data.encode())

    bench = Bench(handler=handler)
    connection, _ = bench.connect()
    connection.data_received(text("a") + text("b") + text("c"))
    bench.loop.run()
    assert seen == [("a", None), ("b", b"a"), ("c", b"b")]


def test_a_peer_that_closes_is_answered_and_its_messages_are_still_handled() -> None:
    bench = Bench()
    connection, transport = bench.connect()
    connection.data_received(text("last") + close_frame(4000, "done") + text("after"))
    bench.loop.run()
    assert [message[0] for message in bench.messages] == ["last"]
    assert bench.closes == [(connection.id, None, 4000, "done")]
    assert transport.frames == [(8, (4000).to_bytes(2, "big"))]
    assert transport.is_closed
    connection.connection_lost(None)
    assert bench.sockets.connection_count == 0 and bench.sockets.timer_wheel.timer_count == 0
    bench.loop.run()
    assert len(bench.closes) == 1


def test_an_empty_close_is_answered_by_an_empty_one_and_told_as_1005() -> None:
    bench = Bench()
    connection, transport = bench.connect()
    connection.data_received(close_frame())
    bench.loop.run()
    assert transport.frames == [(8, b"")]
    assert bench.closes == [(connection.id, None, 1005, "")]


def test_our_close_comes_after_everything_sent_and_waits_for_the_peers() -> None:
    bench = Bench()
    connection, transport = bench.connect()
    bench.broker.send(connection.id, "one")
    bench.broker.close(connection.id, 4001, "bye")
    bench.broker.send(connection.id, "never")
    bench.loop.run()
    assert transport.frames == [(1, b"one"), (8, (4001).to_bytes(2, "big") + b"bye")]
    assert not transport.is_closed
    assert bench.closes == [(connection.id, None, 4001, "bye")]
    connection.data_received(text("ignored") + client_frame(9, b"ping") + close_frame(4001))
    bench.loop.run()
    assert transport.is_closed and not transport.is_aborted
    assert bench.messages == []
    assert len(transport.frames) == 2


def test_a_peer_that_does_not_answer_our_close_is_cut_after_close_timeout() -> None:
    bench = Bench(ConnectionSettings(close_timeout=5))
    connection, transport = bench.connect()
    bench.broker.close(connection.id, 1000, "")
    bench.loop.run()
    bench.tick(4.5)
    assert not transport.is_aborted
    bench.tick(1)
    assert transport.is_aborted


def test_messages_behind_a_close_by_the_handler_are_dropped() -> None:
    def handler(data: object, socket_id: int, token: object) -> None:
        seen.append(data)
        bench.broker.close(socket_id, 1000, "")

    seen: list[object] = []
    bench = Bench(handler=handler)
    connection, _ = bench.connect()
    connection.data_received(text("quit") + text("more"))
    bench.loop.run()
    assert seen == ["quit"]
    assert [close[2] for close in bench.closes] == [1000]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x05hello", 1002),
        (client_frame(3, b""), 1002),
        (client_frame(1, b"\xff\xfe"), 1007),
        (client_frame(2, b"x" * 101), 1009),
        (close_frame(1005), 1002),
    ],
)
def test_a_broken_frame_is_answered_with_its_code_and_a_half_close(frame: bytes, code: int) -> None:
    bench = Bench(ConnectionSettings(max_message_size=100))
    connection, transport = bench.connect()
    connection.data_received(text("fine") + frame + text("unseen"))
    bench.loop.run()
    assert [message[0] for message in bench.messages] == ["fine"]
    assert transport.close_code == code
    assert [close[2] for close in bench.closes] == [code]
    assert transport.has_eof and not transport.is_closed
    connection.data_received(b"x" * 1000)  # discarded, so that the Close frame is not lost in a reset
    bench.loop.run()
    bench.tick(6)
    assert transport.is_aborted


def test_every_ping_is_answered_in_order_while_the_peer_reads() -> None:
    bench = Bench()
    connection, transport = bench.connect()
    connection.data_received(b"".join(client_frame(9, b"%d" % number) for number in range(10)))
    bench.loop.run()
    assert transport.frames == [(10, b"%d" % number) for number in range(10)]


def test_only_the_newest_pong_waits_for_a_peer_that_does_not_read() -> None:
    bench = Bench()
    connection, transport = bench.connect()
    transport.is_full = True
    bench.broker.send(connection.id, "x")
    bench.loop.run()
    for number in range(1000):
        connection.data_received(client_frame(9, b"%d" % number))
        bench.loop.run()
    assert transport.frames == [(1, b"x")]
    transport.drain()
    bench.loop.run()
    assert transport.frames == [(1, b"x"), (10, b"999")]


def test_a_greedy_peer_is_read_one_budget_of_frames_a_turn() -> None:
    bench = Bench(ConnectionSettings(read_budget_frames=10))
    connection, transport = bench.connect()
    quiet, _ = bench.connect()
    connection.data_received(b"".join(text(str(number)) for number in range(35)))
    quiet.data_received(text("quiet"))
    bench.loop.ready.pop(0)()
    assert len(bench.messages) <= 31
    assert ("quiet", quiet.id, None) in bench.messages
    assert not transport.is_reading
    bench.loop.run()
    assert [message[0] for message in bench.messages if message[1] == connection.id] == [str(n) for n in range(35)]
    assert transport.is_reading


def test_a_flood_of_empty_fragments_is_read_about_one_budget_of_frames_a_turn() -> None:
    bench = Bench(ConnectionSettings(read_budget_frames=100))
    connection, transport = bench.connect()
    connection.data_received(client_frame(1, b"a", fin=False) + client_frame(0, b"", fin=False) * 5000)
    decoder = connection.decoder
    assert decoder is not None and decoder.frame_count < 200
    assert not transport.is_reading
    bench.loop.ready.pop(0)()
    assert decoder.frame_count < 400
    bench.loop.run()
    assert decoder.frame_count == 5001 and connection.decoder is decoder
    assert transport.is_reading
    connection.data_received(client_frame(0, b"b"))
    bench.loop.run()
    assert bench.messages == [("ab", connection.id, None)]


def test_connections_share_a_decoder_but_in_the_middle_of_a_message() -> None:
    bench = Bench()
    ann, _ = bench.connect()
    bob, _ = bench.connect()
    whole, begun = text("whole"), client_frame(1, b"one ", fin=False)
    for connection in (ann, bob):
        connection.data_received(whole)
        assert connection.decoder is None
    for connection in (ann, bob):
        connection.data_received(begun)
    for connection in (ann, bob):
        for byte in client_frame(0, b"message"):
            assert connection.decoder is not None
            connection.data_received(bytes([byte]))
        assert connection.decoder is None
    bob.data_received(whole[:3])
    ann.data_received(whole)
    assert (ann.decoder is None) and bob.decoder is not None
    bob.data_received(whole[3:])
    bench.loop.run()
    assert [data for data, _, _ in bench.messages] == ["whole", "whole", "one message", "one message", "whole", "whole"]


def test_a_greedy_peer_is_read_one_budget_of_bytes_a_turn() -> None:
    bench = Bench(ConnectionSettings(read_budget_bytes=1000, max_message_size=10_000))
    connection, transport = bench.connect()
    connection.data_received(client_frame(2, b"x" * 5000)[:1500])
    assert not transport.is_reading
    bench.loop.run()
    assert transport.is_reading


def test_a_full_inbox_pauses_reading_until_it_is_half_empty() -> None:
    bench = Bench(limits=Limits(inbox_bytes=2000), handler=lambda data, socket_id, token: data)
    connection, transport = bench.connect()
    connection.data_received(b"".join(text("x" * 100) for _ in range(15)))
    bench.loop.run()
    assert len(bench.results) == 1  # an async handler is running: the others wait in the inbox
    assert not transport.is_reading
    assert connection.unhandled_bytes < 2000 + 15 * 228
    for _ in range(14):
        bench.runner.resume_socket(connection.id)
        bench.loop.run()
    assert len(bench.results) == 15
    assert transport.is_reading
    bench.runner.resume_socket(connection.id)
    assert connection.unhandled_bytes == 0


def test_sockets_stop_reading_early_while_all_of_them_hold_too_much() -> None:
    bench = Bench(limits=Limits(max_inbox_bytes_total=100_000), handler=lambda data, socket_id, token: data)
    greedy, greedy_transport = bench.connect()
    modest, modest_transport = bench.connect()
    greedy.data_received(b"".join(text("x" * 10_000) for _ in range(11)))
    bench.loop.run()
    assert bench.sockets.broker.unhandled_bytes > 100_000
    modest.data_received(b"".join(text("x" * 1_000) for _ in range(30)))
    bench.loop.run()
    assert not modest_transport.is_reading and modest.unhandled_bytes <= SCARCE_INBOX_BYTES + 30 * 1_200
    modest_transport.is_reading = False
    for _ in range(11):
        bench.runner.resume_socket(greedy.id)
        bench.loop.run()
    for _ in range(30):
        bench.runner.resume_socket(modest.id)
        bench.loop.run()
    assert greedy_transport.is_reading and modest_transport.is_reading
    assert bench.sockets.broker.unhandled_bytes == 0


def test_a_silent_peer_is_pinged_and_cut_without_a_pong() -> None:
    bench = Bench(ConnectionSettings(ping_interval=25, pong_timeout=10))
    connection, transport = bench.connect()
    bench.tick(24.5)
    assert transport.frames == []
    bench.tick(1)
    assert transport.frames == [(9, b"")]
    bench.tick(9)
    assert not transport.is_aborted
    bench.tick(1.5)
    assert transport.is_aborted
    bench.loop.run()
    assert bench.closes == [(connection.id, None, 1006, "no pong within pong_timeout")]


def test_whoever_says_anything_is_alive() -> None:
    bench = Bench(ConnectionSettings(ping_interval=25, pong_timeout=10))
    connection, transport = bench.connect()
    for _ in range(20):
        bench.tick(20)
        connection.data_received(text("busy"))
        bench.loop.run()
    assert transport.frames == []
    bench.tick(26)
    connection.data_received(client_frame(10, b""))
    bench.tick(20)
    assert not transport.is_aborted
    assert transport.frames == [(9, b"")]


def test_no_pong_is_expected_while_our_own_inbox_is_full() -> None:
    bench = Bench(ConnectionSettings(ping_interval=25, pong_timeout=10), Limits(inbox_bytes=1000), lambda *arguments: 1)
    connection, transport = bench.connect()
    bench.tick(25.5)
    assert transport.frames == [(9, b"")]
    connection.data_received(b"".join(text("x" * 100) for _ in range(20)))
    bench.loop.run()
    assert not transport.is_reading
    bench.tick(300)
    assert not transport.is_aborted
    for _ in range(20):
        bench.runner.resume_socket(connection.id)
        bench.loop.run()
    assert transport.is_reading
    bench.tick(24)
    assert not transport.is_aborted


def test_a_ping_interval_of_zero_sends_no_pings() -> None:
    bench = Bench(ConnectionSettings(ping_interval=0))
    _, transport = bench.connect()
    bench.tick(7300)
    assert transport.frames == [] and not transport.is_closed


def test_a_peer_that_takes_nothing_for_write_timeout_is_cut() -> None:
    bench = Bench(ConnectionSettings(write_timeout=10))
    connection, transport = bench.connect()
    transport.is_full = True
    bench.broker.send(connection.id, "x" * 100)
    bench.loop.run()
    bench.tick(9)
    transport.buffered -= 10  # progress
    bench.tick(9.5)
    assert not transport.is_aborted
    bench.tick(3)
    assert transport.is_aborted
    bench.loop.run()
    assert bench.closes == [(connection.id, None, 1013, "no progress within write_timeout")]


def test_a_slow_consumer_gets_a_1013_behind_what_its_transport_holds() -> None:
    bench = Bench(limits=Limits(max_queue_bytes=1000))
    connection, transport = bench.connect()
    transport.is_full = True
    for _ in range(30):
        bench.broker.send(connection.id, "x" * 100)
        bench.loop.run()
    assert [close[2] for close in bench.closes] == [1013]
    assert len(transport.frames) == 1
    transport.drain()
    bench.loop.run()
    assert transport.close_code == 1013
    connection.data_received(close_frame(1013))
    assert transport.is_closed


def test_a_slow_consumer_that_is_refused_leaves_no_deadline() -> None:
    bench = Bench(limits=Limits(max_queue_bytes=1000))
    opening = bench.sockets.admit_connection(0)
    assert opening is not None
    for _ in range(9):  # sent by its open handler, before the 101
        bench.broker.send(opening.id, "x" * 600)
    bench.loop.run()
    assert not bench.broker.is_open(opening.id)
    bench.sockets.discard_connection(opening)
    assert (bench.sockets.timer_wheel.timer_count, bench.sockets.connection_count) == (0, 0)


def test_a_socket_of_a_drop_policy_goes_on_when_it_reads_again() -> None:
    bench = Bench(limits=Limits(max_queue_bytes=1000 + 8 * FRAME_OVERHEAD_BYTES, slow_consumer=DROP_OLD))
    connection, transport = bench.connect()
    transport.is_full = True
    for number in range(50):
        bench.broker.send(connection.id, f"{number:0100}")
        bench.loop.run()
    transport.drain()
    bench.broker.send(connection.id, "newest")
    bench.loop.run()
    payloads = [payload for _, payload in transport.frames]
    assert payloads[0] == b"%0100d" % 0
    assert payloads[-1] == b"newest"
    assert [int(payload) for payload in payloads[1:-1]] == list(range(42, 50))
    assert not bench.closes


def test_a_lost_connection_is_told_as_1006_and_leaves_nothing() -> None:
    bench = Bench()
    connection, _ = bench.connect()
    bench.broker.subscribe(connection.id, b"c")
    bench.broker.publish(b"c", "x", ())
    connection.connection_lost(ConnectionResetError())
    connection.data_received(text("late"))
    connection.resume_writing()
    bench.loop.run()
    assert bench.closes == [(connection.id, None, 1006, "")]
    assert bench.broker.sockets == {} and bench.broker.channels_by_name == {}
    assert bench.sockets.connection_count == 0 and bench.sockets.timer_wheel.timer_count == 0


def test_connections_over_the_limit_are_not_admitted() -> None:
    bench = Bench(ConnectionSettings(max_connections=2))
    connection, _ = bench.connect()
    opening = bench.sockets.admit_connection(0)
    assert opening is not None
    assert bench.sockets.admit_connection(0) is None
    bench.sockets.discard_connection(opening)
    assert bench.sockets.admit_connection(0) is not None


def test_a_shutdown_closes_in_batches_and_drops_who_stays() -> None:
    bench = Bench()
    pairs = [bench.connect() for _ in range(5)]
    assert bench.sockets.close_oldest_sockets(2, 1001, "server shutdown") == 3
    bench.loop.run()
    assert [transport.close_code for _, transport in pairs] == [1001, 1001, None, None, None]
    assert bench.sockets.close_oldest_sockets(100, 1001, "server shutdown") == 0
    bench.loop.run()
    assert bench.sockets.connection_count == 5
    pairs[0][0].data_received(close_frame(1001))
    pairs[0][0].connection_lost(None)
    assert bench.sockets.abort_connections() == 4
    assert [transport.is_aborted for _, transport in pairs] == [False, True, True, True, True]


def test_an_error_in_a_turn_does_not_stop_the_turns() -> None:
    bench = Bench()
    connection, transport = bench.connect()

    def explode(worker_index: int, batch: list[tuple[object, ...]]) -> None:
        raise ValueError("a mailbox that should not fail")

    bench.broker.add_worker_queue(1, 1000)
    bench.broker.deliver_batch = explode
    other = bench.sockets.admit_connection(1)
    assert other is not None
    bench.broker.receive_message(other, "x", 1)
    bench.broker.send(connection.id, "still here")
    with pytest.raises(ValueError):
        bench.loop.ready.pop(0)()
    bench.loop.run()
    assert frames_of(transport.written[len(HEAD) :]) == [(1, b"still here")]


def test_a_flush_interval_gathers_turns_and_keeps_their_order() -> None:
    bench = Bench(ConnectionSettings(flush_interval=0.005))
    connection, transport = bench.connect()
    bench.broker.subscribe(connection.id, b"c")
    for number in range(5):
        bench.broker.publish(b"c", f"c{number}", ())
        bench.broker.send(connection.id, f"d{number}")
        bench.loop.run()
    assert transport.frames == []
    ((delay, flush),) = bench.loop.later
    assert delay == 0.005
    flush()
    assert [payload for _, payload in transport.frames] == [
        b"%s%d" % (kind, n) for n in range(5) for kind in (b"c", b"d")
    ]
    assert transport.writes == 2  # the 101 and all of it
    bench.broker.send(connection.id, "next")
    bench.loop.run()
    assert len(bench.loop.later) == 2


@pytest.mark.parametrize("end", [close_frame(1000), client_frame(3, b"")])
def test_the_answers_to_messages_before_the_end_still_go_out(end: bytes) -> None:
    bench = Bench(handler=lambda data, socket_id, token: bench.broker.send(socket_id, data))
    connection, transport = bench.connect()
    connection.data_received(text("1") + text("2") + end)
    bench.loop.run()
    assert [opcode for opcode, _ in transport.frames] == [1, 1, 8]
    assert bench.closes[0][2] == (1000 if end == close_frame(1000) else 1002)


def test_a_peer_that_vanishes_behind_its_close_is_told_with_its_code() -> None:
    bench = Bench(handler=lambda data, socket_id, token: data)
    connection, _ = bench.connect()
    connection.data_received(text("slow") + close_frame(4007, "enough"))
    bench.loop.run()
    assert connection.id in bench.broker.sockets
    connection.connection_lost(None)
    bench.runner.resume_socket(connection.id)
    bench.loop.run()
    assert bench.closes == [(connection.id, None, 4007, "enough")]
    assert not bench.runner.busy_sockets


def test_a_peer_that_waits_for_our_close_is_not_pinged_to_death() -> None:
    bench = Bench(ConnectionSettings(ping_interval=1, pong_timeout=1), handler=lambda data, socket_id, token: data)
    connection, transport = bench.connect()
    connection.data_received(text("slow") + close_frame(1000))
    bench.loop.run()
    bench.tick(20)
    assert not transport.is_aborted
    bench.runner.resume_socket(connection.id)
    bench.loop.run()
    assert transport.close_code == 1000


def test_a_peer_that_still_takes_what_was_sent_has_close_timeout_for_it_from_our_close_on() -> None:
    bench = Bench(ConnectionSettings(write_timeout=10, close_timeout=5))
    connection, transport = bench.connect()
    transport.is_full = True
    bench.broker.send(connection.id, "x")
    bench.broker.send(connection.id, "y")
    bench.loop.run()
    bench.broker.send(connection.id, "held")
    bench.loop.run()
    bench.tick(9)
    bench.broker.close(connection.id, 1000, "")
    bench.loop.run()
    bench.tick(4)
    assert not transport.is_aborted
    transport.drain()
    assert transport.close_code == 1000
    bench.tick(4)
    assert not transport.is_aborted
    bench.tick(2)
    assert transport.is_aborted


def take_a_piece(connection: Connection, transport: PaperTransport) -> None:
    """The peer takes what the transport holds, and refuses again before all has left that waits behind it."""
    transport.buffered = 0
    connection.resume_writing()


@pytest.mark.parametrize("cause", ["closed by the application", "closed by the peer", "slow consumer"])
def test_a_slow_reader_does_not_stretch_a_close(cause: str) -> None:
    bench = Bench(
        ConnectionSettings(write_timeout=60, close_timeout=1, ping_interval=0), Limits(max_queue_bytes=1 << 30)
    )
    connection, transport = bench.connect()
    transport.is_full = True
    for _ in range(200):
        bench.broker.send(connection.id, "x" * 60_000)
        bench.loop.run()
    if cause == "closed by the application":
        bench.broker.close(connection.id, 1000, "")
    elif cause == "closed by the peer":
        connection.data_received(close_frame(1000))
    else:
        bench.broker.close_slow_consumer(connection, 1013, "")
    bench.loop.run()
    waited_s = 0.0
    while not transport.is_aborted and waited_s < 60:
        take_a_piece(connection, transport)
        bench.tick(0.25)
        waited_s += 0.25
    assert 0.75 <= waited_s <= 2.5  # once for what waits to leave, once for the peer's answer
    assert transport.close_code is None or cause == "slow consumer"


def test_a_socket_closed_before_a_101_that_does_not_leave_has_close_timeout_from_then_on() -> None:
    bench = Bench(ConnectionSettings(close_timeout=2, ping_interval=25))
    connection = bench.sockets.admit_connection(0)
    assert connection is not None
    bench.broker.close(connection.id, 1000, "")
    bench.tick(5)
    transport = PaperTransport()
    transport.is_full = True
    bench.sockets.accept_upgrade(connection, cast(asyncio.Transport, transport), HEAD, b"")
    bench.tick(1.5)
    assert not transport.is_aborted
    bench.tick(1.5)
    assert transport.is_aborted


def test_the_transport_keeps_nothing_but_what_the_peer_has_refused() -> None:
    bench = Bench()
    connection, transport = bench.connect()
    assert transport.high_bytes == 0
    transport.is_full = True
    for _ in range(100):
        bench.broker.send(connection.id, "x")
        bench.loop.run()
    assert transport.writes == 2  # the 101, and the one that was refused
    assert bench.broker.queued_bytes(connection.id) == 300
    assert bench.broker.outgoing.waiting_bytes == 300 + 99 * FRAME_OVERHEAD_BYTES
    connection.connection_lost(None)
    assert bench.broker.outgoing.waiting_bytes == 0


def test_a_transport_that_has_closed_meanwhile_is_taken_over_all_the_same() -> None:
    bench = Bench()
    connection = bench.sockets.admit_connection(0)
    assert connection is not None
    transport = PaperTransport()
    transport.close()
    bench.sockets.accept_upgrade(connection, cast(asyncio.Transport, transport), HEAD, b"")
    assert transport.high_bytes > 0
    connection.connection_lost(None)
    assert bench.sockets.connection_count == 0


def test_a_close_that_has_not_left_yet_is_not_cut_by_an_old_timer() -> None:
    bench = Bench(ConnectionSettings(flush_interval=1, ping_interval=25))
    connection, transport = bench.connect()
    bench.tick(24.75)
    bench.broker.close(connection.id, 1000, "")
    bench.tick(0.5)
    assert not transport.is_aborted


def test_a_socket_closed_before_the_101_leaves_no_timer_when_it_is_refused() -> None:
    bench = Bench()
    connection = bench.sockets.admit_connection(0)
    assert connection is not None
    bench.broker.close(connection.id, 1000, "")
    bench.loop.run()
    bench.sockets.discard_connection(connection)
    assert bench.sockets.timer_wheel.timer_count == 0 and bench.sockets.connection_count == 0


def test_a_transport_that_is_full_with_the_101_is_not_written_to_until_it_has_room() -> None:
    bench = Bench()
    connection = bench.sockets.admit_connection(0)
    assert connection is not None
    transport = PaperTransport()
    transport.is_full = True
    bench.sockets.accept_upgrade(connection, cast(asyncio.Transport, transport), HEAD, b"")
    bench.broker.send(connection.id, "later")
    bench.loop.run()
    assert transport.written == HEAD
    assert bench.broker.queued_bytes(connection.id) == len(HEAD) + 7
    transport.drain()
    assert transport.frames == [(1, b"later")]


def test_a_slow_consumer_is_closed_even_if_nothing_waits_for_the_timed_flush() -> None:
    bench = Bench(ConnectionSettings(flush_interval=0.005), Limits(max_queue_bytes=1000))
    connection, transport = bench.connect()
    transport.is_full = True
    for _ in range(3):
        bench.broker.send(connection.id, "x" * BATCH_BYTES)  # each is flushed at once, in the middle of the turn
    bench.loop.run()
    for _, flush in bench.loop.later:
        flush()
    assert not bench.broker.is_open(connection.id)


def test_the_clock_of_a_stopped_server_ends_with_its_last_connection() -> None:
    bench = Bench()
    connection, _ = bench.connect()
    bench.sockets.stop()
    assert bench.sockets.admit_connection(0) is None
    bench.sockets.advance_timers()
    assert len(bench.loop.later) == 1
    connection.connection_lost(None)
    bench.sockets.advance_timers()
    assert len(bench.loop.later) == 1
