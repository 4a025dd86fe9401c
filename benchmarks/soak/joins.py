"""Joins: thousands of sockets whose handlers join channels, all at a time; then they are gone, and come again."""

import asyncio
import time
from typing import Final

from benchmarks.load.server import raise_fd_limit
from benchmarks.soak.report import Report, format_mib, format_spread
from benchmarks.soak.run import KINDS, Option, Soak
from benchmarks.soak.server import Control
from wsbroker.bench.client import BenchClient, hang_up_all
from wsbroker.settings.config import Settings

SHARED_BY: Final = (1_000_000, 1000, 100, 10)
"""So many sockets share the first channel, the second, …; the other channels belong to one socket each."""
SLACK_BYTES: Final = 4 << 20
SLACK_EACH_BYTES: Final = 200
"""Bytes for each socket of a round that may stay, in the allocator's gaps: a leaked object is more."""
SPARE_DESCRIPTORS: Final = 200
PATIENCE_S: Final = 120.0
"""For all answers to one question to all sockets; after that the run has failed."""


class Joins(Soak):
    """Has thousands of sockets join channels at once, leave and go; looks for what stays behind."""

    questions = {}
    options = (
        Option("kind", KINDS[-1], "of worker", KINDS),
        Option("count", 10_000, "sockets"),
        Option("channels", 8, "that each joins"),
        Option("workers", 2),
        Option("rounds", 3, "of coming, joining, leaving and going"),
    )

    def __init__(self, report: Report, **changed: object) -> None:
        super().__init__(report, **changed)
        most = raise_fd_limit() - SPARE_DESCRIPTORS
        if self.chosen.count > most:
            self.chosen.count = most
            report.log(f"only {most} sockets, because of the limit of open files")

    def make_settings(self) -> Settings:
        """Returns the settings of the server."""
        return {**super().make_settings(), "workers": self.chosen.workers}

    async def drive(self) -> None:
        """Runs all rounds; checks after each that nothing is kept, and in the end that memory has not grown."""
        self.report.show_figure("memory before, with all workers", format_mib(self.meter.read().rss_bytes))
        for number in range(self.chosen.rounds):
            self.report.log(f"round {number + 1} of {self.chosen.rounds}")
            await self._run_round()
            await self.check_left()
            self.report.show_figure("memory when all are gone", format_mib(self.meter.read().rss_bytes))
        if self.chosen.rounds > 1:
            # With all joined, not with all gone: how much free memory goes back to the system differs by 10 MiB.
            joined_bytes = self.report.numbers["rss_bytes"]
            grown_bytes = joined_bytes[-1] - joined_bytes[0]
            self.report.keep_numbers("grown_bytes", grown_bytes)
            bound = SLACK_BYTES + self.chosen.count * SLACK_EACH_BYTES
            self.report.check_at_most("memory grown since the first round", grown_bytes, bound, format_mib)

    async def _run_round(self) -> None:
        """Opens all sockets, has them join twice and leave once, and hangs them up."""
        sockets, channels = self.chosen.count, self.chosen.channels
        start_s, start_ns = time.monotonic(), self.meter.read().cpu_ns
        clients = await self.connect_all(sockets)
        self._show_rate("opened", sockets, time.monotonic() - start_s, self.meter.read().cpu_ns - start_ns)
        names = [list_channels(index, channels) for index in range(sockets)]
        for verb, expected in (("join", channels), ("join", 0), ("leave", channels)):
            start_s, start_ns = time.monotonic(), self.meter.read().cpu_ns
            async with asyncio.timeout(PATIENCE_S):
                asking = (_ask(*each, verb) for each in zip(clients, names, strict=True))
                answers = await asyncio.gather(*asking)
            took_s, used_ns = time.monotonic() - start_s, self.meter.read().cpu_ns - start_ns
            self.report.check_equal(f"answers to {verb}", {changed for changed, _ in answers}, {expected})
            self._show_rate(f"{verb}, {sockets} × {channels}", sockets * channels, took_s, used_ns)
            self.report.show_figure("a socket's answer after", format_spread([each_s for _, each_s in answers]))
            if expected and verb == "join":
                found = (await self.server.call(Control.read_statistics))["channels"]
                self.report.check_equal("channels", found, len(set().union(*names)))
                self.report.keep_numbers("joins_per_s", sockets * channels / took_s)
                self.report.keep_numbers("join_cpu_us", used_ns / 1e3 / sockets / channels)
                self.report.keep_numbers("sockets", sockets)
                self.report.keep_numbers("channels_each", channels)
                self.report.keep_numbers("rss_bytes", self.meter.read().rss_bytes)
                self.report.show_figure("memory", format_mib(self.report.numbers["rss_bytes"][-1]))
        await hang_up_all(clients)
        self.clients.clear()

    def _show_rate(self, name: str, count: int, took_s: float, used_ns: int) -> None:
        """Shows how long so many calls took, and what each cost the server and its workers."""
        rate = f"{took_s:.2f} s, {count / took_s:,.0f} a second, {used_ns / 1e3 / count:.1f} µs of CPU each"
        self.report.show_figure(name, rate)


def list_channels(index: int, channels: int) -> list[str]:
    """Returns the channel names of the socket with this index."""
    shared = [f"c{size}.{index // size}" for size in SHARED_BY[:channels]]
    return [*shared, *(f"own{number}.{index}" for number in range(channels - len(shared)))]


async def _ask(client: BenchClient, names: list[str], verb: str) -> tuple[int, float]:
    """Sends a request to join or leave; returns the number in the answer and the seconds the answer took."""
    start_s = time.perf_counter()
    client.send_message(f"{verb} {','.join(names)}")
    return int(await client.receive_message()), time.perf_counter() - start_s
