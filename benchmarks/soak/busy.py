"""Busy: how long a worker thread waits for the interpreter lock while the event loop never rests.

A fan-out with many channels, whose publications come through handlers in the same threads, gives the server more than
it can do: the loop waits for nothing but the lock. Server and load have a core each. Two more processes ask over and
over, a socket each: one for an echo, one for an answer that its handler has to ask the broker for.
"""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.load.job import Job
from benchmarks.load.run import receive_row, start_load
from benchmarks.load.server import Cores, build_our_command, serve_command
from benchmarks.soak.process import run_in_loop
from benchmarks.soak.run import KINDS, Option, Soak
from wsbroker.bench.client import Target

LOAD: Final = Job("fanout", connections=1000, channels=100, publishers=10, in_flight=16, warmup_s=1.0, runs=1)
BUSY_PERCENT: Final = 90.0
WORST_S: Final = 1.0
"""A round trip that takes this long was starved: the lock is asked back after 0.2 ms, and the machine's own pauses are
some 10 ms."""


class Busy(Soak):
    """Saturates a server's loop and measures the waits of its workers."""

    questions = {"echo": "E echo", "question": "A c0"}
    _load: "subprocess.Popen[str] | None" = None
    options = (
        Option("kind", "thread", "of worker", KINDS),
        Option("workers", 2),
        Option("seconds", 60.0, "at most 600"),
    )

    def compute_bound_s(self, quiet_s: float) -> float:
        """Returns how long a probe may wait."""
        return WORST_S

    def run(self) -> None:
        """Starts the load's server, drives the load beside the probes, checks, and stops the server."""
        kind, workers = self.chosen.kind, str(self.chosen.workers)
        command = build_our_command(sys.executable, ["--worker-kind", kind, "--workers", workers])
        self._cores = Cores.choose()
        with serve_command(command, self._cores.server) as self._running:
            target = Target.from_url(f"ws://127.0.0.1:{self._running.port}/")
            try:
                run_in_loop(self.drive_beside_probes(self._running.pid, target))
            finally:
                if self._load is not None:
                    self._load.kill()
                    self._load.communicate()

    async def prepare(self) -> None:
        """Starts the load and waits until it measures."""
        is_measuring = threading.Event()

        def show_progress(phase: str, done: float, total: float) -> None:
            if phase.startswith("run"):
                is_measuring.set()

        self._load = start_load(replace(LOAD, seconds=self.chosen.seconds), self._running, self._cores)
        self._coming_row = asyncio.ensure_future(asyncio.to_thread(receive_row, self._load, show_progress))
        self._coming_row.add_done_callback(lambda row: is_measuring.set())  # also if there is none
        await asyncio.to_thread(is_measuring.wait)

    async def drive(self) -> None:
        """Lets the load and the probes go on, and checks the load's row."""
        # The probes began after the measuring did, and must end before it does.
        seconds = max(self.chosen.seconds - 1.5, self.chosen.seconds / 2)
        before_ns = _read_runnable_ns(self._running.pid)
        await asyncio.sleep(seconds)
        percent = (_read_runnable_ns(self._running.pid) - before_ns) / 1e7 / seconds
        self.report.show_figure("the loop's thread ran, or was ready to", f"{percent:.0f} % of the time")

    async def finish(self) -> None:
        """Waits for the load's row and checks it."""
        row = await self._coming_row
        rate = f"{row.rate:,.0f}, {row.server_percent:.0f} % of the server's core"
        self.report.show_figure("deliveries a second", rate)
        for warning in row.warnings:
            self.report.show_figure("note", warning)
        share = row.server_percent + row.waited_percent
        self.report.check(share >= BUSY_PERCENT, "the server always had something to do", f"{share:.0f} % of its core")
        self.report.check_equal("messages lost, doubled, out of order or changed", row.wrong, 0)
        self.report.keep_numbers("seconds", self.chosen.seconds)


def _read_runnable_ns(pid: int) -> int:
    """Returns the nanoseconds that a server's first thread, its loop's, ran or waited for a core; 0 if unaccounted."""
    try:
        ran, waited, *_ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(ran) + int(waited)
