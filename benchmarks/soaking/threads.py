"""Threads: four of the main program publish as fast as they can, to consumers that keep up and to some that do not."""

import asyncio
import struct
import threading
import time
from collections import Counter
from typing import Final, cast

import wsbroker
from benchmarks.client import Client, connect, hang_up_all
from benchmarks.soaking.echo import Echo
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, mib
from benchmarks.soaking.server import Control, ServerProcess, rss_bytes
from wsbroker.settings.config import Config, Settings, WorkerKind

THREADS: Final = 4
READERS: Final = 8
"""Consumers that read all the time."""
DAWDLERS: Final = 4
"""Consumers that read now and then."""
SIZE: Final = 64
HEAD: Final = struct.Struct("<IQ")
"""Thread and number, at the beginning of every message."""
SAMPLE_S: Final = 0.01
SLACK_BYTES: Final = 16 << 20
ASK_S: Final = 0.5


class Flooding:
    """The application: everybody is a consumer until it says that it is an echo."""

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        """``consume`` subscribes; everything is sent back."""
        if str(data).startswith("consume"):
            wsbroker.subscribe(socket_id, "flood")
        wsbroker.send(socket_id, data)


class FloodControl(Control):
    """Also has the threads, and watches what waits for them."""

    def __init__(self, server: wsbroker.Server) -> None:
        super().__init__(server)
        self._sent = [0] * THREADS
        self._threads: list[threading.Thread] = []
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._most_waiting = 0
        self._most_rss = 0

    def publish(self, count: int, seconds: float) -> int:
        """Begins; each thread ends after so many messages or seconds. Returns the memory in use now."""
        before = rss_bytes()
        self._watcher.start()
        deadline = time.monotonic() + seconds
        for number in range(THREADS):
            thread = threading.Thread(target=self._publish, args=(number, count, deadline))
            self._threads.append(thread)
            thread.start()
        return before

    def _publish(self, number: int, count: int, deadline: float) -> None:
        padding = b"." * (SIZE - HEAD.size)
        index = 0
        while index < count and time.monotonic() < deadline:
            wsbroker.send_to_channel("flood", HEAD.pack(number, index) + padding)
            index += 1
        self._sent[number] = index

    def _watch(self) -> None:
        node = self.server._lifecycle.node
        assert node is not None
        while not self._is_over.wait(SAMPLE_S):
            self._most_waiting = max(self._most_waiting, node.local_api.waiting_bytes)
            self._most_rss = max(self._most_rss, rss_bytes())

    def is_publishing(self) -> bool:
        """Whether a thread still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def finish(self) -> tuple[list[int], int, int]:
        """Waits for the threads; returns what each has published, the most that waited, and the most memory."""
        for thread in self._threads:
            thread.join()
        wsbroker.subscriber_count("flood")  # everything before it has been applied
        self._is_over.set()
        self._watcher.join()
        return self._sent, self._most_waiting, self._most_rss

    def end(self) -> None:
        """No thread is left."""
        self._is_over.set()


class Consumer:
    """A subscriber: looks at the order, and counts."""

    def __init__(self) -> None:
        self.received: Counter[int] = Counter()
        """By thread."""
        self.disorders = 0
        """Messages that were not newer than the last one of their thread."""
        self.unanswered = 0
        """Answers that were dropped, as publications are, because too much waited for this consumer."""
        self._answer = b""
        self._answers = 0
        self._news = asyncio.Event()
        self._last = [-1] * THREADS
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection."""
        assert self._client is not None
        return self._client

    async def connect(self, server: ServerProcess, is_slow: bool) -> None:
        """Opens it and subscribes."""
        buffer = 16 * 1024 if is_slow else None
        self._client = await connect(server.address, on_message=self._take, receive_buffer=buffer)
        await self.ask("consume")

    async def ask(self, text: str) -> None:
        """Waits for the answer to a message, and so for everything that was published before it was handled. Asks again
        while the answer is dropped."""
        before = self._answers
        asked = 0
        is_answered = False
        while not is_answered and not self.client.is_lost:
            asked += 1
            question = f"{text} {asked}"
            self.client.send(question)
            is_answered = await self._has_come(question.encode())
        self.unanswered += asked - (self._answers - before)

    async def _has_come(self, answer: bytes) -> bool:
        """Waits for an answer; False if it does not come in time."""
        try:
            async with asyncio.timeout(ASK_S):
                while self._answer != answer:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _take(self, payload: bytes) -> None:
        if len(payload) != SIZE:
            self._answer = payload
            self._answers += 1
            self._news.set()
            return
        thread, index = HEAD.unpack_from(payload)
        if index <= self._last[thread]:
            self.disorders += 1
        self._last[thread] = index
        self.received[thread] += 1


def run(report: Report, kind: str, count: int, seconds: float, command_bytes: int) -> None:
    """Runs it.

    Args:
        kind: of the worker.
        count: messages of each thread, at most.
        seconds: how long they may take.
        command_bytes: the setting.
    """
    settings: Settings = {
        "workers": 1,
        "worker_kind": cast(WorkerKind, kind),
        "slow_consumer": "drop_new",
        "command_bytes": command_bytes,
        # The kernel holds megabytes for a consumer on loopback, and until a third of that is read no progress is seen.
        "write_timeout": 120.0,
    }
    with ServerProcess(FloodControl, Flooding, **settings) as server:
        report.say(f"threads: {THREADS} publish, worker kind {kind}, core {server.core}")
        run_in_loop(_soak(report, server, Config.of(**settings), count, seconds))


async def _soak(report: Report, server: ServerProcess, config: Config, count: int, seconds: float) -> None:
    consumers = [Consumer() for _ in range(READERS + DAWDLERS)]
    for number, consumer in enumerate(consumers):
        await consumer.connect(server, is_slow=number >= READERS)
    async with Echo(server.address) as quiet:
        await asyncio.sleep(min(seconds / 10, 1))
    is_over = asyncio.Event()
    async with Echo(server.address) as meanwhile:
        begun_s = time.monotonic()
        before_bytes = cast(int, await server.answer("publish", count, seconds))
        dawdling = [asyncio.ensure_future(_dawdle(consumer.client, is_over)) for consumer in consumers[READERS:]]
        while await server.answer("is_publishing"):
            await asyncio.sleep(0.05)
        took_s = time.monotonic() - begun_s
        sent, most_waiting, most_bytes = cast(tuple[list[int], int, int], await server.answer("finish"))
        is_over.set()
        await asyncio.gather(*dawdling)
    await asyncio.gather(*(consumer.ask("received") for consumer in consumers))
    statistics = cast("dict[str, int]", await server.answer("statistics"))
    report.figure("published by each thread", f"{sent} in {took_s:.1f} s, {sum(sent) / took_s:.0f} a second in all")
    received = [consumer.received.total() for consumer in consumers]
    report.figure("received by those that read all the time", received[:READERS])
    report.figure("received by those that read now and then", received[READERS:])
    report.figure("round trips of an echo, before", quiet.text)
    report.figure("round trips of an echo, meanwhile", meanwhile.text)
    report.equal("messages out of order", [consumer.disorders for consumer in consumers], [0] * len(consumers))
    dropped = sum(sent) * len(consumers) - sum(received) + sum(consumer.unanswered for consumer in consumers)
    report.equal("messages not received are those dropped for slow consumers", dropped, statistics["frames_dropped"])
    limit = config.command_bytes
    report.check(most_waiting <= limit, f"at most {mib(limit)} of calls waited", mib(most_waiting))
    bound = config.command_bytes + len(consumers) * config.max_queue_bytes + SLACK_BYTES
    grown_bytes = most_bytes - before_bytes
    report.check(grown_bytes <= bound, f"memory grown by at most {mib(bound)}", mib(grown_bytes))
    report.check(min(sent) * 4 >= max(sent), "no thread has published less than a quarter of another", sent)
    report.equal("consumers lost", sum(consumer.client.is_lost for consumer in consumers), 0)
    await hang_up_all(consumer.client for consumer in consumers)


async def _dawdle(client: Client, is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        client.pause_reading()
        await asyncio.sleep(0.2)
        client.resume_reading()
        await asyncio.sleep(0.01)
