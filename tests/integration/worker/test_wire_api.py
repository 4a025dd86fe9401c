"""An exception at any line of the API, in a handler's stack: it costs that handler's socket, and nobody else anything.

Once at each line that a handler's calls run through, and at each moment at which it runs through it, something raises
there: what a signal handler does, or what a lack of memory or stack is. Then either only this call has failed, or the
wire was given up and the worker is gone, which its broker sees.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import wsbroker
from kits.scripted_broker import PATIENCE_S, Command, ScriptedBroker, handlers, message
from wsbroker.errors import CommandError
from wsbroker.wire import commands, events, framing
from wsbroker.worker import known_sockets, wire_api, wire_io
from wsbroker.worker.api import context_api
from wsbroker.worker.interruption import HandlerTimer

LINES = {
    str(module.__file__): Path(str(module.__file__)).read_text(encoding="utf-8").split("\n")
    for module in (wire_api, wire_io, known_sockets)
}
"""The lines of the modules in which something is raised, by their file."""


Traced = Callable[[FrameType, str, object], Any]


class Injected(Exception):
    """What is raised."""


class Injector:
    """Raises at the `at`-th line of the API that a function runs through."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0
        self.where = ""

    def run(self, function: Callable[[], None]) -> None:
        sys.settrace(self._call)
        try:
            function()
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> "Traced | None":
        lines = LINES.get(frame.f_code.co_filename)
        if lines is None or frame.f_code.co_name == "ensure_stack":
            return None
        begun: set[int] = set()

        def line(frame: FrameType, event: str, argument: object) -> Traced:
            if event != "line":
                return line
            text = lines[frame.f_lineno - 1].strip()
            if text.startswith("with "):
                # The second time is the way out, where CPython itself looks for nothing to raise.
                is_out = frame.f_lineno in begun
                begun.symmetric_difference_update((frame.f_lineno,))
                if is_out:
                    return line
            self.passed += 1
            if self.passed == self.at:
                self.where = f"{frame.f_code.co_name}: {text}"
                raise Injected(self.where)
            return line

        return line


def _ask_and_tell(socket_id: int) -> None:
    wsbroker.send(socket_id, "1")
    wsbroker.set_token(socket_id, b"new")
    wsbroker.subscribe(socket_id, "room")
    wsbroker.send_to_channel("room", "2")
    wsbroker.send(socket_id, "x" * wire_api.FLUSH_BYTES)
    wsbroker.subscriber_count("room")


EXPECTED = [
    (commands.SEND, 1, "1"),
    (commands.SET_TOKEN, 1, b"new"),
    (commands.PUBLISH, b"room", "2", ()),
    (commands.SEND, 1, "x" * wire_api.FLUSH_BYTES),
]


class Trial:
    """One worker, one exception."""

    def __init__(self, at: int, is_async: bool) -> None:
        self.injector = Injector(at)
        self.before = 3
        self.tokens: list[bytes | None] = []
        self.commands: list[Command] = []
        self.credit = 0
        self.is_lost = False
        self._told = False

        def handle(data: str, socket_id: int, token: bytes | None) -> None:
            if data == "bad":
                wsbroker.send(2, "before")
                self.injector.run(lambda: _ask_and_tell(socket_id))
            else:
                if socket_id == 1:
                    self.tokens.append(token)
                wsbroker.send(socket_id, data)

        async def handle_later(data: str, socket_id: int, token: bytes | None) -> None:
            handle(data, socket_id, token)

        spec = handlers(message=handle_later if is_async else handle)
        self.broker = ScriptedBroker(spec, on_handler_error="log")
        assert self.broker.next()[0] == commands.STARTED
        self._play()

    def _play(self) -> None:
        """Others' messages come before, with, in the middle of, and behind what the handler asks; all of it is read."""
        self._tell(message(2, "a"), message(1, "bad"), message(2, "b"))
        while self.credit:
            command = self.broker.wire.read()
            if command is None:
                self.is_lost = True
                return
            if command[0] == commands.ASK:
                # In the same bytes as its answer and behind it: what an exception must not lose.
                self._tell(message(2, "c"), (events.ANSWER, command[1], 3), message(3, "d"))
            elif command[0] == commands.HANDLED:
                done = command[1]
                assert isinstance(done, list)
                self.credit -= len(done)
            elif command[0] not in (commands.COUNTED, commands.SLOWEST):
                self.commands.append(command)
            if not self.credit and not self._told:
                self._told = True
                self._tell((events.TOKEN, 1, b"foreign", 1000), message(2, "e"), message(1, "last"))

    def _tell(self, *batch: tuple[object, ...]) -> None:
        self.credit += sum(event[0] == events.MESSAGE for event in batch)
        try:
            self.broker.tell(*batch)
        except OSError:
            pass  # it has given its wire up

    def check(self) -> None:
        self.broker.end()
        where = self.injector.where
        if self.is_lost:
            assert where.startswith("write_batch:"), f"{where}: the worker is gone"
            return
        assert self.broker.error is None, f"{where}: {self.broker.error!r}"
        others = [command[1:] for command in self.commands if command[0] == commands.SEND and command[1] != 1]
        asked = [data for _, data in others].count("c")
        assert [data for socket_id, data in others if socket_id == 2] == ["a", "before", "b", *["c"] * asked, "e"], (
            where
        )
        assert [data for socket_id, data in others if socket_id == 3] == ["d"] * asked, where
        own = [command[:3] if command[0] == commands.SET_TOKEN else command for command in self.commands]
        own = [command for command in own if command in EXPECTED]
        assert own == EXPECTED[: len(own)], f"{where}: {own}"
        assert self.tokens == [b"foreign"], where


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_at_any_line_of_the_api_ends_one_call_only(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    at, lost = 0, 0
    while True:
        at += 1
        trial = Trial(at, is_async)
        trial.check()
        lost += trial.is_lost
        if not trial.injector.where:
            break
    assert at > 100, "the lines were not seen"
    assert lost <= 12, "a worker is given up only where bytes may have left"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_runs_out_of_stack_anywhere_in_the_api_costs_its_socket_only(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message begins its recursion one call deeper, so that the stack ends at each depth of the API once."""
    caplog.set_level("CRITICAL")

    def recurse(depth: int) -> None:
        if depth < sys.getrecursionlimit() * 0.8:
            recurse(depth + 1)
        else:
            ask(depth)

    def ask(depth: int) -> None:
        wsbroker.send(2, "x" * 3000)
        wsbroker.set_token(1, b"t")
        wsbroker.subscriber_count("room")
        ask(depth + 1)

    def handle(data: str, socket_id: int) -> None:
        if socket_id == 1:
            recurse(int(data))
        else:
            wsbroker.send(socket_id, data)

    async def handle_later(data: str, socket_id: int) -> None:
        handle(data, socket_id)

    spec = handlers(message=handle_later if is_async else handle)
    with ScriptedBroker(spec, on_handler_error="log") as broker:
        for start in range(40):
            broker.tell(message(1, str(start)))
            handled = sent = told = 0
            while handled < 1 + told:
                command = broker.next()
                if command[0] == commands.ASK:
                    told += 1
                    broker.tell(message(2, str(told)), (events.ANSWER, command[1], 1), message(3, str(told)))
                    told += 1
                elif command[0] == commands.HANDLED:
                    done = command[1]
                    assert isinstance(done, list)
                    handled += len(done)
                elif command[0] == commands.SEND and len(str(command[2])) < 3000:
                    sent += 1
            assert (sent, handled) == (told, told + 1)


def test_another_thread_that_waits_is_not_left_waiting_by_a_reader_that_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The handler reads for both of them; it is interrupted when its answer and that of the thread have come."""
    answers: list[object] = []

    def handle(data: str, socket_id: int) -> None:
        if data == "fine":
            return
        api = context_api.get()
        assert isinstance(api, wire_api.WireApi)

        me = threading.get_ident()

        def other() -> None:
            while api.io._reader_thread_id != me:
                time.sleep(0)
            answers.append(api.subscriber_count(b"other"))

        def fails(chunks: list[bytes], size: int) -> tuple[list[list[Command]], list[bytes]]:
            batches, rest = framing.split_batches(chunks, size)
            if batches and threading.get_ident() == me and not failed:
                failed.append(True)
                raise MemoryError
            return batches, rest

        threads.append(threading.Thread(target=other))
        threads[0].start()
        monkeypatch.setattr(wire_io, "split_batches", fails)
        wsbroker.subscriber_count("own")

    threads: list[threading.Thread] = []
    failed: list[bool] = []
    with ScriptedBroker(handlers(message=handle), on_handler_error="log") as broker:
        broker.tell(message(1, "bad"))
        asks = [broker.until(commands.ASK), broker.until(commands.ASK)]
        broker.tell(*[(events.ANSWER, ask[1], 5) for ask in asks])
        broker.until_handled(1)
        broker.tell(message(1, "fine"))
        broker.until_handled(1)
        threads[0].join(PATIENCE_S)
        assert answers == [5] and failed


def test_a_command_that_the_wire_does_not_carry_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(batch: list[Command]) -> bytes:
        if (commands.SEND, 1, "long") in batch:
            raise ValueError("over the wire's limit")
        return framing.pack_batch(batch)

    def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, data)
        if data == "long":
            wsbroker.is_open(socket_id)

    monkeypatch.setattr(wire_io, "pack_batch", pack)
    with ScriptedBroker(handlers(message=handle), on_handler_error="log") as broker:
        broker.tell(message(1, "a"), message(1, "long"), message(2, "b"))
        broker.answer(broker.until(commands.ASK), True)  # behind the acknowledgement of the first
        broker.until_handled(2)
        assert [command[2] for command in broker.seen if command[0] == commands.SEND] == ["a", "b"]


@pytest.mark.parametrize(
    "end_worker", [wire_api.WireApi.mark_ended, wire_api.WireApi.detach_in_child], ids=["mark_ended", "detach_in_child"]
)
def test_a_call_that_interrupts_the_end_of_a_worker_at_any_line_does_not_reach_the_wire(
    end_worker: Callable[[wire_api.WireApi], None],
) -> None:
    """What a signal handler may do: in a child of a fork the wire is the parent's, too."""
    ours, its = socket.socketpair()
    ours.setblocking(False)
    api = wire_api.WireApi(its, HandlerTimer(1.0, 1.0, lambda *call: None, lambda *call: None))
    lines_with_a_call: list[str] = []

    def call_at_each_line(frame: FrameType, event: str, argument: object) -> Traced | None:
        lines = LINES.get(frame.f_code.co_filename)
        if lines is None:
            return None
        if event == "line":
            lines_with_a_call.append(f"{frame.f_code.co_name}: {lines[frame.f_lineno - 1].strip()}")
            make_calls()
        return call_at_each_line

    calls: list[Callable[[], None]] = [
        lambda: api.send(1, "late"),
        lambda: api.send_to_channel(b"room", "late", ()),
        lambda: api.subscribe_nowait(1, b"room"),
        lambda: api.set_token(1, b"late"),
    ]

    def make_calls() -> None:
        for call in calls:
            try:
                call()
            except CommandError:
                pass  # the worker has ended, and there is no broker in this interpreter

    with ours, its:
        sys.settrace(call_at_each_line)
        try:
            end_worker(api)
        finally:
            sys.settrace(None)
        assert len(lines_with_a_call) >= 4
        with pytest.raises(BlockingIOError):
            assert not ours.recv(1 << 16), lines_with_a_call
        with pytest.raises(CommandError, match="has ended"):
            api.send(1, "late")
