"""The long runs of `benchmarks.soak`, short: all of their checks hold here too, but for those that need time."""

import sys

import pytest

import kits.benchmark_kit  # noqa: F401
from benchmarks.soak import busy, cycles, flood, joins, stall, threads
from benchmarks.soak.report import Report

FLOODED = ["inline", "interpreter" if sys.version_info >= (3, 13) else "process"]
"""A thread is a worker at a wire like the others."""


@pytest.mark.parametrize("kind, handlers", [("inline", "sync"), ("thread", "sync"), ("thread", "async")])
def test_sockets_that_come_and_go_in_every_way_leave_nothing_behind(kind: str, handlers: str) -> None:
    report = Report("cycles")
    cycles.run(report, kind, handlers, count=300, warm_up=300, parallel=50)
    assert report.failures == []


def test_a_worker_that_stands_still_holds_up_its_own_sockets_only() -> None:
    report = Report("stall")
    stall.run(report, total_bytes=16 << 20, size=8192, stall_s=0.0, ping_s=25.0)
    assert report.failures == []


def test_threads_that_publish_faster_than_anybody_reads_wait_and_keep_their_order() -> None:
    report = Report("threads")
    threads.run(report, "thread", count=500, seconds=2.0, command_bytes=16 * 1024)
    assert report.failures == []


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_sockets_that_join_channels_at_once_leave_nothing_behind(kind: str) -> None:
    report = Report("joins")
    joins.run(report, kind, workers=2, sockets=60, channels=6, rounds=2)
    assert report.failures == []


@pytest.mark.parametrize("kind", FLOODED)
def test_sockets_that_flood_their_worker_do_not_keep_another_one_waiting(kind: str) -> None:
    report = Report("flood")
    flood.run(report, kind, sockets=20, kib=703, seconds=0.4, worst_s=10 * flood.WORST_S)
    assert report.failures == []


@pytest.mark.full
def test_worker_threads_get_their_turn_beside_a_busy_loop() -> None:
    lines: list[str] = []
    report = Report("busy", lines.append)
    busy.run(report, "thread", workers=2, seconds=1.0, python=sys.executable)
    # How long they wait depends on the machine, and other tests run on it.
    assert any("messages lost, doubled, out of order or changed: 0" in line for line in lines)
    assert sum("round trips" in line and "samples" in line for line in lines) == 4
