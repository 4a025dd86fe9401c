"""The long runs of `benchmarks.soak`, short: all of their checks hold here too, but for those that need time."""

import sys

import pytest

import kits.benchmark_kit  # noqa: F401
from benchmarks.soak.busy import Busy
from benchmarks.soak.cycles import Cycles
from benchmarks.soak.flood import Flood
from benchmarks.soak.joins import Joins
from benchmarks.soak.report import Report
from benchmarks.soak.run import Soak
from benchmarks.soak.stall import Stall
from benchmarks.soak.threads import Threads

FLOODED = ["inline", "interpreter" if sys.version_info >= (3, 13) else "process"]
"""A thread is a worker at a wire like the others."""


def find_failures(soak: type[Soak], **changed: object) -> list[str]:
    """Runs a soak run with these options; returns what was wrong."""
    report = Report(soak.get_name())
    soak(report, **changed).run()
    return report.failures


@pytest.mark.parametrize("kind, handlers", [("inline", "sync"), ("thread", "sync"), ("thread", "async")])
def test_sockets_that_come_and_go_in_every_way_leave_nothing_behind(kind: str, handlers: str) -> None:
    assert find_failures(Cycles, kind=kind, handlers=handlers, count=300, warm_up=300, parallel=50) == []


def test_a_worker_that_stands_still_holds_up_its_own_sockets_only() -> None:
    assert find_failures(Stall, count=16, size=8192, seconds=0.0, ping=25.0) == []


def test_threads_that_publish_faster_than_anybody_reads_wait_and_keep_their_order() -> None:
    assert find_failures(Threads, kind="thread", count=500, seconds=2.0, command_bytes=16 * 1024) == []


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_sockets_that_join_channels_at_once_leave_nothing_behind(kind: str) -> None:
    assert find_failures(Joins, kind=kind, count=60, channels=6, rounds=2) == []


@pytest.mark.parametrize("kind", FLOODED)
def test_sockets_that_flood_their_worker_do_not_keep_another_one_waiting(kind: str) -> None:
    assert find_failures(Flood, kind=kind, kib=70, seconds=0.4, worst=5.0) == []


@pytest.mark.full
def test_worker_threads_get_their_turn_beside_a_busy_loop() -> None:
    lines: list[str] = []
    Busy(Report("busy", lines.append), seconds=1.0).run()
    # How long they wait depends on the machine, and other tests run on it.
    assert any("messages lost, doubled, out of order or changed: 0" in line for line in lines)
    assert sum("round trips" in line and "samples" in line for line in lines) == 4
