"""Applies the commands of handlers to the broker and answers their questions. Kinds of commands: `wire.commands`."""

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
    worker_queue: WorkerQueue | None,
    command: tuple[object, ...],
    answers: list[tuple[object, ...]],
    pool_commands: list[tuple[object, ...]],
) -> None:
    """Applies one command to the broker; an unknown kind is skipped and counted.

    Args:
        worker_queue: of the worker that gave the command; None: a thread of the main interpreter did.
        answers: the ANSWER event of a question is appended here.
        pool_commands: a command that is the pool's to apply is appended here.
    """
    kind = cast(int, command[0])
    if kind == commands.SEND:
        broker.send(cast(int, command[1]), command[2])
    elif kind == commands.PUBLISH:
        broker.publish(cast(bytes, command[1]), command[2], cast(tuple[int, ...], command[3]))
    elif kind == commands.HANDLED:
        if worker_queue is not None:
            broker.record_handled_messages(worker_queue, cast(list[tuple[int, int]], command[1]))
    elif kind == commands.SUBSCRIBE:
        broker.subscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
    elif kind == commands.UNSUBSCRIBE:
        broker.unsubscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
    elif kind == commands.ASK:
        answers.append((events.ANSWER, command[1], _answer_question(broker, command)))
    elif kind == commands.SET_TOKEN:
        token_number = cast(int, command[3])
        socket = broker.sockets.get(cast(int, command[1]))
        if socket is None and worker_queue is not None and token_number > 0:  # a handler of it still runs
            socket = worker_queue.get_socket_with_inbox(cast(int, command[1]))
        if socket is None:
            broker.counters.unroutable += 1
        else:
            worker_index: i64 = NO_INDEX if worker_queue is None else worker_queue.index
            broker.store_token(socket, cast(bytes | None, command[2]), worker_index, token_number)
    elif kind == commands.COPY_SUBSCRIPTIONS:
        broker.copy_subscriptions(cast(bytes, command[1]), cast(bytes, command[2]))
    elif kind == commands.CLOSE:
        broker.close(cast(int, command[1]), cast(int, command[2]), cast(str, command[3]))
    elif kind == commands.HANDLER_FAILED:
        broker.close(cast(int, command[1]), 1011, "handler error")
    elif kind == commands.CLOSE_HANDLED:
        if worker_queue is not None:
            worker_queue.unhandled_closes.pop(cast(int, command[1]), None)
    elif kind >= commands.FIRST_POOL_COMMAND:
        pool_commands.append(command)
    else:
        broker.counters.commands_refused += 1


def _answer_question(broker: Broker, command: tuple[object, ...]) -> object:
    """Returns the answer to an ASK command ``(ASK, call id, question, *arguments)``; None for an unknown question."""
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
