"""Plain HTTP: keeps one request on the way on every connection, and checks each answer."""

import time
from typing import Final

from benchmarks.load.client import VIEW, Client, LoadError
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.stage import Stage, is_probe

STUCK_S: Final = 10.0


class Asker:
    """Keeps one request in flight on a connection: for every answer that comes, the next request goes.

    It asks for ``/echo?PAYLOAD``, and is answered with the payload. The first answer tells how long an answer is; each
    must be as long, be a 200, and end with the payload.
    """

    def __init__(self, stage: Stage, index: int, is_probe: bool) -> None:
        self.is_asking = True
        self.answers = 0
        self.mangled = 0
        self.lost = 0
        self._stage = stage
        self._is_probe = is_probe
        self._payload = (b"%06d." % index).ljust(stage.job.size, b"x")[: stage.job.size]
        self._request = b"GET /echo?%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n" % (
            self._payload,
            stage.port,
        )
        self._answer_bytes = 0
        self._rest = b""
        self._sent_ns = time.monotonic_ns()
        self.client = Client(stage.loop, stage.port, index, first_bytes=self._request)
        self.client.on_bytes = self._check_answer
        self.client.on_end = self._count_lost

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is due."""
        return self._sent_ns != 0

    def _check_answer(self, size: int) -> None:
        """Checks an answer once it is complete, and sends the next request. Called by the client for each read."""
        data = self._rest + VIEW[:size]
        if not self._is_whole(data):
            self._rest = data
            return
        self._rest = b""
        if len(data) != self._answer_bytes or not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(self._payload):
            self.mangled += 1
        self.answers += 1
        self._stage.count += 1
        if self._is_probe:
            self._stage.histogram.add_duration(time.monotonic_ns() - self._sent_ns)
        self._sent_ns = 0
        if self.is_asking:
            self._sent_ns = time.monotonic_ns()
            self.client.send(self._request)

    def _is_whole(self, data: bytes) -> bool:
        """Whether the data is a complete answer; the first one tells how long an answer is."""
        if not self._answer_bytes:
            head, separator, _ = data.partition(b"\r\n\r\n")
            if not separator:
                return False
            if not head.startswith(b"HTTP/1.1 200 "):
                raise LoadError(f"no answer to a plain request: {head[:80]!r}")
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    self._answer_bytes = len(head) + 4 + int(value)
            if not self._answer_bytes:
                raise LoadError("an answer without Content-Length")
        return len(data) >= self._answer_bytes

    def _count_lost(self, client: Client) -> None:
        """Counts a connection that the server ended, and the answer that will not come. Called by the client."""
        self.lost += self.is_waiting
        self._sent_ns = 0
        self._stage.ended += 1


def run(stage: Stage) -> Row:
    """Runs the scenario: plain requests on all connections. Returns the medians."""
    job = stage.job
    before = stage.meter.read()
    askers = [Asker(stage, index, is_probe(index, job.connections)) for index in range(job.connections)]
    end_s = time.monotonic() + STUCK_S
    while not all(asker.answers or asker.client.has_ended for asker in askers):
        stage.loop.take_turn(0.1)
        if time.monotonic() > end_s:
            raise LoadError(f"{sum(not asker.answers for asker in askers)} first requests were not answered")
    after = stage.meter.read()
    row = merge_rows(stage.measure_runs(stage.loop.take_turn))
    for asker in askers:
        asker.is_asking = False
    stage.drain_until(stage.loop.take_turn, lambda: not any(asker.is_waiting for asker in askers))
    row.ended = stage.ended
    for asker in askers:
        row.lost += asker.lost + asker.is_waiting
        row.mangled += asker.mangled
        asker.client.reset_connection()
    row.rss_per_connection = (after.rss_bytes - before.rss_bytes) / job.connections
    return row
