"""Plays random programs of API calls on a running server, and compares all results with one sequential order.

Between the core and everything that asks it stands a `Recorder`. It notes each call in the order in which the core
carries it out, and when. `exact_history` says when a program is right.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from time import monotonic_ns
from typing import cast

import pytest
import websockets

import wsbroker
from kits.exact_app import REPORTS, Op, Report, Task, carry_out, carry_out_all, carry_out_in_turns
from kits.exact_history import FOREIGN, LOOP, Actor, Applied, History, SocketRecord
from kits.exact_programs import CHANNELS, LIMIT, Author
from wsbroker.broker.broker import Broker
from wsbroker.pool.interfaces import Core
from wsbroker.pool.local_api import LocalApi
from wsbroker.pool.pool import Pool
from wsbroker.server import node
from wsbroker.settings.config import WorkerKind
from wsbroker.wire import commands

WORKERS = 3
SOCKETS = 6
THREADS = 2
"""Of the main program; its event loop acts too."""
LIMIT_S = 30.0

NAMES = {
    kind: name.removesuffix("_nowait")
    for kind, name in (commands.QUESTION_METHODS | commands.ONE_WAY_METHODS).items()
    if kind != commands.QUEUED_BYTES
}
DIRECT = {
    **{name: name for name in NAMES.values()},
    "publish": "send_to_channel",
    "subscribe_nowait": "subscribe",
    "unsubscribe_nowait": "unsubscribe",
}
"""The core's methods that the main program's port calls on the loop's thread."""


class Recorder:
    """The core, and a record of what it is asked."""

    def __init__(self) -> None:
        self.applied: list[Applied] = []
        self.reports: list[Report] = []
        self._core: Broker | None = None
        self._news = asyncio.Event()

    def of(self, core: Core) -> Core:
        """Puts this recorder in front of a core from now on, and returns the recorder in the core's place."""
        assert isinstance(core, Broker)
        self._core = core
        return cast(Core, self)

    def __getattr__(self, name: str) -> object:
        method = getattr(self._core, name)
        return partial(self._direct, DIRECT[name], method) if name in DIRECT else method

    def _direct(self, name: str, method: Callable[..., object], *arguments: object) -> object:
        self._note(LOOP, name, arguments, 0)
        return method(*arguments)

    def apply_commands(self, lane: int, generation: int, batch: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
        """Records the commands of a batch, and has the core apply them."""
        assert self._core is not None
        if lane >= 0 and self._core.worker_queues[lane].generation != generation:
            return self._core.apply_commands(lane, generation, batch)  # of a worker that has gone: it is ignored
        for kind, *arguments in batch:
            if kind == commands.ASK:
                _, kind, *arguments = arguments
            number = cast(int, arguments.pop()) if kind == commands.SET_TOKEN else 0
            name = NAMES.get(cast(int, kind))
            if name is not None:
                self._note(lane, name, tuple(arguments), number)
        return self._core.apply_commands(lane, generation, batch)

    def _note(self, lane: int, name: str, arguments: tuple[object, ...], number: int) -> None:
        """Records one call that the core is about to carry out, or stores a report if the call sends one."""
        if name == "send" and arguments[0] == REPORTS:
            self.reports.append(cast(Report, json.loads(cast(str, arguments[1]))))
            self._news.set()
            return
        call = (name, *(each.decode() if isinstance(each, bytes) else each for each in arguments))
        self.applied.append(Applied(lane, monotonic_ns(), call, number))

    async def until(self, claim: Callable[[], bool]) -> None:
        """Waits until `claim` returns True; tests the claim after each new report. Fails after LIMIT_S."""
        async with asyncio.timeout(LIMIT_S):
            while not claim():
                self._news.clear()
                await self._news.wait()


@contextlib.asynccontextmanager
async def recorded(kind: WorkerKind, app: str) -> AsyncIterator[tuple[Recorder, wsbroker.Server]]:
    """Yields a recorder and a running server whose core it records; at the end no socket and channel may be left."""
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "LocalApi", lambda core, limit: LocalApi(recorder.of(core), limit))
        patch.setattr(
            node, "Pool", lambda config, spec, core, port, fatal: Pool(config, spec, recorder.of(core), port, fatal)
        )
        async with wsbroker.serve(
            "127.0.0.1:0",
            worker="kits.exact_app:" + app,
            worker_kind=kind,
            workers=1 if kind == "inline" else WORKERS,
            max_channels_per_socket=LIMIT,
            handler_timeout=LIMIT_S,
        ) as server:
            yield recorder, server
            assert server.statistics()["sockets"] == server.statistics()["channels"] == 0


class Client:
    """Sends tasks on a connection, and records what the connection receives.

    Args:
        connection: an open connection that has received its socket id.
        socket_id: the id.
    """

    def __init__(self, connection: websockets.ClientConnection, socket_id: int) -> None:
        self.record = SocketRecord(socket_id)
        self._connection = connection
        self.heard = asyncio.ensure_future(self._hear())

    async def _hear(self) -> tuple[list[str], int | None, str | None]:
        """Receives messages until the connection closes; returns the messages, the close code and the reason."""
        heard: list[str] = []
        try:
            while True:
                heard.append(str(await self._connection.recv()))
        except websockets.ConnectionClosed:
            return heard, self._connection.close_code, self._connection.close_reason

    async def send(self, ops: list[Op], beside: list[Op]) -> None:
        """Sends a task, two lists of calls, to the socket's message handler, unless the connection is closed."""
        task: Task = {"number": len(self.record.tasks), "ops": ops, "beside": beside}
        self.record.tasks.append(task)
        self.record.sent_at.append(monotonic_ns())
        with contextlib.suppress(websockets.ConnectionClosed):
            await self._connection.send(json.dumps(task))


class Play:
    """One random program.

    Args:
        seed: what it is made from.
        has_threads: whether handlers may start threads and wait for them.
        is_async: whether handlers are coroutines.
        is_exchanged: whether the workers are exchanged meanwhile.
        tally: counts what was checked.
    """

    def __init__(
        self,
        recorder: Recorder,
        server: wsbroker.Server,
        seed: str,
        *,
        has_threads: bool,
        is_async: bool,
        is_exchanged: bool,
        tally: Counter[str],
    ) -> None:
        self._recorder = recorder
        self._server = server
        self._is_exchanged = is_exchanged
        self._seed = seed
        self._has_threads = has_threads
        self._is_async = is_async
        self._tally = tally
        self._clients: list[Client] = []
        self._actors: list[Actor] = []

    async def run(self) -> None:
        """Plays the program to its end, and checks all results."""
        await asyncio.gather(*(self._connect() for _ in range(SOCKETS)))
        self._clients.sort(key=lambda client: client.record.id)
        recorder = self._recorder
        recorder.applied.clear()
        recorder.reports.clear()
        ids = [client.record.id for client in self._clients]
        author = Author(self._seed, ids)
        random = author.random
        await asyncio.gather(
            *(self._act(FOREIGN, author.ops(4, 16)) for _ in range(THREADS)),
            self._act(LOOP, author.ops(4, 16)),
            *(
                self._send_all(client, [self._task(author) for _ in range(random.randint(1, 4))])
                for client in self._clients
            ),
        )
        if self._is_exchanged:
            await self._exchange(author)
        await recorder.until(self._is_quiet)
        last = Actor(LOOP)
        self._do(last, [["is_open", socket] for socket in ids])
        left = [client for client in self._clients if last.done[self._clients.index(client)][2]]
        for client in left:
            await client.send([], [])
        await recorder.until(self._is_quiet)
        self._do(last, [["channels"]])
        self._do(last, [["subscribers", channel] for channel in CHANNELS])
        self._do(last, [["subscriptions", socket] for socket in ids])
        self._do(last, [["close", client.record.id, 4999, "over"] for client in left])
        self._actors.append(last)
        async with asyncio.timeout(LIMIT_S):
            for client in self._clients:
                client.record.received, client.record.code, client.record.reason = await client.heard
        await recorder.until(lambda: len(self._reports("close")) == len(ids))
        history = History(
            [client.record for client in self._clients],
            recorder.applied,
            recorder.reports,
            self._actors,
            kept_open={client.record.id for client in left},
            is_async=self._is_async,
        )
        self._tally.update(history.check())

    async def _connect(self) -> None:
        url = str(self._server.addresses[0]).replace("http", "ws")
        connection = await websockets.connect(url, compression=None, proxy=None, ping_interval=None)
        self._clients.append(Client(connection, int(await connection.recv())))

    def _task(self, author: Author) -> tuple[list[Op], list[Op]]:
        beside = author.ops(1, 6) if self._has_threads and author.random.random() < 0.25 else []
        return author.ops(0, 8), beside

    async def _act(self, lane: int, ops: list[Op]) -> None:
        """Has the main program make calls: in a thread of its own, or as a coroutine in the server's loop."""
        actor = Actor(lane)
        self._actors.append(actor)
        if lane == FOREIGN:
            done = await asyncio.to_thread(carry_out_all, [*ops, ["channels"]])
            actor.add_calls([*ops, ["channels"]], done)  # a question, so that all is applied when it returns
        else:
            actor.add_calls(ops, await carry_out_in_turns(ops))

    def _do(self, actor: Actor, ops: list[Op]) -> None:
        """Has the main program make calls in the server's loop, at once and without pauses."""
        actor.add_calls(ops, [carry_out(op) for op in ops])

    async def _send_all(self, client: Client, tasks: list[tuple[list[Op], list[Op]]]) -> None:
        for ops, beside in tasks:
            await client.send(ops, beside)
            await asyncio.sleep(0)

    async def _exchange(self, author: Author) -> None:
        """Reloads the workers, and has clients and main program go on making calls until the reload has ended."""
        exchange = asyncio.ensure_future(asyncio.to_thread(self._server.reload))
        while not exchange.done():
            await asyncio.gather(
                self._act(FOREIGN, author.ops(1, 4)),
                self._act(LOOP, author.ops(1, 4)),
                *(self._send_all(client, [self._task(author)]) for client in self._clients),
                asyncio.sleep(0.01),
            )
        await exchange

    def _reports(self, handler: str) -> list[Report]:
        return [report for report in self._recorder.reports if report["handler"] == handler]

    def _is_quiet(self) -> bool:
        """Returns whether each message was handled, or the close handler of its socket has run."""
        handled = Counter(report["socket"] for report in self._reports("message"))
        ended = {report["socket"] for report in self._reports("close")}
        return all(
            client.record.id in ended or handled[client.record.id] == len(client.record.tasks)
            for client in self._clients
        )
