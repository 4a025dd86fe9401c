"""Waits in slices: how long each slice is, when the whole wait ends, and which frames count as waiting."""

import sys
import threading
from concurrent.futures import Future
from types import FrameType

import pytest

from wsbroker.server.waiting import (
    WAIT_SLICE_S,
    is_waiting_in_stack,
    mark_as_waiting,
    wait_in_slices,
    wait_until_done,
    wait_until_set,
)


class Slices:
    """Records the slices of a wait; the awaited condition holds after `count` of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: list[float] = []

    def wait_once(self, seconds: float) -> bool:
        """Returns at once whether the condition holds by now."""
        self.seconds.append(seconds)
        return len(self.seconds) == self.count


def test_a_wait_without_a_limit_goes_on_in_slices_until_the_condition_holds() -> None:
    slices = Slices(5)
    assert wait_in_slices(slices.wait_once)
    assert slices.seconds == [WAIT_SLICE_S] * 5


@pytest.mark.parametrize(("timeout_s", "longest"), [(0.0, 0.0), (-1.0, 0.0), (0.25, 0.25)])
def test_a_wait_with_a_limit_within_a_slice_waits_once_and_no_longer(timeout_s: float, longest: float) -> None:
    slices = Slices(99)
    assert not wait_in_slices(slices.wait_once, timeout_s)
    (seconds,) = slices.seconds
    assert 0.0 <= seconds <= longest + 1e-6


def test_a_condition_that_holds_when_the_limit_is_over_counts() -> None:
    assert wait_in_slices(Slices(1).wait_once, 0.0)


def test_events_and_futures_are_waited_for() -> None:
    event = threading.Event()
    assert not wait_until_set(event, 0.0)
    event.set()
    assert wait_until_set(event)
    answer: Future[int] = Future()
    assert not wait_until_done(answer, 0.0)
    answer.set_result(1)
    assert wait_until_done(answer)
    failed: Future[int] = Future()
    failed.set_exception(TimeoutError())  # an error of the work, not of the wait
    assert wait_until_done(failed)
    cancelled: Future[int] = Future()
    cancelled.cancel()
    assert wait_until_done(cancelled)


@mark_as_waiting
def marked() -> FrameType:
    """Returns the frame of a function that the marked one calls."""
    return unmarked()


def unmarked() -> FrameType:
    """Returns its own frame."""
    return sys._getframe()


def test_a_frame_counts_as_waiting_below_a_marked_function_only() -> None:
    assert is_waiting_in_stack(marked())
    assert not is_waiting_in_stack(unmarked())
    assert not is_waiting_in_stack(None)
