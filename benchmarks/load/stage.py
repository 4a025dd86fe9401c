"""What all patterns of the load have in common: opening connections, keeping a rate, warming up, measuring."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.load.client import Client, LoadError, Loop, ignore_client
from benchmarks.load.job import Job
from benchmarks.load.meter import Meter
from benchmarks.load.row import Row, merge_rows
from wsbroker.bench.latency import Histogram

NEWS_S: Final = 0.1
DRAIN_S: Final = 5.0
STILL_S: Final = 1.0
"""After this long without a message, no more are expected."""
STUCK_S: Final = 20.0
OPENING_AT_ONCE: Final = 64
PROBES: Final = 50

Progress = Callable[[str, float, float], None]
"""Called with the phase, how far it is, and how far it goes."""


class Stage:
    """The base of all patterns: runs a job on a server and counts what comes back. A subclass keeps the server busy.

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
        self.clients: list[Client] = []
        """The connections whose memory is measured."""
        self.count = 0
        """Deliveries, echoes, requests or connections so far."""
        self.ended = 0
        """Connections that the server ended."""
        self.is_sending = False
        self.growth_bytes = 0
        """What the server's memory grew by while the connections were opened."""
        self._rss_peak = 0
        self._progress = progress
        self._news_s = 0.0
        self._due_s = 0.0

    # The steps of a run; a subclass has its own for some of them. --------------------------------------------------

    def run(self) -> Row:
        """Opens the connections, measures, waits for what is on the way, and returns the figures."""
        before_bytes = self.meter.read().rss_bytes
        self.open_connections()
        self.growth_bytes = self.meter.read().rss_bytes - before_bytes
        self.is_sending = True
        self.start_load()
        row = self.measure_load()
        self.is_sending = False
        self.drain_until(self.is_quiet)
        self.add_problems(row)
        row.ended = self.ended
        row.rss_per_connection = self.growth_bytes / len(self.clients) if self.clients else 0.0
        for client in self.clients:
            client.reset_connection()
        return row

    def open_connections(self) -> None:
        """Opens the connections whose memory is measured, as `clients`."""

    def start_load(self) -> None:
        """Sends the first messages; opens the other connections before."""

    def measure_load(self) -> Row:
        """Warms up, measures as often as the job says, and returns the medians."""
        if self.job.warmup_s:
            self.run_for(self.job.warmup_s, "warm up")
        return merge_rows([self.measure_run(f"run {number + 1} of {self.job.runs}") for number in range(self.job.runs)])

    def take_turn(self, timeout_s: float) -> None:
        """Sends as many messages as the job's rate says since the last turn, then handles what has come."""
        if self.job.rate and self.is_sending:
            now_s = time.monotonic()
            self._due_s = self._due_s or now_s
            while self._due_s <= now_s:
                self._due_s += 1 / self.job.rate
                self.send_next()
            timeout_s = min(timeout_s, max(self._due_s - now_s, 0.0))
        self.loop.take_turn(timeout_s)

    def send_next(self) -> None:
        """Sends one message. Called at the job's rate."""

    def is_quiet(self) -> bool:
        """Whether nothing is on the way any more."""
        return True

    def add_problems(self, row: Row) -> None:
        """Adds to a row what has not come as it should."""

    # What these steps are made of. ---------------------------------------------------------------------------------

    def open_clients(self, greetings: Sequence[bytes | None], is_plain: bool = False) -> list[Client]:
        """Opens a connection for each greeting, OPENING_AT_ONCE at a time, and counts those that end from then on.

        Args:
            is_plain: the connections are not upgraded.

        Raises:
            LoadError: a connection was refused or ended, or none has opened for STUCK_S.
        """
        clients: list[Client] = []
        opened = 0
        news_s = time.monotonic()

        def count_open(client: Client) -> None:
            """Counts an open connection. Called by each client."""
            nonlocal opened, news_s
            opened += 1
            news_s = time.monotonic()

        while opened < len(greetings):
            for greeting in greetings[len(clients) : opened + OPENING_AT_ONCE]:
                clients.append(Client(self.loop, self.port, len(clients), greeting, is_plain))
                clients[-1].on_open = count_open
            self.loop.take_turn(0.5)
            self._report_progress("open", opened, len(greetings))
            if any(client.has_ended for client in clients[-OPENING_AT_ONCE:]):
                raise LoadError(f"the server ended a connection while {opened} were open")
            if time.monotonic() - news_s > STUCK_S:
                raise LoadError(f"the server opens no more connections: {opened} are open")
        for client in clients:
            client.on_open = ignore_client
            client.on_end = self.count_end
        return clients

    def run_for(self, seconds: float, phase: str) -> None:
        """Takes turns for so many seconds, and reports the progress of this phase."""
        start_s = time.monotonic()
        while (passed_s := time.monotonic() - start_s) < seconds:
            self.take_turn(min(seconds - passed_s, NEWS_S))
            self._report_progress(phase, passed_s, seconds)

    def measure_run(self, phase: str) -> Row:
        """Measures for the job's seconds and returns the row."""
        self.histogram = Histogram()
        self._rss_peak = 0
        count, load_s, before, start_s = self.count, time.process_time(), self.meter.read(), time.monotonic()
        self.run_for(self.job.seconds, phase)
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
            rss_peak=float(max(self._rss_peak, after.rss_bytes)),
        )

    def drain_until(self, is_done: Callable[[], bool]) -> None:
        """Takes turns until `is_done`, or nothing has come for STILL_S, or DRAIN_S have passed."""
        end_s = time.monotonic() + DRAIN_S
        last, last_s = self.count, time.monotonic()
        while not is_done() and (now_s := time.monotonic()) < end_s and now_s - last_s < STILL_S:
            self.take_turn(0.05)
            if self.count != last:
                last, last_s = self.count, time.monotonic()

    def is_probe(self, index: int) -> bool:
        """Whether the latency of each message is taken on this connection: PROBES of all, evenly spread."""
        return index % max(self.job.connections // PROBES, 1) == 0

    def count_end(self, client: Client) -> None:
        """Counts a connection that the server ended. Called by the client."""
        self.ended += 1

    def _report_progress(self, phase: str, done: float, total: float) -> None:
        """Reports the progress of a phase every NEWS_S, and samples the server's memory."""
        now_s = time.monotonic()
        if now_s - self._news_s > NEWS_S:
            self._news_s = now_s
            self._rss_peak = max(self._rss_peak, self.meter.read().rss_bytes)
            self._progress(phase, done, total)
