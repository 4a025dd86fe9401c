"""A queue of deadlines: one timer for many items with the same time limit."""

import asyncio
import heapq
from collections.abc import Callable
from typing import cast

from wsbroker.front.deadlines import DeadlineQueue


class FakeTimer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """A loop whose clock the test moves, with its timers."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, int, FakeTimer]] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> FakeTimer:
        self.armed += 1
        timer = FakeTimer(call)
        heapq.heappush(self.timers, (when, self.armed, timer))
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self.timers)
            if not timer.is_cancelled:
                timer.call()
        self.now = end


def made(after_s: float = 10.0) -> tuple[FakeLoop, DeadlineQueue[str], list[str]]:
    loop, late = FakeLoop(), list[str]()
    return loop, DeadlineQueue(cast(asyncio.AbstractEventLoop, loop), after_s, late.append), late


def test_who_is_not_removed_in_time_is_late() -> None:
    loop, deadlines, late = made()
    deadlines.add("a")
    loop.advance(9.9)
    assert late == []
    loop.advance(0.1)
    assert late == ["a"]
    assert "a" not in deadlines


def test_who_is_removed_in_time_is_not() -> None:
    loop, deadlines, late = made()
    deadlines.add("a")
    deadlines.remove("a")
    loop.advance(60)
    assert late == []
    assert len(deadlines) == 0


def test_adding_again_does_not_postpone() -> None:
    loop, deadlines, late = made()
    deadlines.add("a")
    loop.advance(9)
    deadlines.add("a")
    loop.advance(1)
    assert late == ["a"]


def test_each_is_late_at_its_own_time() -> None:
    loop, deadlines, late = made()
    for name in "abc":
        deadlines.add(name)
        loop.advance(3)
    deadlines.remove("b")
    loop.advance(1)
    assert late == ["a"]
    loop.advance(5.9)
    assert late == ["a"]
    loop.advance(0.1)
    assert late == ["a", "c"]


def test_one_timer_serves_thousands() -> None:
    loop, deadlines, late = made()
    for number in range(5000):
        deadlines.add(str(number))
        deadlines.remove(str(number))
        loop.advance(0.001)
    assert loop.armed == 1
    loop.advance(10)
    assert late == []
    assert loop.timers == []  # nothing to wait for: no timer runs


def test_a_timer_is_armed_again_for_who_comes_after_an_empty_time() -> None:
    loop, deadlines, late = made()
    deadlines.add("a")
    deadlines.remove("a")
    loop.advance(50)
    deadlines.add("b")
    loop.advance(10)
    assert late == ["b"]


def test_who_is_late_may_be_added_again_at_once() -> None:
    loop = FakeLoop()
    late: list[str] = []

    def once_more(name: str) -> None:
        late.append(name)
        if len(late) < 3:
            deadlines.add(name)

    deadlines = DeadlineQueue[str](cast(asyncio.AbstractEventLoop, loop), 1.0, once_more)
    deadlines.add("a")
    loop.advance(1)
    assert late == ["a"]
    loop.advance(5)
    assert late == ["a", "a", "a"]


def test_clear_forgets_everything() -> None:
    loop, deadlines, late = made()
    deadlines.add("a")
    deadlines.clear()
    loop.advance(60)
    assert late == []
    deadlines.add("b")
    loop.advance(10)
    assert late == ["b"]
