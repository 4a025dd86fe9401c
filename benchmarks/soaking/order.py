"""Order: a thousand sockets on overlapping channels, and one history of publications that explains what each got.

Publications come from handlers, from threads of the main program and as direct sends; some exclude, some sockets join
and leave a channel meanwhile, some stop reading for a while. What is published is a function of publisher and number
(`Plan`), so both processes know it without telling each other.
"""

import asyncio
import threading
from random import Random
from typing import Final, cast

import wsbroker
from benchmarks.client import Client, connect, frame, hang_up_all, source_address
from benchmarks.soaking.history import Checks, Observer
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.plan import BURST, MAIN, MAIN_THREADS, Plan
from benchmarks.soaking.report import Report, mib
from benchmarks.soaking.server import Control, ServerProcess
from wsbroker import HttpRequest
from wsbroker.settings.config import Settings, WorkerKind


class Ordered:
    """The application."""

    ids: Final[dict[int, int]] = {}
    """Socket ids by number."""
    plan = Plan(1, 1)

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> None:
        """The path is the number."""
        number = int(request.pathname[1:])
        Ordered.ids[number] = socket_id
        for channel in Ordered.plan.memberships(number):
            wsbroker.subscribe_nowait(socket_id, f"{channel}")

    def handle_socket_message(self, data: str | bytes, socket_id: int, token: bytes | None) -> None:
        """Does what the first letter says."""
        assert isinstance(data, str)
        kind = data[0]
        if kind in "PD":
            publish(data)
        elif kind == "E":
            wsbroker.send(socket_id, data)
        elif kind == "T":
            wsbroker.set_token(socket_id, data)
        elif kind == "t":
            wsbroker.send(socket_id, token or b"T:nothing")
        else:
            self._roam(kind, data, socket_id)

    def _roam(self, kind: str, data: str, socket_id: int) -> None:
        _, number, index, channel = data.split(":")
        wsbroker.send_to_channel(channel, f"{kind}1:{number}:{index}:{channel}")
        asks = int(index) % 4 < 2
        if kind == "J":
            change = wsbroker.subscribe if asks else wsbroker.subscribe_nowait
        else:
            change = wsbroker.unsubscribe if asks else wsbroker.unsubscribe_nowait
        change(socket_id, channel)
        wsbroker.send_to_channel(channel, f"{kind}2:{number}:{index}:{channel}")


def publish(message: str) -> None:
    """Asks for what a message of the plan says."""
    kind, publisher, index, place, _ = message.split(":")
    if kind == "D":
        wsbroker.send(Ordered.ids[int(place)], message)
        return
    excluded = Ordered.plan.excluded(int(publisher), int(index))
    wsbroker.send_to_channel(place, message, exclude=[Ordered.ids[number] for number in excluded])


class OrderControl(Control):
    """Also has the main program's publishers."""

    def __init__(self, server: wsbroker.Server) -> None:
        super().__init__(server)
        self._threads: list[threading.Thread] = []

    def set_plan(self, plan: Plan) -> None:
        """Before the first socket comes."""
        Ordered.plan = plan

    def publish(self, count: int) -> None:
        """Has each thread publish this many messages."""
        for number in range(MAIN, MAIN + MAIN_THREADS):
            self._threads.append(threading.Thread(target=self._publish, args=(number, count)))
            self._threads[-1].start()

    def _publish(self, number: int, count: int) -> None:
        for index in range(count):
            publish(Ordered.plan.message(number, index))
            if index % BURST == 0:  # waits for the loop: these threads are not to be done before the others begin
                wsbroker.subscriber_count("0")

    def end(self) -> None:
        """Waits for the threads."""
        for thread in self._threads:
            thread.join()


class Socket:
    """A client, with the number by which the plan knows it."""

    def __init__(self, number: int, observer: Observer) -> None:
        self.number = number
        self.answers = observer.answers[number]
        self._observer = observer
        self._client: Client | None = None
        self._answered = asyncio.Event()

    @property
    def client(self) -> Client:
        """The connection."""
        assert self._client is not None
        return self._client

    async def connect(self, server: ServerProcess) -> None:
        """Opens it."""
        self._client = await connect(
            server.address, f"/{self.number}", on_message=self._take, source=source_address(self.number)
        )

    def _take(self, payload: bytes) -> None:
        self._observer.take(self.number, payload)
        if payload[0] == 0x45:
            self._answered.set()

    async def say(self, *messages: str) -> None:
        """Sends messages in one piece and waits until the last has been handled, and all that was applied before it has
        been received."""
        self._answered.clear()
        self.client.write(b"".join([frame(message.encode()) for message in (*messages, "E")]))
        await self._answered.wait()


def run(
    report: Report, kind: str, workers: int, count: int, sockets: int = 1000, channels: int = 20, limit_s: float = 400
) -> None:
    """Runs it.

    Args:
        kind: of the workers.
        workers: how many.
        count: messages of each publisher (a tenth of the sockets, and two threads of the main program with ten times
            as many).
        limit_s: the longest it may take.
    """
    plan = Plan(sockets, channels)
    settings: Settings = {
        "workers": workers,
        "worker_kind": cast(WorkerKind, kind),
        "max_queue_bytes": 64 << 20,  # who stops reading for a while is to miss nothing
    }
    with ServerProcess(OrderControl, Ordered, **settings) as server:
        report.say(f"order: {workers} x {kind}, core {server.core}, {sockets} sockets, {channels} channels")
        run_in_loop(_soak(report, server, plan, count, limit_s))


async def _soak(report: Report, server: ServerProcess, plan: Plan, count: int, limit_s: float) -> None:
    observer = Observer()
    everybody = [Socket(number, observer) for number in range(plan.sockets)]
    async with asyncio.timeout(limit_s):
        await server.answer("set_plan", plan)
        for some in (everybody[at : at + 100] for at in range(0, plan.sockets, 100)):
            await asyncio.gather(*(one.connect(server) for one in some))
        await asyncio.gather(*(one.say() for one in everybody))
        begun_s = asyncio.get_running_loop().time()
        before_s = cast(float, await server.answer("cpu_s"))
        await server.answer("publish", count * 10)
        is_over = asyncio.Event()
        dawdling = [asyncio.ensure_future(_dawdle(everybody[number], is_over)) for number in plan.dawdlers()]
        roaming = [asyncio.ensure_future(_roam(everybody[number], plan, is_over)) for number in plan.roamers()]
        tokens = [asyncio.ensure_future(_change_token(one, count // BURST + 1)) for one in everybody]
        await asyncio.gather(*(_publish(everybody[number], plan, count) for number in plan.publishers()))
        await server.answer("end")
        is_over.set()
        joins = sum(await asyncio.gather(*roaming))
        await asyncio.gather(*dawdling, *tokens)
        await asyncio.gather(*(one.say() for one in everybody))
        took_s = asyncio.get_running_loop().time() - begun_s
        cpu_s = cast(float, await server.answer("cpu_s")) - before_s
    deliveries = sum(map(len, observer.logs.values()))
    report.figure("publications and direct sends", len(observer.nodes))
    report.figure("joins and leaves", joins)
    report.figure("deliveries", f"{deliveries} in {took_s:.1f} s, {cpu_s / deliveries * 1e6:.2f} µs of the server each")
    report.figure("memory", mib(cast(int, await server.answer("rss_bytes"))))
    statistics = cast("dict[str, object]", await server.answer("statistics"))
    report.equal("sockets still open", statistics["sockets"], plan.sockets)
    await hang_up_all(one.client for one in everybody)
    Checks(report, plan, observer, count).all()


async def _publish(one: Socket, plan: Plan, count: int) -> None:
    for first in range(0, count, BURST):
        await one.say(*(plan.message(one.number, index) for index in range(first, min(first + BURST, count))))


async def _roam(one: Socket, plan: Plan, is_over: asyncio.Event) -> int:
    """Joins and leaves until it is over, at least once; returns how often."""
    channel = plan.roams(one.number)
    random = Random(one.number)
    index = 0
    while index == 0 or not is_over.is_set():
        await one.say(f"J:{one.number}:{index}:{channel}")
        for _ in range(random.randrange(4)):
            await one.say()
        await one.say(f"L:{one.number}:{index + 1}:{channel}")
        index += 2
    return index


async def _dawdle(one: Socket, is_over: asyncio.Event) -> None:
    """Stops reading now and then."""
    random = Random(one.number)
    while not is_over.is_set():
        one.client.pause_reading()
        await asyncio.sleep(random.random() * 0.3)
        one.client.resume_reading()
        await asyncio.sleep(random.random() * 0.1)


async def _change_token(one: Socket, times: int) -> None:
    """Sets tokens and has each told by the next message of the same segment."""
    for index in range(times):
        one.client.write(b"".join(frame(text.encode()) for text in (f"T:{index}", "t", f"T:{index}'", "t")))
        expected = 2 * index + 2
        while sum(answer.startswith(b"T") for answer in one.answers) < expected:
            await asyncio.sleep(0.02)
