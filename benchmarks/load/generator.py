"""The load's process: ``python -m benchmarks.load.generator '{"job": …, "port": …, "pid": …, "core": …}'``.

Writes lines of JSON: ``{"phase": …, "done": …, "total": …}`` on the way, ``{"row": …}`` at the end, or
``{"error": …}``. Nothing else runs in it, so its CPU is that of the load. Each pattern of the load is a class.
"""

import gc
import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from benchmarks.load.client import VIEW, Client, LoadError
from benchmarks.load.fanout import Fanout, Stall
from benchmarks.load.job import Job, Scenario
from benchmarks.load.meter import Meter
from benchmarks.load.row import Row
from benchmarks.load.stage import Stage
from benchmarks.load.stream import Receiver, Stream
from wsbroker.bench.client import make_frame, split_frames
from wsbroker.websocket.frames import TEXT

SETTLE_S: Final = 1.0
"""After so long the memory of idle connections is measured."""
STUCK_S: Final = 10.0
STRIDE: Final = 7919
"""Step from a connection to the next that is sent a message: a prime, so that all have their turn."""


class Exchange:
    """A connection on which every message is answered: without a rate, for every answer the next message goes."""

    def __init__(self, stage: Stage, index: int) -> None:
        self.stage = stage
        self.client = stage.clients[index]
        self.sent = 0
        self.answered = 0
        self._sent_ns: deque[int] | None = deque() if stage.is_probe(index) else None

    def send(self, count: int) -> None:
        """Sends the next `count` messages."""
        if self._sent_ns is not None:
            self._sent_ns.extend([time.monotonic_ns()] * count)
        first = self.sent
        self.sent += count
        self.client.send(self.encode_messages(first, count))

    def encode_messages(self, first: int, count: int) -> bytes:
        """Returns the bytes of `count` messages from this number on."""
        raise NotImplementedError

    def record_answers(self, before: int, after: int) -> None:
        """Counts the answers that came, `after` by now, and sends as many messages as came."""
        self.answered = after
        count = after - before
        stage = self.stage
        stage.count += count
        if self._sent_ns is not None:
            now_ns = time.monotonic_ns()
            for _ in range(min(count, len(self._sent_ns))):
                stage.histogram.add_duration(now_ns - self._sent_ns.popleft())
        if stage.is_sending and not stage.job.rate:
            self.send(count)

    def add_problems(self, row: Row) -> None:
        """Adds to a row what has not come as it should."""
        row.lost += self.sent - self.answered


class Echo(Stage):
    """Messages there and back: a window on every connection, or with a rate one connection after the other."""

    window = 0
    """How many messages are on the way on each connection at a time; 0: as many as the job says."""

    def open_connections(self) -> None:
        self.clients = self.open_clients([None] * self.job.connections)

    def start_load(self) -> None:
        """Sends the first messages of every connection; with a rate none."""
        self.exchanges = self.make_exchanges()
        self._next = 0
        if not self.job.rate:
            for exchange in self.exchanges:
                exchange.send(self.window or self.job.in_flight)

    def make_exchanges(self) -> Sequence[Exchange]:
        """Returns an exchange of messages for each connection."""
        job = self.job
        prefix = b"C %d " % job.work if job.work else b"E "
        stream = Stream(prefix, 0, job.size, max(job.in_flight, int(job.rate)))
        return [EchoExchange(self, index, stream) for index in range(len(self.clients))]

    def send_next(self) -> None:
        self.exchanges[self._next % len(self.exchanges)].send(1)
        self._next += STRIDE

    def is_quiet(self) -> bool:
        return all(exchange.answered >= exchange.sent for exchange in self.exchanges)

    def add_problems(self, row: Row) -> None:
        for exchange in self.exchanges:
            exchange.add_problems(row)


class EchoExchange(Exchange):
    """A connection whose messages come back."""

    def __init__(self, stage: Stage, index: int, stream: Stream) -> None:
        super().__init__(stage, index)
        self._stream = stream
        self._receiver = Receiver(self.client, stream, self.record_answers)

    def encode_messages(self, first: int, count: int) -> bytes:
        return self._stream.encode_outgoing(first, count)

    def add_problems(self, row: Row) -> None:
        self._receiver.add_problems(row, self.sent)


class Idle(Echo):
    """Many open connections and their memory; with a rate, then messages, each to one of them.

    Rate and CPU of the row are those of opening; `extra` has the rate of the messages.
    """

    def open_connections(self) -> None:
        """Opens the connections, notes what that took, and waits until the server is at rest."""
        job = self.job
        self.exchanges = []
        start_s, before = time.monotonic(), self.meter.read()
        self.clients = self.open_clients([b"S c%d" % (index % job.channels) for index in range(job.connections)])
        self._open_s, opened = time.monotonic() - start_s, self.meter.read()
        self._open_us = (opened.cpu_ns - before.cpu_ns) / 1000 / job.connections
        self.run_for(min(SETTLE_S, job.seconds), "settle")

    def start_load(self) -> None:
        if self.job.rate:
            super().start_load()

    def measure_load(self) -> Row:
        """Measures the latency of messages, if there is a rate, and returns the figures of the opening with it."""
        if self.job.rate:
            row = self.measure_run("messages")
            row.extra["messages_per_s"] = row.rate
        else:
            row = Row(rss_peak=self.meter.read().rss_bytes)
        row.rate = self.job.connections / self._open_s
        row.cpu_us = row.cpu_us_low = row.cpu_us_high = self._open_us
        return row

    def is_probe(self, index: int) -> bool:
        return True


class Question(Echo):
    """Has a handler time its calls of `subscribe`: latencies are those of the calls, not of the messages."""

    def make_exchanges(self) -> Sequence[Exchange]:
        return [QuestionExchange(self, index) for index in range(len(self.clients))]

    def is_probe(self, index: int) -> bool:
        return False


class QuestionExchange(Exchange):
    """A connection whose messages are answered with microseconds."""

    def __init__(self, stage: Stage, index: int) -> None:
        super().__init__(stage, index)
        self._rest = b""
        self.client.on_bytes = self._read_answers

    def encode_messages(self, first: int, count: int) -> bytes:
        return make_frame(TEXT, b"T c0") * count

    def _read_answers(self, size: int) -> None:
        """Counts the microseconds that the answers say. Called by the client for each read."""
        data, done = self._rest + VIEW[:size], 0
        for first, start, done in split_frames(data):
            if first & 8:
                self.client.handle_control(first, data[start:done])
            else:
                self.stage.histogram.add_duration(int(float(data[start:done]) * 1000))
                self.record_answers(self.answered, self.answered + 1)
        self._rest = data[done:]


class Http(Echo):
    """Plain HTTP: keeps one request on the way on every connection."""

    window = 1

    def open_connections(self) -> None:
        self.clients = self.open_clients([None] * self.job.connections, is_plain=True)

    def make_exchanges(self) -> Sequence[Exchange]:
        return [HttpExchange(self, index) for index in range(len(self.clients))]


class HttpExchange(Exchange):
    """A connection whose requests, for ``/echo?PAYLOAD``, are answered with the payload.

    The first answer tells how long an answer is; each must be as long, be a 200, and end with the payload.
    """

    def __init__(self, stage: Stage, index: int) -> None:
        super().__init__(stage, index)
        self._payload = (b"%06d." % index).ljust(stage.job.size, b"x")
        self._request = b"GET /echo?%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n" % (
            self._payload,
            stage.port,
        )
        self._answer_bytes = 0
        self._unexpected = 0
        self._rest = b""
        self.client.on_bytes = self._check_answer

    def encode_messages(self, first: int, count: int) -> bytes:
        return self._request * count

    def add_problems(self, row: Row) -> None:
        super().add_problems(row)
        row.unexpected += self._unexpected

    def _check_answer(self, size: int) -> None:
        """Checks an answer once it is complete. Called by the client for each read."""
        data = self._rest + VIEW[:size]
        self._answer_bytes = self._answer_bytes or _find_answer_bytes(data)
        if not self._answer_bytes or len(data) < self._answer_bytes:
            self._rest = data
            return
        self._rest = b""
        if len(data) != self._answer_bytes or not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(self._payload):
            self._unexpected += 1
        self.record_answers(self.answered, self.answered + 1)


def _find_answer_bytes(data: bytes) -> int:
    """Returns how long an answer is by its head; 0 if the head is not complete.

    Raises:
        LoadError: the answer is not a 200, or does not say how long it is.
    """
    head, separator, _ = data.partition(b"\r\n\r\n")
    if not separator:
        return 0
    if not head.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"no answer to a plain request: {head[:80]!r}")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + 4 + int(value)
    raise LoadError("an answer without Content-Length")


class Storm(Stage):
    """Connects, subscribes and closes with a handshake, again and again, on a number of connections at a time."""

    def start_load(self) -> None:
        self._open: dict[Client, int] = {}
        self._failed = 0
        self._index = 0

    def take_turn(self, timeout_s: float) -> None:
        """Opens a connection for each connection that ended, then handles what has come."""
        while self.is_sending and len(self._open) < self.job.connections:
            self._index += 1
            client = Client(self.loop, self.port, self._index, b"S c%d" % self._index)
            client.on_open = Client.close
            client.on_end = self._record_end
            self._open[client] = time.monotonic_ns()
        self.loop.take_turn(timeout_s)
        oldest = next(iter(self._open.values()), None)
        if oldest is not None and time.monotonic_ns() - oldest > STUCK_S * 1e9:
            raise LoadError(f"a connection neither opened nor closed for {STUCK_S:g} s")

    def is_quiet(self) -> bool:
        return not self._open

    def add_problems(self, row: Row) -> None:
        row.lost += len(self._open) + self._failed

    def _record_end(self, client: Client) -> None:
        """Counts a connection that was closed with a handshake, or one that failed. Called by the client."""
        start_ns = self._open.pop(client)
        if client.close_code is None:
            self._failed += 1
        else:
            self.count += 1
            self.histogram.add_duration(time.monotonic_ns() - start_ns)


# The process. -------------------------------------------------------------------------------------------------------

PATTERNS: Final[dict[Scenario, type[Stage]]] = {
    "fanout": Fanout,
    "echo": Echo,
    "storm": Storm,
    "stall": Stall,
    "idle": Idle,
    "http": Http,
    "question": Question,
}


def main(order: str) -> int:
    """Runs the job that the order, JSON, asks for; returns the exit code."""
    asked = json.loads(order)
    core = asked.get("core")
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    gc.disable()  # nothing here is a cycle, and a collection over 10,000 connections would be a pause
    job = Job(**asked["job"])
    stage = PATTERNS[job.scenario](job, asked["port"], Meter(asked["pid"]), _print_progress)
    try:
        _print_json(row=stage.run().as_dict())
    except LoadError as error:
        _print_json(error=str(error))
        return 1
    return 0


def _print_progress(phase: str, done: float, total: float) -> None:
    """Prints how far a phase is. Called by the stage."""
    _print_json(phase=phase, done=done, total=total)


def _print_json(**fields: object) -> None:
    """Prints one line of JSON, which the process that started this one reads."""
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
