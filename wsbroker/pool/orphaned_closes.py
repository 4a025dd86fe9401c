"""Close handlers that a lost worker has not run: each goes to the running worker with the fewest sockets."""

from collections.abc import Sequence
from typing import Final, cast

from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.interfaces import Core
from wsbroker.pool.slot import WorkerSlot
from wsbroker.wire.events import Event

logger = GuardedLog(__name__)

MAX_LOSSES: Final = 3
"""A CLOSE event that this many workers had when they were lost is not given to another worker: its handler probably
kills them. Not fewer: events that only waited are counted too, because the wire does not say which handler ran."""


class OrphanedCloses:
    """CLOSE events of lost workers that no running worker has yet, with the number of losses of each.

    Args:
        core: takes the events for the adopting worker.
        slots: the pool's slots, all that may adopt.
    """

    def __init__(self, core: Core, slots: Sequence[WorkerSlot]) -> None:
        self._core = core
        self._slots = slots
        self._unassigned: dict[int, tuple[Event, int]] = {}
        self._losses_by_queue: dict[int, dict[int, int]] = {}
        """By worker index, then socket id: losses of the CLOSE events that the worker has adopted and not yet run."""

    def __len__(self) -> int:
        """Returns the number of CLOSE events that no worker has."""
        return len(self._unassigned)

    def add_closes(self, slot: WorkerSlot, closes: list[Event]) -> None:
        """Takes a lost worker's unhandled CLOSE events for another worker; gives up those lost MAX_LOSSES times.

        Args:
            slot: the slot whose worker was lost.
            closes: the CLOSE events of its sockets whose handler has not run.
        """
        adopted = self._losses_by_queue.pop(slot.index, {})
        for event in closes:
            socket_id = cast(int, event[1])
            losses = adopted.get(socket_id, 0) + 1
            if losses >= MAX_LOSSES:
                logger.error("close handler given up, lost with its worker socket=%d times=%d", socket_id, losses)
            else:
                self._unassigned[socket_id] = (event, losses)
        self.assign_closes()

    def assign_closes(self) -> None:
        """Gives the unassigned CLOSE events to the running worker with the fewest sockets; keeps them if none runs.

        Called after each loss, and by the pool when a replacement has started.
        """
        running = [slot for slot in self._slots if slot.is_running]
        if not self._unassigned or not running:
            return
        adopter = min(running, key=lambda slot: slot.queue.socket_count)
        orphaned, self._unassigned = self._unassigned, {}
        unhandled_closes = adopter.queue.unhandled_closes
        adopted = {
            socket_id: n
            for socket_id, n in self._losses_by_queue.get(adopter.index, {}).items()
            if socket_id in unhandled_closes
        }
        adopted.update((socket_id, losses) for socket_id, (_, losses) in orphaned.items())
        self._losses_by_queue[adopter.index] = adopted
        self._core.adopt_closes(adopter.index, [event for event, _ in orphaned.values()])

    def drop_unassigned(self) -> None:
        """Drops the unassigned CLOSE events and logs their number. Called when the pool has stopped."""
        if self._unassigned:
            logger.error("close handlers not run, worker lost and pool stopping count=%d", len(self._unassigned))
            self._unassigned.clear()
