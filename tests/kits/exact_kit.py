"""Plays random programs of API calls on a running server, and compares all results with one sequential order.

Between the core and everything that asks it stands a `Recorder`. It notes each call in the order in which the core
carries it out, and when. A program is right if, with that order and no other,

* each actor's calls stand in the order in which it made them, questions between their begin and their return (so the
  order is one that an outside clock agrees with: the history is linearizable);
* the sequential model gives every actor the answers that it had, and every socket what it received and was closed with;
* every message was handled once, in order, with a token that was the last one: by the core's order when the message was
  sent, or one set since; and never one older than its own worker had set by then, or than its last message had.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns
from typing import NamedTuple, cast

import pytest
import websockets

import wsbroker
from kits.broker_model import BrokerModel, Call
from kits.exact_app import PAUSE, REPORTS, Done, Op, Report, Task, carry_out, carry_out_all, carry_out_in_turns
from kits.exact_programs import CHANNELS, LIMIT, QUESTIONS, Author, call_of, is_answer
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
FOREIGN = -1
"""The core's lane of commands of threads of the main program."""
LOOP = -2
"""Calls on the loop's own thread: of inline handlers, and of the main program."""
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


class Applied(NamedTuple):
    """One call, when the core carried it out."""

    lane: int
    at: int
    call: Call
    number: int
    """Of a token: not 0 if the worker that set it caches it."""


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


@dataclass
class Actor:
    """The calls that one thread, coroutine or handler made one after the other, and the result of each."""

    lane: int
    ops: list[Op] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    def did(self, ops: list[Op], done: list[Done]) -> None:
        """Adds the calls that the actor made next, and their results; leaves out pauses."""
        assert len(ops) == len(done), (ops, done)
        for op, each in zip(ops, done, strict=True):
            if op[0] != PAUSE:
                self.ops.append(op)
                self.done.append(each)

    def may_be(self, index: int, applied: Applied, answer: object) -> bool:
        """Returns whether the actor's call of this index may be the recorded call `applied`, with this answer."""
        if index == len(self.ops):
            return False
        op = self.ops[index]
        start, end, seen = cast("tuple[int, int, object]", self.done[index])
        if call_of(op) != applied.call or start > applied.at or not is_answer(op, seen, answer):
            return False
        return applied.at <= end or (self.lane != LOOP and op[0] not in QUESTIONS)


class Client:
    """A socket: what it was sent to do, and what it received."""

    def __init__(self, connection: websockets.ClientConnection, socket_id: int) -> None:
        self.id = socket_id
        self.tasks: list[Task] = []
        self.sent_at: list[int] = []
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
        task: Task = {"number": len(self.tasks), "ops": ops, "beside": beside}
        self.tasks.append(task)
        self.sent_at.append(monotonic_ns())
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
        self._clients.sort(key=lambda client: client.id)
        recorder = self._recorder
        recorder.applied.clear()
        recorder.reports.clear()
        ids = [client.id for client in self._clients]
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
        self._do(last, [["close", client.id, 4999, "over"] for client in left])
        self._actors.append(last)
        async with asyncio.timeout(LIMIT_S):
            heard = {client.id: await client.heard for client in self._clients}
        await recorder.until(lambda: len(self._reports("close")) == len(ids))
        self._check(BrokerModel(ids, LIMIT), heard, {client.id for client in left})

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
            actor.did([*ops, ["channels"]], done)  # a question, so that all is applied when it returns
        else:
            actor.did(ops, await carry_out_in_turns(ops))

    def _do(self, actor: Actor, ops: list[Op]) -> None:
        """Has the main program make calls in the server's loop, at once and without pauses."""
        actor.did(ops, [carry_out(op) for op in ops])

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
        return all(client.id in ended or handled[client.id] == len(client.tasks) for client in self._clients)

    # Checks. ----------------------------------------------------------------------------------------------------

    def _check(
        self, model: BrokerModel[str, str], heard: dict[int, tuple[list[str], int | None, str | None]], left: set[int]
    ) -> None:
        """Checks handled messages, the order of all calls, received messages and tokens against the model."""
        for client in self._clients:
            self._check_handled(client, client.id in left)
        answers, sets = _replay(model, self._recorder.applied)
        self._check_order(answers)
        closed = {socket: (model.received[socket], *model.closed[socket]) for socket in model.received}
        assert heard == closed
        returned = _return_times(self._actors)
        for client in self._clients:
            self._check_tokens(client, [_timed(change, returned) for change in sets[client.id]])
        self._count(answers)

    def _check_handled(self, client: Client, is_left: bool) -> None:
        """Asserts that a client's messages were handled once and in order; adds the actors of its handlers.

        Args:
            is_left: whether the socket was open until the end, so that all its messages must have been handled.
        """
        reports = [report for report in self._reports("message") if report["socket"] == client.id]
        numbers = [report["number"] for report in reports]
        assert numbers == list(range(len(numbers))), (client.id, numbers)
        assert len(numbers) == len(client.tasks) or not is_left, (client.id, numbers)
        ends = [report["code"] for report in self._reports("close") if report["socket"] == client.id]
        assert len(ends) == 1
        if not reports:
            return
        lane = _lane(reports[0]["worker"])
        actor = Actor(lane)
        for report in reports:
            assert _lane(report["worker"]) == lane  # a socket has one worker
            task = client.tasks[report["number"]]
            actor.did(task["ops"], report["done"])
            thread = Actor(FOREIGN if lane == LOOP else lane)
            thread.did(task["beside"], report["beside"])
            self._actors.append(thread)
            assert report is reports[-1] or not any(op[:2] == ["close", client.id] for op in task["ops"])
        self._actors.append(actor)

    def _check_order(self, answers: list[object]) -> None:
        """Asserts that the recorded calls of each lane are the calls of its actors, interleaved, and no others."""
        for lane in {actor.lane for actor in self._actors}:
            actors = [actor for actor in self._actors if actor.lane == lane]
            places = {(0,) * len(actors)}
            """How far each actor may be: the same call may be that of several."""
            for applied, answer in zip(self._recorder.applied, answers, strict=True):
                if applied.lane == lane:
                    after = {
                        (*place[:index], place[index] + 1, *place[index + 1 :])
                        for place in places
                        for index, actor in enumerate(actors)
                        if actor.may_be(place[index], applied, answer)
                    }
                    assert after, (lane, applied, answer, _expected(actors, places))
                    places = after
            assert tuple(len(actor.ops) for actor in actors) in places, (lane, _expected(actors, places))

    def _check_tokens(self, client: Client, sets: "list[Set]") -> None:
        """Asserts that each call of a handler of this client's socket was given a token that was the last one then."""
        reports = [report for report in self._recorder.reports if report["socket"] == client.id]
        mine = {
            op[2] for task in client.tasks for op in task["ops"] + task["beside"] if op[:2] == ["set_token", client.id]
        } - {None}
        last = -1
        before = 0
        for report in reports:
            start = report["start"]
            lane = _lane(report["worker"])
            own = [change for change in sets if change.lane == lane and (change.number or change.token in mine)]
            # An inline handler of this socket may be running while others of its loop set what it has closed already.
            taken = [change for change in sets if change.is_open or (change.lane == lane == LOOP)]
            sent = client.sent_at[report["number"]] if report["handler"] == "message" else 0
            # When it was called, at the earliest: a coroutine begins some time after its call.
            called = max(before, sent) if self._is_async else start
            before = report["end"]
            # The core had these when it read the message. An inline handler is given what the core has at its call.
            read = called if lane == LOOP else sent
            least = max(
                last,
                *(change.place for change in sets if change.is_open and change.at < read),
                *(change.place for change in own if change.returned <= called),
                -1,
            )
            fits = [
                change.place
                for change in sets
                if change.token == report["token"]
                and change.place >= least
                and ((change in taken and change.at <= start) or (change in own and change.began <= start))
            ]
            if report["token"] is None and least < 0:
                fits.append(-1)
            assert fits, (report, least, sets)
            last = min(fits)
            self._tally["tokens seen"] += 1
            self._tally["of them set by others"] += last >= 0 and all(change.place != last for change in own)
            self._tally["of them not yet applied"] += last >= 0 and all(
                change.place != last or change.at > start for change in sets
            )

    def _count(self, answers: list[object]) -> None:
        """Adds the numbers of programs, calls, answers and actors that were checked to the tally."""
        tally = self._tally
        tally["programs"] += 1
        tally["calls"] += len(answers)
        tally["answers"] += sum(op[0] in QUESTIONS for actor in self._actors for op in actor.ops)
        tally["actors"] += len(self._actors)


class Set(NamedTuple):
    """A change of a socket's token."""

    place: int
    """In the order of all calls."""
    lane: int
    at: int
    number: int
    token: str | None
    is_open: bool
    """Whether the socket was there."""
    began: int
    returned: int


def _replay(model: BrokerModel[str, str], applied: list[Applied]) -> tuple[list[object], dict[int, list[Set]]]:
    """Has the model carry out all recorded calls; returns its answers, and the changes of each socket's token."""
    answers: list[object] = []
    sets: dict[int, list[Set]] = {socket: [] for socket in model.received}
    for place, (lane, at, call, number) in enumerate(applied):
        if call[0] == "set_token":
            _, socket, token = cast("tuple[str, int, str | None]", call)
            sets[socket].append(Set(place, lane, at, number, token, model.is_open(socket), at, at))
        answers.append(model.apply(call))
    return answers, sets


def _return_times(actors: list[Actor]) -> dict[object, tuple[int, int]]:
    """Returns when each call that set a token began and returned, by token: no token but None is set twice."""
    return {
        op[2]: cast("tuple[int, int]", tuple(done[:2]))
        for actor in actors
        for op, done in zip(actor.ops, actor.done, strict=True)
        if op[0] == "set_token"
    }


def _timed(change: Set, returned: dict[object, tuple[int, int]]) -> Set:
    """Returns a change of a token with the times at which the call that made it began and returned."""
    if change.token is None:
        return change._replace(began=0)  # unknown: it may have been any of them
    began, ended = returned[change.token]
    return change._replace(began=began, returned=ended)


def _expected(actors: list[Actor], places: set[tuple[int, ...]]) -> list[object]:
    """Returns the calls that each actor may have made next, for the message of a failure."""
    return [
        [(actor.ops[index], actor.done[index]) for actor, index in zip(actors, place, strict=True) if actor.ops[index:]]
        for place in sorted(places)[:3]
    ]


def _lane(worker: str) -> int:
    name, _, index = worker.partition("-")
    return int(index) if name == "worker" and index.isdigit() else LOOP
