"""Any order of messages, acknowledgements, closes and exchanges: all arrive once, in order, and no socket has more."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kits.broker_kit import RecordingSocket, a_broker, connect
from wsbroker.broker.limits import MESSAGE_OVERHEAD_BYTES, SHARE_UNITS
from wsbroker.wire import commands, events

SOCKETS = 4
Event = tuple[object, ...]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.integers(0, SOCKETS - 1), st.integers(1, 90), st.sampled_from([1, 900, 9000])),
        st.tuples(st.just("handle"), st.integers(1, 120)),
        st.tuples(st.just("close"), st.integers(0, SOCKETS - 1)),
        st.tuples(st.sampled_from(["hold", "unhold", "exchange"])),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([20_000, 200_000, 4 << 20]))
def test_every_message_is_handled_once_in_order_before_its_close(steps: list[tuple[object, ...]], credit: int) -> None:
    broker = a_broker(inline=False, credit_bytes=credit)
    worker_queue = broker.worker_queues[0]
    mailbox: list[Event] = []
    broker.deliver_batch = lambda index, batch: mailbox.extend(batch)
    sockets: list[RecordingSocket] = [connect(broker) for _ in range(SOCKETS)]
    sent: dict[int, list[object]] = {socket.id: [] for socket in sockets}
    got: dict[int, list[object]] = {socket.id: [] for socket in sockets}

    def handle(count: int) -> None:
        broker.deliver_batches()
        for socket in sockets:
            costs = [event[3] for event in mailbox if event[:2] == (events.MESSAGE, socket.id)]
            bytes_in_flight = sum(int(str(cost)) for cost in costs)
            assert len(costs) <= SHARE_UNITS
            assert bytes_in_flight <= credit // 16 + 9000 + MESSAGE_OVERHEAD_BYTES or len(costs) == 1
        done = mailbox[:count]
        del mailbox[:count]
        batch: list[Event] = [(commands.HANDLED, [(e[1], e[3]) for e in done if e[0] == events.MESSAGE])]
        for event in done:
            socket_id = int(str(event[1]))
            got[socket_id].append("closed" if event[0] == events.CLOSE else event[2])
            if event[0] == events.CLOSE:
                batch.append((commands.CLOSE_HANDLED, socket_id))
        broker.apply_commands(0, worker_queue.generation, batch)

    for step in steps:
        if step[0] == "receive":
            _, which, count, size = step
            socket = sockets[int(str(which))]
            for _ in range(int(str(count)) if broker.is_open(socket.id) else 0):
                data = b"%d " % len(sent[socket.id]) + b"." * int(str(size))
                sent[socket.id].append(data)
                broker.receive_message(socket, data, len(data))
        elif step[0] == "handle":
            handle(int(str(step[1])))
        elif step[0] == "close":
            broker.mark_connection_lost(sockets[int(str(step[1]))], 1006, "")
        elif step[0] == "hold":
            broker.pause_worker_queue(0)
        elif step[0] == "unhold":
            broker.resume_worker_queue(0)
        elif worker_queue.is_paused:
            while worker_queue.in_flight_bytes or worker_queue.unhandled_closes:
                handle(50)
            broker.replace_worker(0)
    broker.resume_worker_queue(0)
    for socket in sockets:
        broker.mark_connection_lost(socket, 1006, "")
    while worker_queue.in_flight_bytes or worker_queue.unhandled_closes:
        handle(50)
    assert got == {socket_id: [*messages, "closed"] for socket_id, messages in sent.items()}
    assert (
        not mailbox
        and not worker_queue.sockets_with_inbox
        and not worker_queue.parked_ids
        and not worker_queue.waiting_sockets
        and worker_queue.in_flight_messages == 0
    )
    assert (broker.unhandled_bytes, worker_queue.unhandled_bytes) == (0, 0)
