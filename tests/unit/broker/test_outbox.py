"""What waits for clients: what it counts, when a client is judged by it, and what all of it together may be."""

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kits.broker_kit import RecordingSocket, a_broker, connect
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import (
    BATCH_BYTES,
    DISCONNECT,
    DROP_NEW,
    DROP_OLD,
    FIRST_TURN_FACTOR,
    FRAME_OVERHEAD_BYTES,
    MAX_SKIPPED_MEMORY_CHECKS,
    Limits,
)

KIB = 1024


def blocked(broker: Broker) -> RecordingSocket:
    """A socket that refused bytes in an earlier turn and holds none."""
    socket = connect(broker)
    broker.outgoing.mark_blocked(socket)
    broker.flush()
    return socket


def waits_for(socket: RecordingSocket) -> int:
    outbox = socket.outbox
    return 0 if outbox is None else int(outbox.cost_bytes + outbox.transport_bytes)


# What a frame counts. -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 30, 200, 2000])
def test_a_waiting_frame_counts_what_it_really_costs(size: int) -> None:
    broker = a_broker()
    socket = blocked(broker)
    payload = bytes(size)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3000):
            broker.send(socket.id, payload)
        broker.flush()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used <= broker.outgoing.waiting_bytes
    assert size == 0 or broker.outgoing.waiting_bytes <= 2 * used  # empty frames are one object


def test_unread_messages_of_a_byte_reach_the_limit_like_large_ones() -> None:
    for size in (1, 100, 10_000):
        broker = a_broker(Limits(max_queue_bytes=64 * KIB))
        socket = blocked(broker)
        count = 0
        while broker.is_open(socket.id):
            broker.send(socket.id, bytes(size))
            broker.flush()
            count += 1
        assert count - 1 == 64 * KIB // (size + (2 if size < 126 else 4) + FRAME_OVERHEAD_BYTES)


def test_queued_bytes_are_the_bytes_of_the_frames_alone() -> None:
    broker = a_broker()
    socket = blocked(broker)
    socket.buffered = 7
    for _ in range(10):
        broker.send(socket.id, "x")
    assert broker.queued_bytes(socket.id) == 7 + 30
    broker.flush()
    assert broker.queued_bytes(socket.id) == 7 + 30
    assert broker.outgoing.waiting_bytes == 7 + 30 + 10 * FRAME_OVERHEAD_BYTES


# What one turn adds. ------------------------------------------------------------------------------------------------


def test_what_one_turn_sends_is_no_slowness_of_a_client_that_reads() -> None:
    broker = a_broker(Limits(max_queue_bytes=1024 * KIB))
    socket = connect(broker)
    broker.subscribe(socket.id, b"c")
    socket.room = 1
    for number in range(40):  # flushed many times by its caps
        broker.publish(b"c", bytes([number]) * 64 * KIB, ())
    broker.flush()
    assert broker.is_open(socket.id)
    socket.room = None
    broker.outgoing.drain_outbox(socket)
    assert [payload[0] for payload in socket.received] == list(range(40))


def test_a_message_larger_than_the_limit_leaves_room_for_others_of_its_turn() -> None:
    broker = a_broker(Limits(max_queue_bytes=1000))
    socket = connect(broker)
    broker.send(socket.id, bytes(BATCH_BYTES))  # leaves at once; the transport keeps nearly all of it
    socket.buffered = BATCH_BYTES - 100
    broker.outgoing.mark_blocked(socket)
    broker.send(socket.id, "and this")
    broker.flush()
    assert broker.is_open(socket.id)
    broker.send(socket.id, "but nothing has left until the next turn")
    broker.flush()
    assert not broker.is_open(socket.id)


def test_one_turn_may_add_so_much_and_no_more() -> None:
    limit = 100 * KIB
    broker = a_broker(Limits(max_queue_bytes=limit))
    socket = connect(broker)
    socket.room = 1
    most = 0
    for _ in range(1000):
        broker.send(socket.id, bytes(10 * KIB))
        most = max(most, int(broker.outgoing.waiting_bytes))
    broker.flush()
    assert not broker.is_open(socket.id)
    assert FIRST_TURN_FACTOR * limit < most <= FIRST_TURN_FACTOR * limit + 11 * KIB


def test_a_client_over_the_limit_stays_while_more_leaves_than_comes() -> None:
    broker = a_broker(Limits(max_queue_bytes=10 * KIB))
    socket = connect(broker)
    socket.room = 1
    for _ in range(30):
        broker.send(socket.id, bytes(KIB))
        if broker.outgoing.flush_number == 0:
            broker.outgoing.flush()
    broker.flush()
    assert waits_for(socket) > 20 * KIB
    socket.buffered = 0
    for _ in range(20):
        outbox = socket.outbox
        assert outbox is not None
        for _ in range(2):  # what a drain hands over
            frame = outbox.frames.popleft()
            outbox.cost_bytes -= len(frame) + FRAME_OVERHEAD_BYTES
            broker.outgoing.waiting_bytes -= len(frame) + FRAME_OVERHEAD_BYTES
        broker.send(socket.id, bytes(KIB))
        broker.flush()
        assert broker.is_open(socket.id)
    for _ in range(2):
        broker.send(socket.id, bytes(KIB))
        broker.flush()
    assert not broker.is_open(socket.id)


def test_what_an_open_handler_sends_in_several_turns_is_judged_as_one() -> None:
    broker = a_broker(Limits(max_queue_bytes=1000))
    socket = RecordingSocket(broker.allocate_socket_id(), broker.worker_queues[0])
    broker.register_socket(socket)
    for _ in range(4):
        broker.send(socket.id, bytes(600))
        broker.flush()
    assert broker.is_open(socket.id)
    broker.mark_socket_open(socket)
    assert len(socket.received) == 4


@pytest.mark.parametrize("policy", [DROP_NEW, DROP_OLD])
def test_a_policy_drops_nothing_of_one_turn_below_its_bound(policy: int) -> None:
    broker = a_broker(Limits(max_queue_bytes=10 * KIB, slow_consumer=policy))
    socket = connect(broker)
    socket.room = 1
    for number in range(200):
        broker.send(socket.id, bytes([number]) * KIB)
        broker.outgoing.flush()
    kept = waits_for(socket) // (KIB + 4 + FRAME_OVERHEAD_BYTES)
    assert broker.counters.frames_dropped == 199 - kept
    assert 10 * KIB * FIRST_TURN_FACTOR - 1100 < waits_for(socket) < 10 * KIB * FIRST_TURN_FACTOR + 1100
    socket.room = None
    broker.outgoing.drain_outbox(socket)
    numbers = [payload[0] for payload in socket.received]
    assert numbers == (list(range(kept + 1)) if policy == DROP_NEW else [0, *range(200 - kept, 200)])


# All sockets together. ----------------------------------------------------------------------------------------------


def test_the_largest_outboxes_are_closed_first_and_the_small_are_spared() -> None:
    broker = a_broker(Limits(max_waiting_bytes=100 * KIB))
    sockets = [blocked(broker) for _ in range(5)]
    sizes = [5, 40, 10, 30, 1]
    for socket, size in zip(sockets, sizes, strict=True):
        broker.send(socket.id, bytes(size * KIB))
    broker.flush()
    assert all(broker.is_open(socket.id) for socket in sockets)
    broker.send(sockets[4].id, bytes(20 * KIB))
    broker.flush()
    assert [broker.is_open(socket.id) for socket in sockets] == [True, False, True, True, True]
    assert broker.counters.overload_closes == 1 and broker.counters.slow_consumers == 0
    assert broker.outgoing.waiting_bytes == sum(waits_for(socket) for socket in sockets) < 70 * KIB
    broker.outgoing.drain_outbox(sockets[1])
    assert sockets[1].received == [b"close"]
    assert sockets[1].writes[-1][2:4] == (1013).to_bytes(2, "big")
    assert sockets[1].finishes == 1 and sockets[1].aborts == 0


def test_a_turn_that_sends_too_much_in_all_frees_memory_before_it_ends() -> None:
    broker = a_broker(Limits(max_queue_bytes=1 << 30, max_waiting_bytes=1024 * KIB))
    sockets = [blocked(broker) for _ in range(20)]
    most = 0
    for _ in range(5):
        for socket in sockets:
            broker.send(socket.id, bytes(BATCH_BYTES))  # each is flushed at once
            most = max(most, int(broker.outgoing.waiting_bytes))
    assert most < 1024 * KIB + 2 * BATCH_BYTES
    broker.flush()
    assert broker.counters.overload_closes > 0
    assert all(waits_for(socket) < 100 for socket in sockets if not broker.is_open(socket.id))


def test_a_closing_socket_that_holds_most_keeps_only_its_close() -> None:
    broker = a_broker(Limits(max_waiting_bytes=100 * KIB))
    large, small = blocked(broker), blocked(broker)
    broker.send(large.id, bytes(90 * KIB))
    broker.close(large.id, 4000, "bye")
    broker.flush()
    broker.send(small.id, bytes(20 * KIB))
    broker.flush()
    assert broker.is_open(small.id)
    assert waits_for(large) < 100
    broker.outgoing.drain_outbox(large)
    assert large.received == [b"close"]
    assert large.writes[-1][2:4] == (4000).to_bytes(2, "big")
    assert large.finishes == 1


def test_a_socket_given_up_and_closed_in_the_same_turn_gets_that_close_alone() -> None:
    broker = a_broker(Limits(max_queue_bytes=1 << 30, max_waiting_bytes=100 * KIB))
    socket = blocked(broker)
    broker.send(socket.id, bytes(BATCH_BYTES))
    broker.send(socket.id, "missed")
    broker.close(socket.id, 4000, "bye")
    broker.flush()
    broker.outgoing.drain_outbox(socket)
    assert socket.received == [b"close"]
    assert socket.writes[-1][2:4] == (4000).to_bytes(2, "big")
    assert socket.finishes == 1


def test_what_waits_for_many_sockets_is_in_memory_once() -> None:
    broker = a_broker(Limits(max_queue_bytes=1 << 30, max_waiting_bytes=1024 * KIB))
    sockets = [blocked(broker) for _ in range(50)]
    for socket in sockets:
        broker.subscribe(socket.id, b"all")
    for _ in range(4):
        broker.publish(b"all", bytes(100 * KIB), ())
    broker.flush()
    assert broker.outgoing.waiting_bytes > 50 * 400 * KIB
    assert all(broker.is_open(socket.id) for socket in sockets)
    for _ in range(10):  # of their own, they take memory each
        for socket in sockets[:2]:
            broker.send(socket.id, bytes(100 * KIB))
        broker.flush()
    assert not any(broker.is_open(socket.id) for socket in sockets[:2])
    assert all(broker.is_open(socket.id) for socket in sockets[2:])
    for socket in sockets:
        broker.mark_connection_lost(socket, 1006, "")
    broker.flush()
    assert (broker.outgoing.waiting_bytes, broker.outgoing.waiting_sockets) == (0, {})


def test_what_waits_for_many_is_looked_at_again_when_it_is_not_shared_any_more() -> None:
    broker = a_broker(Limits(max_queue_bytes=1 << 30, max_waiting_bytes=1024 * KIB))
    sockets = [blocked(broker) for _ in range(50)]
    for socket in sockets:
        broker.subscribe(socket.id, b"all")
    broker.publish(b"all", bytes(500 * KIB), ())
    broker.flush()
    for socket in sockets[:40]:
        broker.outgoing.drain_outbox(socket)
        broker.outgoing.mark_blocked(socket)
        socket.buffered = 250 * KIB  # and as much as was shared waits in their own transports
    for _ in range(2 * MAX_SKIPPED_MEMORY_CHECKS):
        broker.send(sockets[0].id, "x")
        broker.flush()
        if not all(broker.is_open(socket.id) for socket in sockets):
            return
    raise AssertionError("ten times the limit waits")


def test_a_socket_whose_transport_holds_most_is_cut() -> None:
    broker = a_broker(Limits(max_queue_bytes=1 << 30, max_waiting_bytes=1024 * KIB))
    large, small = blocked(broker), blocked(broker)
    large.buffered = 1000 * KIB
    broker.send(large.id, "x")
    broker.send(small.id, bytes(BATCH_BYTES))
    broker.flush()
    assert (large.aborts, small.aborts) == (1, 0)
    assert not broker.is_open(large.id) and broker.is_open(small.id)
    assert broker.outgoing.waiting_bytes == waits_for(small)
    broker.mark_connection_lost(large, 1006, "")
    assert broker.outgoing.waiting_bytes == waits_for(small)


def test_a_transport_that_has_taken_bytes_meanwhile_is_no_reason_to_close() -> None:
    broker = a_broker(Limits(max_queue_bytes=1 << 30, max_waiting_bytes=1024 * KIB))
    quick, other = blocked(broker), blocked(broker)
    quick.buffered = 1000 * KIB
    broker.outgoing.mark_blocked(quick)
    quick.buffered = 0
    broker.send(other.id, bytes(BATCH_BYTES))
    broker.flush()
    assert broker.is_open(quick.id) and broker.is_open(other.id)
    assert broker.counters.overload_closes == 0


steps = st.tuples(
    st.sampled_from(["send", "send", "publish", "block", "drain", "close", "lost", "flush", "some"]),
    st.integers(0, 5),
    st.integers(0, 3000),
)


def distinct_bytes(sockets: list[RecordingSocket]) -> int:
    """Returns the bytes that wait for the sockets, where a frame that waits for several of them counts once."""
    frames: dict[int, int] = {}
    other_bytes = 0
    for socket in sockets:
        outbox = socket.outbox
        if outbox is not None:
            frames.update((id(frame), len(frame)) for frame in outbox.frames)
            other_bytes += FRAME_OVERHEAD_BYTES * len(outbox.frames) + outbox.transport_bytes
    return sum(frames.values()) + other_bytes


# A publication that waits for two sockets is in memory once: counted in full for each, the sum may pass the limit.
SHARED_FRAME = [("send", 0, 146), ("publish", 0, 3000), ("block", 0, 199), ("block", 1, 2654)]


@settings(max_examples=150, deadline=None)
@example(SHARED_FRAME, DROP_OLD)
@given(st.lists(steps, max_size=60), st.sampled_from([DISCONNECT, DROP_NEW, DROP_OLD]))
def test_the_sum_is_that_of_all_outboxes_whatever_happens(program: list[tuple[str, int, int]], policy: int) -> None:
    broker = a_broker(Limits(max_queue_bytes=4000, slow_consumer=policy, max_waiting_bytes=9000))
    sockets = [connect(broker) for _ in range(6)]
    for socket in sockets:
        broker.subscribe(socket.id, b"c")
    for name, index, size in program:
        socket = sockets[index]
        if name == "send":
            broker.send(socket.id, bytes(size))
        elif name == "publish":
            broker.publish(b"c", bytes(size), ())
        elif name == "block" and not socket.is_blocked:
            socket.buffered = size
            broker.outgoing.mark_blocked(socket)
        elif name == "some":
            socket.buffered //= 2
        elif name == "drain" and socket.is_blocked:
            socket.buffered = 0
            broker.outgoing.drain_outbox(socket)
        elif name == "close":
            broker.close(socket.id, 1000, "")
        elif name == "lost":
            broker.mark_connection_lost(socket, 1006, "")
        elif name == "flush":
            broker.flush()
        outgoing = broker.outgoing
        assert outgoing.waiting_bytes == sum(waits_for(each) for each in sockets)
        assert set(outgoing.waiting_sockets.values()) >= {each for each in sockets if waits_for(each)}
        assert outgoing.peak_waiting_bytes >= outgoing.waiting_bytes
    broker.flush()
    assert distinct_bytes(sockets) <= 9000
    for socket in sockets:
        broker.mark_connection_lost(socket, 1006, "")
    assert (broker.outgoing.waiting_bytes, broker.outgoing.waiting_sockets) == (0, {})
