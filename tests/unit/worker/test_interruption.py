"""Interruption of handlers, step by step: a thread that the handler itself starts and joins checks the deadline."""

import threading
import time
from collections.abc import Callable

import pytest

from wsbroker.worker import interruption as watching
from wsbroker.worker.interruption import HandlerTimeout, HandlerTimer

FUTURE = 1e12


class Timed:
    """A timer, what it has reported, and the check of its control thread."""

    def __init__(self, check_interval_s: float = 5.0, hang_timeout_s: float = 100.0) -> None:
        self.interrupted: list[tuple[str, int]] = []
        self.hung: list[tuple[str, int]] = []
        self.checks: list[float | None] = []
        self.timer = HandlerTimer(
            check_interval_s,
            hang_timeout_s,
            lambda handler, socket_id, seconds: self.interrupted.append((handler, socket_id)),
            lambda handler, socket_id, seconds: self.hung.append((handler, socket_id)),
        )

    def check_deadline(self) -> None:
        """Checks the deadline once, in a thread; the check has ended when this returns."""
        thread = threading.Thread(target=lambda: self.checks.append(self.timer.check_deadline()))
        thread.start()
        while thread.is_alive():  # a loop of short waits: the interruption comes between two of them
            thread.join(0.01)

    def call_with_deadline(self, function: Callable[..., object], deadline: float | None = None) -> object:
        """Calls a handler; without a deadline it is over already."""
        start = time.monotonic() - 1
        return self.timer.call_with_deadline(start if deadline is None else deadline, start, "handler", 7, function)

    def check_idle(self) -> None:
        """Nothing of a call is left, and nothing more comes out of the blue."""
        assert self.timer.running_call is self.timer.armed_call is None
        for _ in range(1000):
            pass


def test_a_call_in_time_is_not_touched() -> None:
    timed = Timed(check_interval_s=5.0)

    def handler() -> str:
        timed.check_deadline()
        return "done"

    assert timed.call_with_deadline(handler, FUTURE) == "done"
    timed.check_deadline()
    assert timed.checks == [5.0, 5.0] and timed.interrupted == []
    with pytest.raises(LookupError):
        timed.call_with_deadline(lambda: [][0], FUTURE)
    timed.check_idle()


def test_the_helper_looks_again_at_the_deadline() -> None:
    timed = Timed(check_interval_s=5.0)
    timed.call_with_deadline(timed.check_deadline, time.monotonic() + 1)
    [check_interval_s] = timed.checks
    assert check_interval_s is not None and 0 < check_interval_s <= 1
    unlimited = Timed(check_interval_s=float("inf"))
    unlimited.call_with_deadline(unlimited.check_deadline, float("inf"))
    unlimited.check_deadline()
    assert unlimited.checks == [None, None]


def test_an_overdue_handler_is_interrupted_once() -> None:
    timed = Timed()
    reached: list[str] = []

    def handler() -> None:
        try:
            timed.check_deadline()
            reached.append("behind the look")
        finally:
            timed.check_deadline()

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    assert timed.interrupted == [("handler", 7)] and reached == []
    timed.check_idle()


def test_after_an_interruption_the_helper_does_not_sleep_through_the_next_calls() -> None:
    timed = Timed(check_interval_s=5.0, hang_timeout_s=100.0)
    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(timed.check_deadline)
    assert timed.checks == [5.0]


def test_a_handler_that_swallows_it_has_still_timed_out() -> None:
    timed = Timed()

    def handler() -> str:
        try:
            timed.check_deadline()
        except BaseException:
            pass
        return "done"

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    timed.check_idle()


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_an_interruption_that_comes_too_late_is_taken_back_and_counts(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_back: list[bool] = []
    monkeypatch.setattr(
        watching, "_make_interrupt_functions", lambda thread_id: (lambda: None, lambda: taken_back.append(True))
    )
    timed = Timed()

    def handler() -> None:
        timed.check_deadline()  # the exception stays pending
        if ends == "raises":
            raise LookupError

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    assert taken_back and timed.interrupted == [("handler", 7)]
    timed.check_idle()


def test_a_shielded_stretch_is_not_interrupted_but_its_end_is() -> None:
    timed = Timed()
    order: list[str] = []

    def handler() -> None:
        armed_call = timed.timer.suspend_interruption()
        timed.check_deadline()
        order.append("suspended")
        timed.timer.resume_interruption(armed_call)
        order.append("not reached")

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    assert order == ["suspended"] and timed.interrupted == [("handler", 7)]
    timed.check_idle()


def test_an_announcement_that_finds_its_call_ended_does_not_hit_the_next_one() -> None:
    timed = Timed()
    ended = []
    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(timed.check_deadline)
    timed.timer.announced_call = (0.0, 0.0, "handler", 6)  # of a call that was announced already
    assert timed.call_with_deadline(lambda: ended.append(1), FUTURE) is None and ended == [1]
    armed_call = timed.timer.suspend_interruption()
    timed.timer.resume_interruption(armed_call)
    timed.check_idle()


def test_a_shield_that_begins_after_the_interruption_raises_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_make_interrupt_functions", lambda thread_id: (lambda: None, lambda: None))
    timed = Timed()
    order: list[str] = []

    def handler() -> None:
        timed.check_deadline()
        timed.timer.suspend_interruption()
        order.append("not reached")

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    assert order == []
    timed.check_idle()


def test_a_handler_that_does_not_end_is_reported_as_hung_once() -> None:
    timed = Timed(hang_timeout_s=0.0)

    def handler() -> None:
        for _ in range(3):
            try:
                timed.check_deadline()
            except HandlerTimeout:
                pass

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    assert timed.interrupted == timed.hung == [("handler", 7)]


def test_where_nothing_can_be_raised_in_a_handler_it_has_timed_out_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "_make_interrupt_functions", lambda thread_id: (lambda: None, lambda: None))
    timed = Timed(hang_timeout_s=0.0)
    ended: list[str] = []

    def handler() -> None:
        timed.check_deadline()
        ended.append("ended")

    with pytest.raises(HandlerTimeout):
        timed.call_with_deadline(handler)
    assert ended == ["ended"] and timed.interrupted == timed.hung == [("handler", 7)]
    timed.check_idle()
