"""Threads: four of the main program publish as fast as they can, to consumers that keep up and to slow ones."""

import asyncio
import struct
import threading
import time
from collections import Counter
from typing import Final, cast

import wsbroker
from benchmarks.soak.echo import EchoProbe
from benchmarks.soak.report import Report, format_mib
from benchmarks.soak.server import Control, ServerProcess, run_in_loop
from wsbroker.bench.client import BenchClient, connect, hang_up_all
from wsbroker.settings.config import Config, Settings, WorkerKind

THREADS: Final = 4
FAST_CONSUMERS: Final = 8
SLOW_CONSUMERS: Final = 4
"""These pause reading most of the time."""
SIZE: Final = 64
HEAD: Final = struct.Struct("<IQ")
"""Thread and number, at the beginning of every publication."""
SLACK_BYTES: Final = 16 << 20
ASK_S: Final = 0.5


class Consuming:
    """Subscribes the sockets that send ``consume`` to the channel of the threads, and echoes every message."""

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        """Subscribes the socket if the message says so, then echoes the message."""
        if str(data).startswith("consume"):
            wsbroker.subscribe(socket_id, "flood")
        wsbroker.send(socket_id, data)


class ThreadsControl(Control):
    """Runs the publishing threads of the main program."""

    def __init__(self, server: wsbroker.Server) -> None:
        super().__init__(server)
        self._sent = [0] * THREADS
        self._threads: list[threading.Thread] = []

    def start_publishing(self, count: int, seconds: float) -> int:
        """Starts the threads, each for so many messages or seconds; returns the resident memory now."""
        deadline = time.monotonic() + seconds
        before = self.start_memory_watch()
        for number in range(THREADS):
            thread = threading.Thread(target=self._publish_until, args=(number, count, deadline))
            self._threads.append(thread)
            thread.start()
        return before

    def _publish_until(self, number: int, count: int, deadline: float) -> None:
        """Publishes numbered messages until the count or the deadline. Runs in a thread."""
        padding = b"." * (SIZE - HEAD.size)
        index = 0
        while index < count and time.monotonic() < deadline:
            wsbroker.send_to_channel("flood", HEAD.pack(number, index) + padding)
            index += 1
        self._sent[number] = index

    def is_publishing(self) -> bool:
        """Whether a publishing thread still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def count_sent(self) -> list[int]:
        """Returns how many messages each thread has published, once the broker has applied all of them."""
        for thread in self._threads:
            thread.join()
        wsbroker.subscriber_count("flood")  # an answer comes after everything before it was applied
        return self._sent


class Consumer:
    """A subscriber that counts what it receives and checks the order of each thread's messages."""

    def __init__(self) -> None:
        self.received: Counter[int] = Counter()
        """By thread."""
        self.disorders = 0
        """Messages that were not newer than the last one of their thread."""
        self.unanswered = 0
        """Answers that the broker dropped, as it drops publications, because too much waited for this consumer."""
        self._answer = b""
        self._answers = 0
        self._answered_event = asyncio.Event()
        self._last = [-1] * THREADS
        self._client: BenchClient | None = None

    @property
    def client(self) -> BenchClient:
        """The connection, once it is open."""
        assert self._client is not None
        return self._client

    async def connect(self, server: ServerProcess, is_slow: bool) -> None:
        """Opens the connection and subscribes."""
        buffer = 16 * 1024 if is_slow else None
        self._client = await connect(server.target, on_message=self._count_message, receive_buffer=buffer)
        await self.ask("consume")

    async def ask(self, text: str) -> None:
        """Sends a message until its echo comes: then everything published before has come or was dropped."""
        before = self._answers
        asked = 0
        is_answered = False
        while not is_answered and not self.client.is_lost:
            asked += 1
            question = f"{text} {asked}"
            self.client.send_message(question)
            is_answered = await self._wait_for_answer(question.encode())
        self.unanswered += asked - (self._answers - before)

    async def _wait_for_answer(self, answer: bytes) -> bool:
        """Waits for an answer, at most ASK_S; returns whether it came."""
        try:
            async with asyncio.timeout(ASK_S):
                while self._answer != answer:
                    self._answered_event.clear()
                    await self._answered_event.wait()
        except TimeoutError:
            return False
        return True

    def _count_message(self, payload: bytes) -> None:
        """Counts a publication, or notes an answer. Called by the client for each message."""
        if len(payload) != SIZE:
            self._answer = payload
            self._answers += 1
            self._answered_event.set()
            return
        thread, index = HEAD.unpack_from(payload)
        self.disorders += index <= self._last[thread]
        self._last[thread] = index
        self.received[thread] += 1


def run(report: Report, kind: str, count: int, seconds: float, command_bytes: int) -> None:
    """Publishes from threads as fast as they can; checks order, drops, memory and fairness.

    Args:
        kind: of the worker.
        count: messages of each thread, at most.
        seconds: how long they may take.
        command_bytes: the setting: how many bytes of calls may wait.
    """
    settings: Settings = {
        "workers": 1,
        "worker_kind": cast(WorkerKind, kind),
        "slow_consumer": "drop_new",
        "command_bytes": command_bytes,
        # The kernel holds megabytes for a consumer on loopback, and shows no progress until a third of that is read.
        "write_timeout": 120.0,
    }
    with ServerProcess(ThreadsControl, Consuming, **settings) as server:
        report.log(f"threads: {THREADS} publish, worker kind {kind}, core {server.core}")
        run_in_loop(_publish_and_check(report, server, Config.of(**settings), count, seconds))


async def _publish_and_check(report: Report, server: ServerProcess, config: Config, count: int, seconds: float) -> None:
    """Connects the consumers, lets the threads publish, and checks everything."""
    consumers = [Consumer() for _ in range(FAST_CONSUMERS + SLOW_CONSUMERS)]
    for number, consumer in enumerate(consumers):
        await consumer.connect(server, is_slow=number >= FAST_CONSUMERS)
    async with EchoProbe(server.target) as quiet:
        await asyncio.sleep(min(seconds / 10, 1))
    is_over = asyncio.Event()
    async with EchoProbe(server.target) as meanwhile:
        begun_s = time.monotonic()
        before_bytes = cast(int, await server.ask_async("start_publishing", count, seconds))
        slow = [asyncio.ensure_future(_read_slowly(each.client, is_over)) for each in consumers[FAST_CONSUMERS:]]
        while await server.ask_async("is_publishing"):
            await asyncio.sleep(0.05)
        took_s = time.monotonic() - begun_s
        sent = cast("list[int]", await server.ask_async("count_sent"))
        most_bytes, most_waiting = cast("tuple[int, int]", await server.ask_async("read_peaks"))
        is_over.set()
        await asyncio.gather(*slow)
    await asyncio.gather(*(consumer.ask("received") for consumer in consumers))
    statistics = await server.read_statistics()
    rate = f"{sent} in {took_s:.1f} s, {sum(sent) / took_s:.0f} a second in all"
    report.show_figure("published by each thread", rate)
    received = [consumer.received.total() for consumer in consumers]
    report.show_figure("received by those that read all the time", received[:FAST_CONSUMERS])
    report.show_figure("received by those that read now and then", received[FAST_CONSUMERS:])
    report.show_figure("round trips of an echo, before", quiet.summary)
    report.show_figure("round trips of an echo, meanwhile", meanwhile.summary)
    report.check_equal("messages out of order", [consumer.disorders for consumer in consumers], [0] * len(consumers))
    dropped = sum(sent) * len(consumers) - sum(received) + sum(consumer.unanswered for consumer in consumers)
    claim = "messages not received are those dropped for slow consumers"
    report.check_equal(claim, dropped, statistics["frames_dropped"])
    limit = config.command_bytes
    report.check(most_waiting <= limit, f"at most {format_mib(limit)} of calls waited", format_mib(most_waiting))
    bound = config.command_bytes + len(consumers) * config.max_queue_bytes + SLACK_BYTES
    grown_bytes = most_bytes - before_bytes
    report.check(grown_bytes <= bound, f"memory grown by at most {format_mib(bound)}", format_mib(grown_bytes))
    report.check(min(sent) * 4 >= max(sent), "no thread has published less than a quarter of another", sent)
    report.check_equal("consumers lost", sum(consumer.client.is_lost for consumer in consumers), 0)
    await hang_up_all(consumer.client for consumer in consumers)


async def _read_slowly(client: BenchClient, is_over: asyncio.Event) -> None:
    """Pauses the client's reading most of the time, until the event is set."""
    while not is_over.is_set():
        client.pause_reading()
        await asyncio.sleep(0.2)
        client.resume_reading()
        await asyncio.sleep(0.01)
