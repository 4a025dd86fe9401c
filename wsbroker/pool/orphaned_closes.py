"""Close handlers that a lost worker has left undone: each is run by another worker, or by the replacement."""

from collections.abc import Sequence
from typing import Final, cast

from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.interfaces import Core
from wsbroker.pool.slot import WorkerSlot
from wsbroker.wire.events import Event

logger = GuardedLog(__name__)

MAX_LOSSES: Final = 3
"""A CLOSE event that was with this many workers when they were lost is not given to a further one: its handler is
probably what kills them. Not less: events that merely waited are counted too, the wire does not say which one ran."""


class OrphanedCloses:
    """CLOSE events without a worker, and how often each has lost one."""

    def __init__(self, core: Core, slots: Sequence[WorkerSlot]) -> None:
        self._core = core
        self._slots = slots
        self._unassigned: dict[int, tuple[Event, int]] = {}
        self._losses_by_queue: dict[int, dict[int, int]] = {}
        """By lane: losses of the sockets whose CLOSE it was given. As long as it has not run them."""

    def __len__(self) -> int:
        return len(self._unassigned)

    def add_closes(self, slot: WorkerSlot, closes: list[Event]) -> None:
        """Takes what a lost worker has left, and gives it to another one now if any runs."""
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
        """Gives what is homeless to the running worker with the fewest sockets; keeps it if none runs."""
        running = [slot for slot in self._slots if slot.is_running]
        if not self._unassigned or not running:
            return
        home = min(running, key=lambda slot: slot.queue.socket_count)
        homeless, self._unassigned = self._unassigned, {}
        closing = home.queue.unhandled_closes
        adopted = {
            socket_id: n for socket_id, n in self._losses_by_queue.get(home.index, {}).items() if socket_id in closing
        }
        adopted.update((socket_id, losses) for socket_id, (_, losses) in homeless.items())
        self._losses_by_queue[home.index] = adopted
        self._core.adopt_closes(home.index, [event for event, _ in homeless.values()])

    def drop_unassigned(self) -> None:
        """The pool has stopped: what is left will not be run."""
        if self._unassigned:
            logger.error("close handlers not run, worker lost and pool stopping count=%d", len(self._unassigned))
            self._unassigned.clear()
