"""The server's process of a run: started from the load's process, asked over a pipe, looked into by `Control`.

A process is spawned, not forked: its figures are its own. It ends when the pipe does, and by itself after `LIFE_S`.
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
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import attrgetter
from types import TracebackType
from typing import Any, Final, Unpack, cast

import wsbroker
from benchmarks.client import Address
from wsbroker.build import core_kind
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import Settings
from wsbroker.worker.async_runtime import AsyncRuntime
from wsbroker.worker.wire_api import WireApi

LIFE_S: Final = 600.0
PATIENCE_S: Final = 60.0

GAUGES: Final = ("sockets", "connections", "channels", "timers", "command_bytes")
"""Entries of `Server.statistics` that are sizes: 0 when nobody is connected."""


@dataclass(frozen=True)
class Snapshot:
    """What a server's process holds."""

    statistics: dict[str, object]
    state: dict[str, int]
    """Sizes of what the broker, its front, its pool and its workers keep, by name; the zeros are left out."""
    descriptors: dict[str, int]
    """Open file descriptors by kind."""
    tasks: int
    rss_bytes: int
    trimmed_rss_bytes: int
    """The same after the allocator has returned to the system what it could: growth that stays is held by something."""
    blocks: int
    """Objects and buffers in Python's own allocator, after a collection."""
    types: Counter[str]
    """Objects that the collector knows, by type."""

    @property
    def gauges(self) -> dict[str, object]:
        """The statistics that are sizes."""
        return {name: self.statistics[name] for name in GAUGES}

    def count(self, name: str) -> int:
        """A statistic that is a number."""
        value = self.statistics[name]
        assert isinstance(value, int)
        return value


class Control:
    """What can be asked of the server's process; scenarios add to it. In its main thread: handlers run in others.

    Args:
        server: what runs there.
    """

    def __init__(self, server: wsbroker.Server) -> None:
        self.server = server

    def statistics(self) -> dict[str, object]:
        """See `Server.statistics`."""
        return self.server.statistics()

    def rss_bytes(self) -> int:
        """The memory in use now."""
        return rss_bytes()

    def cpu_s(self) -> float:
        """Processor time used so far, by all threads."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def core(self) -> str:
        """Which build runs."""
        return core_kind()

    def snapshot(self) -> Snapshot:
        """Everything that could have been left over."""
        gc.collect()
        rss = rss_bytes()
        trim()
        loop = self.server._lifecycle.loop
        assert loop is not None
        return Snapshot(
            self.server.statistics(),
            measure_kept(self.server),
            descriptors(),
            len(asyncio.all_tasks(loop)),
            rss,
            rss_bytes(),
            sys.getallocatedblocks(),
            Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects()),
        )

    def end(self) -> None:
        """Called before the server is stopped."""


def rss_bytes() -> int:
    """The memory in use now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def trim() -> None:
    """Has the C library return free memory to the system, where it can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def descriptors() -> dict[str, int]:
    """Open file descriptors by kind: ``socket``, ``pipe``, ``anon_inode``, file names."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}").partition(":")[0]] += 1
        except OSError:
            pass  # the one that listed them
    found.pop(f"/proc/{os.getpid()}/fd", None)
    return dict(found)


KEPT: Final = {
    "broker": (
        *("sockets", "channels_by_name", "dirty_worker_queues", "outgoing.frames", "outgoing.dirty_sockets"),
        *("outgoing.dirty_channels", "outgoing.overflowed_sockets", "outgoing.emptied_channels", "outgoing.turn_bytes"),
    ),
    "worker queue": (
        *("events", "inline_sockets", "inline_events", "waiting_sockets", "sockets_with_inbox", "parked_ids"),
        *("unhandled_closes", "in_flight_bytes", "socket_count"),
    ),
    "connections": ("connection_count", "deferred_connections", "timer_wheel.timer_count"),
    "inline runner": ("busy_sockets", "deferred_sockets"),
    "front": (
        *("http_connections", "head_deadlines", "write_deadlines", "linger_deadlines", "_opening_count"),
        *("_open_handler_tasks", "aiohttp_server.connections"),
    ),
    "local API": (
        *("_waiting_commands", "_pending_questions", "_blocked_callers", "_nested_commands", "_calling_threads"),
        "waiting_bytes",
    ),
    "pool": ("_orphaned_closes",),
    "remote worker": (
        *("_pending_opens", "_pending_requests", "_waiting_batch_count", "pending_request_bytes", "unwritten_bytes"),
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
    """Returns the sizes of all attributes in KEPT, summed up by name, without the zeros.

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
    """The load's side: starts the process and asks it; a context manager that stops it.

    Args:
        control: what can be asked there.
        handlers: the application: a class.
        **settings: of the server.
    """

    def __init__(self, control: type[Control], handlers: type, **settings: Unpack[Settings]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, control, handlers, settings), daemon=True)
        self._process.start()
        theirs.close()
        port, core = cast(tuple[int, str], self._answer())
        self.address: Final[Address] = ("127.0.0.1", port)
        self.pid: Final = self._process.pid or 0
        self.core: Final = core
        """``compiled`` or ``interpreted``."""

    def ask(self, name: str, *arguments: object) -> object:
        """Calls a method of the process's `Control` and returns its answer. One call at a time.

        Raises:
            RuntimeError: it raised; the text tells.
        """
        self._pipe.send((name, arguments))
        return self._answer()

    async def answer(self, name: str, *arguments: object) -> object:
        """`ask` for a coroutine: the load goes on meanwhile."""
        return await asyncio.to_thread(self.ask, name, *arguments)

    async def snapshot(self) -> Snapshot:
        """See `Control.snapshot`."""
        return cast(Snapshot, await self.answer("snapshot"))

    async def settled(self, limit_s: float = 30.0) -> Snapshot:
        """A snapshot once nobody is connected any more and all that was left behind has been dealt with; at the latest
        after `limit_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while True:
            snapshot = await self.snapshot()
            if not (any(snapshot.gauges.values()) or snapshot.state) or loop.time() > deadline:
                return snapshot
            await asyncio.sleep(0.1)

    def _answer(self) -> object:
        if not self._pipe.poll(PATIENCE_S):
            self._show_stacks()
            raise RuntimeError(f"the server's process did not answer for {PATIENCE_S:g} s")
        is_right, value = self._pipe.recv()
        if not is_right:
            raise RuntimeError(value)
        return value

    def _show_stacks(self) -> None:
        """Has every thread of the process write where it is to stderr."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(1)

    def stop(self) -> None:
        """Stops the server and waits for its process."""
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


def _main(pipe: "Connection[Any, Any]", control: type[Control], handlers: type, settings: Settings) -> None:
    faulthandler.dump_traceback_later(LIFE_S, exit=True)
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong on purpose, a hundred thousand times, is not news
    try:
        server = wsbroker.start("127.0.0.1:0", worker=handlers, handle_signals=False, **settings)
    except Exception as error:
        pipe.send((False, repr(error)))
        return
    with server:
        asked = control(server)
        address = server.addresses[0]
        assert isinstance(address, TcpAddress)
        pipe.send((True, (address.port, core_kind())))
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                break
            try:
                pipe.send((True, getattr(asked, name)(*arguments)))
            except Exception as error:
                pipe.send((False, f"{name}: {error!r}"))
        asked.end()
