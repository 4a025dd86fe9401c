"""The runner of all soak runs: starts the server, drives the load, and reports what was checked."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import ClassVar, Final, NamedTuple

from benchmarks.experiments import Result
from benchmarks.load.meter import Meter
from benchmarks.soak.app import SoakApp
from benchmarks.soak.process import ServerProcess, Trips, probe_trips, run_in_loop
from benchmarks.soak.report import Report, format_mib, format_ms, rank_percentiles
from benchmarks.soak.server import Control
from wsbroker.bench.client import BenchClient, Target, choose_source_address, connect
from wsbroker.settings.config import Config, Settings

KINDS: Final = ("inline", "thread", "process", *(["interpreter"] if sys.version_info >= (3, 13) else []))
OPENING_AT_ONCE: Final = 200
QUIET_S: Final = 1.0
SAMPLE_S: Final = 0.05


class Option(NamedTuple):
    """An option of a soak run; its default also says its type."""

    name: str
    default: int | float | str
    help: str = ""
    choices: tuple[str, ...] | None = None


NEAR_KIND: Final = Option("kind", "inline", "of worker", ("inline", "thread"))
"""For runs whose `Control` shares a process with the workers."""


class Soak:
    """One long run. A subclass has its options, the settings of its server, and `drive`; its docstring is its help.

    Args:
        report: takes figures and checks.
        **changed: the options that are not as their defaults.
    """

    options: ClassVar[tuple[Option, ...]] = ()
    questions: ClassVar[dict[str, str]] = {"echo": "echo"}
    """What probes ask before and while the load runs, by the name of the figure."""
    avoided_worker: ClassVar[bytes | None] = None
    """The worker that must not own the probes' sockets."""
    application: type = SoakApp
    server: ServerProcess

    def __init__(self, report: Report, **changed: object) -> None:
        defaults = {option.name: option.default for option in self.options}
        self.report: Final = report
        self.chosen: Final = argparse.Namespace(**(defaults | changed))
        self.clients: list[BenchClient] = []
        """Sockets that must be open in the end."""
        self.peak_bytes = 0
        """The most memory that the server has had under this load."""

    @classmethod
    def get_name(cls) -> str:
        """Returns the word behind ``python -m benchmarks soak``."""
        return cls.__name__.lower()

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this run to its command line."""
        for name, default, text, choices in cls.options:
            flag = "--" + name.replace("_", "-")
            shown = f"{text}  [{default}]"
            parser.add_argument(flag, type=type(default), default=default, choices=choices, help=shown)

    @classmethod
    def measure(cls, options: argparse.Namespace) -> Result:
        """Runs with these options; returns failures and numbers."""
        report = Report(cls.get_name())
        cls(report, **vars(options)).run()
        found = {"failures": report.failures, "numbers": report.numbers}
        return {"scenario": cls.get_name(), "kind": getattr(options, "kind", ""), **found}

    def make_settings(self) -> Settings:
        """Returns the settings of the server."""
        return {"workers": 1, "worker_kind": self.chosen.kind}

    def compute_bound_bytes(self, config: Config) -> float:
        """Returns by how much the server's memory may grow under this load."""
        return inf

    def compute_bound_s(self, quiet_s: float) -> float:
        """Returns how long a probe may wait under this load, from the longest wait without it."""
        return inf

    async def prepare(self) -> None:
        """Opens what the load needs; called before its probes start."""

    async def drive(self) -> None:
        """Loads the server and checks what it did."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Checks what the load has found; called after its probes have ended."""

    def run(self) -> None:
        """Starts the server, drives the load, checks, and stops the server."""
        with ServerProcess(self.application, self.make_settings()) as self.server:
            run_in_loop(self._drive_until_left())

    async def _drive_until_left(self) -> None:
        """Drives the load, leaves, and checks that the server holds nothing more than before."""
        self.fresh = (await self.server.call(Control.take_snapshot)).left
        self.report.log(f"core {self.server.core}")
        await self.drive_beside_probes(self.server.pid, self.server.target)
        lost = [client.close_code for client in self.clients if client.is_lost]
        self.report.check_equal("close codes of lost connections", lost, [])
        for client in self.clients:
            client.reset()
        await self.check_left()

    async def drive_beside_probes(self, pid: int, target: Target) -> None:
        """Drives the load; checks the server's memory and the waits of the probes.

        Args:
            pid: of the server.
            target: where the server listens.
        """
        self.target, self.meter = target, Meter(pid)
        self.report.log(", ".join(f"{option.name} {getattr(self.chosen, option.name)}" for option in self.options))
        async with self._measure_trips("before") as quiet:
            await asyncio.sleep(QUIET_S if self.questions else 0)
        await self.prepare()
        before_bytes = self.meter.read().rss_bytes
        async with self._measure_trips("under load") as loaded:
            self.memory_watch = asyncio.ensure_future(self._watch_memory())
            try:
                await self.drive()
            finally:
                self.memory_watch.cancel()
        await self.finish()
        for name, trips in loaded.items():
            if trips.durations_s:
                self.report.keep_numbers(
                    f"{name}_ms", *(each_s * 1e3 for each_s in rank_percentiles(trips.durations_s))
                )
        bound_bytes = self.compute_bound_bytes(Config.of(**self.make_settings()))
        self.report.check_at_most("memory grown", self.peak_bytes - before_bytes, bound_bytes, format_mib)
        worst_s, quiet_s = (max((each.worst_s for each in group.values()), default=0.0) for group in (loaded, quiet))
        self.report.check_at_most("longest round trip", worst_s, self.compute_bound_s(quiet_s), format_ms)

    @asynccontextmanager
    async def _measure_trips(self, when: str) -> AsyncIterator[dict[str, Trips]]:
        """Has a probe ask each question while the block runs; shows the round trips, by the figures' names."""
        async with AsyncExitStack() as stack:
            trips = {
                name: await stack.enter_async_context(probe_trips(self.target, question, self.avoided_worker))
                for name, question in self.questions.items()
            }
            yield trips
        for name, found in trips.items():
            self.report.show_figure(f"round trips of {name}, {when}", found)

    async def _watch_memory(self) -> None:
        """Notes the most memory that the server has had, every SAMPLE_S."""
        while True:
            self.peak_bytes = max(self.peak_bytes, self.meter.read().rss_bytes)
            await asyncio.sleep(SAMPLE_S)

    async def check_left(self) -> None:
        """Checks that the server holds what it held before the first connection."""
        left = (await self.server.wait_until_left(self.fresh)).left
        changed = {name: left[name] - self.fresh[name] for name in left | self.fresh if left[name] != self.fresh[name]}
        self.report.check_equal("left behind by broker, front, pool and workers", changed, {})

    async def connect_all(self, count: int, receive_buffer: int | None = None) -> list[BenchClient]:
        """Opens this many sockets, OPENING_AT_ONCE at a time."""
        opened: list[BenchClient] = []
        while len(opened) < count:
            more = range(len(opened), min(len(opened) + OPENING_AT_ONCE, count))
            sources = map(choose_source_address, more)
            opening = (connect(self.target, source=source, receive_buffer=receive_buffer) for source in sources)
            opened += await asyncio.gather(*opening)
        self.clients += opened
        return opened
