"""Threads: four of the main program publish as fast as they can, to consumers that keep up and to slow ones."""

import asyncio
import time
from typing import Final

from benchmarks.soak.report import format_mib
from benchmarks.soak.run import NEAR_KIND, Option, Soak
from benchmarks.soak.server import PUBLICATION, Control
from wsbroker.bench.client import BenchClient
from wsbroker.settings.config import Config, Settings

THREADS: Final = 4
CHANNEL: Final = "flood"
FAST_CONSUMERS: Final = 8
SLOW_CONSUMERS: Final = 4
"""These pause reading most of the time."""
SLACK_BYTES: Final = 16 << 20
ASK_S: Final = 0.5


class Threads(Soak):
    """Publishes from threads as fast as they can; checks order, drops, memory and fairness."""

    options = (
        NEAR_KIND,
        Option("count", 1 << 40, "messages of each thread, at most"),
        Option("seconds", 10.0),
        Option("command_bytes", 16 << 20, "the setting: of calls that may wait"),
    )

    def make_settings(self) -> Settings:
        """Returns the settings of the server."""
        return {
            **super().make_settings(),
            "slow_consumer": "drop_new",
            "command_bytes": self.chosen.command_bytes,
            # The kernel holds megabytes for a consumer on loopback, and shows no progress until a third of that is
            # read.
            "write_timeout": 120.0,
        }

    def compute_bound_bytes(self, config: Config) -> float:
        """Returns the bytes of calls and of outgoing messages that may wait."""
        return config.command_bytes + (FAST_CONSUMERS + SLOW_CONSUMERS) * config.max_queue_bytes + SLACK_BYTES

    async def prepare(self) -> None:
        """Subscribes the consumers."""
        clients = await self.connect_all(FAST_CONSUMERS)
        clients += await self.connect_all(SLOW_CONSUMERS, receive_buffer=16 * 1024)
        for client in clients:
            client.send_message(f"join {CHANNEL}")
            assert await client.receive_message() == b"1"
        self._consumers = list(map(Consumer, clients))

    async def drive(self) -> None:
        """Lets the threads publish, and checks everything."""
        consumers, is_over, start_s = self._consumers, asyncio.Event(), time.monotonic()
        await self.server.call(Control.start_publishing, CHANNEL, THREADS, self.chosen.count, self.chosen.seconds)
        slow = [asyncio.ensure_future(each.read_slowly(is_over)) for each in consumers[FAST_CONSUMERS:]]
        while (sent := await self.server.call(Control.count_sent, CHANNEL, THREADS)) is None:
            await asyncio.sleep(ASK_S / 10)
        took_s = time.monotonic() - start_s
        is_over.set()
        await asyncio.gather(*slow, *(consumer.wait_for_all() for consumer in consumers))
        rate = f"{sent} in {took_s:.1f} s, {sum(sent) / took_s:.0f} a second in all"
        self.report.show_figure("published by each thread", rate)
        received = [consumer.received for consumer in consumers]
        self.report.show_figure("received by those that read all the time", received[:FAST_CONSUMERS])
        self.report.show_figure("received by those that read now and then", received[FAST_CONSUMERS:])
        self.report.check_equal("messages out of order", sum(consumer.disorders for consumer in consumers), 0)
        dropped = sum(sent) * len(consumers) - sum(received) + sum(consumer.unanswered for consumer in consumers)
        statistics = await self.server.call(Control.read_statistics)
        claim = "messages not received are those dropped for slow consumers"
        self.report.check_equal(claim, dropped, statistics["frames_dropped"])
        most_waiting, limit_bytes = await self.server.call(Control.read_most_waiting), self.chosen.command_bytes
        self.report.check_at_most("bytes of calls that waited", most_waiting, limit_bytes, format_mib)
        is_fair = min(sent) * 4 >= max(sent)
        self.report.check(is_fair, "no thread has published less than a quarter of another", sent)


class Consumer:
    """A subscriber that counts publications and checks the order of each thread's.

    Args:
        client: the connection, subscribed.
    """

    def __init__(self, client: BenchClient) -> None:
        self.client: Final = client
        self.received = 0
        self.disorders = 0
        """Publications that were not newer than the last one of their thread."""
        self.unanswered = 0
        """Answers that the broker dropped, as it drops publications, because too much waited for this consumer."""
        self._answer = b""
        self._last = [-1] * THREADS
        client.on_message = self._count_message

    async def wait_for_all(self) -> None:
        """Sends messages until the echo of one comes: then everything published before has come or was dropped."""
        asked = 0
        while not self.client.is_lost:
            asked += 1
            self.unanswered += 1
            self.client.send_message(f"received {asked}")
            end_s = time.monotonic() + ASK_S
            while time.monotonic() < end_s:
                await asyncio.sleep(0.01)
                if self._answer == f"received {asked}".encode():
                    return

    def _count_message(self, payload: bytes) -> None:
        """Counts a publication, or notes an answer. Called by the client for each message."""
        if len(payload) != PUBLICATION.size:
            self.unanswered -= 1
            self._answer = payload
            return
        thread, index, _ = PUBLICATION.unpack(payload)
        self.disorders += index <= self._last[thread]
        self._last[thread] = index
        self.received += 1

    async def read_slowly(self, is_over: asyncio.Event) -> None:
        """Pauses reading most of the time, until the event is set."""
        while not is_over.is_set():
            self.client.pause_reading()
            await asyncio.sleep(0.2)
            self.client.resume_reading()
            await asyncio.sleep(0.01)
