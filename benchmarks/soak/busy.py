"""Busy: how long a worker thread waits for the interpreter lock while the event loop never rests.

A fan-out with many channels, whose publications come through handlers in the same threads, gives the server more than
it can do: the loop waits for nothing but the lock. Server and load have a core each. Two more processes ask over and
over, a socket each: one for an echo, one for an answer that its handler has to ask the broker for.
"""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.load.job import Job
from benchmarks.load.row import Row
from benchmarks.load.run import Progress, receive_row, start_load
from benchmarks.load.server import Command, Cores, RunningServer, build_our_command, serve_command
from benchmarks.soak.echo import EchoProbe
from benchmarks.soak.report import Report, rank_percentiles
from benchmarks.soak.server import run_in_loop
from wsbroker.bench.client import Target

LOAD: Final = Job("fanout", connections=1000, channels=100, publishers=10, in_flight=16, warmup_s=1.0, runs=1)
QUIET_S: Final = 2.0
BUSY_PERCENT: Final = 90.0
WORST_S: Final = 1.0
"""A round trip that takes this long was starved: the lock is asked back after 0.2 ms, and the machine's own pauses are
some 10 ms."""


def run(report: Report, kind: str, workers: int, seconds: float, python: str) -> None:
    """Saturates a server's loop and measures the waits of its workers.

    Args:
        kind: of the workers; workers of kind `thread` share the interpreter lock with the loop.
        seconds: how long the loop is kept busy.
        python: an interpreter that has wsbroker.
    """
    job = replace(LOAD, seconds=seconds)
    command = build_our_command(python, ["--worker-kind", kind, "--workers", str(workers)])
    report.log(f"busy: {workers} × {kind}; {job.name}")
    run_in_loop(_saturate_and_check(report, command, job))


async def _saturate_and_check(report: Report, command: Command, job: Job) -> None:
    """Measures round trips before and while a fan-out saturates the server."""
    cores = Cores.choose()
    with serve_command(command, cores.server) as server:
        target = Target.from_url(f"ws://127.0.0.1:{server.port}/")
        async with EchoProbe(target, question="E echo") as echo, EchoProbe(target, question="A c0") as question:
            await asyncio.sleep(QUIET_S)
        report.show_figure("round trips of an echo, loop idle", echo.summary)
        report.show_figure("round trips of a question, loop idle", question.summary)

        is_measuring = threading.Event()
        load = start_load(job, server, cores)
        try:
            coming_row = asyncio.ensure_future(asyncio.to_thread(receive_row, load, _set_when_running(is_measuring)))
            await asyncio.to_thread(is_measuring.wait)
            async with EchoProbe(target, question="E echo") as echo, EchoProbe(target, question="A c0") as question:
                thread = LoopThread(server)
                # Both probes began after the measuring did, and must end before it does.
                await asyncio.sleep(max(job.seconds - 1.5, job.seconds / 2))
                busy_percent = thread.read_runnable_percent()
            row = await coming_row
            report.keep_numbers("seconds", job.seconds)
        finally:
            load.kill()
            load.communicate()
    _check_waits(report, row, busy_percent, echo, question)


def _check_waits(report: Report, row: Row, busy_percent: float, echo: EchoProbe, question: EchoProbe) -> None:
    """Reports the load's row and the probes' round trips, and checks both."""
    report.show_figure("deliveries a second", f"{row.rate:,.0f}, {row.server_percent:.0f} % of the server's core")
    for warning in row.warnings:
        report.show_figure("note", warning)
    report.show_figure("round trips of an echo, loop busy", echo.summary)
    report.show_figure("round trips of a question, loop busy", question.summary)
    report.show_figure("the loop's thread ran, or was ready to", f"{busy_percent:.0f} % of the time")
    share = row.server_percent + row.waited_percent
    report.check(share >= BUSY_PERCENT, "the server always had something to do", f"{share:.0f} % of its core")
    report.check_equal("messages lost, doubled, out of order or changed", row.wrong, 0)
    worst_s = max(echo.trips_s + question.trips_s, default=float("inf"))
    if echo.trips_s and question.trips_s:
        report.keep_numbers("echo_ms", *(s * 1e3 for s in rank_percentiles(echo.trips_s)))
        report.keep_numbers("question_ms", *(s * 1e3 for s in rank_percentiles(question.trips_s)))
        report.keep_numbers("overslept_ms", max(echo.overslept_s, question.overslept_s) * 1e3)
    report.check(worst_s <= WORST_S, f"no round trip took more than {WORST_S:g} s", f"worst {worst_s * 1e3:.1f} ms")


class LoopThread:
    """Measures for how much of the time the first thread of a server, its loop's, ran or was ready to run."""

    def __init__(self, server: RunningServer) -> None:
        self._file = Path(f"/proc/{server.pid}/task/{server.pid}/schedstat")
        self._start_s = time.monotonic()
        self._before_ns = self._read_runnable_ns()

    def read_runnable_percent(self) -> float:
        """Returns the percentage since the construction; 100 where the kernel keeps no account."""
        took_s = time.monotonic() - self._start_s
        after_ns = self._read_runnable_ns()
        return (after_ns - self._before_ns) / 1e7 / took_s if after_ns else 100.0

    def _read_runnable_ns(self) -> int:
        """Returns the nanoseconds that the thread ran or waited for a core; 0 where the kernel keeps no account."""
        try:
            ran, waited, *_ = self._file.read_text(encoding="ascii").split()
        except OSError:
            return 0
        return int(ran) + int(waited)


def _set_when_running(event: threading.Event) -> Progress:
    """Returns a progress callback that sets the event when the load begins to measure."""

    def set_on_run(phase: str, done: float, total: float) -> None:
        if phase.startswith("run"):
            event.set()

    return set_on_run
