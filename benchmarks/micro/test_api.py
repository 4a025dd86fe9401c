"""What an application's calls cost, beyond the checks of their arguments: in the loop, and in a worker.

    pytest benchmarks/micro/test_api.py

The columns are per 1000 calls; in a worker with the batch that is made of them, which no broker reads.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kits.workload_kit import Work
from wsbroker.pool.local_api import LocalApi
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.wire_api import WireApi

if TYPE_CHECKING:
    from socket import socket

Call = Callable[[BrokerApi], object]

ONE_WAY: Final[dict[str, Call]] = {
    "send": lambda api: api.send(0, "x"),
    "send_to_channel": lambda api: api.send_to_channel(b"nobody's", "x", ()),
    "subscribe_nowait": lambda api: api.subscribe_nowait(1, b"c0"),
    "unsubscribe_nowait": lambda api: api.unsubscribe_nowait(1, b"nobody's"),
    "set_token": lambda api: api.set_token(1, b"token"),
    "copy_subscriptions": lambda api: api.copy_subscriptions(b"nobody's", b"c0"),
    "close": lambda api: api.close(0, 1000, ""),
}
QUESTIONS: Final[dict[str, Call]] = {
    "subscribe": lambda api: api.subscribe(1, b"c0"),
    "subscriber_count": lambda api: api.subscriber_count(b"c0"),
    "is_open": lambda api: api.is_open(1),
}


class Sink:
    """A worker's wire that takes everything and keeps nothing."""

    def sendall(self, data: bytes) -> None:
        """Takes bytes."""


def make_1000_calls(api: BrokerApi, call: Call) -> None:
    """Makes the same call 1000 times."""
    for _ in range(1000):
        call(api)


@pytest.mark.parametrize("name", [*ONE_WAY, *QUESTIONS])
def test_1000_calls_in_the_loop(benchmark: BenchmarkFixture, work: type[Work], name: str) -> None:
    load = work(1)

    async def measure_calls() -> None:
        api = LocalApi(load.broker, 1 << 20)
        api.start()
        benchmark(make_1000_calls, api, (ONE_WAY | QUESTIONS)[name])
        api.stop()

    asyncio.run(measure_calls())
    assert load.broker.counters.commands_refused == 0


@pytest.mark.parametrize("name", ONE_WAY)
def test_1000_calls_in_a_worker(benchmark: BenchmarkFixture, name: str) -> None:
    timer = HandlerTimer(float("inf"), 1.0, lambda *call: None, lambda *call: None)
    api = WireApi(cast("socket", Sink()), timer)

    def make_and_flush() -> None:
        make_1000_calls(api, ONE_WAY[name])
        api.flush()

    benchmark(make_and_flush)
    assert api.io.collected_commands == [] and not api.io.is_ended
