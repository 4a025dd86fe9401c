"""Workloads for the compiled core alone, without sockets or an event loop, which benchmarks measure.

`worlds` imports this module twice in one process: on the core as it is installed, and on the same sources interpreted.
"""

import asyncio
import importlib
import sys
from collections import deque
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn, cast

import wsbroker
from wsbroker.broker.limits import Limits
from wsbroker.build import core_kind
from wsbroker.connections.connection import Connection
from wsbroker.connections.connections import Connections, ConnectionSettings
from wsbroker.connections.inline_runner import InlineHandlers, InlineRunner
from wsbroker.wire.framing import BatchUnpacker, pack_batch

Batch = list[tuple[object, ...]]


class StillLoop:
    """An event loop whose turns the benchmark takes by itself."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Does nothing: the benchmark takes the next turn anyway."""


class PaperTransport:
    """Takes all bytes at once, as a transport. `write` is a list's `append`: the cheapest call out of compiled code."""

    __slots__ = ("protocol", "write")

    def __init__(self, written: list[bytes] | deque[bytes]) -> None:
        self.write = written.append
        self.protocol: Connection | None = None

    def set_protocol(self, protocol: Connection) -> None:
        """Keeps the protocol that the upgrade sets."""
        self.protocol = protocol

    def is_closing(self) -> bool:
        """Returns False: this transport never closes."""
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        """Does nothing: no byte ever waits."""

    def get_write_buffer_size(self) -> int:
        """Returns 0: no byte ever waits."""
        return 0

    def abort(self) -> None:
        """Does nothing: there is no connection to end."""


class Work:
    """A broker with subscribed connections on transports of paper; its methods are the work that benchmarks time.

    Args:
        sockets: how many connections there are.
        channels: how many there are; socket i begins with channel i modulo this.
        subscriptions: how many each socket has.
        is_inline: True: messages are echoed by a handler in the loop. False: they go to a worker.
        counts_writes: False: a write is dropped, so that the first costs the same as the thousandth (lists grow, which
            is not to be measured).
    """

    def __init__(
        self,
        sockets: int,
        channels: int = 1,
        subscriptions: int = 1,
        is_inline: bool = True,
        counts_writes: bool = True,
    ) -> None:
        loop = cast(asyncio.AbstractEventLoop, StillLoop())
        limits = Limits(max_queue_bytes=1 << 40, inbox_bytes=1 << 40)
        self.owner = Connections(loop, limits, ConnectionSettings(max_connections=1 << 40))
        self.broker = self.owner.broker
        self.worker_queue = self.broker.add_worker_queue(0, 1 << 40, is_inline)
        if is_inline:
            self.owner.inline_runner = self._runner()
        self.names = [b"c%d" % number for number in range(channels)]
        self.connections: list[Connection] = []
        self.batches: list[Batch] = []
        self.writes = 0
        """How many writes there were in the last turn."""
        self.broker.deliver_batch = self._deliver
        self._written: list[bytes] | deque[bytes] = [] if counts_writes else deque(maxlen=0)
        for index in range(sockets):
            connection = self._connect()
            self.connections.append(connection)
            for number in range(subscriptions):
                self.broker.subscribe(connection.id, self.names[(index + number) % channels])
        self.turn()

    def turn(self) -> None:
        """Takes a loop turn after reading: handlers, batches, the flush. Counts the writes."""
        self.owner.run_turn()
        self.writes = len(self._written)
        self._written.clear()

    def publish(self, count: int, payload: str) -> None:
        """Takes a turn with `count` publications, one channel after the other."""
        broker, names = self.broker, self.names
        for number in range(count):
            broker.publish(names[number % len(names)], payload, ())
        self.turn()

    def answer(self, payload: str) -> None:
        """Takes a turn with a direct message to each socket."""
        for connection in self.connections:
            self.broker.send(connection.id, payload)
        self.turn()

    def resubscribe(self) -> None:
        """Has every socket leave its first channel and join it again."""
        for index, connection in enumerate(self.connections):
            name = self.names[index % len(self.names)]
            self.broker.unsubscribe(connection.id, name)
            self.broker.subscribe(connection.id, name)

    def copy_and_leave(self) -> None:
        """Copies the first channel's subscribers to the second channel, which they leave again."""
        self.broker.copy_subscriptions(self.names[0], self.names[1])
        for connection in self.connections:
            self.broker.unsubscribe(connection.id, self.names[1])

    def come_and_go(self, count: int) -> None:
        """Opens sockets, subscribes them and loses their connections; there are no close handlers."""
        for _ in range(count):
            connection = self._connect()
            self.broker.subscribe(connection.id, self.names[0])
            connection.connection_lost(None)
        self.broker.inline_queue.sockets.clear()
        self.broker.inline_queue.events.clear()
        self._written.clear()

    def receive(self, frames: bytes) -> None:
        """Takes a turn in which every socket has received these bytes."""
        for connection in self.connections:
            connection.data_received(frames)
        self.turn()

    def cross(self, frames: bytes, commands: Batch) -> None:
        """Takes messages to a worker and its commands back, both packed as on the wire, and the flush."""
        self.receive(frames)
        unpacker = BatchUnpacker()
        for batch in self.batches:
            unpacker.feed(pack_batch(batch))
        self.batches.clear()
        for answers in unpacker.feed(pack_batch(commands)):
            self.apply(answers)

    def apply(self, commands: Batch) -> None:
        """Takes a turn with a batch of commands from a worker."""
        self.broker.apply_commands(0, self.worker_queue.generation, commands)
        self.turn()

    def _connect(self) -> Connection:
        """Returns a connection on a transport of paper."""
        connection = self.owner.admit_connection(0)
        assert connection is not None
        transport = cast(asyncio.Transport, PaperTransport(self._written))
        self.owner.accept_upgrade(connection, transport, b"", b"")
        return connection

    def _runner(self) -> InlineRunner:
        """Returns an inline runner whose handler echoes every message."""
        send = self.broker.send

        def handle(data: str | bytes, socket_id: int) -> None:
            send(socket_id, data)

        handlers = InlineHandlers(
            message_handler=handle,
            arity=2,
            slow_threshold_s=5.0,
            process_result=_never,
            on_failure=_never,
            on_slow_call=_never,
            begin_close_handler=_ended_at_once,
            on_missing_handler=_never,
        )
        return InlineRunner(self.broker, handlers)

    def _deliver(self, worker_index: int, batch: Batch) -> None:
        """Keeps a batch of events for a worker. Called by the broker."""
        self.batches.append(batch)


def _never(*problem: object) -> NoReturn:
    """Raises AssertionError: a callback that no benchmark may call."""
    raise AssertionError(problem)


def _ended_at_once(socket_id: int, token: bytes | None, code: int, reason: str) -> bool:
    """Stands for a close handler that ends at once."""
    return True


class _Sources(MetaPathFinder):
    """Finds wsbroker's sources and nothing else, so that no compiled module is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of a source file of wsbroker. Called by the import system."""
        if fullname.partition(".")[0] != "wsbroker":
            return None
        folders = path if path is not None else [str(Path(wsbroker.__file__).parents[1])]
        for folder in folders:
            found = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(fullname)
            if found is not None:
                return found
        return None


def _interpreted() -> type[Work]:
    """Returns `Work` of a second import of this module, on interpreted sources."""
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "wsbroker"}
    finder = _Sources()
    this = sys.modules.pop(__name__)
    for name in ours:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        twin = importlib.import_module(__name__)
        assert str(sys.modules["wsbroker.connections.connection"].__file__).endswith(".py")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "wsbroker"]:
            del sys.modules[name]
        sys.modules.update(ours)
        sys.modules[__name__] = this
    return cast("type[Work]", twin.Work)


COMPILED: Final = "compiled"
INTERPRETED: Final = "interpreted"


def worlds() -> dict[str, type[Work]]:
    """Returns `Work` by the kind of core it works on; without a compiled core there is only the interpreted one."""
    found: dict[str, type[Work]] = {core_kind(): Work}
    if COMPILED in found:
        found[INTERPRETED] = _interpreted()
    return found
