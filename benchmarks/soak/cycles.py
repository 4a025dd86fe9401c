"""Cycles: sockets come, subscribe and go in every way there is, and leave nothing behind."""

import asyncio
from collections import Counter
from typing import Final, NamedTuple

from benchmarks.soak.app import AsyncCyclingApp, CyclingApp
from benchmarks.soak.report import Report, format_mib
from benchmarks.soak.run import NEAR_KIND, Option, Soak
from benchmarks.soak.server import Control, Snapshot
from wsbroker.bench.client import HEAD_END, BenchClient, BenchError, choose_source_address, dial, make_frame
from wsbroker.websocket.frames import TEXT

PARTS: Final = 8
"""The memory is shown so many times between the warm-up and the end."""
PATIENCE_S: Final = 60.0
RSS_MARGIN_BYTES: Final = 3 << 20
"""What the memory may have grown by after the warm-up and still count as flat: 40 bytes for each of 80,000 cycles."""
TYPE_MARGIN: Final = 40
"""What the objects of a type may have grown by: caches of the standard library that fill late. The least that is left
behind, one object in the rarest way to go, would be 4,000 after 80,000 cycles."""
BLOCK_MARGIN: Final = 2_000
"""Likewise for all blocks of Python's allocator."""

HALF_A_FRAME: Final = make_frame(TEXT, b"publish") + make_frame(TEXT, b"half of this is never sent")[:12]


class Way(NamedTuple):
    """How a cycle ends.

    Args:
        name: for the report.
        weight: how many cycles of 20 end so.
        outcome: the status of the refusal or the code of the server's Close frame; ``gone`` if the client just leaves.
        end: ``close`` with a handshake, ``wait`` for the server, ``reset``, or ``hang up``.
        last: bytes that are sent before that.
    """

    name: str
    weight: int
    outcome: str
    end: str
    last: bytes = b""


WAYS: Final = (
    Way("clean", 7, "1000", "close"),
    Way("closed by the server", 1, "4000", "wait", make_frame(TEXT, b"close")),
    Way("refused", 1, "403", "wait"),
    Way("failed", 1, "1011", "wait", make_frame(TEXT, b"fail")),
    Way("wrong frame", 1, "1002", "wait", b"\x8f\x80\0\0\0\0"),
    *(Way("open", 2, "gone", end) for end in ("reset", "hang up")),
    *(Way("half a frame", 1, "gone", end, HALF_A_FRAME) for end in ("reset", "hang up")),
    *(Way("half a head", 1, "gone", end) for end in ("reset", "hang up")),
    Way("gone while opening", 1, "gone", "reset", make_frame(TEXT, b"token early")),
)
TURNS: Final = [way for way in WAYS for _ in range(way.weight)]
"""The ways of cycles, in turn: half of them with a closing handshake or a refusal, half without either."""


class Cycles(Soak):
    """Lets sockets come and go in every way, and looks for anything that they leave behind."""

    questions = {}
    options = (
        NEAR_KIND,
        Option("handlers", "sync", choices=("sync", "async")),
        Option("count", 100_000, "cycles, the warm-up included"),
        Option("warm_up", 20_000, "cycles after which the memory is first looked at"),
        Option("parallel", 200, "cycles at a time"),
    )

    def __init__(self, report: Report, **changed: object) -> None:
        super().__init__(report, **changed)
        self.application = AsyncCyclingApp if self.chosen.handlers == "async" else CyclingApp
        self._next = 0
        self._endings: Counter[tuple[Way, str]] = Counter()
        """How many cycles of each way had which outcome."""

    async def drive(self) -> None:
        """Runs the warm-up and the measured cycles, with a snapshot after each, and checks everything."""
        count, warm_up = self.chosen.count, self.chosen.warm_up
        warm = await self._run_cycles([warm_up])
        part = max(1, (count - warm_up) // PARTS)
        before_ns = self.meter.read().cpu_ns
        end = await self._run_cycles([*range(warm_up + part, count, part), count])
        if count > warm_up:
            each_us = (self.meter.read().cpu_ns - before_ns) / 1e3 / (count - warm_up)
            self.report.show_figure("processor time of the server", f"{each_us:.0f} µs a cycle with its meddler")
        await self._check_endings()
        self._check_growth(warm, end)

    async def _run_cycles(self, stops: list[int]) -> Snapshot:
        """Runs cycles up to each of these numbers, beside the meddler; returns the snapshot after all have ended."""
        await self.server.call(Control.start_meddling)
        for stop in stops:
            await asyncio.gather(*(self._run_until(stop) for _ in range(self.chosen.parallel)))
            self.report.show_figure(f"memory after {stop}", format_mib(self.meter.read().rss_bytes))
        await self.server.call(Control.stop_threads)
        return await self.server.wait_until_left(self.fresh)

    async def _run_until(self, stop: int) -> None:
        """Runs one cycle after the other until those before `stop` have been begun."""
        while self._next < stop:
            number = self._next
            self._next += 1
            way = TURNS[number % len(TURNS)]
            try:
                async with asyncio.timeout(PATIENCE_S):
                    outcome = await self._run_cycle(number, way)
            except (BenchError, OSError, TimeoutError) as error:
                outcome = f"{type(error).__name__}: {error}"
            self._endings[way, outcome] += 1

    async def _run_cycle(self, number: int, way: Way) -> str:
        """Connects, subscribes and ends the connection, unless the way ends earlier; returns the outcome."""
        path = "/refused" if way.name == "refused" else f"/{number}"
        client = await dial(self.target, path=path, source=choose_source_address(number))
        try:
            if way.name == "half a head":
                client.write_bytes(client.format_upgrade().removesuffix(HEAD_END))
            elif way.name == "gone while opening":
                client.write_bytes(client.format_upgrade() + way.last)
            else:
                try:
                    await client.open()
                except BenchError as error:
                    return str(error.status)
                await self._subscribe(client, number)
                client.write_bytes(way.last)
            return await self._end_connection(client, number, way.end)
        finally:
            client.hang_up()

    async def _subscribe(self, client: BenchClient, number: int) -> None:
        """Joins a channel of the socket's own and shared ones, and makes other calls for some numbers."""
        client.send_message(f"join own {number}")
        more = ["neighbour"]
        more += [f"token {number}", "publish"] if number % 3 == 0 else []
        more += [f"unsubscribe own {number}"] if number % 5 == 0 else []
        client.write_bytes(b"".join(make_frame(TEXT, text.encode()) for text in more))
        while not (answer := await client.receive_message()).isdigit():
            pass  # a publication
        if answer != b"1":
            raise BenchError(f"joined {answer.decode()} channels")

    async def _end_connection(self, client: BenchClient, number: int, end: str) -> str:
        """Ends the connection in this way; returns the server's close code, or ``gone`` after leaving without any."""
        if end == "close":
            return str(await client.close(1000, "bye"))
        if end == "wait":
            return str(await client.wait_until_lost())
        if number // len(TURNS) % 2:
            await asyncio.sleep(0)  # two moments: the server has read the last bytes, or has not
        if end == "reset":
            client.reset()
        else:
            client.hang_up()
        await client.wait_until_lost()
        return "gone"

    async def _check_endings(self) -> None:
        """Checks the outcome of each cycle, and that each open socket had one close handler, and no other any."""
        self.report.check_equal("cycles", self._endings.total(), self.chosen.count)
        wrong = {
            f"{way.name}, {way.end} -> {outcome}": number
            for (way, outcome), number in self._endings.items()
            if outcome != way.outcome
        }
        self.report.check_equal("cycles that ended in another way than they should", wrong, {})
        ran, twice, unopened = await self.server.call(Control.count_closes)
        opened = (await self.server.call(Control.read_statistics))["sockets_opened"]
        self.report.check_equal("close handlers run, of the sockets that were open", ran, opened)
        self.report.check_equal("sockets with two close handlers", twice, 0)
        self.report.check_equal("sockets with a close handler that no open handler had accepted", unopened, 0)

    def _check_growth(self, warm: Snapshot, end: Snapshot) -> None:
        """Checks objects, blocks and memory at the end against those after the warm-up."""
        grown = end.grown - warm.grown
        blocks = grown.pop("blocks", 0)
        self.report.show_figure("types that grew most", dict(grown.most_common(6)))
        self.report.check_at_most("objects that any type has grown by", max(grown.values(), default=0), TYPE_MARGIN)
        self.report.check_at_most("blocks grown since the warm-up", blocks, BLOCK_MARGIN)
        grown_bytes = end.rss_bytes - warm.rss_bytes
        self.report.check_at_most("memory grown since the warm-up", grown_bytes, RSS_MARGIN_BYTES, format_mib)
