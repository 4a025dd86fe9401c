"""Echo: keeps a number of messages on the way, there and back, on every connection."""

import time
from collections import deque

from benchmarks.load.client import Client
from benchmarks.load.receiver import Receiver
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.stage import Stage, is_probe
from benchmarks.load.stream import Stream


class Echoer:
    """Keeps messages in flight on a connection: for every echo that comes, the next message goes."""

    def __init__(self, stage: Stage, client: Client, stream: Stream, is_probe: bool) -> None:
        self.is_sending = True
        self.sent = 0
        self._stage = stage
        self._client = client
        self._stream = stream
        self._sent_ns: deque[int] | None = deque() if is_probe else None
        self.receiver = Receiver(client, stream, self._send_next)

    def send(self, count: int) -> None:
        """Sends the next `count` messages."""
        if self._sent_ns is not None:
            self._sent_ns.extend([time.monotonic_ns()] * count)
        first = self.sent
        self.sent += count
        self._client.send(self._stream.encode_outgoing(first, count))

    def _send_next(self, before: int, after: int) -> None:
        """Counts the echoes that came, and sends as many messages. Called by the receiver."""
        count = after - before
        self._stage.count += count
        if self._sent_ns is not None:
            now_ns = time.monotonic_ns()
            for _ in range(min(count, len(self._sent_ns))):
                self._stage.histogram.add_duration(now_ns - self._sent_ns.popleft())
        if self.is_sending:
            self.send(count)


def run(stage: Stage) -> Row:
    """Runs the scenario: echoes on all connections. Returns the medians."""
    job = stage.job
    stream = Stream(b"E ", 0, job.size, job.in_flight)
    before = stage.meter.read()
    clients = stage.open_clients([None] * job.connections, job.connections)
    after = stage.meter.read()
    echoers = [Echoer(stage, client, stream, is_probe(index, job.connections)) for index, client in enumerate(clients)]
    for echoer in echoers:
        echoer.send(job.in_flight)
    row = merge_rows(stage.measure_runs(stage.loop.take_turn))

    for echoer in echoers:
        echoer.is_sending = False
    stage.drain_until(stage.loop.take_turn, lambda: all(echoer.receiver.count >= echoer.sent for echoer in echoers))
    row.ended = stage.ended
    for echoer in echoers:
        echoer.receiver.add_problems(row, echoer.sent)
        echoer.receiver.client.reset_connection()
    row.rss_per_connection = (after.rss_bytes - before.rss_bytes) / job.connections
    return row
