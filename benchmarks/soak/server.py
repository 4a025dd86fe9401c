"""What runs in the server's process of a soak run: the server, and `Control`, which answers the load's questions."""

import asyncio
import ctypes
import gc
import logging
import os
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from operator import attrgetter
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias

import wsbroker
from benchmarks.load.meter import Meter
from benchmarks.soak.app import STAND_S, CyclingApp, SoakApp
from wsbroker.build import core_kind
from wsbroker.server.node import Node
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import Settings
from wsbroker.worker.async_runtime import AsyncRuntime
from wsbroker.worker.wire_api import WireApi

Pipe: TypeAlias = "Connection[Any, Any]"

MEDDLE_S: Final = 0.002
SAMPLE_S: Final = 0.01
PUBLICATION: Final = struct.Struct("<IQ52s")
"""Thread, number and padding of every publication by threads of the main program."""
GAUGES: Final = ("sockets", "connections", "channels", "timers", "command_bytes")
"""Entries of `Server.statistics` that are sizes: 0 while nothing is connected."""


class Snapshot(NamedTuple):
    """What a server's process holds after a collection, by name, without zeros.

    Args:
        left: what must be as before once all connections have ended: `GAUGES`, sizes of `KEPT`, descriptors, tasks.
        grown: what caches may add to: objects by type, and all blocks in Python's own allocator.
        rss_bytes: resident memory, after the allocator returned free memory to the system.
    """

    left: Counter[str]
    grown: Counter[str]
    rss_bytes: int


class Control:
    """Answers the load's questions in the main thread of the server's process, and runs threads of the main program.

    Args:
        server: the server that runs in this process.
    """

    def __init__(self, server: wsbroker.Server) -> None:
        self._server = server
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sent: list[int] = []
        self._most_waiting = 0

    def _start_thread(self, function: Callable[..., None], *arguments: object) -> None:
        """Starts a thread that `stop_threads` joins; its function must end soon after `_is_over` is set."""
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def stop_threads(self) -> None:
        """Ends and joins all threads. Called before the server is stopped, too."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._is_over.clear()

    def read_statistics(self) -> dict[str, Any]:
        """See `Server.statistics`."""
        return self._server.statistics()

    def take_snapshot(self) -> Snapshot:
        """Collects garbage, then counts everything that could have been left over."""
        gc.collect()
        lifecycle, statistics = self._server._lifecycle, self._server.statistics()
        assert lifecycle.node is not None and lifecycle.loop is not None
        left = measure_kept(lifecycle.node) + Counter({name: int(str(statistics[name])) for name in GAUGES})
        left["descriptors"] = len(os.listdir("/proc/self/fd"))
        left["tasks"] = len(asyncio.all_tasks(lifecycle.loop))
        grown = Counter(f"{type(tracked).__module__}.{type(tracked).__qualname__}" for tracked in gc.get_objects())
        grown["blocks"] = sys.getallocatedblocks()
        ctypes.CDLL(None).malloc_trim(0)
        return Snapshot(left, grown, Meter(os.getpid()).read().rss_bytes)

    def start_meddling(self) -> None:
        """Starts a thread that makes calls about sockets of `CyclingApp` which come and go at this moment."""
        self._start_thread(self._meddle)

    def _meddle(self) -> None:
        """Makes calls about the newest, the coming and some older sockets. Runs in a thread."""
        random = Random(1)
        while not self._is_over.wait(MEDDLE_S):
            for back in (0, 1, random.randrange(2, 300)):
                socket_id = max(1, CyclingApp.newest + 1 - back)  # the first is just coming, or not there yet
                wsbroker.set_token(socket_id, b"from outside")
                wsbroker.send(socket_id, "from outside")
                wsbroker.subscribe_nowait(socket_id, "meddled")
                wsbroker.copy_subscriptions("meddled", "copied")
                wsbroker.unsubscribe_nowait(max(1, socket_id - 2), "meddled")
            wsbroker.subscriber_count("meddled")

    def count_closes(self) -> tuple[int, int, int]:
        """Returns how many close handlers ran, for how many sockets more than once, for how many never opened."""
        counts = Counter(zip(CyclingApp.opened, CyclingApp.closed, strict=True))
        return (
            sum(number * closed for (_, closed), number in counts.items()),
            sum(number for (_, closed), number in counts.items() if closed > 1),
            sum(number for (opened, closed), number in counts.items() if closed and opened != 1),
        )

    def wait_until_standing(self) -> bool:
        """Waits until a worker of `SoakApp` stands still; returns whether one does."""
        return SoakApp.standing.wait(STAND_S)

    def start_publishing(self, channel: str, threads: int, count: int, seconds: float) -> None:
        """Starts threads that publish numbered messages, each for so many messages or seconds; and `_watch_waiting`."""
        self._start_thread(self._watch_waiting)
        for number in range(threads):
            self._start_thread(self._publish, channel, number, count, time.monotonic() + seconds)

    def _watch_waiting(self) -> None:
        """Notes the most bytes of calls that waited for the loop, every SAMPLE_S. Runs in a thread."""
        node = self._server._lifecycle.node
        assert node is not None
        while not self._is_over.wait(SAMPLE_S):
            self._most_waiting = max(self._most_waiting, node.local_api.waiting_bytes)

    def _publish(self, channel: str, number: int, count: int, deadline: float) -> None:
        """Publishes until the count or the deadline. Runs in a thread."""
        index = 0
        while index < count and time.monotonic() < deadline:
            wsbroker.send_to_channel(channel, PUBLICATION.pack(number, index, b"."))
            index += 1
        self._sent.append(index)

    def count_sent(self, channel: str, threads: int) -> list[int] | None:
        """Returns how many messages each thread has published, once the broker has applied all of them; else None."""
        if len(self._sent) < threads:
            return None
        wsbroker.subscriber_count(channel)  # an answer comes after everything before it was applied
        return self._sent

    def read_most_waiting(self) -> int:
        """Returns the most bytes of calls that waited for the loop since the threads were started."""
        return self._most_waiting


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


def measure_kept(node: Node) -> Counter[str]:
    """Returns the sizes of the attributes in KEPT, summed up by part and name, without the zeros.

    Raises:
        AttributeError: an attribute of KEPT has another name now.
    """
    sizes: Counter[str] = Counter()
    for part, owner in _find_parts(node):
        for name in KEPT[part]:
            value = attrgetter(name)(owner)
            sizes[f"{part}: {name}"] += value if isinstance(value, int) else len(value)
    sizes["connections: timer_wheel.slots"] = sum(map(len, node.connections.timer_wheel.slots))
    return +sizes


def _find_parts(node: Node) -> Iterator[tuple[str, object]]:
    """Yields every object of the process whose attributes KEPT lists, with the part's name there."""
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


def serve_until_closed(pipe: Pipe, application: type, settings: Settings) -> None:
    """Serves and answers calls until the pipe is closed. Called in the server's process."""
    logging.basicConfig(level=logging.CRITICAL)  # a hundred thousand failures on purpose are not news
    with wsbroker.start("127.0.0.1:0", worker=application, handle_signals=False, **settings) as server:
        control = Control(server)
        address = server.addresses[0]
        assert isinstance(address, TcpAddress)
        pipe.send((address.port, core_kind()))
        while True:
            try:
                method, arguments = pipe.recv()
            except EOFError:
                break
            try:
                pipe.send(method(control, *arguments))
            except Exception as error:
                pipe.send(RuntimeError(f"{method.__name__}: {error!r}"))
        control.stop_threads()
