"""What the broker's parts cost, without sockets and loop: registries, publishing, the flush.

    pytest benchmarks/micro/test_broker.py

The columns are per call: a turn with all its messages and sockets. A write is a list's `append`.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kits.websocket_kit import frame
from kits.workload_kit import Work

PAYLOAD = "x" * 64
TEXT = 1


@pytest.mark.parametrize("in_flight", [1, 16, 64])
def test_a_turn_of_publications_to_1000_sockets(benchmark: BenchmarkFixture, work: type[Work], in_flight: int) -> None:
    load = work(1000)
    benchmark(load.publish, in_flight, PAYLOAD)
    assert load.writes == 1000


def test_a_turn_with_100_dirty_channels_of_10_sockets(benchmark: BenchmarkFixture, work: type[Work]) -> None:
    load = work(1000, channels=100)
    benchmark(load.publish, 100, PAYLOAD)
    assert load.writes == 1000


@pytest.mark.parametrize("subscriptions", [1, 4, 16, 64])
def test_a_turn_with_64_dirty_channels_and_many_subscriptions(
    benchmark: BenchmarkFixture, work: type[Work], subscriptions: int
) -> None:
    load = work(200, channels=64, subscriptions=subscriptions)
    benchmark(load.publish, 64, PAYLOAD)
    assert load.writes == 200


def test_a_turn_of_direct_messages_to_1000_sockets(benchmark: BenchmarkFixture, work: type[Work]) -> None:
    load = work(1000)
    benchmark(load.answer, PAYLOAD)
    assert load.writes == 1000


def test_1000_sockets_that_leave_a_channel_and_come_back(benchmark: BenchmarkFixture, work: type[Work]) -> None:
    load = work(1000)
    benchmark(load.resubscribe)
    assert load.broker.subscriber_count(b"c0") == 1000


def test_a_channel_of_1000_sockets_copied_to_another_one_that_they_leave(
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


@pytest.mark.parametrize("in_flight", [1, 16])
def test_echoes_of_an_inline_handler_for_100_sockets(
    benchmark: BenchmarkFixture, work: type[Work], in_flight: int
) -> None:
    load = work(100)
    benchmark(load.receive, frame(TEXT, PAYLOAD.encode()) * in_flight)
    assert load.writes == 100
    assert load.broker.counters.messages_received % (100 * in_flight) == 0
