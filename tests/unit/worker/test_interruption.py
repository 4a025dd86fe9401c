"""Interruption of handlers, step by step: the helper looks in a thread that the handler itself starts and joins."""

import threading
import time
from collections.abc import Callable

import pytest

from wsbroker.worker import interruption as watching
from wsbroker.worker.interruption import HandlerTimeout, HandlerTimer

FUTURE = 1e12


class Watched:
    """A watch, what it has told, and its helper's look."""

    def __init__(self, look_s: float = 5.0, hang_s: float = 100.0) -> None:
        self.interrupted: list[tuple[str, int]] = []
        self.hung: list[tuple[str, int]] = []
        self.looks: list[float | None] = []
        self.watch = HandlerTimer(
            look_s,
            hang_s,
            lambda handler, socket_id, seconds: self.interrupted.append((handler, socket_id)),
            lambda handler, socket_id, seconds: self.hung.append((handler, socket_id)),
        )

    def check_deadline(self) -> None:
        """One look of the helper, in a thread of its own; when this returns it has happened."""
        thread = threading.Thread(target=lambda: self.looks.append(self.watch.check_deadline()))
        thread.start()
        while thread.is_alive():  # a loop of short waits: the interruption comes between two of them
            thread.join(0.01)

    def call_with_deadline(self, function: Callable[..., object], deadline: float | None = None) -> object:
        """Calls a handler; without a deadline it is over already."""
        start = time.monotonic() - 1
        return self.watch.call_with_deadline(start if deadline is None else deadline, start, "handler", 7, function)

    def check_idle(self) -> None:
        """Nothing of a call is left, and nothing more comes out of the blue."""
        assert self.watch.running_call is self.watch.armed_call is None
        for _ in range(1000):
            pass


def test_a_call_in_time_is_not_touched() -> None:
    watched = Watched(look_s=5.0)

    def handler() -> str:
        watched.check_deadline()
        return "done"

    assert watched.call_with_deadline(handler, FUTURE) == "done"
    watched.check_deadline()
    assert watched.looks == [5.0, 5.0] and watched.interrupted == []
    with pytest.raises(LookupError):
        watched.call_with_deadline(lambda: [][0], FUTURE)
    watched.check_idle()


def test_the_helper_looks_again_at_the_deadline() -> None:
    watched = Watched(look_s=5.0)
    watched.call_with_deadline(watched.check_deadline, time.monotonic() + 1)
    [look_s] = watched.looks
    assert look_s is not None and 0 < look_s <= 1
    unlimited = Watched(look_s=float("inf"))
    unlimited.call_with_deadline(unlimited.check_deadline, float("inf"))
    unlimited.check_deadline()
    assert unlimited.looks == [None, None]


def test_an_overdue_handler_is_interrupted_once() -> None:
    watched = Watched()
    reached: list[str] = []

    def handler() -> None:
        try:
            watched.check_deadline()
            reached.append("behind the look")
        finally:
            watched.check_deadline()

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    assert watched.interrupted == [("handler", 7)] and reached == []
    watched.check_idle()


def test_after_an_interruption_the_helper_does_not_sleep_through_the_next_calls() -> None:
    watched = Watched(look_s=5.0, hang_s=100.0)
    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(watched.check_deadline)
    assert watched.looks == [5.0]


def test_a_handler_that_swallows_it_has_still_timed_out() -> None:
    watched = Watched()

    def handler() -> str:
        try:
            watched.check_deadline()
        except BaseException:
            pass
        return "done"

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    watched.check_idle()


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_an_interruption_that_comes_too_late_is_taken_back_and_counts(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_back: list[bool] = []
    monkeypatch.setattr(
        watching, "_make_interrupt_functions", lambda thread_id: (lambda: None, lambda: taken_back.append(True))
    )
    watched = Watched()

    def handler() -> None:
        watched.check_deadline()  # the exception stays pending
        if ends == "raises":
            raise LookupError

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    assert taken_back and watched.interrupted == [("handler", 7)]
    watched.check_idle()


def test_a_shielded_stretch_is_not_interrupted_but_its_end_is() -> None:
    watched = Watched()
    order: list[str] = []

    def handler() -> None:
        armed = watched.watch.suspend_interruption()
        watched.check_deadline()
        order.append("shielded")
        watched.watch.resume_interruption(armed)
        order.append("not reached")

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    assert order == ["shielded"] and watched.interrupted == [("handler", 7)]
    watched.check_idle()


def test_an_announcement_that_finds_its_call_ended_does_not_hit_the_next_one() -> None:
    watched = Watched()
    ended = []
    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(watched.check_deadline)
    watched.watch.announced_call = (0.0, 0.0, "handler", 6)  # of a call that had looked already
    assert watched.call_with_deadline(lambda: ended.append(1), FUTURE) is None and ended == [1]
    armed = watched.watch.suspend_interruption()
    watched.watch.resume_interruption(armed)
    watched.check_idle()


def test_a_shield_that_begins_after_the_interruption_raises_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_make_interrupt_functions", lambda thread_id: (lambda: None, lambda: None))
    watched = Watched()
    order: list[str] = []

    def handler() -> None:
        watched.check_deadline()
        watched.watch.suspend_interruption()
        order.append("not reached")

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    assert order == []
    watched.check_idle()


def test_a_handler_that_does_not_end_is_reported_as_hung_once() -> None:
    watched = Watched(hang_s=0.0)

    def handler() -> None:
        for _ in range(3):
            try:
                watched.check_deadline()
            except HandlerTimeout:
                pass

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    assert watched.interrupted == watched.hung == [("handler", 7)]


def test_where_nothing_can_be_raised_in_a_handler_it_has_timed_out_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "_make_interrupt_functions", lambda thread_id: (lambda: None, lambda: None))
    watched = Watched(hang_s=0.0)
    ended: list[str] = []

    def handler() -> None:
        watched.check_deadline()
        ended.append("ended")

    with pytest.raises(HandlerTimeout):
        watched.call_with_deadline(handler)
    assert ended == ["ended"] and watched.interrupted == watched.hung == [("handler", 7)]
    watched.check_idle()
