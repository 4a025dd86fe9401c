"""The server's process of a soak run: started by the load's process, asked over a pipe, inspected by `Control`.

The process is spawned, not forked, so that its figures are its own. It ends when the pipe does, or after `LIFE_S`.
"""

import asyncio
import ctypes
import faulthandler
import gc
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import attrgetter
from types import TracebackType
from typing import Any, Final, Unpack, cast

import wsbroker
from wsbroker.bench.client import Target
from wsbroker.bench.command import find_loop_factory
from wsbroker.build import core_kind
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import Settings
from wsbroker.worker.async_runtime import AsyncRuntime
from wsbroker.worker.wire_api import WireApi

LIFE_S: Final = 600.0
PATIENCE_S: Final = 60.0
SAMPLE_S: Final = 0.01

GAUGES: Final = ("sockets", "connections", "channels", "timers", "command_bytes")
"""Entries of `Server.statistics` that are sizes: 0 while nothing is connected."""


def run_in_loop(main: Coroutine[object, object, None]) -> None:
    """Runs a coroutine to its end, in uvloop where it is installed: a load should cost less than the server."""
    with asyncio.Runner(loop_factory=find_loop_factory()) as runner:
        runner.run(main)


@dataclass(frozen=True)
class Snapshot:
    """What a server's process holds.

    Args:
        statistics: see `Server.statistics`.
        kept: see `measure_kept`.
        descriptors: open file descriptors by kind.
        tasks: how many tasks the server's loop has.
        rss_bytes: resident memory.
        trimmed_rss_bytes: the same after the allocator returned free memory to the system: an object holds the rest.
        blocks: objects and buffers in Python's own allocator, after a collection.
        types: objects that the collector knows, by type.
    """

    statistics: dict[str, object]
    kept: dict[str, int]
    descriptors: dict[str, int]
    tasks: int
    rss_bytes: int
    trimmed_rss_bytes: int
    blocks: int
    types: Counter[str]

    @property
    def gauges(self) -> dict[str, object]:
        """The statistics that are sizes."""
        return {name: self.statistics[name] for name in GAUGES}


class Control:
    """Answers the load's questions in the main thread of the server's process; scenarios add methods.

    Args:
        server: the server that runs in this process.
    """

    def __init__(self, server: wsbroker.Server) -> None:
        self.server = server
        self._is_ending = threading.Event()
        self._watch_thread: threading.Thread | None = None
        self._peaks = (0, 0)

    def read_statistics(self) -> dict[str, object]:
        """See `Server.statistics`."""
        return self.server.statistics()

    def read_rss_bytes(self) -> int:
        """Returns the resident memory of this process."""
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    def read_cpu_s(self) -> float:
        """Returns the processor time that all threads have used so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def start_memory_watch(self) -> int:
        """Starts a thread that samples memory until the end; returns the resident memory now."""
        self._watch_thread = threading.Thread(target=self._watch_memory)
        self._watch_thread.start()
        return self.read_rss_bytes()

    def read_peaks(self) -> tuple[int, int]:
        """Returns the highest resident memory and the most bytes of calls that waited, since the watch started."""
        return self._peaks

    def _watch_memory(self) -> None:
        """Samples memory and waiting calls every SAMPLE_S. Runs in the watch's thread."""
        node = self.server._lifecycle.node
        assert node is not None
        while not self._is_ending.wait(SAMPLE_S):
            rss, waiting = self._peaks
            self._peaks = max(rss, self.read_rss_bytes()), max(waiting, node.local_api.waiting_bytes)

    def take_snapshot(self) -> Snapshot:
        """Collects garbage, then counts everything that could have been left over."""
        gc.collect()
        rss = self.read_rss_bytes()
        trim_heap()
        loop = self.server._lifecycle.loop
        assert loop is not None
        return Snapshot(
            self.server.statistics(),
            measure_kept(self.server),
            count_descriptors(),
            len(asyncio.all_tasks(loop)),
            rss,
            self.read_rss_bytes(),
            sys.getallocatedblocks(),
            Counter(f"{type(tracked).__module__}.{type(tracked).__qualname__}" for tracked in gc.get_objects()),
        )

    def end(self) -> None:
        """Joins all threads of this control. Called before the server is stopped."""
        self._is_ending.set()
        if self._watch_thread is not None:
            self._watch_thread.join()


def trim_heap() -> None:
    """Has the C library return free memory to the system, where it can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def count_descriptors() -> dict[str, int]:
    """Counts this process's open file descriptors by kind: ``socket``, ``pipe``, ``anon_inode``, file names."""
    counts: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            counts[os.readlink(f"/proc/self/fd/{number}").partition(":")[0]] += 1
        except OSError:
            pass  # the descriptor of the listing itself
    counts.pop(f"/proc/{os.getpid()}/fd", None)
    return dict(counts)


KEPT: Final = {
    "broker": (
        *("sockets", "channels_by_name", "dirty_worker_queues", "outgoing.frames", "outgoing.dirty_sockets"),
        *("outgoing.dirty_channels", "outgoing.overflowed_sockets", "outgoing.emptied_channels", "outgoing.turn_bytes"),
        *("inline_queue.sockets", "inline_queue.events"),
    ),
    "worker queue": (
        *("events", "waiting_sockets", "sockets_with_inbox", "parked_ids", "unhandled_closes", "in_flight_bytes"),
        "socket_count",
    ),
    "connections": ("connection_count", "deferred_connections", "timer_wheel.timer_count"),
    "inline runner": ("busy_sockets", "deferred_sockets"),
    "front": (
        *("http_connections", "resources.head_deadlines", "resources.write_deadlines", "resources.linger_deadlines"),
        *("upgrader.opening_count", "upgrader.open_handler_tasks", "aiohttp_server.connections"),
    ),
    "local API": (
        *("_waiting_commands", "_pending_questions", "_blocked_callers", "_nested_commands", "_calling_threads"),
        "waiting_bytes",
    ),
    "pool": ("_orphaned_closes",),
    "remote worker": (
        *("opens_in_flight", "requests_in_flight", "waiting_batches", "pending_request_bytes", "unwritten_bytes"),
    ),
    "wire API": (
        *("sockets.tokens", "sockets.own_token_numbers", "sockets.event_queues", "sockets.closing_sockets"),
        *("io._answers", "io._event_backlog", "io._unparsed", "io._parsed_batches"),
        *("io.collected_commands", "io.handled_messages"),
    ),
    "async runtime": ("_async_calls.running_count",),
}
"""By part of the server: the attributes that grow with sockets, messages or requests. A name that is gone raises."""


def measure_kept(server: wsbroker.Server) -> dict[str, int]:
    """Returns the sizes of the attributes in KEPT, summed up by name, without the zeros.

    Raises:
        AttributeError: an attribute of KEPT has another name now.
    """
    sizes: Counter[str] = Counter()
    for part, owner in _find_parts(server):
        for name in KEPT[part]:
            value = attrgetter(name)(owner)
            sizes[f"{part}: {name}"] += value if isinstance(value, int) else len(value)
    node = server._lifecycle.node
    assert node is not None
    sizes["connections: timer_wheel.slots"] = sum(map(len, node.connections.timer_wheel.slots))
    return {name: size for name, size in sizes.items() if size}


def _find_parts(server: wsbroker.Server) -> Iterator[tuple[str, object]]:
    """Yields every object of the process whose attributes KEPT lists, with the part's name there."""
    node = server._lifecycle.node
    assert node is not None
    yield from (("broker", node.broker), ("connections", node.connections), ("front", node.front))
    yield from (("local API", node.local_api), ("pool", node.pool))
    yield from (("worker queue", queue) for queue in node.broker.worker_queues)
    if node.connections.inline_runner is not None:
        yield "inline runner", node.connections.inline_runner
    yield from (("remote worker", slot.worker) for slot in node.pool._slots if slot.worker is not None)
    for tracked in gc.get_objects():
        if isinstance(tracked, WireApi):
            yield "wire API", tracked
        elif isinstance(tracked, AsyncRuntime):
            yield "async runtime", tracked
    inline_worker = node.pool.inline_worker
    if inline_worker is not None and inline_worker.runtime._async_calls is not None:
        yield "async runtime", inline_worker.runtime


class ServerProcess:
    """Starts a server in a process of its own and asks it; a context manager that stops it.

    Args:
        control: the class whose methods can be called there.
        handlers: the application's class.
        **settings: the server's settings.
    """

    def __init__(self, control: type[Control], handlers: type, **settings: Unpack[Settings]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve_until_closed, args=(theirs, control, handlers, settings), daemon=True
        )
        self._process.start()
        theirs.close()
        port, core = cast(tuple[int, str], self._receive_answer())
        self.port: Final = port
        self.target: Final = Target.from_url(f"ws://127.0.0.1:{port}/")
        self.pid: Final = self._process.pid or 0
        self.core: Final = core
        """``compiled`` or ``interpreted``."""

    def ask(self, method: str, *arguments: object) -> object:
        """Calls a method of the process's `Control` and returns its answer; one call at a time.

        Raises:
            RuntimeError: the method raised, or did not answer for PATIENCE_S.
        """
        self._pipe.send((method, arguments))
        return self._receive_answer()

    async def ask_async(self, method: str, *arguments: object) -> object:
        """Does what `ask` does, in a thread, while the load goes on."""
        return await asyncio.to_thread(self.ask, method, *arguments)

    async def read_statistics(self) -> dict[str, int]:
        """Returns the statistics of the server; most of them are numbers."""
        return cast("dict[str, int]", await self.ask_async("read_statistics"))

    async def take_snapshot(self) -> Snapshot:
        """See `Control.take_snapshot`."""
        return cast(Snapshot, await self.ask_async("take_snapshot"))

    async def wait_until_empty(self, limit_s: float = 30.0) -> Snapshot:
        """Waits until nothing is connected or kept, at most `limit_s`; returns the last snapshot."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while True:
            snapshot = await self.take_snapshot()
            if not (any(snapshot.gauges.values()) or snapshot.kept) or loop.time() > deadline:
                return snapshot
            await asyncio.sleep(0.1)

    def _receive_answer(self) -> object:
        """Waits for the answer to the last call; on a time-out, has all threads of the process print their stacks."""
        if not self._pipe.poll(PATIENCE_S):
            if self._process.pid is not None and self._process.is_alive():
                os.kill(self._process.pid, signal.SIGUSR1)
                time.sleep(1)
            raise RuntimeError(f"the server's process did not answer for {PATIENCE_S:g} s")
        is_right, value = self._pipe.recv()
        if not is_right:
            raise RuntimeError(value)
        return value

    def stop(self) -> None:
        """Stops the server and waits for its process, which must end with 0."""
        self._pipe.close()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        assert self._process.exitcode == 0, f"the server's process ended with {self._process.exitcode}"

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self._pipe.close()
            self._process.kill()
            self._process.join()


def _serve_until_closed(
    pipe: "Connection[Any, Any]", control: type[Control], handlers: type, settings: Settings
) -> None:
    """Serves and answers calls until the pipe is closed. Runs as the main function of the server's process."""
    faulthandler.dump_traceback_later(LIFE_S, exit=True)
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.CRITICAL)  # a hundred thousand failures on purpose are not news
    try:
        server = wsbroker.start("127.0.0.1:0", worker=handlers, handle_signals=False, **settings)
    except Exception as error:
        pipe.send((False, repr(error)))
        return
    with server:
        answering = control(server)
        address = server.addresses[0]
        assert isinstance(address, TcpAddress)
        pipe.send((True, (address.port, core_kind())))
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                break
            try:
                pipe.send((True, getattr(answering, name)(*arguments)))
            except Exception as error:
                pipe.send((False, f"{name}: {error!r}"))
        answering.end()
