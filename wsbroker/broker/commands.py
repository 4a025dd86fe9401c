"""What each command of a handler does to the broker, and what each question is answered. Kinds: `wire.commands`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mypy_extensions import i64

from wsbroker.broker.socket import NO_INDEX
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.wire import commands, events

if TYPE_CHECKING:
    from wsbroker.broker.broker import Broker


def apply_command(
    broker: Broker,
    lane: WorkerQueue | None,
    command: tuple[object, ...],
    answers: list[tuple[object, ...]],
    rest: list[tuple[object, ...]],
) -> None:
    """Applies one command.

    Args:
        lane: of the worker that gave it; None: a thread of the main interpreter did.
        answers: takes the ANSWER event of a question.
        rest: takes a command that is the pool's.
    """
    kind = cast(int, command[0])
    if kind == commands.SEND:
        broker.send(cast(int, command[1]), command[2])
    elif kind == commands.PUBLISH:
        broker.publish(cast(bytes, command[1]), command[2], cast(tuple[int, ...], command[3]))
    elif kind == commands.HANDLED:
        if lane is not None:
            broker.record_handled_messages(lane, cast(list[tuple[int, int]], command[1]))
    elif kind == commands.SUBSCRIBE:
        broker.subscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
    elif kind == commands.UNSUBSCRIBE:
        broker.unsubscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
    elif kind == commands.ASK:
        answers.append((events.ANSWER, command[1], _answer_question(broker, command)))
    elif kind == commands.SET_TOKEN:
        number = cast(int, command[3])
        socket = broker.sockets.get(cast(int, command[1]))
        if socket is None and lane is not None and number > 0:  # a handler of it still runs
            socket = lane.get_socket_with_inbox(cast(int, command[1]))
        if socket is None:
            broker.counters.unroutable += 1
        else:
            index: i64 = NO_INDEX if lane is None else lane.index
            broker.store_token(socket, cast(bytes | None, command[2]), index, number)
    elif kind == commands.COPY_SUBSCRIPTIONS:
        broker.copy_subscriptions(cast(bytes, command[1]), cast(bytes, command[2]))
    elif kind == commands.CLOSE:
        broker.close(cast(int, command[1]), cast(int, command[2]), cast(str, command[3]))
    elif kind == commands.HANDLER_FAILED:
        broker.close(cast(int, command[1]), 1011, "handler error")
    elif kind == commands.CLOSE_HANDLED:
        if lane is not None:
            lane.unhandled_closes.pop(cast(int, command[1]), None)
    elif kind >= commands.FIRST_POOL_COMMAND:
        rest.append(command)
    else:
        broker.counters.commands_refused += 1


def _answer_question(broker: Broker, command: tuple[object, ...]) -> object:
    question = cast(int, command[2])
    if question == commands.SUBSCRIBE:
        return broker.subscribe(cast(int, command[3]), cast(bytes, command[4]))
    if question == commands.UNSUBSCRIBE:
        return broker.unsubscribe(cast(int, command[3]), cast(bytes, command[4]))
    if question == commands.SUBSCRIBER_COUNT:
        return broker.subscriber_count(cast(bytes, command[3]))
    if question == commands.SUBSCRIBERS:
        return broker.subscribers(cast(bytes, command[3]))
    if question == commands.SUBSCRIPTIONS:
        return broker.subscriptions(cast(int, command[3]))
    if question == commands.CHANNELS:
        return broker.channels()
    if question == commands.IS_OPEN:
        return broker.is_open(cast(int, command[3]))
    if question == commands.QUEUED_BYTES:
        return broker.queued_bytes(cast(int, command[3]))
    broker.counters.commands_refused += 1
    return None
