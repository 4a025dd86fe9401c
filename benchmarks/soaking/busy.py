"""Busy: how long a worker thread waits for the interpreter lock while the event loop never rests.

A fan-out with many channels, whose publications come through handlers in the same threads, gives the server more than
it can do: the loop never waits for anything but the lock. Server and load have a core each. Beside that, two processes
ask over and over, a socket each: one for an echo, one for a question of its handler to the broker.
"""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.load.job import Job
from benchmarks.load.row import Row
from benchmarks.load.run import Progress, listen, start_load
from benchmarks.load.server import Command, Cores, Running, our_command, serving
from benchmarks.soaking.echo import Echo
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, percentiles

LOAD: Final = Job("fanout", connections=1000, channels=100, publishers=10, in_flight=16, warmup_s=1.0, runs=1)
QUIET_S: Final = 2.0
BUSY_PERCENT: Final = 90.0
WORST_S: Final = 1.0
"""A round trip that takes this long was starved: the lock is asked back after 0.2 ms, and the machine's own pauses are
some 10 ms."""


def run(report: Report, kind: str, workers: int, seconds: float, python: str) -> None:
    """Runs it.

    Args:
        kind: of the workers; `thread` is the one that shares its lock with the loop.
        seconds: how long the loop is kept busy.
        python: that has wsbroker.
    """
    job = replace(LOAD, seconds=seconds)
    command = our_command(python, ["--worker-kind", kind, "--workers", str(workers)])
    report.say(f"busy: {workers} × {kind}; {job.name}")
    run_in_loop(_soak(report, command, job))


async def _soak(report: Report, command: Command, job: Job) -> None:
    cores = Cores.choose()
    with serving(command, cores.server) as server:
        address = ("127.0.0.1", server.port)
        async with Echo(address, question="E echo") as echo, Echo(address, question="A c0") as question:
            await asyncio.sleep(QUIET_S)
        report.figure("round trips of an echo, loop idle", echo.text)
        report.figure("round trips of a question, loop idle", question.text)

        is_measuring = threading.Event()
        load = start_load(job, server, cores)
        try:
            row_to_come = asyncio.ensure_future(asyncio.to_thread(listen, load, _when_measuring(is_measuring)))
            await asyncio.to_thread(is_measuring.wait)
            async with Echo(address, question="E echo") as echo, Echo(address, question="A c0") as question:
                thread = LoopThread(server)
                await asyncio.sleep(max(job.seconds - 1.5, job.seconds / 2))  # both began within it, and end before it
                busy_percent = thread.runnable_percent()
            row = await row_to_come
            report.number("seconds", job.seconds)
        finally:
            load.kill()
            load.communicate()
    _judge(report, row, busy_percent, echo, question)


def _judge(report: Report, row: Row, busy_percent: float, echo: Echo, question: Echo) -> None:
    report.figure("deliveries a second", f"{row.rate:,.0f}, {row.server_percent:.0f} % of the server's core")
    for warning in row.warnings:
        report.figure("note", warning)
    report.figure("round trips of an echo, loop busy", echo.text)
    report.figure("round trips of a question, loop busy", question.text)
    report.figure("the loop's thread ran, or was ready to", f"{busy_percent:.0f} % of the time")
    found = row.server_percent + row.waited_percent
    report.check(found >= BUSY_PERCENT, "the server always had something to do", f"{found:.0f} % of its core")
    report.equal("messages lost, doubled, out of order or changed", row.wrong, 0)
    worst_s = max(echo.trips_s + question.trips_s, default=float("inf"))
    if echo.trips_s and question.trips_s:
        report.number("echo_ms", *(s * 1e3 for s in percentiles(echo.trips_s)))
        report.number("question_ms", *(s * 1e3 for s in percentiles(question.trips_s)))
        report.number("overslept_ms", max(echo.overslept_s, question.overslept_s) * 1e3)
    report.check(worst_s <= WORST_S, f"no round trip took more than {WORST_S:g} s", f"worst {worst_s * 1e3:.1f} ms")


class LoopThread:
    """How much of the time the thread of a server's loop, its first, ran or was ready to; 100 where nobody tells."""

    def __init__(self, server: Running) -> None:
        self._file = Path(f"/proc/{server.pid}/task/{server.pid}/schedstat")
        self._start_s = time.monotonic()
        self._before_ns = self._read_ns()

    def runnable_percent(self) -> float:
        """Since it was made."""
        took_s = time.monotonic() - self._start_s
        after_ns = self._read_ns()
        return (after_ns - self._before_ns) / 1e7 / took_s if after_ns else 100.0

    def _read_ns(self) -> int:
        try:
            ran, waited, *_ = self._file.read_text(encoding="ascii").split()
        except OSError:
            return 0
        return int(ran) + int(waited)


def _when_measuring(event: threading.Event) -> Progress:
    def tell(phase: str, done: float, total: float) -> None:
        if phase.startswith("run"):
            event.set()

    return tell
