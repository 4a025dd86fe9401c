"""What leaves: one write per socket and turn, caps, slow consumer policies. (Order: tests/property/test_order.py)"""

import tracemalloc
from collections.abc import Callable

import pytest

from kits.broker_kit import RecordingSocket, a_broker, connect, frames_of
from wsbroker.broker.limits import BATCH_BYTES, DISCONNECT, DROP_NEW, DROP_OLD, FRAME_OVERHEAD_BYTES, TURN_BYTES, Limits

PONG = b"\x8a\x05alive"


class BrokenSocket(RecordingSocket):
    """One whose transport fails."""

    def write(self, data: bytes) -> None:
        raise MemoryError


def test_a_turn_is_one_write_per_socket() -> None:
    broker = a_broker()
    sockets = [connect(broker) for _ in range(3)]
    for socket in sockets:
        broker.subscribe(socket.id, b"a")
        broker.subscribe(socket.id, b"b")
    for number in range(10):
        broker.publish(b"a", f"a{number}", ())
        broker.publish(b"b", f"b{number}", ())
        broker.send(sockets[0].id, f"d{number}")
    broker.flush()
    assert [len(socket.writes) for socket in sockets] == [1, 1, 1]
    assert len(sockets[0].received) == 30
    assert sockets[1].writes[0] == sockets[2].writes[0]


def test_all_members_are_handed_the_same_bytes_object() -> None:
    broker = a_broker()
    sockets = [connect(broker) for _ in range(3)]
    for socket in sockets:
        broker.subscribe(socket.id, b"c")
    broker.publish(b"c", "one", ())
    broker.publish(b"c", "two", ())
    broker.flush()
    assert sockets[0].writes[0] is sockets[1].writes[0] is sockets[2].writes[0]


def test_a_direct_answer_beside_a_publication_leaves_the_others_their_shared_bytes() -> None:
    broker = a_broker()
    sockets = [connect(broker) for _ in range(4)]
    for socket in sockets:
        broker.subscribe(socket.id, b"c")
    broker.publish(b"c", "news", ())
    broker.send(sockets[1].id, "answer")
    broker.flush()
    assert sockets[0].writes[0] is sockets[2].writes[0] is sockets[3].writes[0]
    assert sockets[1].received == [b"news", b"answer"]


def test_a_full_batch_flushes_the_whole_turn() -> None:
    broker = a_broker()
    one, other = connect(broker), connect(broker)
    broker.subscribe(one.id, b"big")
    broker.send(other.id, "first")
    broker.publish(b"big", b"x" * BATCH_BYTES, ())
    assert other.received == [b"first"]
    assert len(one.received) == 1


def test_many_small_channels_flush_the_turn_at_its_own_cap() -> None:
    broker = a_broker()
    socket = connect(broker)
    payload = b"x" * 60_000
    for number in range(TURN_BYTES // 60_000 + 1):
        broker.subscribe(socket.id, b"%d" % (number % 100))
        broker.publish(b"%d" % (number % 100), payload, ())
    assert socket.writes


def test_nothing_is_encoded_into_a_turn_for_nobody() -> None:
    broker = a_broker()
    broker.publish(b"nobody", "x", ())
    broker.send(99, "x")
    assert broker.outgoing.frames == []
    assert broker.counters.unroutable == 2


@pytest.mark.parametrize("data", ["\ud800", "ok\udfff"])
def test_text_that_has_no_utf8_is_refused_before_anything_changes(data: str) -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.subscribe(socket.id, b"c")
    with pytest.raises(ValueError):
        broker.publish(b"c", data, ())
    with pytest.raises(ValueError):
        broker.send(socket.id, data)
    with pytest.raises(ValueError):
        broker.publish(b"nobody", data, ())
    with pytest.raises(ValueError):
        broker.send(99, data)
    refused: list[int] = []

    def write(frame: bytes) -> None:
        socket.writes.append(frame)
        for channel in (b"c", b"nobody"):
            with pytest.raises(ValueError):
                broker.publish(channel, data, ())
        for socket_id in (socket.id, 99):
            with pytest.raises(ValueError):
                broker.send(socket_id, data)
        refused.append(1)

    socket.on_write = write
    broker.send(socket.id, "fine")
    broker.flush()
    assert socket.received == [b"fine"] and refused == [1] and broker.counters.unroutable == 0


def test_a_message_is_encoded_only_for_somebody_and_once() -> None:
    broker = a_broker()
    one, other = connect(broker), connect(broker)
    big = b"x" * (1 << 20)
    for socket in (one, other):
        broker.subscribe(socket.id, b"c")
    tracemalloc.start()
    try:

        def peak_of(work: Callable[[], object]) -> int:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            work()
            return tracemalloc.get_traced_memory()[1] - before

        assert peak_of(lambda: broker.publish(b"nobody", big, ())) < 1000
        assert peak_of(lambda: broker.send(99, big)) < 1000
        assert peak_of(lambda: broker.publish(b"nobody", "x" * 10, ())) < 1000

        def write(data: bytes) -> None:
            one.writes.append(data)
            if len(one.writes) == 1:  # inside a flush: both wait for its end
                broker.send(one.id, big)
                broker.publish(b"c", big, ())
                tracemalloc.reset_peak()

        one.on_write = write
        broker.send(one.id, "first")
        before, _ = tracemalloc.get_traced_memory()
        broker.flush()
        after, peak = tracemalloc.get_traced_memory()
        assert len(one.writes) == 3 and other.writes == one.writes[2:]
        assert 2 * len(big) < after - before and peak - before < 2.5 * len(big)
    finally:
        tracemalloc.stop()


def test_what_is_no_message_is_refused_also_if_nobody_would_get_it() -> None:
    broker = a_broker()
    for wrong in (3, None, bytearray(b"x")):
        with pytest.raises(TypeError, match="a message is str or bytes here"):
            broker.publish(b"nobody", wrong, ())
        with pytest.raises(TypeError, match="a message is str or bytes here"):
            broker.send(99, wrong)
    assert broker.counters.unroutable == 0


def test_a_blocked_socket_keeps_whole_frames_until_it_takes_more() -> None:
    broker = a_broker()
    socket = connect(broker)
    socket.room = 1
    for number in range(5):
        broker.send(socket.id, str(number))
        broker.flush()
    assert socket.received == [b"0"]
    assert broker.queued_bytes(socket.id) == 4 * 3
    socket.room = None
    broker.outgoing.drain_outbox(socket)
    assert socket.received == [b"0", b"1", b"2", b"3", b"4"]
    assert broker.queued_bytes(socket.id) == 0


def test_an_empty_outbox_takes_any_one_message() -> None:
    broker = a_broker(Limits(max_queue_bytes=100))
    socket = connect(broker)
    socket.is_blocked = True
    broker.send(socket.id, "x" * 5000)
    broker.flush()
    assert broker.is_open(socket.id)
    broker.send(socket.id, "y")
    broker.flush()
    assert not broker.is_open(socket.id)


def test_a_full_outbox_closes_the_slow_consumer() -> None:
    broker = a_broker(Limits(max_queue_bytes=100, slow_consumer=DISCONNECT))
    slow, quick = connect(broker), connect(broker)
    for socket in (slow, quick):
        broker.subscribe(socket.id, b"c")
    slow.is_blocked = True
    for _ in range(10):
        broker.publish(b"c", "x" * 30, ())
        broker.flush()
    assert not broker.is_open(slow.id)
    assert slow.overflows == 1
    assert broker.counters.slow_consumers == 1
    assert broker.subscribers(b"c") == [quick.id]
    assert len(quick.received) == 10
    slow.room = None
    broker.outgoing.drain_outbox(slow)
    assert slow.received == [b"close"]
    assert slow.writes[-1][2:4] == (1013).to_bytes(2, "big")
    assert slow.finishes == 1


def test_drop_new_keeps_the_oldest_frames() -> None:
    broker = a_broker(Limits(max_queue_bytes=100 + 3 * FRAME_OVERHEAD_BYTES, slow_consumer=DROP_NEW))
    socket = connect(broker)
    socket.is_blocked = True
    for number in range(10):
        broker.send(socket.id, f"{number}" * 30)
        broker.flush()
    assert broker.counters.frames_dropped == 7
    broker.outgoing.drain_outbox(socket)
    assert [payload[:1] for payload in socket.received] == [b"0", b"1", b"2"]
    assert broker.is_open(socket.id)


def test_drop_old_keeps_the_newest_frames() -> None:
    broker = a_broker(Limits(max_queue_bytes=100 + 3 * FRAME_OVERHEAD_BYTES, slow_consumer=DROP_OLD))
    socket = connect(broker)
    socket.is_blocked = True
    for number in range(10):
        broker.send(socket.id, f"{number}" * 30)
        broker.flush()
    assert broker.counters.frames_dropped == 7
    broker.outgoing.drain_outbox(socket)
    assert [payload[:1] for payload in socket.received] == [b"7", b"8", b"9"]


@pytest.mark.parametrize("policy", [DROP_NEW, DROP_OLD])
def test_a_close_frame_is_never_dropped(policy: int) -> None:
    broker = a_broker(Limits(max_queue_bytes=100, slow_consumer=policy))
    socket = connect(broker)
    socket.is_blocked = True
    for _ in range(5):
        broker.send(socket.id, "x" * 45)
    broker.close(socket.id, 1000, "bye")
    broker.flush()
    broker.outgoing.drain_outbox(socket)
    assert socket.received[-1] == b"close"
    assert socket.finishes == 1


def test_a_slow_consumer_that_is_closed_in_the_same_turn_gets_that_close_and_nothing_before_it() -> None:
    broker = a_broker(Limits(max_queue_bytes=100))
    socket = connect(broker)
    socket.is_blocked = True
    for _ in range(6):
        broker.send(socket.id, "x" * 60)
    broker.close(socket.id, 4000, "bye")
    broker.flush()
    assert socket.overflows == 1
    assert broker.counters.slow_consumers == 1
    broker.outgoing.drain_outbox(socket)
    assert socket.received == [b"close"]
    assert socket.writes[-1][2:4] == (4000).to_bytes(2, "big")
    assert socket.finishes == 1


def test_a_slow_consumer_that_takes_more_before_the_verdict_is_still_told() -> None:
    broker = a_broker(Limits(max_queue_bytes=100))
    socket = connect(broker)
    socket.is_blocked = True
    for _ in range(2):
        broker.send(socket.id, "x" * BATCH_BYTES)  # each is flushed at once, in the middle of the turn
    broker.outgoing.drain_outbox(socket)
    broker.flush()
    assert not broker.is_open(socket.id)
    assert socket.received[-1] == b"close"
    assert socket.finishes == 1


def test_drop_old_drops_no_control_frames() -> None:
    broker = a_broker(Limits(max_queue_bytes=100 + 3 * FRAME_OVERHEAD_BYTES - 2, slow_consumer=DROP_OLD))
    socket = connect(broker)
    socket.is_blocked = True
    broker.send(socket.id, "x" * 45)
    broker.send_control_frame(socket, PONG)
    broker.flush()
    for number in range(5):
        broker.send(socket.id, f"{number}" * 45)
        broker.flush()
    broker.outgoing.drain_outbox(socket)
    assert [frame for frame in frames_of(b"".join(socket.writes)) if frame[0] == 10] == [(10, b"alive")]
    assert [payload[:1] for payload in socket.received] == [b"a", b"4"]


def test_a_write_that_fails_does_not_keep_later_turns_from_leaving() -> None:
    broker = a_broker()
    broken, other = BrokenSocket(broker.allocate_socket_id(), broker.worker_queues[0]), connect(broker)
    broker.register_socket(broken)
    broker.mark_socket_open(broken)
    broker.send(broken.id, "x")
    with pytest.raises(MemoryError):
        broker.flush()
    broker.send(other.id, "y")
    broker.flush()
    assert other.received == [b"y"]


def test_what_the_transport_still_holds_counts_too() -> None:
    broker = a_broker(Limits(max_queue_bytes=100))
    socket = connect(broker)
    socket.is_blocked = True
    socket.buffered = 90
    broker.send(socket.id, "x")
    broker.flush()
    broker.send(socket.id, "x")
    broker.flush()
    assert not broker.is_open(socket.id)
