"""Warnings about a growing counter are repeated at intervals, with the growth."""

import pytest

from wsbroker.guarded_log import GuardedLog
from wsbroker.server.operator_warnings import REPEAT_INTERVAL_S, OperatorWarnings

BEHIND = "a worker is behind"


def test_each_is_said_at_once_and_then_at_intervals_with_the_count_since_the_last_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warnings = OperatorWarnings(GuardedLog("x"))
    for second in range(int(REPEAT_INTERVAL_S) * 3):
        warnings.warn_if_grown(second + 1, BEHIND, 1000.0 + second)
        warnings.warn_if_grown(0, "never", 1000.0 + second)
    every = int(REPEAT_INTERVAL_S)
    assert caplog.messages == [f"{BEHIND} count=1", f"{BEHIND} count={every}", f"{BEHIND} count={every}"]


def test_what_has_ended_is_not_said_again_and_what_begins_again_is_said_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such as a worker that falls behind every night."""
    warnings = OperatorWarnings(GuardedLog("x"))
    for night in range(3):
        for hour in range(24):
            warnings.warn_if_grown(7 * (night + (hour >= 2)), BEHIND, 3600.0 * (24 * night + hour))
    assert caplog.messages == [f"{BEHIND} count=7"] * 3


def test_what_comes_within_the_interval_is_counted_in_the_next_line(caplog: pytest.LogCaptureFixture) -> None:
    warnings = OperatorWarnings(GuardedLog("x"))
    warnings.warn_if_grown(1, BEHIND, 5.0)
    warnings.warn_if_grown(2, "another", 5.5)
    warnings.warn_if_grown(4, BEHIND, 6.0)
    warnings.warn_if_grown(4, BEHIND, 5.0 + REPEAT_INTERVAL_S)
    assert caplog.messages == [f"{BEHIND} count=1", "another count=2", f"{BEHIND} count=3"]
