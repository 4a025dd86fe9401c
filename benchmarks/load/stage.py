"""What a scenario works on: the job, the loop, the server's meter, the counts of a run."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from benchmarks.load.client import Client, ignore_client, open_clients
from benchmarks.load.job import Job
from benchmarks.load.loop import Loop
from benchmarks.load.meter import Meter
from benchmarks.load.row import Row
from wsbroker.bench.latency import Histogram

NEWS_S: Final = 0.1
DRAIN_S: Final = 5.0
STILL_S: Final = 1.0
"""After this long without a message, no more are expected."""
PROBES: Final = 50

Progress = Callable[[str, float, float], None]
"""Called with the phase, how far it is, and how far it goes."""


class Stage:
    """What every scenario works on: its job, the loop, the server's meter, and the counts of a run.

    Args:
        port: the server's, on 127.0.0.1.
        meter: of the server's process.
    """

    def __init__(self, job: Job, port: int, meter: Meter, progress: Progress) -> None:
        self.job = job
        self.port = port
        self.meter = meter
        self.loop = Loop()
        self.histogram = Histogram()
        """Of the run that is being measured."""
        self.count = 0
        """Deliveries, echoes or connections so far."""
        self.ended = 0
        """Connections that the server ended."""
        self.rss_peak = 0
        self._progress = progress
        self._news_s = 0.0

    def open_clients(self, greetings: Iterable[bytes | None], total: int) -> list[Client]:
        """Opens connections, and counts those that end from then on."""
        clients = open_clients(
            self.loop, self.port, greetings, time.monotonic, lambda done: self._report_progress("open", done, total)
        )
        for client in clients:
            client.on_open = ignore_client
            client.on_end = self._count_end
        return clients

    def run_for(self, seconds: float, turn: Callable[[float], None], phase: str) -> None:
        """Calls `turn` with the seconds that are left, until none are; reports the progress of this phase."""
        start_s = time.monotonic()
        while (passed_s := time.monotonic() - start_s) < seconds:
            turn(min(seconds - passed_s, NEWS_S))
            self._report_progress(phase, passed_s, seconds)

    def measure_runs(self, turn: Callable[[float], None]) -> list[Row]:
        """Warms up, then measures as often as the job says; returns the rows."""
        job = self.job
        if job.warmup_s:
            self.run_for(job.warmup_s, turn, "warm up")
        return [self.measure_run(turn, f"run {number + 1} of {job.runs}") for number in range(job.runs)]

    def measure_run(self, turn: Callable[[float], None], phase: str) -> Row:
        """Measures for the job's seconds and returns the row."""
        self.histogram = Histogram()
        self.rss_peak = 0
        count, load_s, before, start_s = self.count, time.process_time(), self.meter.read(), time.monotonic()
        self.run_for(self.job.seconds, turn, phase)
        took_s, after = time.monotonic() - start_s, self.meter.read()
        load_s = time.process_time() - load_s
        count = self.count - count
        return Row(
            rate=count / took_s,
            cpu_us=(after.cpu_ns - before.cpu_ns) / 1000 / max(count, 1),
            latency_us=self.histogram.summary_us(),
            server_percent=(after.cpu_ns - before.cpu_ns) / 1e7 / took_s,
            load_percent=load_s * 100 / took_s,
            waited_percent=(after.waited_ns - before.waited_ns) / 1e7 / took_s,
            rss_peak=float(max(self.rss_peak, after.rss_bytes)),
        )

    def drain_until(self, turn: Callable[[float], None], is_done: Callable[[], bool]) -> None:
        """Calls `turn` until `is_done`, or nothing has come for STILL_S, or DRAIN_S have passed."""
        end_s = time.monotonic() + DRAIN_S
        last, last_s = self.count, time.monotonic()
        while not is_done() and (now_s := time.monotonic()) < end_s and now_s - last_s < STILL_S:
            turn(0.05)
            if self.count != last:
                last, last_s = self.count, time.monotonic()

    def _count_end(self, client: Client) -> None:
        """Counts a connection that the server ended. Called by the client."""
        self.ended += 1

    def _report_progress(self, phase: str, done: float, total: float) -> None:
        """Reports the progress of a phase every NEWS_S, and samples the server's memory."""
        now_s = time.monotonic()
        if now_s - self._news_s > NEWS_S:
            self._news_s = now_s
            self.rss_peak = max(self.rss_peak, self.meter.read().rss_bytes)
            self._progress(phase, done, total)


def is_probe(index: int, count: int) -> bool:
    """Whether the latency of each message is taken on this connection: PROBES of `count`, evenly spread."""
    return index % max(count // PROBES, 1) == 0
