"""The long runs of `benchmarks.soak`, short: what each checks holds here too, but for what needs time to grow."""

import pytest

import benchmark_kit  # noqa: F401
from benchmarks.soaking import cycles, order, stall, threads
from benchmarks.soaking.report import Report


@pytest.mark.parametrize("kind, handlers", [("inline", "sync"), ("thread", "sync"), ("thread", "async")])
def test_sockets_that_come_and_go_in_every_way_leave_nothing_behind(kind: str, handlers: str) -> None:
    report = Report("cycles")
    cycles.run(report, kind, handlers, count=300, warm_up=300, parallel=50)
    assert report.failures == []


@pytest.mark.parametrize("kind, workers", [("inline", 1), ("thread", 2)])
def test_one_order_explains_what_everybody_receives(kind: str, workers: int) -> None:
    report = Report("order")
    order.run(report, kind, workers, count=32, sockets=80, channels=6)
    assert report.failures == []


def test_a_worker_that_stands_still_holds_up_its_own_sockets_only() -> None:
    report = Report("stall")
    stall.run(report, total_bytes=16 << 20, size=8192, stall_s=0.0, ping_s=25.0)
    assert report.failures == []


def test_threads_that_publish_faster_than_anybody_reads_wait_and_keep_their_order() -> None:
    report = Report("threads")
    threads.run(report, "thread", count=500, seconds=2.0, command_bytes=16 * 1024)
    assert report.failures == []
