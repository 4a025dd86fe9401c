"""Idle: many open connections and their memory; then a few messages a second, each to one of them."""

import time
from typing import Final

from benchmarks.load.echo import Echoer
from benchmarks.load.row import Row
from benchmarks.load.stage import Stage
from benchmarks.load.stream import Stream

SETTLE_S: Final = 1.0
STRIDE: Final = 7919
"""Step from a connection to the next that is sent a message: a prime, so that all have their turn."""


class Rounds:
    """Sends messages to one connection after the other, at the job's rate."""

    def __init__(self, stage: Stage, echoers: list[Echoer]) -> None:
        self._stage = stage
        self._echoers = echoers
        self._next = 0
        self._due_s = time.monotonic()

    def take_turn(self, timeout_s: float) -> None:
        """Sends what is due, then handles what has come."""
        rate = self._stage.job.rate
        now_s = time.monotonic()
        while self._due_s <= now_s:
            self._due_s += 1 / rate
            self._echoers[self._next % len(self._echoers)].send(1)
            self._next += STRIDE
        self._stage.loop.take_turn(min(timeout_s, max(self._due_s - now_s, 0.0)))


def run(stage: Stage) -> Row:
    """Runs the scenario: opens connections and measures their memory; with a rate also the latency of messages."""
    job = stage.job
    before, start_s = stage.meter.read(), time.monotonic()
    names = [b"S c%d" % (index % job.channels) for index in range(job.connections)]
    clients = stage.open_clients(names, job.connections)
    took_s, opened = time.monotonic() - start_s, stage.meter.read()
    stage.run_for(min(SETTLE_S, job.seconds), stage.loop.take_turn, "settle")
    settled = stage.meter.read()

    row = Row(rss_peak=settled.rss_bytes)
    stream = Stream(b"E ", 0, job.size, 16)
    echoers = [Echoer(stage, client, stream, True) for client in clients]
    if job.rate:
        for echoer in echoers:
            echoer.is_sending = False
        rounds = Rounds(stage, echoers)
        row = stage.measure_run(rounds.take_turn, "messages")
        row.extra["messages_per_s"] = row.rate
        stage.drain_until(stage.loop.take_turn, lambda: all(echoer.receiver.count >= echoer.sent for echoer in echoers))
    for echoer in echoers:
        echoer.receiver.add_problems(row, echoer.sent)
    row.rate = job.connections / took_s
    row.cpu_us = row.cpu_us_low = row.cpu_us_high = (opened.cpu_ns - before.cpu_ns) / 1000 / job.connections
    row.rss_per_connection = (settled.rss_bytes - before.rss_bytes) / job.connections
    row.ended = stage.ended
    for client in clients:
        client.reset_connection()
    return row
