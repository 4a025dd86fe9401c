"""Warnings about clients are limited in rate, and the number of omitted ones is logged."""

import pytest

from wsbroker.front.rate_limited_log import MAX_KINDS, MAX_PER_SECOND, REPEAT_S, RateLimitedLog
from wsbroker.guarded_log import GuardedLog


def test_a_flood_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    rate_limited_log = RateLimitedLog(GuardedLog("x"), lambda: now)
    for number in range(1000):
        rate_limited_log.warn_or_count("bad number=%d", number)
    assert [record.getMessage() for record in caplog.records] == [f"bad number={n}" for n in range(MAX_PER_SECOND)]
    caplog.clear()
    now = 101.0
    rate_limited_log.warn_or_count("bad again")
    rate_limited_log.warn_or_count("and again")
    assert [record.getMessage() for record in caplog.records] == [
        f"warnings about peers left out count={1000 - MAX_PER_SECOND}",
        "bad again",
        "and again",
    ]


def test_a_warning_of_one_kind_is_given_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    rate_limited_log = RateLimitedLog(GuardedLog("x"), lambda: now)
    for _ in range(3):
        rate_limited_log.warn_once_per_kind("a", "bad letter=%s", "a")
        rate_limited_log.warn_once_per_kind(("b", 1), "bad letter=%s", "b")
    assert [record.getMessage() for record in caplog.records] == ["bad letter=a", "bad letter=b"]
    now += REPEAT_S - 1
    rate_limited_log.warn_once_per_kind("a", "bad letter=%s", "a")
    assert len(caplog.records) == 2
    now += 1
    rate_limited_log.warn_once_per_kind("a", "bad letter=%s", "a")
    assert len(caplog.records) == 3


def test_a_flood_of_kinds_fills_neither_the_log_nor_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    rate_limited_log = RateLimitedLog(GuardedLog("x"), lambda: now)
    for number in range(10 * MAX_KINDS):
        rate_limited_log.warn_once_per_kind(number, "bad number=%d", number)
    assert len(caplog.records) == MAX_PER_SECOND
    now += 1
    rate_limited_log.warn_once_per_kind(number, "bad number=%d", number)  # it was left out, so it is said now
    assert caplog.records[-1].getMessage() == f"bad number={10 * MAX_KINDS - 1}"
    for number in range(-2 * MAX_KINDS, 0):
        now += 0.2
        rate_limited_log.warn_once_per_kind(number, "bad number=%d", number)
    assert len(rate_limited_log._next_time_by_kind) <= MAX_KINDS
