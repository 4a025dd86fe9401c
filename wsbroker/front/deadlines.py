"""Deadlines of HTTP connections: many deadlines of one length share one timer of the loop."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class DeadlineQueue(Generic[Item]):
    """Calls `on_expired` with each item that is not removed within `after_s` seconds after it was added.

    All items wait equally long, so the order in which they were added is the order in which they are due: a `dict` is
    the queue, and one timer of the loop sleeps until the oldest is due. Adding and removing cost one dict operation.

    Args:
        loop: the event loop whose clock and timer are used.
        after_s: how long after `add` an item is due, in seconds.
        on_expired: called with each item that was not removed in time; the item is removed before the call.
    """

    __slots__ = ("_after_s", "_due_time_by_item", "_on_expired", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, on_expired: Callable[[Item], None]) -> None:
        self._loop = loop
        self._after_s = after_s
        self._on_expired = on_expired
        self._due_time_by_item: dict[Item, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due_time_by_item)

    def __contains__(self, item: object) -> bool:
        return item in self._due_time_by_item

    def add(self, item: Item) -> None:
        """Starts the deadline of an item; a deadline that the item already has stays unchanged.

        (So a client that sends a byte now and then gains no time.)
        """
        if item not in self._due_time_by_item:
            due = self._loop.time() + self._after_s
            self._due_time_by_item[item] = due
            if self._timer is None:
                self._timer = self._loop.call_at(due, self._report_expired)

    def remove(self, item: Item) -> None:
        """Ends the deadline of an item, if the item has one. The timer stays armed and finds the item gone."""
        self._due_time_by_item.pop(item, None)

    def clear(self) -> None:
        """Removes all items without calling `on_expired`, and stops the timer."""
        self._due_time_by_item.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report_expired(self) -> None:
        """Removes the items that are due, sets the timer for the next item, and calls `on_expired` for the removed.

        Called by the timer, when the oldest item is due.
        """
        now = self._loop.time()
        expired: list[Item] = []
        for item, due in self._due_time_by_item.items():
            if due > now:
                break
            expired.append(item)
        for item in expired:
            del self._due_time_by_item[item]
        # The timer is armed before the calls, so that an `on_expired` that raises or adds items finds a sound state.
        oldest_due = next(iter(self._due_time_by_item.values()), None)
        self._timer = None if oldest_due is None else self._loop.call_at(oldest_due, self._report_expired)
        for item in expired:
            self._on_expired(item)
