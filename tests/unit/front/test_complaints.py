"""Warnings about peers are few, and say how many are missing."""

import pytest

from wsbroker.front.complaints import MAX_PER_SECOND, Complaints
from wsbroker.guarded_log import GuardedLog


def test_a_flood_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    complaints = Complaints(GuardedLog("x"), lambda: now)
    for number in range(1000):
        complaints.warn("bad number=%d", number)
    assert [record.getMessage() for record in caplog.records] == [f"bad number={n}" for n in range(MAX_PER_SECOND)]
    caplog.clear()
    now = 101.0
    complaints.warn("bad again")
    complaints.warn("and again")
    assert [record.getMessage() for record in caplog.records] == [
        f"warnings about peers left out count={1000 - MAX_PER_SECOND}",
        "bad again",
        "and again",
    ]
