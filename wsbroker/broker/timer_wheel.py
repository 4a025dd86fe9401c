"""One timer wheel for all sockets: O(1) to set, move and remove a deadline, no timer object per socket.

Time is counted in ticks that really happened. When the loop stalls, no ticks pass, so that a stall of ours is never
mistaken for the silence of a peer.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import NOWHERE, Socket

SLOTS: Final = 512


@final
class TimerWheel:
    """Deadlines in ticks. One further away than the wheel is long comes out early: whoever gets it looks again."""

    def __init__(self) -> None:
        self.now: i64 = 0
        self.count: i64 = 0
        self.slots: Final[list[list[Socket]]] = [[] for _ in range(SLOTS)]

    def schedule(self, socket: Socket, ticks: i64) -> None:
        """Sets the socket's one deadline to `ticks` (at least 1) from now, in place of an earlier one."""
        if socket.slot != NOWHERE:
            self.remove(socket)
        if ticks < 1:
            ticks = 1
        elif ticks > SLOTS - 1:
            ticks = SLOTS - 1
        number = (self.now + ticks) % SLOTS
        slot = self.slots[number]
        socket.slot = number
        socket.slot_index = len(slot)
        slot.append(socket)
        self.count += 1

    def remove(self, socket: Socket) -> None:
        """Takes the deadline back; nothing happens if there is none."""
        if socket.slot == NOWHERE:
            return
        slot = self.slots[socket.slot]
        last = slot.pop()
        if last is not socket:
            slot[socket.slot_index] = last
            last.slot_index = socket.slot_index
        socket.slot = NOWHERE
        self.count -= 1

    def advance(self) -> list[Socket]:
        """One tick later: the sockets whose deadline this is, each without one now."""
        self.now += 1
        number = self.now % SLOTS
        due = self.slots[number]
        if not due:
            return due
        self.slots[number] = []
        for socket in due:
            socket.slot = NOWHERE
        self.count -= len(due)
        return due
