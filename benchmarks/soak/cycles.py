"""Cycles: sockets come, subscribe and go in every way there is, and leave nothing behind."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable
from random import Random
from typing import Final, cast

import wsbroker
from benchmarks.soak.report import Report, format_mib
from benchmarks.soak.server import Control, ServerProcess, Snapshot, run_in_loop
from wsbroker import HttpRequest
from wsbroker.bench.client import HEAD_END, BenchClient, BenchError, choose_source_address, dial, make_frame
from wsbroker.settings.config import Settings, WorkerKind
from wsbroker.websocket.frames import TEXT

CHANNELS: Final = 50
"""Channels that all sockets share; each socket has channels of its own beside them."""
ROOM: Final = 1 << 17
"""Sockets that are counted without more memory than was there at the start."""
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
"""How cycles end, in turn: half of them with a closing handshake or a refusal, half without either."""


class Cycling:
    """Subscribes, sets tokens and refuses in its open handler, and obeys messages of a word each."""

    opened: Final = bytearray(ROOM)
    """By socket id, how often the open handler has accepted it."""
    closed: Final = bytearray(ROOM)
    """By socket id, how often the close handler has run."""
    newest: int = 0

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> bool:
        """Subscribes the socket and sets its token; refuses the path ``/refused``."""
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
        """Makes the calls that the first word of the message names."""
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
        """Counts the close handler's calls by socket id."""
        Cycling.closed[socket_id] += 1


class AsyncCycling(Cycling):
    """Does what `Cycling` does, in coroutines that let the loop turn first."""

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> Awaitable[bool]:  # type: ignore[override]
        """Returns a coroutine that opens after a turn of the loop: clients go meanwhile."""
        return self._open_later(request, socket_id)

    async def _open_later(self, request: HttpRequest, socket_id: int) -> bool:
        """Lets the loop turn, then opens the socket."""
        await asyncio.sleep(0)
        return super().handle_socket_open(request, socket_id)

    def handle_socket_message(  # type: ignore[override]
        self, data: str | bytes, socket_id: int, token: bytes | None
    ) -> Awaitable[None] | None:
        """Returns a coroutine for every second socket; handles the messages of the others at once."""
        if socket_id % 2:
            return self._handle_message_later(data, socket_id, token)
        super().handle_socket_message(data, socket_id, token)
        return None

    async def _handle_message_later(self, data: str | bytes, socket_id: int, token: bytes | None) -> None:
        """Lets the loop turn, then handles the message."""
        await asyncio.sleep(0)
        super().handle_socket_message(data, socket_id, token)

    async def handle_socket_close(  # type: ignore[override]
        self, socket_id: int, token: bytes | None, code: int, reason: str
    ) -> None:
        """Counts the close handler's calls by socket id."""
        await asyncio.sleep(0)
        super().handle_socket_close(socket_id, token, code, reason)


class CyclesControl(Control):
    """Runs a thread of the main program that makes calls about sockets which come and go at this moment."""

    def __init__(self, server: wsbroker.Server) -> None:
        super().__init__(server)
        self._is_over = threading.Event()
        self._meddler: threading.Thread | None = None

    def start_meddling(self) -> None:
        """Starts the thread."""
        self._is_over.clear()
        self._meddler = threading.Thread(target=self._meddle_until_over)
        self._meddler.start()

    def stop_meddling(self) -> None:
        """Stops and joins the thread."""
        self._is_over.set()
        if self._meddler is not None:
            self._meddler.join()
            self._meddler = None

    def _meddle_until_over(self) -> None:
        """Makes calls about the newest, the coming and some older sockets. Runs in the thread."""
        random = Random(1)
        while not self._is_over.wait(MEDDLE_S):
            for back in (0, 1, random.randrange(2, 300)):
                socket_id = max(1, Cycling.newest + 1 - back)  # the first is just coming, or not there yet
                wsbroker.set_token(socket_id, b"from outside")
                wsbroker.send(socket_id, "from outside")
                wsbroker.subscribe_nowait(socket_id, "meddled")
                wsbroker.copy_subscriptions("meddled", "copied")
                wsbroker.unsubscribe_nowait(max(1, socket_id - 2), "meddled")
            wsbroker.subscriber_count("meddled")

    def count_closes(self) -> tuple[int, int, int]:
        """Returns how many close handlers ran, for how many sockets more than once, for how many never opened."""
        counts = Counter(zip(Cycling.opened, Cycling.closed, strict=True))
        return (
            sum(number * closed for (_, closed), number in counts.items()),
            sum(number for (_, closed), number in counts.items() if closed > 1),
            sum(number for (opened, closed), number in counts.items() if closed and opened != 1),
        )

    def end(self) -> None:
        """Stops all threads of this control."""
        self.stop_meddling()
        super().end()


class Cycler:
    """Runs cycles against a server and counts how they ended.

    Args:
        server: the server's process.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._next = 0
        self.outcomes: Counter[str] = Counter()
        """How many cycles ended how, as ``way -> outcome`` of the client."""

    async def run_cycles(self, count: int, parallel: int) -> None:
        """Runs this many cycles, `parallel` at a time."""
        end = self._next + count

        async def run_until_end() -> None:
            while self._next < end:
                number = self._next
                self._next += 1
                way = WAYS[number % len(WAYS)]
                try:
                    async with asyncio.timeout(60):
                        outcome = await self._run_cycle(number, way)
                except (BenchError, OSError, TimeoutError) as error:
                    outcome = f"{type(error).__name__}: {error}"
                self.outcomes[f"{way} -> {outcome}"] += 1

        await asyncio.gather(*(run_until_end() for _ in range(parallel)))

    async def _run_cycle(self, number: int, way: str) -> str:
        """Connects, goes in this way and returns the outcome."""
        path = "/refused" if way == "refused" else f"/{number}"
        client = await dial(self._server.target, path=path, source=choose_source_address(number))
        try:
            return await self._subscribe_and_leave(client, number, way)
        finally:
            client.hang_up()

    async def _subscribe_and_leave(self, client: BenchClient, number: int, way: str) -> str:
        """Opens the socket, subscribes and ends the connection, unless the way ends earlier; returns the outcome."""
        if way == "gone while opening":
            client.write_bytes(client.format_upgrade() + make_frame(TEXT, b"token early"))
            if number // len(WAYS) % 2:
                await asyncio.sleep(0)  # two moments: the server has read the request, or has not
            client.reset()
            return "gone"
        if way.startswith("half a head"):
            client.write_bytes(client.format_upgrade().removesuffix(HEAD_END))
            await self._end_without_close(client, way)
            return "gone"
        try:
            await client.open()
        except BenchError as error:
            return str(error.status)
        client.send_message("subscribe")
        if number % 3 == 0:
            client.write_bytes(make_frame(TEXT, b"token %d" % number) + make_frame(TEXT, b"publish"))
        if number % 5 == 0:
            client.send_message("unsubscribe")
        while not (answer := await client.receive_message()).startswith(b"subscribed"):
            pass
        if answer != b"subscribed True":
            return answer.decode()
        return await self._leave_open_socket(client, way)

    async def _leave_open_socket(self, client: BenchClient, way: str) -> str:
        """Ends an open connection in this way; returns the server's close code, or ``gone``."""
        if way == "clean":
            return str(await client.close(1000, "bye"))
        if way == "closed by the server":
            client.send_message("close")
            return str(await client.wait_until_lost())
        if way == "failed":
            client.send_message("fail")
            return str(await client.wait_until_lost())
        if way == "wrong frame":
            client.write_bytes(b"\x8f\x80\0\0\0\0")
            return str(await client.wait_until_lost())
        if way.startswith("half a frame"):
            client.write_bytes(make_frame(TEXT, b"publish") + make_frame(TEXT, b"half of this is never sent")[:12])
            await asyncio.sleep(0)
        await self._end_without_close(client, way)
        return "gone"

    async def _end_without_close(self, client: BenchClient, way: str) -> None:
        """Resets or hangs up, and waits until the connection has ended."""
        if way.endswith("reset"):
            await asyncio.sleep(0)
            client.reset()
        else:
            client.hang_up()
        await client.wait_until_lost()


EXPECTED: Final = {
    "clean": "1000",
    "closed by the server": "4000",
    "refused": "403",
    "failed": "1011",
    "wrong frame": "1002",
}
"""The outcome of each way; "gone" for the others."""


def run(report: Report, kind: str, handlers: str, count: int, warm_up: int, parallel: int = 200) -> None:
    """Runs cycles; checks their outcomes, the close handlers, and that nothing is kept.

    Args:
        kind: of the worker.
        handlers: ``sync`` or ``async``.
        count: of all cycles, the warm-up included.
        warm_up: after how many cycles the memory is measured first.
        parallel: how many cycles run at a time.
    """
    settings: Settings = {"workers": 1, "worker_kind": cast(WorkerKind, kind)}
    application = AsyncCycling if handlers == "async" else Cycling
    with ServerProcess(CyclesControl, application, **settings) as server:
        report.log(f"cycles: worker kind {kind}, {handlers} handlers, core {server.core}, {count} cycles")
        run_in_loop(_cycle_and_check(report, server, count, warm_up, parallel))


async def _cycle_and_check(report: Report, server: ServerProcess, count: int, warm_up: int, parallel: int) -> None:
    """Runs the warm-up and the measured cycles, with a snapshot after each, and checks everything."""
    cycler = Cycler(server)
    fresh = await server.wait_until_empty()
    await server.ask_async("start_meddling")
    await cycler.run_cycles(warm_up, parallel)
    await server.ask_async("stop_meddling")
    warm = await server.wait_until_empty()
    report.show_figure(
        "memory after the warm-up", f"{format_mib(warm.rss_bytes)}, trimmed {format_mib(warm.trimmed_rss_bytes)}"
    )
    await server.ask_async("start_meddling")
    done = warm_up
    before_s = cast(float, await server.ask_async("read_cpu_s"))
    part = max(1, (count - warm_up) // 8)
    while done < count:
        part = min(part, count - done)
        await cycler.run_cycles(part, parallel)
        done += part
        report.show_figure(f"memory after {done}", format_mib(cast(int, await server.ask_async("read_rss_bytes"))))
    cpu_s = cast(float, await server.ask_async("read_cpu_s")) - before_s
    await server.ask_async("stop_meddling")
    end = await server.wait_until_empty()
    if count > warm_up:
        each_us = cpu_s / (count - warm_up) * 1e6
        report.show_figure("processor time of the server", f"{cpu_s:.1f} s, {each_us:.0f} µs a cycle with its meddler")
    _check_outcomes(report, cycler, count)
    _check_closes(report, end, cast(tuple[int, int, int], await server.ask_async("count_closes")))
    _check_kept(report, fresh, end)
    _check_growth(report, warm, end)


def _check_outcomes(report: Report, cycler: Cycler, count: int) -> None:
    """Checks that every cycle ended with the outcome of its way."""
    outcomes = cycler.outcomes
    report.check_equal("cycles", outcomes.total(), count)
    wrong = {
        text: number
        for text, number in outcomes.items()
        if text.partition(" -> ")[2] != EXPECTED.get(text.partition(" -> ")[0], "gone")
    }
    report.check(not wrong, "each ended as it should", wrong or "")


def _check_closes(report: Report, end: Snapshot, closes: tuple[int, int, int]) -> None:
    """Checks that each open socket had one close handler, and no other socket had any."""
    ran, twice, unopened = closes
    report.check_equal("close handlers run, of the sockets that were open", ran, end.statistics["sockets_opened"])
    report.check_equal("sockets with two close handlers", twice, 0)
    report.check_equal("sockets with a close handler that no open handler had accepted", unopened, 0)


def _check_kept(report: Report, fresh: Snapshot, end: Snapshot) -> None:
    """Checks that sockets, descriptors and tasks are as before the first cycle."""
    report.check(not any(end.gauges.values()), "nobody is left", end.gauges)
    report.check(not end.kept, "nothing is kept by broker, front, pool and worker", end.kept or "")
    report.check_equal("descriptors", end.descriptors, fresh.descriptors)
    report.check_equal("tasks", end.tasks, fresh.tasks)


def _check_growth(report: Report, warm: Snapshot, end: Snapshot) -> None:
    """Checks objects, blocks and memory at the end against those after the warm-up."""
    grown = end.types - warm.types
    report.show_figure("types that grew most", dict(grown.most_common(6)))
    too_much = {name: number for name, number in grown.items() if number > TYPE_MARGIN}
    report.check(not too_much, f"no type has grown by more than {TYPE_MARGIN} objects", too_much or "")
    blocks = end.blocks - warm.blocks
    report.check(blocks <= BLOCK_MARGIN, f"blocks grown since the warm-up, at most {BLOCK_MARGIN}", blocks)
    grown_bytes = end.trimmed_rss_bytes - warm.trimmed_rss_bytes
    report.show_figure("memory at the end", f"{format_mib(end.rss_bytes)}, trimmed {format_mib(end.trimmed_rss_bytes)}")
    bound = f"memory grown since the warm-up, at most {format_mib(RSS_MARGIN_BYTES)}"
    report.check(grown_bytes <= RSS_MARGIN_BYTES, bound, format_mib(grown_bytes))
