"""What the broker's parts cost, without sockets and loop: registries, publishing, the flush.

    pytest benchmarks/micro/test_broker.py

The columns are per call: a turn with all its messages and sockets. A write is a list's `append`.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kits.websocket_kit import frame
from kits.workload_kit import Work

PAYLOAD = "x" * 64
MESSAGE = frame(1, PAYLOAD.encode())

TURNS: dict[str, tuple[str, tuple[object, ...], tuple[int, int, int]]] = {
    "1 publication to 1000 sockets": ("publish", (1, PAYLOAD), (1000, 1, 1)),
    "16 publications to 1000 sockets": ("publish", (16, PAYLOAD), (1000, 1, 1)),
    "64 publications to 1000 sockets": ("publish", (64, PAYLOAD), (1000, 1, 1)),
    "100 dirty channels of 10 sockets": ("publish", (100, PAYLOAD), (1000, 100, 1)),
    "64 dirty channels, 1 subscription": ("publish", (64, PAYLOAD), (200, 64, 1)),
    "64 dirty channels, 4 subscriptions": ("publish", (64, PAYLOAD), (200, 64, 4)),
    "64 dirty channels, 16 subscriptions": ("publish", (64, PAYLOAD), (200, 64, 16)),
    "64 dirty channels, 64 subscriptions": ("publish", (64, PAYLOAD), (200, 64, 64)),
    "a direct message to each of 1000 sockets": ("answer", (PAYLOAD,), (1000, 1, 1)),
    "1 echo of an inline handler for each of 100 sockets": ("receive", (MESSAGE,), (100, 1, 1)),
    "16 echoes of an inline handler for each of 100 sockets": ("receive", (MESSAGE * 16,), (100, 1, 1)),
}
"""By name, turns with a write for each socket: the method, its arguments, and those of `Work`."""


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_with_a_write_for_each_socket(benchmark: BenchmarkFixture, work: type[Work], name: str) -> None:
    method, arguments, shape = TURNS[name]
    load = work(*shape)
    benchmark(getattr(load, method), *arguments)
    assert load.writes == shape[0]


def test_1000_sockets_that_leave_a_channel_and_come_back(benchmark: BenchmarkFixture, work: type[Work]) -> None:
    load = work(1000)
    benchmark(load.resubscribe)
    assert load.broker.subscriber_count(b"c0") == 1000


def test_a_channel_of_1000_sockets_copied_to_another_that_they_leave(
    benchmark: BenchmarkFixture, work: type[Work]
) -> None:
    load = work(1000)
    load.names.append(b"copied")
    benchmark(load.copy_and_leave)
    assert load.broker.subscriber_count(b"c0") == 1000
    assert load.broker.channels() == [b"c0"]


def test_1000_sockets_that_open_subscribe_and_are_gone(benchmark: BenchmarkFixture, work: type[Work]) -> None:
    load = work(0)
    benchmark(load.come_and_go, 1000)
    assert load.broker.channels() == []
