"""What is measured: round trips, fan-out, and a storm of connections."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, Literal

from wsbroker.bench.latency import Histogram
from wsbroker.bench.link import OPEN_TIMEOUT_S, BenchError, Link, Target, connect
from wsbroker.websocket.frames import TEXT

DRAIN_S: Final = 3.0
"""How long stragglers may take after the last publication."""
OPENING_AT_ONCE: Final = 64

Scenario = Literal["rtt", "fanout", "storm"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("rtt", "fanout", "storm")
DEFAULT_CONNECTIONS: Final[dict[Scenario, int]] = {"rtt": 10, "fanout": 100, "storm": 50}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and for how long."""

    target: Target
    scenario: Scenario
    connections: int
    seconds: float
    in_flight: int
    size: int
    report: Callable[[str], None]
    """Takes the line that says how far it is."""


@dataclass(slots=True)
class Result:
    """What was measured. `wrong` counts messages that were lost, doubled or out of order, and failed attempts."""

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

    def finish(self, result: Result, histogram: Histogram) -> None:
        """Fills in all that does not depend on the scenario."""
        result.seconds = round(time.monotonic() - self.start_s, 3)
        result.client_cpu_percent = round((time.process_time() - self._cpu_s) / result.seconds * 100, 1)
        result.per_second = round(result.count / result.seconds, 1)
        result.latency_us = histogram.summary_us()


async def measure(plan: Plan) -> Result:
    """Runs the scenario.

    Raises:
        BenchError: it cannot be measured.
    """
    result = Result(plan.scenario, str(plan.target), plan.connections)
    first = await connect(plan.target)
    await first.ask("pong", type="ping")
    if plan.scenario == "storm":
        await first.close()
        await _storm(plan, result)
        return result
    links = [first]
    try:
        await _open_all(plan, links)
        await (_rtt if plan.scenario == "rtt" else _fanout)(plan, result, links)
    finally:
        for link in links:
            link.on_message = None
        await asyncio.gather(*(link.close() for link in links))
    return result


async def _open_all(plan: Plan, links: list[Link]) -> None:
    """Opens the connections that are still missing, a few at a time."""

    async def open_some() -> None:
        while len(links) + len(opening) < plan.connections:
            opening.append(None)
            try:
                link = await connect(plan.target)
            finally:
                opening.pop()
            links.append(link)
            plan.report(f"connecting: {len(links)} of {plan.connections}")

    opening: list[None] = []
    await _together([open_some() for _ in range(OPENING_AT_ONCE)])


async def _together(parts: list[Coroutine[None, None, None]]) -> None:
    """Runs them at the same time; the first error ends all and is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_until_end(plan: Plan, watch: Stopwatch, links: list[Link]) -> None:
    """Shows how far it is; ends early, with an error, if a connection ends."""
    while (left_s := watch.end_s - time.monotonic()) > 0:
        plan.report(f"measuring: {plan.seconds - left_s:.0f} of {plan.seconds:g} s")
        await asyncio.sleep(min(left_s, 0.25))
        for link in links:
            if link.ended.done():
                raise BenchError(f"{plan.target} closed a connection{link.why} while it was measured")


async def _rtt(plan: Plan, result: Result, links: list[Link]) -> None:
    histogram = Histogram()
    watch = Stopwatch(plan.seconds)
    end_ns = time.monotonic_ns() + int(plan.seconds * 1e9)
    pingers = [Pinger(link, histogram, end_ns) for link in links]
    for pinger in pingers:
        pinger.ping()
    await _wait_until_end(plan, watch, links)
    result.count = histogram.total
    watch.finish(result, histogram)


class Pinger:
    """Sends a ping whenever the pong to the last one has come."""

    def __init__(self, link: Link, histogram: Histogram, end_ns: int) -> None:
        self._link = link
        self._histogram = histogram
        self._end_ns = end_ns
        self._request = link.frame(TEXT, b'{"type":"ping"}')
        self._sent_ns = 0
        link.on_message = self.take

    def ping(self) -> None:
        """Starts a round trip."""
        self._sent_ns = time.monotonic_ns()
        self._link.write(self._request)

    def take(self, message: bytes) -> None:
        """Ends a round trip, and starts the next if there is time."""
        now_ns = time.monotonic_ns()
        self._histogram.add(now_ns - self._sent_ns)
        if now_ns < self._end_ns:
            self.ping()


async def _fanout(plan: Plan, result: Result, links: list[Link]) -> None:
    publisher, *subscribers = links
    channel = f"wsbroker-bench-{os.urandom(8).hex()}"
    for link in subscribers:
        await link.ask("subscribed", type="subscribe", channel=channel)
    publications = Publications(publisher, channel, plan.size, plan.in_flight, len(subscribers))
    for link in subscribers:
        link.on_message = Listener(publications).take
    publisher.on_message = publications.refused
    watch = Stopwatch(plan.seconds)
    publications.refill()
    await _wait_until_end(plan, watch, links)
    result.count = publications.delivered
    watch.finish(result, publications.histogram)
    publications.in_flight = 0
    end_s = time.monotonic() + DRAIN_S
    while publications.undelivered and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    missing = publications.sent * len(subscribers) - publications.delivered
    result.wrong = publications.out_of_order + abs(missing)
    result.first_problem = publications.problem or (f"{missing} deliveries are missing" if missing else "")


class Publications:
    """What the publisher has on the way.

    Args:
        size: bytes of each publication's data.
        in_flight: how many are on the way; one is until every subscriber has it.
    """

    def __init__(self, link: Link, channel: str, size: int, in_flight: int, subscribers: int) -> None:
        self.in_flight = in_flight
        self.histogram = Histogram()
        self.undelivered: dict[int, list[int]] = {}
        """By number: how many have not got it yet, and when it was sent."""
        self.sent = self.delivered = self.out_of_order = 0
        self.problem = ""
        self._link = link
        self._channel = channel
        self._padding = "x" * max(size - 12, 0)
        self._subscribers = subscribers

    def refill(self) -> None:
        """Publishes as many as may be on the way."""
        frames = []
        now_ns = time.monotonic_ns()
        while len(self.undelivered) < self.in_flight:
            self.sent += 1
            self.undelivered[self.sent] = [self._subscribers, now_ns]
            request = {"type": "publish", "channel": self._channel, "data": f"@{self.sent:010}.{self._padding}"}
            frames.append(self._link.frame(TEXT, json.dumps(request).encode()))
        self._link.write(b"".join(frames))

    def arrived(self, number: int) -> None:
        """One subscriber has one."""
        self.delivered += 1
        state = self.undelivered.get(number)
        if state is None:
            self.wrong(f"publication {number} came to more subscribers than there are, or was never sent")
            return
        self.histogram.add(time.monotonic_ns() - state[1])
        state[0] -= 1
        if state[0] == 0:
            del self.undelivered[number]
            if len(self.undelivered) < self.in_flight:
                self.refill()

    def wrong(self, problem: str) -> None:
        """Counts what should not be; the first one is told."""
        self.out_of_order += 1
        self.problem = self.problem or problem

    def refused(self, message: bytes) -> None:
        """The publisher is told something: it can only be an error."""
        self.wrong(f"the publisher was answered {message[:200].decode(errors='replace')}")


class Listener:
    """A subscriber: sees that every publication comes once and in order."""

    def __init__(self, publications: Publications) -> None:
        self._publications = publications
        self._next = 1

    def take(self, message: bytes) -> None:
        """Reads the number of a publication."""
        at = message.find(b"@") + 1
        try:
            number = int(message[at : at + 10]) if at else 0
        except ValueError:
            number = 0
        if number != self._next:
            self._publications.wrong(f"number {number} came where {self._next} was due")
        self._next = number + 1
        self._publications.arrived(number)


async def _storm(plan: Plan, result: Result) -> None:
    histogram = Histogram()
    watch = Stopwatch(plan.seconds)

    async def cycle() -> None:
        while time.monotonic() < watch.end_s:
            start_ns = time.monotonic_ns()
            try:
                link = await connect(plan.target)
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT_S):
                        await link.ask("subscribed", type="subscribe", channel=f"wsbroker-bench-{os.urandom(4).hex()}")
                finally:
                    await link.close()
            except (BenchError, TimeoutError) as error:
                result.wrong += 1
                result.first_problem = result.first_problem or str(error) or "no answer in time"
                await asyncio.sleep(0.05)
            else:
                result.count += 1
                histogram.add(time.monotonic_ns() - start_ns)
                plan.report(f"measuring: {result.count} connections")

    await _together([cycle() for _ in range(plan.connections)])
    watch.finish(result, histogram)
