"""What is measured: round trips, fan-out, and a storm of connections."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, Literal

from wsbroker.bench.latency import Histogram
from wsbroker.bench.link import OPEN_TIMEOUT_S, BenchClient, BenchError, Target, connect
from wsbroker.websocket.frames import TEXT

DRAIN_TIMEOUT_S: Final = 3.0
"""How long stragglers may take after the last publication."""
OPENING_AT_ONCE: Final = 64

Scenario = Literal["rtt", "fanout", "storm"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("rtt", "fanout", "storm")
DEFAULT_CONNECTIONS: Final[dict[Scenario, int]] = {"rtt": 10, "fanout": 100, "storm": 50}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and for how long."""

    target: Target
    scenario: Scenario
    connections: int
    seconds: float
    in_flight: int
    size: int
    show_progress: Callable[[str], None]
    """Takes the line that says how far it is."""


@dataclass(slots=True)
class BenchResult:
    """What was measured. `record_problem` counts messages that were lost, doubled or out of order, and failed attempts."""

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
    """Time and CPU of this process, from its making on."""

    def __init__(self, seconds: float) -> None:
        self.start_s, self._cpu_s = time.monotonic(), time.process_time()
        self.end_s = self.start_s + seconds

    def fill_result(self, result: BenchResult, histogram: Histogram) -> None:
        """Fills in all that does not depend on the scenario."""
        result.seconds = round(time.monotonic() - self.start_s, 3)
        result.client_cpu_percent = round((time.process_time() - self._cpu_s) / result.seconds * 100, 1)
        result.per_second = round(result.count / result.seconds, 1)
        result.latency_us = histogram.summary_us()


async def run_scenario(plan: BenchOptions) -> BenchResult:
    """Runs the scenario.

    Raises:
        BenchError: it cannot be measured.
    """
    result = BenchResult(plan.scenario, str(plan.target), plan.connections)
    first = await connect(plan.target)
    await first.send_request("pong", type="ping")
    if plan.scenario == "storm":
        await first.close()
        await _measure_storm(plan, result)
        return result
    links = [first]
    try:
        await _open_connections(plan, links)
        await (_measure_round_trips if plan.scenario == "rtt" else _measure_fanout)(plan, result, links)
    finally:
        for link in links:
            link.on_message = None
        await asyncio.gather(*(link.close() for link in links))
    return result


async def _open_connections(plan: BenchOptions, links: list[BenchClient]) -> None:
    """Opens the connections that are still missing, a few at a time."""

    async def open_until_enough() -> None:
        while len(links) + len(opening) < plan.connections:
            opening.append(None)
            try:
                link = await connect(plan.target)
            finally:
                opening.pop()
            links.append(link)
            plan.show_progress(f"connecting: {len(links)} of {plan.connections}")

    opening: list[None] = []
    await _run_together([open_until_enough() for _ in range(OPENING_AT_ONCE)])


async def _run_together(parts: list[Coroutine[None, None, None]]) -> None:
    """Runs them at the same time; the first error ends all and is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_until_end(plan: BenchOptions, watch: Stopwatch, links: list[BenchClient]) -> None:
    """Shows how far it is; ends early, with an error, if a connection ends."""
    while (left_s := watch.end_s - time.monotonic()) > 0:
        plan.show_progress(f"measuring: {plan.seconds - left_s:.0f} of {plan.seconds:g} s")
        await asyncio.sleep(min(left_s, 0.25))
        for link in links:
            if link.closed.done():
                raise BenchError(f"{plan.target} closed a connection{link.close_text} while it was measured")


async def _measure_round_trips(plan: BenchOptions, result: BenchResult, links: list[BenchClient]) -> None:
    histogram = Histogram()
    watch = Stopwatch(plan.seconds)
    end_ns = time.monotonic_ns() + int(plan.seconds * 1e9)
    pingers = [Pinger(link, histogram, end_ns) for link in links]
    for pinger in pingers:
        pinger.send_ping()
    await _wait_until_end(plan, watch, links)
    result.count = histogram.total
    watch.fill_result(result, histogram)


class Pinger:
    """Sends a ping whenever the pong to the last one has come."""

    def __init__(self, link: BenchClient, histogram: Histogram, end_ns: int) -> None:
        self._link = link
        self._histogram = histogram
        self._end_ns = end_ns
        self._request = link.make_frame(TEXT, b'{"type":"ping"}')
        self._sent_ns = 0
        link.on_message = self.on_pong

    def send_ping(self) -> None:
        """Starts a round trip."""
        self._sent_ns = time.monotonic_ns()
        self._link.write_frames(self._request)

    def on_pong(self, message: bytes) -> None:
        """Ends a round trip, and starts the next if there is time."""
        now_ns = time.monotonic_ns()
        self._histogram.add_duration(now_ns - self._sent_ns)
        if now_ns < self._end_ns:
            self.send_ping()


async def _measure_fanout(plan: BenchOptions, result: BenchResult, links: list[BenchClient]) -> None:
    publisher, *subscribers = links
    channel = f"wsbroker-bench-{os.urandom(8).hex()}"
    for link in subscribers:
        await link.send_request("subscribed", type="subscribe", channel=channel)
    publications = Publisher(publisher, channel, plan.size, plan.in_flight, len(subscribers))
    for link in subscribers:
        link.on_message = Subscriber(publications).on_message
    publisher.on_message = publications.on_publisher_message
    watch = Stopwatch(plan.seconds)
    publications.publish_until_full()
    await _wait_until_end(plan, watch, links)
    result.count = publications.delivered
    watch.fill_result(result, publications.histogram)
    publications.max_in_flight = 0
    end_s = time.monotonic() + DRAIN_TIMEOUT_S
    while publications.undelivered and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    missing = publications.sent * len(subscribers) - publications.delivered
    result.wrong = publications.problem_count + abs(missing)
    result.first_problem = publications.first_problem or (f"{missing} deliveries are missing" if missing else "")


class Publisher:
    """What the publisher has on the way.

    Args:
        size: bytes of each publication's data.
        in_flight: how many are on the way; one is until every subscriber has it.
    """

    def __init__(self, link: BenchClient, channel: str, size: int, in_flight: int, subscribers: int) -> None:
        self.max_in_flight = in_flight
        self.histogram = Histogram()
        self.undelivered: dict[int, list[int]] = {}
        """By number: how many have not got it yet, and when it was sent."""
        self.sent = self.delivered = self.problem_count = 0
        self.first_problem = ""
        self._link = link
        self._channel = channel
        self._padding = "x" * max(size - 12, 0)
        self._subscribers = subscribers

    def publish_until_full(self) -> None:
        """Publishes as many as may be on the way."""
        frames = []
        now_ns = time.monotonic_ns()
        while len(self.undelivered) < self.max_in_flight:
            self.sent += 1
            self.undelivered[self.sent] = [self._subscribers, now_ns]
            request = {"type": "publish", "channel": self._channel, "data": f"@{self.sent:010}.{self._padding}"}
            frames.append(self._link.make_frame(TEXT, json.dumps(request).encode()))
        self._link.write_frames(b"".join(frames))

    def on_delivery(self, number: int) -> None:
        """One subscriber has one."""
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
        """Counts what should not be; the first one is told."""
        self.problem_count += 1
        self.first_problem = self.first_problem or problem

    def on_publisher_message(self, message: bytes) -> None:
        """The publisher is told something: it can only be an error."""
        self.record_problem(f"the publisher was answered {message[:200].decode(errors='replace')}")


class Subscriber:
    """A subscriber: sees that every publication comes once and in order."""

    def __init__(self, publications: Publisher) -> None:
        self._publications = publications
        self._next_number = 1

    def on_message(self, message: bytes) -> None:
        """Reads the number of a publication."""
        at = message.find(b"@") + 1
        try:
            number = int(message[at : at + 10]) if at else 0
        except ValueError:
            number = 0
        if number != self._next_number:
            self._publications.record_problem(f"number {number} came where {self._next_number} was due")
        self._next_number = number + 1
        self._publications.on_delivery(number)


async def _measure_storm(plan: BenchOptions, result: BenchResult) -> None:
    histogram = Histogram()
    watch = Stopwatch(plan.seconds)

    async def open_and_close() -> None:
        while time.monotonic() < watch.end_s:
            start_ns = time.monotonic_ns()
            try:
                link = await connect(plan.target)
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT_S):
                        await link.send_request(
                            "subscribed", type="subscribe", channel=f"wsbroker-bench-{os.urandom(4).hex()}"
                        )
                finally:
                    await link.close()
            except (BenchError, TimeoutError) as error:
                result.wrong += 1
                result.first_problem = result.first_problem or str(error) or "no answer in time"
                await asyncio.sleep(0.05)
            else:
                result.count += 1
                histogram.add_duration(time.monotonic_ns() - start_ns)
                plan.show_progress(f"measuring: {result.count} connections")

    await _run_together([open_and_close() for _ in range(plan.connections)])
    watch.fill_result(result, histogram)
