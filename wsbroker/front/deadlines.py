"""Many deadlines of one length, with one timer."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class DeadlineQueue(Generic[Item]):
    """Things that are late `after_s` seconds after they were added, unless removed before.

    All wait equally long, so the order in which they were added is the order in which they are due: a `dict` is the
    queue, and one timer of the loop sleeps until the oldest is due. Adding and removing cost one dict operation.

    Args:
        loop: whose clock and timer are used.
        after_s: how long after `add` a thing is due, in seconds.
        late: told of each thing that was not removed in time; the thing is removed before the call.
    """

    __slots__ = ("_after_s", "_due_time_by_item", "_on_expired", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, late: Callable[[Item], None]) -> None:
        self._loop = loop
        self._after_s = after_s
        self._on_expired = late
        self._due_time_by_item: dict[Item, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due_time_by_item)

    def __contains__(self, thing: object) -> bool:
        return thing in self._due_time_by_item

    def add(self, thing: Item) -> None:
        """Starts the deadline of `thing`; one that it already has stays as it is (who dribbles gains nothing)."""
        if thing not in self._due_time_by_item:
            due = self._loop.time() + self._after_s
            self._due_time_by_item[thing] = due
            if self._timer is None:
                self._timer = self._loop.call_at(due, self._report_expired)

    def remove(self, thing: Item) -> None:
        """Ends the deadline of `thing`, if it has one. The timer is left to run: it finds nothing and sleeps on."""
        self._due_time_by_item.pop(thing, None)

    def clear(self) -> None:
        """Forgets everything and stops the timer."""
        self._due_time_by_item.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report_expired(self) -> None:
        now = self._loop.time()
        late: list[Item] = []
        for thing, due in self._due_time_by_item.items():
            if due > now:
                break
            late.append(thing)
        for thing in late:
            del self._due_time_by_item[thing]
        # Armed before anybody is told, so that a `late` that fails or adds again finds a sound state.
        oldest = next(iter(self._due_time_by_item.values()), None)
        self._timer = None if oldest is None else self._loop.call_at(oldest, self._report_expired)
        for thing in late:
            self._on_expired(thing)
