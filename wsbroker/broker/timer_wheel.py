"""One timer wheel for all sockets: O(1) to set, move and remove a deadline, no timer object per socket.

Time is counted in ticks that really happened. When the loop stalls, no ticks pass, so that a stall of ours is never
mistaken for the silence of a peer.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import NO_INDEX, Socket

SLOTS: Final = 512


@final
class TimerWheel:
    """Deadlines in ticks, at most one per socket. A deadline beyond SLOTS ticks comes due early: `Connection.on_timer`
    checks the time and sets a new one."""

    def __init__(self) -> None:
        self.current_tick: i64 = 0
        self.timer_count: i64 = 0
        self.slots: Final[list[list[Socket]]] = [[] for _ in range(SLOTS)]

    def set_deadline(self, socket: Socket, ticks: i64) -> None:
        """Sets the deadline of a socket to `ticks` from now (1 to SLOTS - 1), in place of an earlier deadline."""
        if socket.timer_slot != NO_INDEX:
            self.cancel_deadline(socket)
        if ticks < 1:
            ticks = 1
        elif ticks > SLOTS - 1:
            ticks = SLOTS - 1
        number = (self.current_tick + ticks) % SLOTS
        slot = self.slots[number]
        socket.timer_slot = number
        socket.timer_index = len(slot)
        slot.append(socket)
        self.timer_count += 1

    def cancel_deadline(self, socket: Socket) -> None:
        """Cancels the deadline of a socket; does nothing if the socket has none."""
        if socket.timer_slot == NO_INDEX:
            return
        slot = self.slots[socket.timer_slot]
        last = slot.pop()
        if last is not socket:
            slot[socket.timer_index] = last
            last.timer_index = socket.timer_index
        socket.timer_slot = NO_INDEX
        self.timer_count -= 1

    def advance_tick(self) -> list[Socket]:
        """Advances the wheel by one tick; removes and returns the sockets whose deadline has come."""
        self.current_tick += 1
        number = self.current_tick % SLOTS
        due = self.slots[number]
        if not due:
            return due
        self.slots[number] = []
        for socket in due:
            socket.timer_slot = NO_INDEX
        self.timer_count -= len(due)
        return due
