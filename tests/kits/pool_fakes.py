"""Fakes for the pool's tests: a broker's core in plain Python, and workers of a few lines, each in a thread."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeVar, cast

import uvloop

from wsbroker.pool.kinds.host import StartArguments, WorkerHost
from wsbroker.pool.local_api import LocalApi
from wsbroker.pool.pool import Pool
from wsbroker.settings.config import Config, Settings
from wsbroker.wire import commands, control, events
from wsbroker.wire.commands import Command
from wsbroker.wire.events import Event
from wsbroker.wire.framing import BatchUnpacker, pack_batch

T = TypeVar("T")
Batch = list[tuple[object, ...]]
LIMIT_S = 20.0
"""Seconds after which a test counts as hanging."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(
    work: Coroutine[object, object, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
) -> T:
    """Runs a test's coroutine in a new loop with a time limit; fails if a task is left when it has ended."""

    async def run_checked() -> T:
        async with asyncio.timeout(LIMIT_S):
            result = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(run_checked())


class FakeWorkerQueue:
    """The core's queue to one worker, as plain numbers that a test sets and reads."""

    def __init__(self) -> None:
        self.generation = 0
        self.in_flight_bytes = 0
        self.in_flight_messages = 0
        self.handled_messages = 0
        self.waiting_sockets: list[object] = []
        self.socket_count = 0
        self.unhandled_closes: dict[int, Event] = {}


class FakeCore:
    """A broker without connections: logs commands and calls, and answers questions about subscriptions."""

    def __init__(self) -> None:
        self.worker_queues: list[FakeWorkerQueue] = []
        self.post_events: Callable[[int, Batch], None] = lambda index, batch: None
        self.log: list[tuple[object, ...]] = []
        """Every command and direct call, in the order of their application."""
        self.members: dict[bytes, list[int]] = {}
        self.adopted: list[tuple[int, list[Event]]] = []
        self.lost_queues: list[tuple[int, int]] = []
        self.poison: object = None
        self.rest_after: Callable[[Command], list[tuple[object, ...]]] = lambda command: []
        self._change_event = asyncio.Event()

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Waits until the claim is true; tests it after every call that this core receives."""
        while not is_true():
            self._change_event.clear()
            await self._change_event.wait()

    def notify_change(self) -> None:
        """Makes `wait_until` test its claim again, for changes that this core does not see."""
        self._change_event.set()

    def log_call(self, *entry: object) -> None:
        """Appends a command or call to the log."""
        self.log.append(entry)
        self._change_event.set()

    def send(self, socket_id: int, data: object, /) -> None:
        self.log_call(commands.SEND, socket_id, data)

    def publish(self, channel: bytes, data: object, exclude: tuple[int, ...], /) -> None:
        self.log_call(commands.PUBLISH, channel, data, exclude)

    def subscribe(self, socket_id: int, channel: bytes, /) -> bool:
        self.log_call(commands.SUBSCRIBE, socket_id, channel)
        members = self.members.setdefault(channel, [])
        if socket_id in members:
            return False
        members.append(socket_id)
        return True

    def unsubscribe(self, socket_id: int, channel: bytes, /) -> bool:
        self.log_call(commands.UNSUBSCRIBE, socket_id, channel)
        members = self.members.get(channel, [])
        if socket_id not in members:
            return False
        members.remove(socket_id)
        return True

    def set_token(self, socket_id: int, token: bytes | None, /) -> None:
        self.log_call(commands.SET_TOKEN, socket_id, token)

    def subscribe_nowait(self, socket_id: int, channel: bytes, /) -> None:
        self.subscribe(socket_id, channel)

    def unsubscribe_nowait(self, socket_id: int, channel: bytes, /) -> None:
        self.unsubscribe(socket_id, channel)

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes, /) -> None:
        self.log_call(commands.COPY_SUBSCRIPTIONS, from_channel, to_channel)

    def close(self, socket_id: int, code: int, reason: str, /) -> None:
        self.log_call(commands.CLOSE, socket_id, code, reason)

    def subscriber_count(self, channel: bytes, /) -> int:
        return len(self.members.get(channel, []))

    def subscribers(self, channel: bytes, /) -> list[int]:
        return list(self.members.get(channel, []))

    def subscriptions(self, socket_id: int, /) -> list[bytes]:
        return [channel for channel, members in self.members.items() if socket_id in members]

    def channels(self) -> list[bytes]:
        return [channel for channel, members in self.members.items() if members]

    def is_open(self, socket_id: int, /) -> bool:
        return any(socket_id in members for members in self.members.values())

    def queued_bytes(self, socket_id: int, /) -> int:
        return 7 * socket_id

    def add_worker_queue(self, index: int, credit_bytes: int, is_inline: bool, /) -> FakeWorkerQueue:
        assert index == len(self.worker_queues)
        self.worker_queues.append(FakeWorkerQueue())
        return self.worker_queues[-1]

    def mark_worker_lost(self, index: int, code: int, /) -> list[Event]:
        queue = self.worker_queues[index]
        queue.generation += 1
        queue.socket_count = 0
        self.lost_queues.append((index, code))
        closes = list(queue.unhandled_closes.values())
        queue.unhandled_closes.clear()
        self._change_event.set()
        return closes

    def pause_worker_queue(self, index: int, /) -> None:
        self.log_call("hold", index)

    def resume_worker_queue(self, index: int, /) -> None:
        self.log_call("unhold", index)

    def drop_waiting_messages(self, /) -> int:
        self.log_call("drop_waiting")
        return 7

    def replace_worker(self, index: int, /) -> None:
        self.worker_queues[index].generation += 1
        self.log_call("exchange", index)

    def adopt_closes(self, index: int, closes: list[Event], /) -> None:
        self.adopted.append((index, closes))
        self.worker_queues[index].unhandled_closes.update((cast(int, event[1]), event) for event in closes)
        self.post_events(index, list(closes))
        self._change_event.set()

    def apply_commands(self, worker_index: int, generation: int, batch: Batch, /) -> list[tuple[object, ...]]:
        if worker_index >= 0 and self.worker_queues[worker_index].generation != generation:
            self.log_call("late", batch)
            return []
        rest: list[tuple[object, ...]] = []
        answers: Batch = []
        for command in batch:
            kind = command[0]
            if kind == commands.ASK:
                answers.append((events.ANSWER, command[1], self._answer_question(command)))
            elif cast(int, kind) >= commands.FIRST_POOL_COMMAND:
                rest.append(command)
            elif kind == commands.SUBSCRIBE:
                self.subscribe(cast(int, command[1]), cast(bytes, command[2]))
            elif kind == commands.UNSUBSCRIBE:
                self.unsubscribe(cast(int, command[1]), cast(bytes, command[2]))
            else:
                if self.poison is not None and self.poison in command:
                    raise ValueError("poison")
                if kind == commands.HANDLED:
                    self.worker_queues[worker_index].handled_messages += len(cast(list[object], command[1]))
                if kind == commands.CLOSE_HANDLED:
                    self.worker_queues[worker_index].unhandled_closes.pop(cast(int, command[1]), None)
                self.log_call(*command)
        if worker_index < 0:
            rest += answers
        elif answers:
            self.post_events(worker_index, answers)
        self._change_event.set()
        return rest

    def _answer_question(self, command: Command) -> object:
        """Returns the answer to an ASK command."""
        question, *arguments = command[2:]
        asked: dict[object, Callable[..., object]] = {
            commands.SUBSCRIBE: self.subscribe,
            commands.UNSUBSCRIBE: self.unsubscribe,
            commands.SUBSCRIBER_COUNT: self.subscriber_count,
            commands.SUBSCRIBERS: self.subscribers,
            commands.SUBSCRIPTIONS: self.subscriptions,
            commands.CHANNELS: self.channels,
            commands.IS_OPEN: self.is_open,
            commands.QUEUED_BYTES: self.queued_bytes,
        }
        return asked[question](*arguments)


class FakeWorkerEnd:
    """The worker's end of both streams, for a worker that is a function."""

    def __init__(self, wire: socket.socket, control_end: socket.socket) -> None:
        self.wire = wire
        self.control = control_end
        self._unpacker = BatchUnpacker()
        self._unread_batches: list[Batch] = []

    def write(self, *batch: tuple[object, ...]) -> None:
        """Sends one batch of commands to the broker."""
        self.wire.sendall(pack_batch(list(batch)))

    def write_control(self, *batch: tuple[object, ...]) -> None:
        """Sends one batch on the control stream to the broker."""
        self.control.sendall(pack_batch(list(batch)))

    def read(self) -> Batch:
        """Returns the next batch of events; [] at the end of the stream."""
        while not self._unread_batches:
            data = self.wire.recv(65536)
            if not data:
                return []
            self._unread_batches = self._unpacker.feed(data)
        return self._unread_batches.pop(0)

    def answer_probes(self) -> None:
        """Answers all probes until the control stream ends: the body of the control thread."""
        unpacker = BatchUnpacker()
        try:
            while data := self.control.recv(4096):
                for batch in unpacker.feed(data):
                    self.write_control(*[(control.ALIVE, number) for _, number in batch])
        except OSError:
            return


Script = Callable[[FakeWorkerEnd], None]


class FakeHost(WorkerHost):
    """A host whose worker is a function that runs in the host's thread."""

    def __init__(self, name: str, script: Script) -> None:
        super().__init__(name, StartArguments([], None, {}))
        self.script = script
        self.kills = 0

    def run(self, wire: socket.socket, control_end: socket.socket) -> None:
        """Runs the function with the worker's end of the streams; a broken pipe ends it quietly."""
        with suppress(BrokenPipeError):  # nobody is there any more: a worker of ours does not mind either
            self.script(FakeWorkerEnd(wire, control_end))

    def kill(self) -> bool:
        """Counts the attempt to kill the worker, and leaves the worker behind."""
        self.kills += 1
        return False


def send_started(wire: FakeWorkerEnd, *names: str) -> None:
    """Reports the start of a worker with these handler names."""
    wire.write((commands.STARTED, list(names)))


def serve_events(wire: FakeWorkerEnd, *names: str, opened: int = 101) -> None:
    """Runs a well-behaved worker: echoes messages, accepts opens, answers requests and probes, stops on STOP."""
    helper = threading.Thread(target=wire.answer_probes, daemon=True)
    helper.start()
    send_started(wire, *names)
    while batch := wire.read():
        for event in batch:
            kind = event[0]
            if kind == events.MESSAGE:
                _, socket_id, data, cost = event
                wire.write((commands.SEND, socket_id, data), (commands.HANDLED, [(socket_id, cost)]))
            elif kind == events.OPEN:
                wire.write((commands.OPEN_RESULT, event[1], opened, [], b"" if opened == 101 else b"no"))
            elif kind == events.HTTP:
                wire.write((commands.RESPONSE, event[1], 200, [("X-Worker", threading.current_thread().name)], b"hi"))
            elif kind == events.CLOSE:
                wire.write((commands.CLOSE_HANDLED, event[1]))
            elif kind == events.STOP:
                wire.write((commands.STOPPED,))
                wire.control.shutdown(socket.SHUT_RDWR)
                helper.join()
                return


class ScriptedHosts:
    """Makes a host for each worker that is started: with the next script, and again and again with the last one."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.made_hosts: list[FakeHost] = []

    def __call__(self, name: str, work: StartArguments) -> WorkerHost:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        host = FakeHost(name, script)
        self.made_hosts.append(host)
        return host


class PoolKit:
    """A pool with a fake core and fake workers, one script for each worker that is started."""

    def __init__(self, *scripts: Script, settings: Settings | None = None) -> None:
        self.core = FakeCore()
        self.fatal_errors: list[Exception] = []
        self.scripts = ScriptedHosts(*(scripts or (serve_events,)))
        given = settings or Settings(workers=1)
        given.setdefault("worker_kind", "thread")
        config = Config.of(**given)
        api = LocalApi(self.core, 1 << 20)
        self.pool = Pool(config, "not.imported", self.core, api, self._on_fatal, make_host=self.scripts)
        self.core.post_events = self.pool.post_events

    def _on_fatal(self, error: Exception) -> None:
        """Keeps the error of a crash loop."""
        self.fatal_errors.append(error)
        self.core.notify_change()

    def post_message(self, socket_id: int, data: str, worker_index: int = 0) -> None:
        """Sends a message event of a socket to a worker, as the core does at the end of a turn."""
        self.pool.post_events(worker_index, [(events.MESSAGE, socket_id, data, 1)])
