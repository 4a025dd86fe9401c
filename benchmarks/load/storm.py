"""Storm: connects, subscribes and closes with a handshake, again and again, on a number of connections at a time."""

import time

from benchmarks.load.client import Client, LoadError
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.stage import Stage

STUCK_S = 10.0


class Storm:
    """Keeps a number of connections between their first packet and their last."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.is_starting = True
        self.open: dict[Client, int] = {}
        self.failed = 0
        self._index = 0

    def take_turn(self, timeout_s: float) -> None:
        """Opens a connection for each one that ended, then handles what has come."""
        while self.is_starting and len(self.open) < self.stage.job.connections:
            self._index += 1
            client = Client(self.stage.loop, self.stage.port, self._index, b"S c%d" % self._index)
            client.on_open = Client.close
            client.on_end = self._on_end
            self.open[client] = time.monotonic_ns()
        self.stage.loop.take_turn(timeout_s)
        oldest = next(iter(self.open.values()), None)
        if oldest is not None and time.monotonic_ns() - oldest > STUCK_S * 1e9:
            raise LoadError(f"a connection neither opened nor closed for {STUCK_S:g} s")

    def _on_end(self, client: Client) -> None:
        """Counts a connection that was closed with a handshake, or one that failed. Called by the client."""
        now_ns = time.monotonic_ns()
        start_ns = self.open.pop(client)
        if client.close_code is None:
            self.failed += 1
        else:
            self.stage.count += 1
            self.stage.histogram.add_duration(now_ns - start_ns)


def run(stage: Stage) -> Row:
    """Runs the scenario: connections that open, subscribe and close. Returns the medians."""
    storm = Storm(stage)
    row = merge_rows(stage.measure_runs(storm.take_turn))
    storm.is_starting = False
    stage.drain_until(storm.take_turn, lambda: not storm.open)
    row.lost += len(storm.open) + storm.failed
    return row
