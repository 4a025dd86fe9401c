"""Guards against gross regressions of speed and memory, without a stopwatch's flakiness.

Counts are exact (calls, memory blocks); times are ratios to a plain loop over the same work, measured in the same
process right beside it, with a margin that noise does not reach and an interpreted or quadratic core does.
"""

import asyncio
import gc
import sys
from collections import deque
from collections.abc import Callable
from statistics import median
from time import perf_counter
from types import FrameType
from typing import Any, cast

import pytest

from kits.connections_kit import HEAD, Bench, text
from wsbroker.build import core_kind
from wsbroker.connections.connection import Connection
from wsbroker.worker.interruption import reset_eval_breaker

compiled_only = pytest.mark.skipif(core_kind() != "compiled", reason="costs of the compiled core")

MEMBERS = 1000
MESSAGES = 16


class Sink:
    """A transport whose `write` is a C function that does next to nothing."""

    __slots__ = ("write",)

    def __init__(self) -> None:
        self.write: Callable[[bytes], None] = deque[bytes](maxlen=0).append

    def set_protocol(self, protocol: object) -> None: ...

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def connect(bench: Bench, sink: Sink) -> Connection:
    connection = bench.sockets.admit_connection(0)
    assert connection is not None
    bench.sockets.accept_upgrade(connection, cast(asyncio.Transport, sink), HEAD, b"")
    return connection


def calls_of(work: Callable[[], object]) -> int:
    """How many Python functions (not C ones) `work` calls, itself not counted."""
    count = 0
    reset_eval_breaker()  # other tests interrupt threads, and one that died before it raised would hang a profiler

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@compiled_only
def test_a_message_into_an_inline_handler_is_one_python_call() -> None:
    def handler(data: object, socket_id: int, token: object) -> None: ...

    bench = Bench(handler=handler)
    connection = connect(bench, Sink())
    data = text("x" * 64) * 200
    connection.data_received(data)
    assert calls_of(bench.sockets.run_turn) == 200
    assert calls_of(lambda: connection.data_received(data)) <= 2  # the lambda, and the loop's call_soon


@compiled_only
def test_a_publication_calls_no_python_however_many_get_it() -> None:
    bench = Bench()
    for _ in range(MEMBERS):
        bench.broker.subscribe(connect(bench, Sink()).id, b"c")
    bench.loop.run()
    bench.broker.publish(b"c", "x", ())
    assert calls_of(bench.broker.flush) == 0


@compiled_only
def test_an_idle_connection_is_a_handful_of_memory_blocks() -> None:
    bench = Bench()
    sink = Sink()
    kept = [connect(bench, sink) for _ in range(100)]
    gc.collect()
    before = sys.getallocatedblocks()
    kept += [connect(bench, sink) for _ in range(1000)]
    gc.collect()
    per_connection = (sys.getallocatedblocks() - before) / 1000
    assert per_connection <= 3.5, "connection, id, and their share of the tables"


@compiled_only
def test_fan_out_costs_a_few_times_a_bare_loop_over_the_transports() -> None:
    bench = Bench()
    sinks = [Sink() for _ in range(MEMBERS)]
    for sink in sinks:
        bench.broker.subscribe(connect(bench, sink).id, b"c")
    bench.loop.run()
    payload = "x" * 64
    data = b"x" * 66 * MESSAGES

    def bare() -> None:
        for sink in sinks:
            sink.write(data)

    def ours() -> None:
        for _ in range(MESSAGES):
            bench.broker.publish(b"c", payload, ())
        bench.broker.flush()

    # Seen: 0.8 to 1.3; interpreted 12 and more; one write per message and member 10 and more.
    assert ratio(ours, bare) < 5


@compiled_only
def test_a_direct_answer_beside_a_publication_does_not_walk_the_channel_again() -> None:
    bench = Bench()
    connections = [connect(bench, Sink()) for _ in range(MEMBERS)]
    for connection in connections:
        bench.broker.subscribe(connection.id, b"c")
    bench.loop.run()

    def alone() -> None:
        bench.broker.publish(b"c", "x", ())
        bench.broker.flush()

    def with_answer() -> None:
        bench.broker.publish(b"c", "x", ())
        bench.broker.send(connections[500].id, "answer")
        bench.broker.flush()

    assert ratio(with_answer, alone) < 2.5  # seen: 1.0 to 1.3


@compiled_only
def test_cost_per_delivery_is_flat_from_a_hundred_to_ten_thousand_members() -> None:
    def cost_of(members: int) -> Callable[[], None]:
        bench = Bench()
        for _ in range(members):
            bench.broker.subscribe(connect(bench, Sink()).id, b"c")
        bench.loop.run()

        def deliver_ten_thousand() -> None:
            for _ in range(10_000 // members):
                bench.broker.publish(b"c", "x", ())
                bench.broker.flush()

        return deliver_ten_thousand

    # A publication costs about 1 µs by itself, which few members share. Quadratic would be 100.
    assert ratio(cost_of(10_000), cost_of(100)) < 4


def ratio(work: Callable[[], None], reference: Callable[[], None]) -> float:
    """The median of alternating pairs."""
    ratios = []
    for _ in range(15):
        started = perf_counter()
        work()
        between = perf_counter()
        reference()
        ratios.append((between - started) / (perf_counter() - between))
    return median(ratios)
