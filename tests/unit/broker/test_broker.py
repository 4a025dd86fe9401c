"""The broker's registries, close events, tokens, worker queues and commands."""

from collections.abc import Callable

import pytest

from kits.broker_kit import CountingTurnScheduler, RecordingSocket, a_broker, connect
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import BATCH_BYTES, MESSAGE_OVERHEAD_BYTES, SCARCE_INBOX_BYTES, Limits
from wsbroker.errors import CommandError
from wsbroker.wire import commands, events

Batch = list[tuple[object, ...]]


class Deliveries:
    """What was handed to the workers."""

    def __init__(self, broker: Broker) -> None:
        self.batches: list[tuple[int, Batch]] = []
        broker.deliver_batch = self

    def __call__(self, worker_index: int, batch: Batch) -> None:
        self.batches.append((worker_index, batch))

    def events(self, worker_index: int = 0) -> Batch:
        """All events for a worker since the last call."""
        found = [event for index, batch in self.batches if index == worker_index for event in batch]
        self.batches = [(index, batch) for index, batch in self.batches if index != worker_index]
        return found


def receive(broker: Broker, socket: RecordingSocket, data: bytes) -> None:
    broker.receive_message(socket, data, len(data))


def test_ids_start_at_one_and_are_never_reused() -> None:
    broker = a_broker()
    assert connect(broker).id == 1
    broker.close(1, 1000, "")
    assert connect(broker).id == 2


def test_unknown_ids_are_ignored_and_counted() -> None:
    broker = a_broker()
    for nobody in (0, 7, -1, 1 << 80):
        broker.send(nobody, "x")
        assert not broker.subscribe(nobody, b"c")
        assert not broker.unsubscribe(nobody, b"c")
        broker.set_token(nobody, b"t")
        broker.close(nobody, 1000, "")
        assert broker.subscriptions(nobody) == []
        assert broker.queued_bytes(nobody) == 0
        assert not broker.is_open(nobody)
    assert broker.counters.unroutable == 4 * 5
    assert broker.channels_by_name == {}


def test_subscriptions_over_the_limit_are_refused_and_nothing_is_stored() -> None:
    broker = a_broker(Limits(max_channels=2))
    full = connect(broker)
    assert [broker.subscribe(full.id, b"%d" % number) for number in range(3)] == [True, True, False]
    assert broker.counters.subscriptions_refused == 1
    assert broker.channels() == [b"0", b"1"]


def test_a_copy_subscribes_who_is_in_the_source_now_in_its_order() -> None:
    broker = a_broker()
    first, both, last, later = (connect(broker) for _ in range(4))
    for socket in (first, both, last):
        broker.subscribe(socket.id, b"from")
    broker.subscribe(both.id, b"to")
    broker.copy_subscriptions(b"from", b"to")
    broker.subscribe(later.id, b"from")
    assert broker.subscribers(b"to") == [both.id, first.id, last.id]
    assert broker.subscribers(b"from") == [first.id, both.id, last.id, later.id]
    assert broker.subscriptions(first.id) == [b"from", b"to"]
    assert broker.subscriptions(both.id) == [b"from", b"to"]


@pytest.mark.parametrize(("source", "target"), [(b"nobody", b"new"), (b"left", b"new"), (b"c", b"c")])
def test_a_copy_from_nobody_or_onto_itself_changes_nothing_and_makes_no_channel(source: bytes, target: bytes) -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.subscribe(socket.id, b"c")
    broker.subscribe(socket.id, b"left")
    broker.publish(b"left", "so that it is still in the table", ())
    broker.unsubscribe(socket.id, b"left")
    broker.copy_subscriptions(source, target)
    assert broker.subscribers(b"c") == [socket.id] and broker.channels() == [b"c"]
    assert set(broker.channels_by_name) == {b"c", b"left"}
    broker.flush()
    assert set(broker.channels_by_name) == {b"c"}


def test_a_copy_leaves_out_and_counts_who_may_have_no_more_channels() -> None:
    broker = a_broker(Limits(max_channels=2))
    full, fits, both = connect(broker), connect(broker), connect(broker)
    for socket in (full, fits, both):
        broker.subscribe(socket.id, b"from")
    broker.subscribe(full.id, b"other")
    broker.subscribe(both.id, b"to")
    broker.copy_subscriptions(b"from", b"to")
    assert broker.subscribers(b"to") == [both.id, fits.id]
    assert broker.counters.subscriptions_refused == 1
    broker.unsubscribe(both.id, b"to")
    broker.unsubscribe(fits.id, b"to")
    broker.subscribe(fits.id, b"other")
    broker.subscribe(both.id, b"other")
    broker.copy_subscriptions(b"from", b"to")
    assert b"to" not in broker.channels_by_name and broker.counters.subscriptions_refused == 4


def test_who_is_copied_in_within_a_turn_gets_the_target_from_then_on() -> None:
    broker = a_broker()
    mover, member = connect(broker), connect(broker)
    broker.subscribe(mover.id, b"from")
    broker.subscribe(member.id, b"to")
    broker.publish(b"from", "1", ())
    broker.publish(b"to", "2", ())
    broker.copy_subscriptions(b"from", b"to")
    broker.publish(b"from", "3", ())
    broker.publish(b"to", "4", ())
    broker.unsubscribe(mover.id, b"to")
    broker.publish(b"to", "5", ())
    broker.copy_subscriptions(b"from", b"to")
    broker.publish(b"to", "6", (member.id,))
    broker.flush()
    assert mover.received == [b"1", b"3", b"4", b"6"]
    assert member.received == [b"2", b"4", b"5"]


def test_subscriptions_stand_in_the_order_of_subscribing_whichever_were_given_up() -> None:
    broker = a_broker(Limits(max_channels=4))
    socket = connect(broker)
    subscribed: list[bytes] = []
    for seed in range(200):  # every step of a walk through all numbers of channels
        name = b"c%d" % (seed * 7 % 5)
        if name in subscribed:
            broker.unsubscribe(socket.id, name)
            subscribed.remove(name)
        elif broker.subscribe(socket.id, name):
            subscribed.append(name)
        assert broker.subscriptions(socket.id) == subscribed
        assert (socket.more_channels is None) == (
            len(subscribed) < 2 or (socket.first_channel is None and not subscribed)
        )


def test_a_socket_that_has_one_channel_left_keeps_no_table_for_it() -> None:
    broker = a_broker()
    socket = connect(broker)
    for names in ((b"a", b"b"), (b"b", b"c"), (b"c", b"a")):  # moves on: the new one first, then out of the old one
        broker.subscribe(socket.id, names[0])
        broker.subscribe(socket.id, names[1])
        broker.unsubscribe(socket.id, names[0])
        assert socket.more_channels is None and broker.subscriptions(socket.id) == [names[1]]
        broker.publish(names[1], names[1], ())
        broker.flush()
    assert socket.received == [b"b", b"c", b"a"]


def test_the_turn_is_armed_once_however_much_happens_in_it() -> None:
    broker = a_broker()
    scheduler = broker.turn_scheduler
    assert isinstance(scheduler, CountingTurnScheduler)
    sockets = [connect(broker) for _ in range(5)]
    for socket in sockets:
        broker.subscribe(socket.id, b"c")
        broker.send(socket.id, "x")
        broker.publish(b"c", "y", ())
    assert scheduler.woken == 1


def test_a_closed_socket_is_out_of_the_tables_at_once_and_told_once() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    broker.set_token(socket.id, b"token")
    broker.subscribe(socket.id, b"c")
    broker.close(socket.id, 4001, "go")
    broker.close(socket.id, 4002, "again")
    assert not broker.is_open(socket.id)
    assert broker.subscriber_count(b"c") == 0
    broker.flush()
    broker.deliver_batches()
    broker.mark_connection_lost(socket, 1006, "")
    broker.deliver_batches()
    closes = [event for event in told.events() if event[0] == events.CLOSE]
    assert closes == [(events.CLOSE, socket.id, b"token", 0, 4001, "go")]
    assert socket.received == [b"close"]
    assert broker.worker_queues[0].socket_count == 0


def test_a_socket_refused_before_the_101_leaves_nothing_behind() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = RecordingSocket(broker.allocate_socket_id(), broker.worker_queues[0])
    broker.register_socket(socket)
    assert broker.subscribe(socket.id, b"c")
    broker.send(socket.id, "welcome")
    broker.flush()
    assert broker.queued_bytes(socket.id) > 0
    broker.discard_socket(socket)
    broker.deliver_batches()
    assert told.events() == []
    assert socket.writes == []
    assert broker.channels_by_name == {} and broker.sockets == {}


def test_what_was_sent_before_the_101_goes_out_behind_it() -> None:
    broker = a_broker()
    socket = RecordingSocket(broker.allocate_socket_id(), broker.worker_queues[0])
    broker.register_socket(socket)
    broker.send(socket.id, "one")
    broker.flush()
    broker.send(socket.id, "two")
    assert socket.writes == []
    broker.mark_socket_open(socket)
    broker.send(socket.id, "three")
    broker.flush()
    assert socket.received == [b"one", b"two", b"three"]


def test_a_socket_closed_while_it_opens_is_told_when_it_is_accepted() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = RecordingSocket(broker.allocate_socket_id(), broker.worker_queues[0])
    broker.register_socket(socket)
    broker.close(socket.id, 4000, "no")
    broker.flush()
    broker.deliver_batches()
    assert told.events() == []
    broker.mark_socket_open(socket)
    broker.deliver_batches()
    assert told.events() == [(events.CLOSE, socket.id, None, 0, 4000, "no")]
    assert socket.received == [b"close"]
    assert socket.finishes == 1


def test_messages_wait_in_their_inbox_while_the_worker_has_no_credit() -> None:
    cost = 10 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False, credit_bytes=2 * cost)  # a share is less than a message: each socket has one
    told = Deliveries(broker)
    first, second, one, other = (connect(broker) for _ in range(4))
    receive(broker, first, b"1st 000000")
    receive(broker, second, b"2nd 000000")
    assert broker.counters.mailboxes_full == 0
    for number in range(2):
        receive(broker, one, b"one %06d" % number)
    receive(broker, other, b"other 0000")
    assert broker.counters.mailboxes_full == 3
    broker.deliver_batches()
    assert [event[2] for event in told.events()] == [b"1st 000000", b"2nd 000000"]
    assert (broker.worker_queues[0].in_flight_bytes, broker.worker_queues[0].in_flight_messages) == (2 * cost, 2)
    broker.apply_commands(0, 0, [(commands.HANDLED, [(first.id, cost), (second.id, cost)])])
    broker.deliver_batches()
    assert [event[2] for event in told.events()] == [b"one 000000", b"other 0000"]
    broker.apply_commands(0, 0, [(commands.HANDLED, [(one.id, cost), (other.id, cost)])])
    broker.deliver_batches()
    assert [event[2] for event in told.events()] == [b"one 000001"]
    broker.apply_commands(0, 0, [(commands.HANDLED, [(one.id, cost)])])
    assert (broker.worker_queues[0].in_flight_bytes, broker.worker_queues[0].in_flight_messages) == (0, 0)
    assert one.unhandled_bytes == 0 and one.inbox is None


def test_a_new_message_does_not_pass_sockets_that_wait() -> None:
    small, big = MESSAGE_OVERHEAD_BYTES + 1, MESSAGE_OVERHEAD_BYTES + 500
    broker = a_broker(inline=False, credit_bytes=big)
    told = Deliveries(broker)
    first, waiting, late = connect(broker), connect(broker), connect(broker)
    receive(broker, first, b"1")
    receive(broker, waiting, b"x" * 500)
    receive(broker, late, b"3")  # there is credit for it, but not before its turn
    broker.deliver_batches()
    assert [event[1] for event in told.events()] == [first.id]
    broker.apply_commands(0, 0, [(commands.HANDLED, [(first.id, small)])])
    broker.deliver_batches()
    assert [event[1] for event in told.events()] == [waiting.id]
    broker.apply_commands(0, 0, [(commands.HANDLED, [(waiting.id, big)])])
    broker.deliver_batches()
    assert [event[1] for event in told.events()] == [late.id]


def test_the_close_event_stays_behind_the_messages_that_wait() -> None:
    cost = 1 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False, credit_bytes=cost)
    told = Deliveries(broker)
    socket = connect(broker)
    receive(broker, socket, b"1")
    receive(broker, socket, b"2")
    broker.mark_connection_lost(socket, 1006, "")
    assert socket.id in broker.worker_queues[0].unhandled_closes  # whoever stops the worker waits for it
    broker.deliver_batches()
    assert [event[0] for event in told.events()] == [events.MESSAGE]
    broker.apply_commands(0, 0, [(commands.HANDLED, [(socket.id, cost)])])
    broker.deliver_batches()
    broker.apply_commands(0, 0, [(commands.HANDLED, [(socket.id, cost)])])
    broker.deliver_batches()
    assert [event[0] for event in told.events()] == [events.MESSAGE, events.CLOSE]
    assert socket.id in broker.worker_queues[0].unhandled_closes
    broker.apply_commands(0, 0, [(commands.CLOSE_HANDLED, socket.id)])
    assert not broker.worker_queues[0].unhandled_closes


def test_reading_resumes_when_the_inbox_is_half_empty() -> None:
    cost = 100 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(Limits(inbox_bytes=4 * cost), inline=False)
    Deliveries(broker)
    socket = connect(broker)
    for _ in range(4):
        receive(broker, socket, b"x" * 100)
    socket.pause_reading()  # as the connection does at this point
    broker.apply_commands(0, 0, [(commands.HANDLED, [(socket.id, cost)])])
    assert socket.resumed == 0
    broker.apply_commands(0, 0, [(commands.HANDLED, [(socket.id, cost)])])
    assert socket.resumed == 1


def test_while_all_inboxes_hold_too_much_each_may_have_little() -> None:
    cost = 1000 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(Limits(inbox_bytes=256 * 1024, max_inbox_bytes_total=30 * cost), inline=False)
    Deliveries(broker)
    flood, other = connect(broker), connect(broker)
    for _ in range(29):
        receive(broker, flood, b"x" * 1000)
    assert broker.inbox_limit_bytes() == 256 * 1024
    receive(broker, other, b"x" * 1000)
    assert (broker.inbox_limit_bytes(), broker.unhandled_bytes) == (SCARCE_INBOX_BYTES, 30 * cost)
    flood.pause_reading()  # as the connection does now
    broker.apply_commands(0, 0, [(commands.HANDLED, [(other.id, cost)])])
    assert broker.inbox_limit_bytes() == 256 * 1024
    broker.apply_commands(0, 0, [(commands.HANDLED, [(flood.id, cost)])])
    assert flood.resumed == 1
    broker.mark_worker_lost(0, 1012)  # what it had is lost, and counts no more
    assert (broker.unhandled_bytes, broker.worker_queues[0].unhandled_bytes) == (0, 0)


def test_an_inbox_limit_that_is_small_already_stays() -> None:
    broker = a_broker(Limits(inbox_bytes=1000, max_inbox_bytes_total=100), inline=False)
    receive(broker, connect(broker), b"x" * 500)
    assert broker.inbox_limit_bytes() == 1000


def test_a_token_set_by_its_own_worker_is_not_told_back_and_a_foreign_one_is() -> None:
    broker = a_broker(inline=False)
    broker.add_worker_queue(1, 1 << 20)
    told = Deliveries(broker)
    socket = connect(broker)
    broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket.id, b"own", 7)])
    receive(broker, socket, b"1")
    broker.deliver_batches()
    assert [event[0] for event in told.events()] == [events.MESSAGE]
    broker.apply_commands(1, 0, [(commands.SET_TOKEN, socket.id, b"foreign", 9)])
    broker.deliver_batches()
    assert told.events() == []
    receive(broker, socket, b"2")
    receive(broker, socket, b"3")
    broker.deliver_batches()
    assert [event[:4] for event in told.events() if event[0] == events.TOKEN] == [
        (events.TOKEN, socket.id, b"foreign", 7)
    ]
    assert told.events(1) == []


def test_a_flood_of_foreign_tokens_is_one_event_before_the_next_message() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    for number in range(1000):
        broker.set_token(socket.id, b"%d" % number)
    broker.deliver_batches()
    assert told.events() == []
    receive(broker, socket, b"x")
    broker.deliver_batches()
    assert [event[:3] for event in told.events()] == [
        (events.TOKEN, socket.id, b"999"),
        (events.MESSAGE, socket.id, b"x"),
    ]


def test_an_own_token_after_a_foreign_one_needs_no_telling() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    broker.set_token(socket.id, b"foreign")
    broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket.id, b"own", 3)])
    receive(broker, socket, b"x")
    broker.deliver_batches()
    assert [event[0] for event in told.events()] == [events.MESSAGE]


def test_a_waiting_message_brings_the_token_that_holds_when_it_moves_on() -> None:
    cost = 1 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False, credit_bytes=cost)
    told = Deliveries(broker)
    socket = connect(broker)
    receive(broker, socket, b"1")
    receive(broker, socket, b"2")
    broker.set_token(socket.id, b"late")
    broker.deliver_batches()
    told.events()
    broker.apply_commands(0, 0, [(commands.HANDLED, [(socket.id, cost)])])
    broker.deliver_batches()
    assert [event[2] for event in told.events()] == [b"late", b"2"]


def test_answers_leave_at_once_and_in_order() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    rest = broker.apply_commands(
        0,
        0,
        [
            (commands.ASK, 1, commands.SUBSCRIBE, socket.id, b"c"),
            (commands.ASK, 2, commands.SUBSCRIBE, socket.id, b"c"),
            (commands.ASK, 3, commands.SUBSCRIBER_COUNT, b"c"),
            (commands.ASK, 4, commands.SUBSCRIBERS, b"c"),
            (commands.ASK, 5, commands.SUBSCRIPTIONS, socket.id),
            (commands.ASK, 6, commands.CHANNELS),
            (commands.ASK, 7, commands.IS_OPEN, socket.id),
            (commands.ASK, 8, commands.QUEUED_BYTES, socket.id),
            (commands.ASK, 9, commands.UNSUBSCRIBE, socket.id, b"c"),
            (commands.STOPPED,),
        ],
    )
    assert rest == [(commands.STOPPED,)]
    values = [True, False, 1, [socket.id], [b"c"], [b"c"], True, 0, True]
    assert told.events() == [(events.ANSWER, number + 1, value) for number, value in enumerate(values)]


def test_answers_to_the_main_program_come_back_from_apply() -> None:
    broker = a_broker()
    assert broker.apply_commands(-1, 0, [(commands.ASK, 5, commands.CHANNELS)]) == [(events.ANSWER, 5, [])]


def test_a_command_that_makes_no_sense_does_not_take_the_others_with_it() -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.apply_commands(
        -1, 0, [(31, 1), (commands.SEND, "not an id", 5), (commands.CLOSE,), (commands.SEND, socket.id, "x")]
    )
    broker.flush()
    assert socket.received == [b"x"]
    assert broker.counters.commands_refused == 3


def test_a_command_of_unknown_kind_that_was_deferred_by_a_flush_is_counted_too() -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.deferred_commands += [(31, 1), (commands.CLOSE, socket.id, 1000, "")]
    broker.flush()
    assert broker.counters.commands_refused == 1
    assert not broker.is_open(socket.id)


def test_a_dead_worker_takes_its_sockets_with_it_and_leaves_its_closes() -> None:
    broker = a_broker(inline=False, credit_bytes=1)
    broker.add_worker_queue(1, 1 << 20)
    told = Deliveries(broker)
    dying, closed, other = connect(broker, 0), connect(broker, 0), connect(broker, 1)
    broker.close(closed.id, 1000, "")
    receive(broker, dying, b"lost with the worker")
    broker.deliver_batches()
    told.events()
    receive(broker, dying, b"still in the inbox")
    left = broker.mark_worker_lost(0, 1012)
    assert [(event[1], event[4]) for event in left] == [(closed.id, 1000), (dying.id, 1012)]
    assert broker.is_open(other.id) and not broker.is_open(dying.id)
    assert (broker.worker_queues[0].in_flight_bytes, broker.worker_queues[0].in_flight_messages) == (0, 0)
    assert broker.counters.messages_lost == 2
    broker.adopt_closes(1, left)
    broker.deliver_batches()
    assert told.events(1) == left
    assert told.events(0) == []
    assert broker.apply_commands(0, 0, [(commands.SEND, other.id, "late"), (commands.STOPPED,)]) == []
    broker.flush()
    assert other.received == []
    assert dying.writes[-1][2:4] == (1012).to_bytes(2, "big")


def test_a_worker_is_exchanged_without_losing_or_repeating_a_message() -> None:
    cost = 1 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket, quiet = connect(broker), connect(broker)
    broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket.id, b"token", 12)])
    receive(broker, socket, b"1")
    broker.deliver_batches()
    broker.pause_worker_queue(0)
    receive(broker, socket, b"2")
    broker.mark_connection_lost(quiet, 1006, "")
    broker.deliver_batches()
    assert [event[:2] for event in told.events()] == [(events.MESSAGE, socket.id)]
    broker.apply_commands(0, 0, [(commands.SEND, socket.id, "from the old"), (commands.HANDLED, [(socket.id, cost)])])
    assert broker.worker_queues[0].in_flight_bytes == 0
    assert not broker.worker_queues[0].unhandled_closes
    broker.replace_worker(0)
    assert broker.apply_commands(0, 0, [(commands.SEND, socket.id, "too late")]) == []
    broker.deliver_batches()
    assert [event[:3] for event in told.events()] == [
        (events.TOKEN, socket.id, b"token"),
        (events.MESSAGE, socket.id, b"2"),
        (events.CLOSE, quiet.id, None),
    ]
    assert list(broker.worker_queues[0].unhandled_closes) == [quiet.id]
    broker.apply_commands(0, 1, [(commands.SEND, socket.id, "from the new"), (commands.HANDLED, [(socket.id, cost)])])
    broker.flush()
    assert socket.received == [b"from the old", b"from the new"]
    assert (
        broker.worker_queues[0].in_flight_bytes,
        broker.worker_queues[0].in_flight_messages,
        socket.unhandled_bytes,
    ) == (0, 0, 0)


def test_the_last_messages_of_a_socket_that_left_during_an_exchange_have_its_token() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket.id, b"alice", 1)])
    broker.pause_worker_queue(0)
    receive(broker, socket, b"last words")
    broker.mark_connection_lost(socket, 1006, "")
    broker.replace_worker(0)
    broker.deliver_batches()
    assert [event[:3] for event in told.events()] == [
        (events.TOKEN, socket.id, b"alice"),
        (events.MESSAGE, socket.id, b"last words"),
        (events.CLOSE, socket.id, b"alice"),
    ]


def test_an_exchange_that_is_called_off_goes_on_with_the_old_worker() -> None:
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    broker.pause_worker_queue(0)
    receive(broker, socket, b"1")
    broker.deliver_batches()
    assert told.events() == []
    broker.resume_worker_queue(0)
    broker.deliver_batches()
    assert [event[2] for event in told.events()] == [b"1"]
    assert broker.worker_queues[0].generation == 0


def test_a_socket_that_ends_waits_for_the_worker_to_handle_its_messages() -> None:
    cost = 1 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket = connect(broker)
    receive(broker, socket, b"1")
    broker.close_after_messages(socket, 4000, "", 4000, "bye")
    broker.deliver_batches()
    broker.flush()
    assert socket.received == [] and broker.is_open(socket.id)
    broker.apply_commands(0, 0, [(commands.SEND, socket.id, "answer"), (commands.HANDLED, [(socket.id, cost)])])
    broker.deliver_batches()
    broker.flush()
    assert socket.received == [b"answer", b"close"]
    assert told.events()[-1] == (events.CLOSE, socket.id, None, 0, 4000, "bye")


def test_a_socket_that_ends_with_nothing_to_handle_ends_at_once() -> None:
    broker = a_broker(inline=False)
    socket = connect(broker)
    broker.close_after_messages(socket, 1005, "", 1005, "")
    assert not broker.is_open(socket.id)


def test_a_worker_that_dies_while_its_queue_is_paused_leaves_the_waiting_closes_too() -> None:
    broker = a_broker(inline=False)
    Deliveries(broker)
    waiting, quiet = connect(broker), connect(broker)
    broker.pause_worker_queue(0)
    receive(broker, waiting, b"1")
    broker.mark_connection_lost(waiting, 1006, "")
    broker.mark_connection_lost(quiet, 1001, "")
    left = broker.mark_worker_lost(0, 1012)
    assert sorted((event[1], event[4]) for event in left) == [(waiting.id, 1006), (quiet.id, 1001)]
    assert not broker.worker_queues[0].waiting_sockets


def test_a_mailbox_that_fails_does_not_keep_the_batches_of_other_workers() -> None:
    broker = a_broker(inline=False)
    broker.add_worker_queue(1, 1 << 20)
    told = Deliveries(broker)

    def fail_once(worker_index: int, batch: Batch) -> None:
        broker.deliver_batch = told
        raise ValueError("a mailbox that should not fail")

    broker.deliver_batch = fail_once
    first, second = connect(broker, 0), connect(broker, 1)
    receive(broker, first, b"1")
    receive(broker, second, b"2")
    with pytest.raises(ValueError, match="should not fail"):
        broker.deliver_batches()
    broker.deliver_batches()
    assert len(told.events(0) + told.events(1)) == 1
    receive(broker, first, b"3")
    receive(broker, second, b"4")
    broker.deliver_batches()
    assert len(told.events(0)) == len(told.events(1)) == 1


def test_a_close_that_waits_behind_messages_is_not_waited_for_while_its_queue_is_paused() -> None:
    cost = 1 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False, credit_bytes=cost)
    Deliveries(broker)
    socket = connect(broker)
    receive(broker, socket, b"1")
    receive(broker, socket, b"2")
    broker.mark_connection_lost(socket, 1006, "")
    closing = broker.worker_queues[0].unhandled_closes
    broker.pause_worker_queue(0)
    assert not closing
    broker.resume_worker_queue(0)
    assert list(closing) == [socket.id]
    broker.pause_worker_queue(0)
    broker.apply_commands(0, 0, [(commands.HANDLED, [(socket.id, cost)])])
    assert not broker.worker_queues[0].in_flight_bytes
    broker.replace_worker(0)
    assert list(closing) == [socket.id]
    assert [event[:2] for event in broker.mark_worker_lost(0, 1012)] == [(events.CLOSE, socket.id)]


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_is_asked_from_inside_a_flush_comes_after_it(is_alone: bool) -> None:
    """A finaliser, or a signal handler, runs in the middle of a transport's `write`."""
    broker = a_broker()
    one, other = connect(broker), connect(broker)
    for socket in (one, other):
        broker.subscribe(socket.id, b"c")

    def write(data: bytes) -> None:
        one.writes.append(data)
        if len(one.writes) == 1:
            broker.send(other.id, "sent")
            broker.publish(b"c", "published", ())
            broker.close(one.id, 1000, "")

    one.on_write = write
    broker.publish(b"c", "first", ())
    if not is_alone:
        broker.send(one.id, "direct")
    for _ in range(2):
        broker.flush()
    direct = [] if is_alone else [b"direct"]
    assert one.received == [b"first", *direct, b"published", b"close"]
    assert other.received == [b"first", b"sent", b"published"]
    assert not broker.is_open(one.id) and broker.subscribers(b"c") == [other.id]


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("is_cap", [True, False])
def test_subscriptions_from_inside_a_flush_are_changed_behind_it_in_order(is_alone: bool, is_cap: bool) -> None:
    broker = a_broker()
    one, other = connect(broker), connect(broker)
    for socket in (one, other):
        broker.subscribe(socket.id, b"c")
    broker.subscribe(other.id, b"d")

    def write(data: bytes) -> None:
        one.writes.append(data)
        if len(one.writes) == 1:
            broker.unsubscribe_nowait(other.id, b"c")
            broker.copy_subscriptions(b"c", b"e")  # of one alone
            broker.subscribe_nowait(one.id, b"d")
            broker.set_token(one.id, b"token")
            broker.copy_subscriptions(b"d", b"c")  # the other one comes back
            broker.publish(b"e", "e", ())
            broker.publish(b"d", "d", ())
            assert one.token is None

    one.on_write = write
    if not is_alone:
        broker.send(one.id, "direct")
    first = b"x" * BATCH_BYTES if is_cap else b"first"
    broker.publish(b"c", first, ())
    if not is_cap:
        broker.flush()
    assert broker.subscribers(b"c") == [one.id, other.id]  # at once, not at the end of the turn
    assert broker.subscribers(b"d") == [other.id, one.id] and broker.subscribers(b"e") == [one.id]
    assert broker.subscriptions(other.id) == [b"d", b"c"] and one.token == b"token"
    broker.unsubscribe(one.id, b"e")
    broker.publish(b"e", "nobody", ())
    broker.flush()
    direct = [] if is_alone else [b"direct"]
    assert one.received == [*direct, first, b"e", b"d"] and other.received == [first, b"d"]


@pytest.mark.parametrize("is_copied", [True, False])
def test_who_joins_a_channel_while_it_is_written_out_gets_what_comes_next(is_copied: bool) -> None:
    broker = a_broker()
    member, joiner = connect(broker), connect(broker)
    broker.subscribe(member.id, b"c")
    broker.subscribe(joiner.id, b"other")

    def write(data: bytes) -> None:
        member.writes.append(data)
        if is_copied:
            broker.copy_subscriptions(b"other", b"c")
        else:
            broker.subscribe_nowait(joiner.id, b"c")

    member.on_write = write
    broker.publish(b"c", "1", ())
    broker.flush()
    broker.publish(b"c", "2", ())
    broker.flush()
    assert member.received == [b"1", b"2"] and joiner.received == [b"2"]


def test_a_question_from_inside_a_flush_is_refused_when_its_answer_could_be_wrong() -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.subscribe(socket.id, b"c")
    questions: list[Callable[[], object]] = [
        lambda: broker.subscriber_count(b"c"),
        lambda: broker.subscribers(b"c"),
        lambda: broker.subscriptions(socket.id),
        broker.channels,
        lambda: broker.is_open(socket.id),
        lambda: broker.queued_bytes(socket.id),
    ]
    refused: list[int] = []

    def write(data: bytes) -> None:
        for change in (broker.subscribe, broker.unsubscribe):
            with pytest.raises(CommandError, match="subscribe_nowait"):
                change(socket.id, b"c")
        for question in questions:
            question()
        broker.unsubscribe_nowait(socket.id, b"c")
        for question in questions:
            with pytest.raises(CommandError, match="cannot ask the broker"):
                question()
            refused.append(1)

    socket.on_write = write
    broker.publish(b"c", "x", ())
    broker.flush()
    assert len(refused) == len(questions) and broker.subscribers(b"c") == []


def test_a_token_that_is_set_while_a_socket_closes_goes_to_who_runs_its_close_handler() -> None:
    cost = 1 + MESSAGE_OVERHEAD_BYTES
    broker = a_broker(inline=False)
    told = Deliveries(broker)
    socket, gone = connect(broker), connect(broker)
    receive(broker, socket, b"1")
    broker.deliver_batches()
    broker.pause_worker_queue(0)
    receive(broker, socket, b"2")
    broker.mark_connection_lost(socket, 1006, "")
    broker.mark_connection_lost(gone, 1006, "")
    done = [(socket.id, cost)]
    broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket.id, b"by its handler", 7), (commands.HANDLED, done)])
    for socket_id, number in ((socket.id, 0), (99, 8)):
        broker.apply_commands(0, 0, [(commands.SET_TOKEN, socket_id, b"ignored", number)])
    assert broker.counters.unroutable == 2
    told.events()
    broker.replace_worker(0)
    broker.deliver_batches()
    events_of_socket = [event for event in told.events() if event[1] == socket.id]
    assert [event[:3] for event in events_of_socket] == [
        (events.TOKEN, socket.id, b"by its handler"),
        (events.MESSAGE, socket.id, b"2"),
        (events.CLOSE, socket.id, b"by its handler"),
    ]
    assert broker.worker_queues[0].unhandled_closes[socket.id] == events_of_socket[-1]
    (left,) = [event for event in broker.mark_worker_lost(0, 1012) if event[1] == socket.id]
    assert left[2] == b"by its handler"
