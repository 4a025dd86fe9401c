"""Cycles: sockets that come, subscribe and go in every way there is, and leave nothing behind."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable
from random import Random
from typing import Final, cast

import wsbroker
from benchmarks.client import HEAD_END, Client, ClientError, dial, frame, source_address, upgrade_request
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, mib
from benchmarks.soaking.server import Control, ServerProcess, Snapshot
from wsbroker import HttpRequest
from wsbroker.settings.config import Settings, WorkerKind

CHANNELS: Final = 50
"""That all share; each socket has one or more of its own beside them."""
ROOM: Final = 1 << 17
"""Sockets that can be counted without more memory than was there at the start."""
MEDDLE_S: Final = 0.002

RSS_MARGIN_BYTES: Final = 3 << 20
"""What the memory may have grown by after the warm-up and still count as flat: 40 bytes for each of 80,000 cycles."""
TYPE_MARGIN: Final = 40
"""What the objects of a type may have grown by: caches of the standard library that fill late. The least that is left
behind, one object in the rarest way to go, would be 4,000 after 80,000 cycles."""
BLOCK_MARGIN: Final = 2_000
"""Likewise for all blocks of Python's allocator."""

WAYS: Final = (
    *("clean",) * 7,
    "closed by the server",
    "refused",
    "failed",
    *("reset",) * 2,
    *("hung up",) * 2,
    "half a frame, reset",
    "half a frame, hung up",
    "half a head, reset",
    "half a head, hung up",
    "gone while opening",
    "wrong frame",
)
"""How cycles end, in turn: half of them with a closing handshake or a refusal, half without a word."""


class Cycling:
    """The application. Its open handler subscribes, sets tokens, refuses; its messages are single words."""

    opened: Final = bytearray(ROOM)
    """By socket id, how often the open handler has accepted it."""
    closed: Final = bytearray(ROOM)
    """By socket id, how often the close handler has run."""
    newest: int = 0

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> bool:
        """``/refused`` is."""
        Cycling.newest = socket_id
        if socket_id >= len(Cycling.closed):
            Cycling.opened.extend(bytes(ROOM))
            Cycling.closed.extend(bytes(ROOM))
        wsbroker.subscribe_nowait(socket_id, f"shared {socket_id % CHANNELS}")
        wsbroker.set_token(socket_id, f"opened {socket_id}")
        if request.pathname == "/refused":
            return False
        Cycling.opened[socket_id] += 1
        return True

    def handle_socket_message(self, data: str | bytes, socket_id: int, token: bytes | None) -> None:
        """Does what the first word says."""
        word = str(data).partition(" ")[0]
        if word == "subscribe":
            was_added = wsbroker.subscribe(socket_id, f"own {socket_id}")
            wsbroker.subscribe_nowait(socket_id, f"shared {(socket_id + 1) % CHANNELS}")
            wsbroker.send(socket_id, f"subscribed {was_added}")
        elif word == "token":
            wsbroker.set_token(socket_id, str(data) * 8)
        elif word == "publish":
            wsbroker.send_to_channel(f"shared {socket_id % CHANNELS}", "news", exclude=(socket_id,))
        elif word == "unsubscribe":
            wsbroker.unsubscribe_nowait(socket_id, f"own {socket_id}")
        elif word == "close":
            wsbroker.close(socket_id, 4000, "as you like")
        elif word == "fail":
            raise ValueError("on purpose")

    def handle_socket_close(self, socket_id: int, token: bytes | None, code: int, reason: str) -> None:
        """Counts."""
        Cycling.closed[socket_id] += 1


class AsyncCycling(Cycling):
    """The same with handlers that await."""

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> Awaitable[bool]:  # type: ignore[override]
        """After some turns of the loop, so that clients go meanwhile."""
        return self._open(request, socket_id)

    async def _open(self, request: HttpRequest, socket_id: int) -> bool:
        await asyncio.sleep(0)
        return super().handle_socket_open(request, socket_id)

    def handle_socket_message(  # type: ignore[override]
        self, data: str | bytes, socket_id: int, token: bytes | None
    ) -> Awaitable[None] | None:
        """Every second one."""
        if socket_id % 2:
            return self._message(data, socket_id, token)
        super().handle_socket_message(data, socket_id, token)
        return None

    async def _message(self, data: str | bytes, socket_id: int, token: bytes | None) -> None:
        await asyncio.sleep(0)
        super().handle_socket_message(data, socket_id, token)

    async def handle_socket_close(  # type: ignore[override]
        self, socket_id: int, token: bytes | None, code: int, reason: str
    ) -> None:
        """Counts."""
        await asyncio.sleep(0)
        super().handle_socket_close(socket_id, token, code, reason)


class CyclesControl(Control):
    """Also meddles: a thread of the main program that calls about sockets which come and go at this moment."""

    def __init__(self, server: wsbroker.Server) -> None:
        super().__init__(server)
        self._is_over = threading.Event()
        self._meddler: threading.Thread | None = None

    def meddle(self) -> None:
        """Begins."""
        self._is_over.clear()
        self._meddler = threading.Thread(target=self._meddle)
        self._meddler.start()

    def rest(self) -> None:
        """Ends."""
        self._is_over.set()
        if self._meddler is not None:
            self._meddler.join()
            self._meddler = None

    def _meddle(self) -> None:
        random = Random(1)
        while not self._is_over.wait(MEDDLE_S):
            for back in (0, 1, random.randrange(2, 300)):
                socket_id = max(1, Cycling.newest + 1 - back)  # the first is not there yet, or just coming
                wsbroker.set_token(socket_id, b"from outside")
                wsbroker.send(socket_id, "from outside")
                wsbroker.subscribe_nowait(socket_id, "meddled")
                wsbroker.copy_subscriptions("meddled", "copied")
                wsbroker.unsubscribe_nowait(max(1, socket_id - 2), "meddled")
            wsbroker.subscriber_count("meddled")

    def closes(self) -> tuple[int, int, int]:
        """How many close handlers have run, how many sockets had more than one, and how many were never opened."""
        counts = Counter(zip(Cycling.opened, Cycling.closed, strict=True))
        return (
            sum(number * closed for (_, closed), number in counts.items()),
            sum(number for (_, closed), number in counts.items() if closed > 1),
            sum(number for (opened, closed), number in counts.items() if closed and opened != 1),
        )

    def end(self) -> None:
        """No thread is left."""
        self.rest()


class Cycler:
    """The load.

    Args:
        server: where to.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._next = 0
        self.outcomes: Counter[str] = Counter()
        """How the cycles ended, as the client saw it."""

    async def run(self, count: int, parallel: int) -> None:
        """Makes this many cycles, so many at a time."""
        end = self._next + count

        async def work() -> None:
            while self._next < end:
                number = self._next
                self._next += 1
                way = WAYS[number % len(WAYS)]
                try:
                    async with asyncio.timeout(60):
                        outcome = await self._cycle(number, way)
                except (ClientError, OSError, TimeoutError) as error:
                    outcome = f"{type(error).__name__}: {error}"
                self.outcomes[f"{way} -> {outcome}"] += 1

        await asyncio.gather(*(work() for _ in range(parallel)))

    async def _cycle(self, number: int, way: str) -> str:
        client = await dial(self._server.address, source=source_address(number))
        try:
            return await self._live(client, number, way)
        finally:
            client.hang_up()

    async def _live(self, client: Client, number: int, way: str) -> str:
        if way == "gone while opening":
            client.write(upgrade_request(f"/{number}") + frame(b"token early"))
            if number // len(WAYS) % 2:
                await asyncio.sleep(0)  # two moments: the server has read the request, or has not
            client.reset()
            return "gone"
        if way.startswith("half a head"):
            client.write(upgrade_request(f"/{number}").removesuffix(HEAD_END))
            await self._go(client, way)
            return "gone"
        if way == "refused":
            try:
                await client.open("/refused")
            except ClientError as error:
                return str(error.status)
            return "opened"
        await client.open(f"/{number}")
        client.send("subscribe")
        if number % 3 == 0:
            client.write(frame(b"token " + str(number).encode()) + frame(b"publish"))
        if number % 5 == 0:
            client.send("unsubscribe")
        while not (answer := await client.receive()).startswith(b"subscribed"):
            pass
        if answer != b"subscribed True":
            return answer.decode()
        return await self._leave(client, way)

    async def _leave(self, client: Client, way: str) -> str:
        if way == "clean":
            return str(await client.close(1000, "bye"))
        if way == "closed by the server":
            client.send("close")
            return str(await client.wait_lost())
        if way == "failed":
            client.send("fail")
            return str(await client.wait_lost())
        if way == "wrong frame":
            client.write(b"\x8f\x80\0\0\0\0")
            return str(await client.wait_lost())
        if way.startswith("half a frame"):
            client.write(frame(b"publish") + frame(b"half of this is never sent")[:12])
            await asyncio.sleep(0)
        await self._go(client, way)
        return "gone"

    async def _go(self, client: Client, way: str) -> None:
        if way.endswith("reset"):
            await asyncio.sleep(0)
            client.reset()
        else:
            client.hang_up()
        await client.wait_lost()


EXPECTED: Final = {
    "clean": "1000",
    "closed by the server": "4000",
    "refused": "403",
    "failed": "1011",
    "wrong frame": "1002",
}
"""The outcome of each way; "gone" for the others."""


def run(report: Report, kind: str, handlers: str, count: int, warm_up: int, parallel: int = 200) -> None:
    """Runs it.

    Args:
        kind: of the worker.
        handlers: ``sync`` or ``async``.
        count: all cycles, the warm-up included.
        warm_up: after how many of them the memory is first looked at.
        parallel: how many at a time.
    """
    settings: Settings = {"workers": 1, "worker_kind": cast(WorkerKind, kind)}
    application = AsyncCycling if handlers == "async" else Cycling
    with ServerProcess(CyclesControl, application, **settings) as server:
        report.say(f"cycles: worker kind {kind}, {handlers} handlers, core {server.core}, {count} cycles")
        run_in_loop(_soak(report, server, count, warm_up, parallel))


async def _soak(report: Report, server: ServerProcess, count: int, warm_up: int, parallel: int) -> None:
    cycler = Cycler(server)
    fresh = await server.settled()
    await server.answer("meddle")
    await cycler.run(warm_up, parallel)
    await server.answer("rest")
    warm = await server.settled()
    report.figure("memory after the warm-up", f"{mib(warm.rss_bytes)}, trimmed {mib(warm.trimmed_rss_bytes)}")
    await server.answer("meddle")
    done = warm_up
    before_s = cast(float, await server.answer("cpu_s"))
    part = max(1, (count - warm_up) // 8)
    while done < count:
        part = min(part, count - done)
        await cycler.run(part, parallel)
        done += part
        report.figure(f"memory after {done}", mib(cast(int, await server.answer("rss_bytes"))))
    cpu_s = cast(float, await server.answer("cpu_s")) - before_s
    await server.answer("rest")
    end = await server.settled()
    if count > warm_up:
        each_us = cpu_s / (count - warm_up) * 1e6
        report.figure("processor time of the server", f"{cpu_s:.1f} s, {each_us:.0f} µs a cycle with its meddler")
    _check_outcomes(report, cycler, count)
    _check_closes(report, end, cast(tuple[int, int, int], await server.answer("closes")))
    _check_left(report, fresh, end)
    _check_growth(report, warm, end)


def _check_outcomes(report: Report, cycler: Cycler, count: int) -> None:
    outcomes = cycler.outcomes
    report.equal("cycles", outcomes.total(), count)
    wrong = {
        text: number
        for text, number in outcomes.items()
        if text.partition(" -> ")[2] != EXPECTED.get(text.partition(" -> ")[0], "gone")
    }
    report.check(not wrong, "each ended as it should", wrong or "")


def _check_closes(report: Report, end: Snapshot, closes: tuple[int, int, int]) -> None:
    ran, twice, unopened = closes
    report.equal("close handlers run, of the sockets that were open", ran, end.count("sockets_opened"))
    report.equal("sockets with two close handlers", twice, 0)
    report.equal("sockets with a close handler that no open handler had accepted", unopened, 0)


def _check_left(report: Report, fresh: Snapshot, end: Snapshot) -> None:
    report.check(not any(end.gauges.values()), "nobody is left", end.gauges)
    report.check(not end.state, "nothing is kept by broker, front, pool and worker", end.state or "")
    report.equal("descriptors", end.descriptors, fresh.descriptors)
    report.equal("tasks", end.tasks, fresh.tasks)


def _check_growth(report: Report, warm: Snapshot, end: Snapshot) -> None:
    grown = end.types - warm.types
    report.figure("types that grew most", dict(grown.most_common(6)))
    too_much = {name: number for name, number in grown.items() if number > TYPE_MARGIN}
    report.check(not too_much, f"no type has grown by more than {TYPE_MARGIN} objects", too_much or "")
    blocks = end.blocks - warm.blocks
    report.check(blocks <= BLOCK_MARGIN, f"blocks grown since the warm-up, at most {BLOCK_MARGIN}", blocks)
    grown_bytes = end.trimmed_rss_bytes - warm.trimmed_rss_bytes
    report.figure("memory at the end", f"{mib(end.rss_bytes)}, trimmed {mib(end.trimmed_rss_bytes)}")
    bound = f"memory grown since the warm-up, at most {mib(RSS_MARGIN_BYTES)}"
    report.check(grown_bytes <= RSS_MARGIN_BYTES, bound, mib(grown_bytes))
