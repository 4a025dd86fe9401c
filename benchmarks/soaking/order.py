"""Order: a thousand sockets on overlapping channels, and one history of publications that explains what each got.

Publications come from handlers, from threads of the main program and as direct sends; some exclude, some sockets join
and leave a channel meanwhile, some stop reading for a while. What is published is a function of publisher and number
(`Plan`), so both processes know it without telling each other.

The history of a channel is what its *reference*, a member that never leaves and is never excluded, has received. Every
other member must have received exactly that, less what excluded it and less what came before it joined and after it
left; joining and leaving are publications themselves, one just before and one just after. Across channels and direct
sends there must be one order of everything in which each socket's log and each publisher's program are in order: the
graph of "was received, or asked for, right before" must have no cycle.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Final, NamedTuple, cast

import wsbroker
from benchmarks.client import Client, connect, frame, hang_up_all, source_address
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, mib
from benchmarks.soaking.server import Control, ServerProcess
from wsbroker import HttpRequest
from wsbroker.config import Settings, WorkerKind

BURST: Final = 16
"""Messages that a publisher sends in one piece before it waits for the answer to the last."""
MAIN: Final = 1_000_000
"""Numbers of the main program's publishers begin here."""
MAIN_THREADS: Final = 2
OUT: Final = "out"
JOINING: Final = "joining"
IN: Final = "in"
LEAVING: Final = "leaving"
AFTER_MARK: Final = {"J1": JOINING, "J2": IN, "L1": LEAVING, "L2": OUT}

LARGE: Final = 8 * 1024
"""A burst of these reaches the cap of a channel's batch."""


class Plan(NamedTuple):
    """Who does what."""

    sockets: int
    channels: int

    def publishers(self) -> range:
        """Numbers of the sockets that publish."""
        return range(1, self.sockets, 10)

    def roamers(self) -> list[int]:
        """Numbers of the sockets that join and leave; references are none."""
        return [number for number in range(4, self.sockets, 5) if number >= self.channels]

    def dawdlers(self) -> list[int]:
        """Numbers of the sockets that stop reading for a while; references are none."""
        return [number for number in range(2, self.sockets, 20) if number >= self.channels]

    def memberships(self, number: int) -> list[int]:
        """The channels a socket is subscribed to from the start; a channel's reference has its number."""
        found = [number]
        if number % 2:
            found.append(number * 3 + 1)
        if number % 3 == 0:
            found.append(number * 7 + 2)
        if number % 10 == 0:
            found += [number + 4, number + 9]
        return sorted({channel % self.channels for channel in found})

    def roams(self, number: int) -> int:
        """The channel that a roamer joins and leaves."""
        taken = self.memberships(number)
        return next(c for step in range(self.channels) if (c := (number * 11 + 5 + step) % self.channels) not in taken)

    def message(self, publisher: int, index: int) -> str:
        """What a publisher sends as its `index`-th message: ``KIND:publisher:index:place:padding``."""
        if index % 10 == 9:
            return f"D:{publisher}:{index}:{(publisher * 31 + index * 17) % self.sockets}:"
        size = LARGE if publisher % 20 == 1 and index // BURST % 4 == 0 else index * 37 % 200
        return f"P:{publisher}:{index}:{(publisher + index * 3) % self.channels}:{'.' * size}"

    def excluded(self, publisher: int, index: int) -> list[int]:
        """Numbers of the sockets that do not get it."""
        others = self.sockets - self.channels
        if index % 4 or others <= 0:
            return []
        return [self.channels + (publisher * 5 + index * 7 + step * 13) % others for step in range(8)]


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


class Node(NamedTuple):
    """A publication or a direct send."""

    kind: str
    """``P``, ``D``; ``J1``, ``J2``, ``L1``, ``L2``: around joining and leaving"""
    publisher: int
    step: int
    """of the publisher's program"""
    place: int
    """channel, or who it is sent to"""


class Observer:
    """What all sockets have received, as numbers of nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.logs: defaultdict[int, list[int]] = defaultdict(list)
        self.answers: defaultdict[int, list[bytes]] = defaultdict(list)
        """What was no publication: answers to ``E`` and ``t``."""
        self._known: dict[bytes, int] = {}

    def take(self, number: int, payload: bytes) -> None:
        """A message that socket `number` has received."""
        node = self._known.get(payload)
        if node is None:
            kind = payload[:1]
            if kind in b"ET":
                self.answers[number].append(payload)
                return
            node = self._known[payload] = len(self.nodes)
            name, publisher, step, place = payload.decode().split(":")[:4]
            self.nodes.append(Node(name, int(publisher), int(step), int(place)))
        self.logs[number].append(node)


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


class Checks:
    """Compares what was received with what one history allows."""

    def __init__(self, report: Report, plan: Plan, observer: Observer, count: int) -> None:
        self._report = report
        self._plan = plan
        self._observer = observer
        self._count = count
        self._nodes = observer.nodes
        self._by_channel = {number: self._split(log) for number, log in observer.logs.items()}

    def _split(self, log: list[int]) -> dict[int, list[int]]:
        """A socket's log by channel; direct sends stand under -1."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for node in log:
            kind, _, _, place = self._nodes[node]
            found[-1 if kind == "D" else place].append(node)
        return dict(found)

    def all(self) -> None:
        """Every check."""
        plan = self._plan
        histories = {channel: self._by_channel.get(channel, {}).get(channel, []) for channel in range(plan.channels)}
        self._check_histories(histories)
        self._check_members(histories)
        self._check_direct()
        self._check_tokens()
        self._check_one_order()

    def _programs(self) -> Iterator[tuple[int, int]]:
        """Publishers, with how many messages each."""
        for number in self._plan.publishers():
            yield number, self._count
        for number in range(MAIN, MAIN + MAIN_THREADS):
            yield number, self._count * 10

    def _check_histories(self, histories: dict[int, list[int]]) -> None:
        """Each publisher's messages are in its channels' histories, all of them, once, in order."""
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for channel, history in histories.items():
            for node in history:
                kind, publisher, index, _ = self._nodes[node]
                if kind == "P":
                    found[publisher, channel].append(index)
        expected: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for publisher, count in self._programs():
            for index in range(count):
                kind, _, _, place, _ = self._plan.message(publisher, index).split(":")
                if kind == "P":
                    expected[publisher, int(place)].append(index)
        wrong = [key for key in expected if found[key] != expected[key]]
        what = "each publisher's publications are in their channel's history, once and in order"
        self._report.check(found.keys() == expected.keys() and not wrong, what, wrong[:5] or "")

    def _check_members(self, histories: dict[int, list[int]]) -> None:
        """Every member has received its part of the history."""
        plan = self._plan
        wrong: list[tuple[int, int]] = []
        checked = 0
        roamers = set(plan.roamers())
        for number, channels in self._by_channel.items():
            expected_channels = set(plan.memberships(number))
            roams = plan.roams(number) if number in roamers else -1
            for channel in expected_channels | channels.keys() - {-1}:
                received = channels.get(channel, [])
                checked += len(received)
                if channel in expected_channels:
                    is_right = received == self._visible(histories[channel], number)
                else:
                    is_right = channel == roams and self._is_roamers_part(number, received, histories[channel])
                if not is_right:
                    wrong.append((number, channel))
        what = "every member has received the history of its time in a channel, less what excluded it"
        self._report.check(not wrong, what, f"(socket, channel) {wrong[:5]}" if wrong else checked)

    def _visible(self, history: list[int], number: int) -> list[int]:
        return [node for node in history if not self._is_excluded(node, number)]

    def _is_excluded(self, node: int, number: int) -> bool:
        kind, publisher, index, _ = self._nodes[node]
        return kind == "P" and number in self._plan.excluded(publisher, index)

    def _is_roamers_part(self, number: int, received: list[int], history: list[int]) -> bool:
        """Everything while it was a member. Between the two marks around joining it may begin at any moment, and stop
        at any between those around leaving."""
        got = set(received)
        if received != [node for node in history if node in got]:
            return False
        state = OUT
        for node in history:
            kind, publisher, _, _ = self._nodes[node]
            is_received = node in got
            if kind != "P" and publisher == number:
                if is_received != (kind in ("J2", "L1")):
                    return False
                state = AFTER_MARK[kind]
            elif self._is_excluded(node, number):
                if is_received:
                    return False
            elif state == JOINING and is_received:
                state = IN
            elif state == LEAVING and not is_received:
                state = OUT
            elif state in (OUT, IN) and is_received != (state == IN):
                return False
        return True

    def _check_direct(self) -> None:
        expected: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for publisher, count in self._programs():
            for index in range(count):
                kind, _, _, place, _ = self._plan.message(publisher, index).split(":")
                if kind == "D":
                    expected[int(place), publisher].append(index)
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, channels in self._by_channel.items():
            for node in channels.get(-1, []):
                sent = self._nodes[node]
                found[number if number == sent.place else -1, sent.publisher].append(sent.step)
        self._report.check(found == expected, "every direct send is there, once and in order", len(expected))

    def _check_tokens(self) -> None:
        times = self._count // BURST + 1
        expected = [answer.encode() for index in range(times) for answer in (f"T:{index}", f"T:{index}'")]
        wrong = [
            number
            for number in range(self._plan.sockets)
            if [answer for answer in self._observer.answers[number] if answer[0] != 0x45] != expected
        ]
        what = "every token was seen by the next message of its segment"
        told = len(expected) * self._plan.sockets
        self._report.check(not wrong, what, f"not by those of {wrong[:5]}" if wrong else told)

    def _asked_at(self, node: int) -> tuple[int, str]:
        """Where a node stands in its publisher's program."""
        found = self._nodes[node]
        return found.step, found.kind

    def _check_one_order(self) -> None:
        """Sorts everything topologically, which fails exactly if there is a cycle."""
        programs: defaultdict[int, list[int]] = defaultdict(list)
        for node in sorted(range(len(self._nodes)), key=self._asked_at):
            programs[self._nodes[node].publisher].append(node)
        after: list[set[int]] = [set() for _ in self._nodes]
        for log in (*self._observer.logs.values(), *programs.values()):
            for first, second in pairwise(log):
                after[first].add(second)
        before = [0] * len(self._nodes)
        for successors in after:
            for node in successors:
                before[node] += 1
        free = [node for node, number in enumerate(before) if number == 0]
        done = 0
        while free:
            done += 1
            for node in after[free.pop()]:
                before[node] -= 1
                if before[node] == 0:
                    free.append(node)
        stuck = [self._nodes[node] for node, number in enumerate(before) if number]
        what = "one order explains what all sockets received and all publishers asked for"
        edges = sum(map(len, after))
        self._report.check(not stuck, what, stuck[:5] if stuck else f"{done} in a row, {edges} pairs compared")
