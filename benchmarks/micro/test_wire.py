"""What the way between broker and worker costs: batches made and read, events out, commands in.

    pytest benchmarks/micro/test_wire.py

The columns are per batch. Making and reading a batch is interpreted in every build: `marshal` does the work.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kits.websocket_kit import frame
from kits.workload_kit import Batch, Work
from wsbroker.wire import commands
from wsbroker.wire.framing import BatchUnpacker, pack_batch

PAYLOAD = "x" * 64
MESSAGE = frame(1, PAYLOAD.encode())
BATCHES = [1, 16, 256]


def answers(count: int) -> Batch:
    """What a worker says that answers each message: the answers, and that the messages are handled."""
    batch: Batch = [(commands.SEND, socket_id, PAYLOAD) for socket_id in range(1, count + 1)]
    return [*batch, (commands.HANDLED, [(socket_id, 192) for socket_id in range(1, count + 1)])]


@pytest.mark.parametrize("count", BATCHES)
def test_making_a_batch(benchmark: BenchmarkFixture, count: int) -> None:
    batch = answers(count)
    assert BatchUnpacker().feed(benchmark(pack_batch, batch)) == [batch]


@pytest.mark.parametrize("count", BATCHES)
def test_reading_a_batch(benchmark: BenchmarkFixture, count: int) -> None:
    data = pack_batch(answers(count))
    unpacker = BatchUnpacker()
    assert benchmark(unpacker.feed, data) == [answers(count)]


@pytest.mark.parametrize("count", BATCHES)
def test_events_on_their_way_to_a_worker(benchmark: BenchmarkFixture, work: type[Work], count: int) -> None:
    load = work(count, is_inline=False)

    def turn() -> None:
        load.receive(MESSAGE)
        load.batches.clear()

    benchmark(turn)
    assert load.broker.counters.messages_received % count == 0


@pytest.mark.parametrize("count", BATCHES)
def test_applying_the_answers_of_a_worker(benchmark: BenchmarkFixture, work: type[Work], count: int) -> None:
    load = work(count, is_inline=False)
    benchmark(load.apply, answers(count)[:-1])
    assert load.writes == count


@pytest.mark.parametrize("count", BATCHES)
def test_messages_there_and_answers_back(benchmark: BenchmarkFixture, work: type[Work], count: int) -> None:
    load = work(count, is_inline=False)
    benchmark(load.cross, MESSAGE, answers(count))
    assert load.writes == count
