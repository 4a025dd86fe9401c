"""What one socket may have with its worker: the rest of its messages waits in its inbox, and others pass them."""

from kits.broker_kit import RecordingSocket, a_broker, connect
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import CROWDED_FROM_MESSAGES, CROWDED_SHARE_UNITS, MESSAGE_OVERHEAD_BYTES, SHARE_UNITS
from wsbroker.wire import commands, events

COST = 1 + MESSAGE_OVERHEAD_BYTES
CREDIT = 4 << 20


class Worker:
    """The worker's end of a worker queue: the messages sent to it and not handled yet."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queue = broker.worker_queues[0]
        self.mailbox: list[tuple[object, ...]] = []
        broker.deliver_batch = self._deliver

    def _deliver(self, index: int, batch: list[tuple[object, ...]]) -> None:
        self.mailbox += batch

    def sent(self) -> list[tuple[object, ...]]:
        """What is in the mailbox at the end of the turn."""
        self.broker.deliver_batches()
        return self.mailbox

    def count(self, socket: RecordingSocket) -> int:
        """How many messages of a socket are in the mailbox."""
        return sum(event[:2] == (events.MESSAGE, socket.id) for event in self.sent())

    def handle(self, count: int) -> list[tuple[object, ...]]:
        """Handles the first events of the mailbox; returns them."""
        done, self.mailbox = self.mailbox[:count], self.mailbox[count:]
        handled = [(event[1], event[3]) for event in done if event[0] == events.MESSAGE]
        closed = [(commands.CLOSE_HANDLED, event[1]) for event in done if event[0] == events.CLOSE]
        self.broker.apply_commands(0, self.queue.generation, [(commands.HANDLED, handled), *closed])
        return done


def receive(broker: Broker, socket: RecordingSocket, count: int, size: int = 1) -> None:
    for _ in range(count):
        broker.receive_message(socket, b"x" * size, size)


def test_a_flood_has_a_share_of_the_mailbox_and_others_pass_what_waits() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    flood, other = connect(broker), connect(broker)
    receive(broker, flood, 1000)
    receive(broker, other, 1)
    assert worker.count(flood) == SHARE_UNITS
    assert worker.sent()[-1][1] == other.id
    assert broker.counters.mailboxes_full == 0  # the worker is not behind: one socket is
    worker.handle(10)
    assert worker.count(flood) == SHARE_UNITS
    while worker.sent():
        worker.handle(7)
    assert (flood.unhandled_bytes, flood.in_flight_units, flood.inbox) == (0, 0, None)
    assert (broker.unhandled_bytes, worker.queue.unhandled_bytes) == (0, 0)
    assert (worker.queue.in_flight_bytes, worker.queue.in_flight_messages, worker.queue.handled_messages) == (
        0,
        0,
        1001,
    )
    assert not worker.queue.sockets_with_inbox and not worker.queue.parked_ids and not worker.queue.waiting_sockets


def test_the_share_counts_bytes_too_and_what_is_left_of_it_takes_any_one_message() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    socket = connect(broker)
    receive(broker, socket, 30, 20_000)
    assert 0 < worker.queue.in_flight_bytes <= CREDIT // 16
    big = CREDIT // 8
    receive(broker, socket, 1, big)
    receive(broker, socket, 10)
    handled = 0
    while worker.sent():
        in_flight = worker.queue.in_flight_bytes
        assert in_flight <= CREDIT // 16 + 20_000 + (big if in_flight > big else 0)
        handled += len(worker.handle(1))
    assert handled == 41


def test_a_crowd_has_smaller_shares_but_a_pipeline_of_sixteen() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    sockets = [connect(broker) for _ in range(40)]
    for socket in sockets:
        receive(broker, socket, 100)
    assert min(worker.count(socket) for socket in sockets) == CROWDED_SHARE_UNITS
    assert worker.queue.in_flight_messages <= CROWDED_FROM_MESSAGES + len(sockets) * CROWDED_SHARE_UNITS
    order: dict[int, int] = {}
    while worker.sent():
        for event in worker.handle(5):
            order[int(str(event[1]))] = order.get(int(str(event[1])), 0) + 1
    assert set(order.values()) == {100}


def test_the_last_messages_of_a_socket_that_has_left_and_its_close_wait_for_its_share() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    socket = connect(broker)
    receive(broker, socket, 3 * SHARE_UNITS)
    broker.mark_connection_lost(socket, 1006, "")
    assert list(worker.queue.unhandled_closes) == [socket.id]
    broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket.id, b"last", 1)])
    seen: list[tuple[object, ...]] = []
    while worker.sent():
        assert worker.count(socket) <= SHARE_UNITS
        seen += worker.handle(1)
    assert [event[0] for event in seen] == [events.MESSAGE] * 3 * SHARE_UNITS + [events.CLOSE]
    assert seen[-1][2] == b"last"
    assert not worker.queue.unhandled_closes and not worker.queue.sockets_with_inbox


def test_a_new_worker_gets_the_share_of_every_socket_anew() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    flood, gone = connect(broker), connect(broker)
    receive(broker, flood, 200)
    receive(broker, gone, 200)
    broker.pause_worker_queue(0)
    broker.mark_connection_lost(gone, 1006, "")
    while worker.sent():
        worker.handle(50)
    assert worker.queue.in_flight_bytes == 0
    broker.replace_worker(0)
    assert (worker.count(flood), worker.count(gone)) == (SHARE_UNITS, SHARE_UNITS)
    handled = 0
    while worker.sent():
        handled += sum(event[0] == events.MESSAGE for event in worker.handle(9))
    assert handled == 2 * (200 - SHARE_UNITS)


def test_an_exchange_that_is_called_off_leaves_the_shares_as_they_are() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    flood = connect(broker)
    receive(broker, flood, 200)
    broker.pause_worker_queue(0)
    worker.sent()
    worker.handle(4)
    assert worker.count(flood) == SHARE_UNITS - 4
    broker.resume_worker_queue(0)
    assert worker.count(flood) == SHARE_UNITS


def test_what_a_lost_worker_leaves_includes_what_waited_for_a_share() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    flood, gone = connect(broker), connect(broker)
    receive(broker, flood, 200)
    receive(broker, gone, 100)
    broker.mark_connection_lost(gone, 1006, "")
    left = broker.mark_worker_lost(0, 1012)
    assert sorted((event[1], event[4]) for event in left) == [(flood.id, 1012), (gone.id, 1006)]
    assert broker.counters.messages_lost == 300
    assert not worker.queue.sockets_with_inbox and not worker.queue.parked_ids and not worker.queue.waiting_sockets


def test_another_worker_is_not_given_the_messages_of_a_socket_that_was_closed() -> None:
    """The worker that closed it drops those that it has, and only that one knows."""
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    closed, other = connect(broker), connect(broker)
    receive(broker, closed, 300)
    receive(broker, other, 100)
    worker.sent()
    broker.apply_commands(0, worker.queue.generation, [(commands.CLOSE, closed.id, 4000, "enough")])
    broker.pause_worker_queue(0)
    assert worker.queue.count_unhandled_messages() == 2 * SHARE_UNITS + 100 - SHARE_UNITS  # what is dropped is not lost
    while worker.queue.in_flight_bytes:
        worker.handle(7)
    broker.replace_worker(0)
    assert worker.count(closed) == 0
    assert [event[0] for event in worker.sent() if event[1] == closed.id] == [events.CLOSE]
    while worker.sent():
        worker.handle(7)
    assert (worker.queue.handled_messages, broker.unhandled_bytes, worker.queue.unhandled_bytes) == (
        SHARE_UNITS + 100,
        0,
        0,
    )
    assert not worker.queue.sockets_with_inbox and not worker.queue.unhandled_closes


def test_at_the_end_of_a_stop_what_waits_is_dropped_and_the_closes_behind_it_come() -> None:
    broker = a_broker(inline=False, credit_bytes=CREDIT)
    worker = Worker(broker)
    sockets = [connect(broker) for _ in range(3)]
    for socket in sockets:
        receive(broker, socket, 300)
        broker.close_socket(socket, 1001, "", 1001, "")
    worker.sent()
    assert broker.drop_waiting_messages() == 3 * (300 - SHARE_UNITS)
    assert broker.counters.messages_lost == 3 * (300 - SHARE_UNITS)
    while worker.sent():
        worker.handle(50)
    assert not worker.queue.unhandled_closes and not worker.queue.sockets_with_inbox
    assert (worker.queue.handled_messages, broker.unhandled_bytes) == (3 * SHARE_UNITS, 0)
    assert broker.drop_waiting_messages() == 0
