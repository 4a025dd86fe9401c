"""The scenarios of ``wsbroker bench``: round trips, fan-out, and a storm of connections."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, Literal

from wsbroker.bench.client import OPEN_TIMEOUT_S, BenchClient, BenchError, Target, connect, make_frame
from wsbroker.bench.latency import Histogram
from wsbroker.websocket.frames import TEXT

DRAIN_TIMEOUT_S: Final = 3.0
"""How long late deliveries may take after the last publication."""
OPENING_AT_ONCE: Final = 64

Scenario = Literal["rtt", "fanout", "storm"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("rtt", "fanout", "storm")
DEFAULT_CONNECTIONS: Final[dict[Scenario, int]] = {"rtt": 10, "fanout": 100, "storm": 50}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The arguments of ``wsbroker bench``: the broker, the scenario, its load."""

    target: Target
    scenario: Scenario
    connections: int
    seconds: float
    in_flight: int
    size: int
    show_progress: Callable[[str], None]
    """Called with a line of text that says how far the run is."""


@dataclass(slots=True)
class BenchResult:
    """The figures of a run.

    Args:
        wrong: messages that were lost, doubled or out of order, and failed attempts.
    """

    scenario: Scenario
    url: str
    connections: int
    seconds: float = 0.0
    count: int = 0
    per_second: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)
    wrong: int = 0
    first_problem: str = ""
    client_cpu_percent: float = 0.0


class Stopwatch:
    """Measures time and CPU of this process, from the construction of the stopwatch on."""

    def __init__(self, seconds: float) -> None:
        self.start_s, self._cpu_s = time.monotonic(), time.process_time()
        self.end_s = self.start_s + seconds

    def fill_result(self, result: BenchResult, histogram: Histogram) -> None:
        """Fills in the duration, the rate, the latencies and the CPU of this client."""
        result.seconds = round(time.monotonic() - self.start_s, 3)
        result.client_cpu_percent = round((time.process_time() - self._cpu_s) / result.seconds * 100, 1)
        result.per_second = round(result.count / result.seconds, 1)
        result.latency_us = histogram.summary_us()


async def run_scenario(options: BenchOptions) -> BenchResult:
    """Runs the scenario against its target and returns the figures.

    Raises:
        BenchError: the broker cannot be measured.
    """
    result = BenchResult(options.scenario, str(options.target), options.connections)
    first = await connect(options.target)
    await first.send_request("pong", type="ping")
    if options.scenario == "storm":
        await first.close()
        await _measure_storm(options, result)
        return result
    clients = [first]
    try:
        await _open_connections(options, clients)
        await (_measure_round_trips if options.scenario == "rtt" else _measure_fanout)(options, result, clients)
    finally:
        for client in clients:
            client.on_message = None
        await asyncio.gather(*(client.close() for client in clients))
    return result


async def _open_connections(options: BenchOptions, clients: list[BenchClient]) -> None:
    """Adds connections to `clients` until there are enough, OPENING_AT_ONCE at a time; raises the first error."""

    async def open_until_enough() -> None:
        """Opens one connection after the other until there are enough, those being opened included."""
        while len(clients) + len(opening) < options.connections:
            opening.append(None)
            try:
                client = await connect(options.target)
            finally:
                opening.pop()
            clients.append(client)
            options.show_progress(f"connecting: {len(clients)} of {options.connections}")

    opening: list[None] = []
    await _run_together([open_until_enough() for _ in range(OPENING_AT_ONCE)])


async def _run_together(coroutines: list[Coroutine[None, None, None]]) -> None:
    """Runs coroutines at the same time; the first error cancels the other coroutines and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_until_end(options: BenchOptions, stopwatch: Stopwatch, clients: list[BenchClient]) -> None:
    """Waits until the measurement's time is over and shows the progress meanwhile.

    Raises:
        BenchError: a connection ended meanwhile.
    """
    while (left_s := stopwatch.end_s - time.monotonic()) > 0:
        options.show_progress(f"measuring: {options.seconds - left_s:.0f} of {options.seconds:g} s")
        await asyncio.sleep(min(left_s, 0.25))
        for client in clients:
            if client.is_lost:
                raise BenchError(f"{options.target} closed a connection{client.close_text} while it was measured")


async def _measure_round_trips(options: BenchOptions, result: BenchResult, clients: list[BenchClient]) -> None:
    """Keeps one request for an answer in flight on every connection until the time is over; fills in `result`.

    The request is the text message ``{"type": "ping"}`` and not a Ping frame: the application answers it.

    Raises:
        BenchError: a connection ended meanwhile.
    """
    histogram = Histogram()
    stopwatch = Stopwatch(options.seconds)
    end_ns = time.monotonic_ns() + int(options.seconds * 1e9)
    pingers = [Pinger(client, histogram, end_ns) for client in clients]
    for pinger in pingers:
        pinger.send_ping()
    await _wait_until_end(options, stopwatch, clients)
    result.count = histogram.total
    stopwatch.fill_result(result, histogram)


class Pinger:
    """Sends the next ping message of a connection whenever the answer has come, until `end_ns` (monotonic)."""

    def __init__(self, client: BenchClient, histogram: Histogram, end_ns: int) -> None:
        self._client = client
        self._histogram = histogram
        self._end_ns = end_ns
        self._request = make_frame(TEXT, b'{"type":"ping"}')
        self._sent_ns = 0
        client.on_message = self.on_pong

    def send_ping(self) -> None:
        """Sends a ping and notes the time."""
        self._sent_ns = time.monotonic_ns()
        self._client.write_bytes(self._request)

    def on_pong(self, message: bytes) -> None:
        """Counts a round trip and sends the next ping. Called by the client for each message."""
        now_ns = time.monotonic_ns()
        self._histogram.add_duration(now_ns - self._sent_ns)
        if now_ns < self._end_ns:
            self.send_ping()


async def _measure_fanout(options: BenchOptions, result: BenchResult, clients: list[BenchClient]) -> None:
    """Has the first client publish to all others until the time is over; writes the figures to `result`.

    Then waits DRAIN_TIMEOUT_S at most for late deliveries; those that are missing then count as wrong.

    Raises:
        BenchError: a connection ended before the time was over.
    """
    publisher, *subscribers = clients
    channel = f"wsbroker-bench-{os.urandom(8).hex()}"
    for client in subscribers:
        await client.send_request("subscribed", type="subscribe", channel=channel)
    publications = Publisher(publisher, channel, options.size, options.in_flight, len(subscribers))
    for client in subscribers:
        client.on_message = Subscriber(publications).on_message
    publisher.on_message = publications.on_publisher_message
    stopwatch = Stopwatch(options.seconds)
    publications.publish_until_full()
    await _wait_until_end(options, stopwatch, clients)
    result.count = publications.delivered
    stopwatch.fill_result(result, publications.histogram)
    publications.max_in_flight = 0
    end_s = time.monotonic() + DRAIN_TIMEOUT_S
    while publications.undelivered and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    missing = publications.sent * len(subscribers) - publications.delivered
    result.wrong = publications.problem_count + abs(missing)
    result.first_problem = publications.first_problem or (f"{missing} deliveries are missing" if missing else "")


class Publisher:
    """Publishes numbered messages, and counts which subscribers have received them.

    Args:
        size: bytes of each publication's data.
        in_flight: how many publications may be on the way; a publication is until every subscriber has received it.
        subscribers: how many clients are subscribed to the channel.
    """

    def __init__(self, client: BenchClient, channel: str, size: int, in_flight: int, subscribers: int) -> None:
        self.max_in_flight = in_flight
        self.histogram = Histogram()
        self.undelivered: dict[int, list[int]] = {}
        """By publication number: [subscribers that have not received it, when it was sent in ns]."""
        self.sent = self.delivered = self.problem_count = 0
        self.first_problem = ""
        self._client = client
        self._channel = channel
        self._padding = "x" * max(size - 12, 0)
        self._subscribers = subscribers

    def publish_until_full(self) -> None:
        """Publishes until as many publications are on the way as may be."""
        frames = []
        now_ns = time.monotonic_ns()
        while len(self.undelivered) < self.max_in_flight:
            self.sent += 1
            self.undelivered[self.sent] = [self._subscribers, now_ns]
            request = {"type": "publish", "channel": self._channel, "data": f"@{self.sent:010}.{self._padding}"}
            frames.append(make_frame(TEXT, json.dumps(request).encode()))
        self._client.write_bytes(b"".join(frames))

    def on_delivery(self, number: int) -> None:
        """Counts that a subscriber has received this publication; publishes more once every subscriber has."""
        self.delivered += 1
        state = self.undelivered.get(number)
        if state is None:
            self.record_problem(f"publication {number} came to more subscribers than there are, or was never sent")
            return
        self.histogram.add_duration(time.monotonic_ns() - state[1])
        state[0] -= 1
        if state[0] == 0:
            del self.undelivered[number]
            if len(self.undelivered) < self.max_in_flight:
                self.publish_until_full()

    def record_problem(self, problem: str) -> None:
        """Counts a lost, doubled or misplaced message and keeps the text of the first such problem."""
        self.problem_count += 1
        self.first_problem = self.first_problem or problem

    def on_publisher_message(self, message: bytes) -> None:
        """Records a message to the publisher as a problem: the broker sends a publisher nothing but errors."""
        self.record_problem(f"the publisher was answered {message[:200].decode(errors='replace')}")


class Subscriber:
    """Checks that one subscriber receives every publication once and in order."""

    def __init__(self, publications: Publisher) -> None:
        self._publications = publications
        self._next_number = 1

    def on_message(self, message: bytes) -> None:
        """Compares a publication's number with the expected one. Called by the client for each message."""
        at = message.find(b"@") + 1
        try:
            number = int(message[at : at + 10]) if at else 0
        except ValueError:
            number = 0
        if number != self._next_number:
            self._publications.record_problem(f"number {number} came where {self._next_number} was due")
        self._next_number = number + 1
        self._publications.on_delivery(number)


async def _measure_storm(options: BenchOptions, result: BenchResult) -> None:
    """Opens, subscribes and closes connections until the time is over; writes the figures to `result`.

    A connection that fails counts as wrong and does not end the measurement.
    """
    histogram = Histogram()
    stopwatch = Stopwatch(options.seconds)

    async def open_and_close() -> None:
        """Opens, subscribes and closes one connection after the other until the time is over."""
        while time.monotonic() < stopwatch.end_s:
            start_ns = time.monotonic_ns()
            try:
                client = await connect(options.target)
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT_S):
                        await client.send_request(
                            "subscribed", type="subscribe", channel=f"wsbroker-bench-{os.urandom(4).hex()}"
                        )
                finally:
                    await client.close()
            except (BenchError, TimeoutError) as error:
                result.wrong += 1
                result.first_problem = result.first_problem or str(error) or "no answer in time"
                await asyncio.sleep(0.05)
            else:
                result.count += 1
                histogram.add_duration(time.monotonic_ns() - start_ns)
                options.show_progress(f"measuring: {result.count} connections")

    await _run_together([open_and_close() for _ in range(options.connections)])
    stopwatch.fill_result(result, histogram)
