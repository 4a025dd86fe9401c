"""A lane: the way from the core to one worker, with its credit.

Events of a turn gather in `events` and leave as one batch. Messages spend credit, which comes back with HANDLED;
without credit they stay in the inbox of their socket, and the sockets take turns (`waiting_sockets`) when credit returns.

No socket has more in flight than its share (`limits.SHARE_UNITS`, `limits.CROWDED_SHARE_UNITS`): the rest stays in its inbox,
out of line (`parked_ids`), so that the messages of other sockets pass it. The socket gets back in line when its worker has
handled one of its messages; such a message is always in flight, because the share was used up.
"""

from __future__ import annotations

from collections import deque
from typing import Final, cast, final

from mypy_extensions import i64, u8

from wsbroker.broker.limits import CREDIT_DIVISOR, CROWDED_FROM_MESSAGES, CROWDED_SHARE_UNITS, SHARE_UNITS
from wsbroker.broker.socket import Socket
from wsbroker.wire import events


@final
class WorkerQueue:
    """The core's side of one worker."""

    def __init__(self, index: int, credit_bytes: int, is_inline: bool) -> None:
        self.index: Final = index
        self.credit_bytes: i64 = credit_bytes
        self.share_unit_bytes: i64 = max(1, credit_bytes // CREDIT_DIVISOR // SHARE_UNITS)
        """What a message may cost to count for one unit of its socket's share."""
        self.is_inline: Final = is_inline
        self.generation: int = 0
        """Grows when the worker is replaced: what an older one still says is ignored."""
        self.in_flight_bytes: i64 = 0
        """Cost of the messages sent and not yet acknowledged as handled."""
        self.unhandled_bytes: i64 = 0
        """Cost of the messages taken and not yet acknowledged as handled: those in flight and those in inboxes."""
        self.dropped_bytes: i64 = 0
        """Of `unhandled_bytes`, what was dropped with its socket's close and is still to be counted off."""
        self.in_flight_messages: i64 = 0
        """How many they are."""
        self.handled_messages: i64 = 0
        """Messages acknowledged as handled since the start, by all workers that this lane has led to."""
        self.events: list[tuple[object, ...]] = []
        """This turn's batch (wire workers)."""
        self.inline_sockets: list[Socket] = []
        """This turn's batch (inline): whose message `inline_events` holds at the same index."""
        self.inline_events: list[object] = []
        """str or bytes; a tuple is a CLOSE event, an empty one where an ending socket's messages end (`Broker.close_after_messages`)."""
        self.waiting_sockets: deque[Socket] = deque()
        """Sockets with events in their inbox that wait for credit, in turn."""
        self.sockets_with_inbox: dict[int, Socket] = {}
        """All sockets with events in their inbox, by id: those in line and those that are parked."""
        self.parked_ids: set[int] = set()
        """Ids of the sockets with events in their inbox that have their share in flight."""
        self.unhandled_closes: dict[int, tuple[object, ...]] = {}
        """CLOSE events whose handler has not run yet, by socket id; of a held lane, only those that its worker has."""
        self.busy_sockets: dict[int, Socket] = {}
        """Inline: sockets with an async handler running, by id."""
        self.current_socket: Socket | None = None
        """Inline: the socket whose handler is being called."""
        self.is_dirty = False
        self.is_paused = False
        """Messages and closes stay in their inboxes, whatever the credit: its worker is being exchanged."""
        self.socket_count: int = 0

    def queue_message(self, socket: Socket, event: tuple[object, ...], cost: i64) -> bool:
        """Takes a MESSAGE event worth `cost`: on its way, or into its socket's inbox while the socket has its share in
        flight, there is no credit, or a socket that waits longer would be passed.

        Returns:
            False: it waits for credit. True: it is on its way, or waits for messages of its own socket only.
        """
        if (
            socket.inbox is not None
            or self.waiting_sockets
            or self.is_paused
            or (self.in_flight_bytes + cost > self.credit_bytes and self.in_flight_bytes != 0)
            or not self._has_share_left(socket)
        ):
            self.queue_in_inbox(socket, event)
            return socket.id in self.parked_ids
        self._send_message(socket, event, cost)
        return True

    def queue_close(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Takes a CLOSE event: the last of its socket, behind the messages that still wait."""
        if not self.is_paused:
            self.unhandled_closes[socket.id] = event
        if socket.inbox or self.is_paused:
            self.queue_in_inbox(socket, event)
        else:
            self.events.append(event)

    def queue_in_inbox(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Puts an event into its socket's inbox, and the socket in line unless it has its share in flight."""
        inbox = socket.inbox
        if inbox is None:
            inbox = deque()
            socket.inbox = inbox
            self.sockets_with_inbox[socket.id] = socket
            self._enqueue_or_park(socket)
        inbox.append(event)

    def _has_share_left(self, socket: Socket) -> bool:
        """Whether the socket may have one more message in flight."""
        units = i64(socket.in_flight_units)
        return units < CROWDED_SHARE_UNITS or (units < SHARE_UNITS and self.in_flight_messages < CROWDED_FROM_MESSAGES)

    def _enqueue_or_park(self, socket: Socket) -> None:
        """Puts a socket with an inbox in line, or parks it while it has its share in flight."""
        if self._has_share_left(socket):
            self.waiting_sockets.append(socket)
        else:
            self.parked_ids.add(socket.id)

    def share_units(self, cost: i64) -> i64:
        """Returns what a message of this cost counts for in its socket's share, at most the whole of it."""
        if cost <= self.share_unit_bytes:
            return 1
        units = (cost + self.share_unit_bytes - 1) // self.share_unit_bytes
        return units if units < SHARE_UNITS else SHARE_UNITS

    def return_share(self, socket: Socket, cost: i64) -> None:
        """Takes a message of this socket as handled; a parked socket that has room in its share gets back in line."""
        left = i64(socket.in_flight_units) - self.share_units(cost)
        socket.in_flight_units = u8(left) if left > 0 else u8(0)
        if self.parked_ids and socket.id in self.parked_ids and self._has_share_left(socket):
            self.parked_ids.discard(socket.id)
            self.waiting_sockets.append(socket)

    def send_waiting_events(self) -> bool:
        """Spends credit on the waiting inboxes, one event of each socket in turn; says whether an event left."""
        has_moved = False
        waiting = self.waiting_sockets
        while waiting and not self.is_paused and self.in_flight_bytes < self.credit_bytes:
            socket = waiting.popleft()
            inbox = socket.inbox
            if inbox and socket.is_discarding_messages:
                self._drop_muted_messages(inbox)
            if not inbox:
                self._drop_inbox(socket)
                continue
            event = inbox.popleft()
            if event[0] == events.MESSAGE:
                self._send_message(socket, event, cast(int, event[3]))
            else:
                event = _with_current_token(socket, event)
                if socket.id in self.unhandled_closes:
                    self.unhandled_closes[socket.id] = event
                self.events.append(event)
            has_moved = True
            if not inbox:
                self._drop_inbox(socket)
            else:
                self._enqueue_or_park(socket)
        return has_moved

    def _drop_muted_messages(self, inbox: deque[tuple[object, ...]]) -> None:
        """Drops the messages of a socket that the application has closed: the worker that did so drops those it has,
        and one that takes over would not."""
        while inbox and inbox[0][0] == events.MESSAGE:
            self.dropped_bytes += i64(cast(int, inbox.popleft()[3]))

    def _drop_inbox(self, socket: Socket) -> None:
        socket.inbox = None
        self.sockets_with_inbox.pop(socket.id, None)

    def _send_message(self, socket: Socket, event: tuple[object, ...], cost: i64) -> None:
        """Spends credit on a MESSAGE event. The token only goes in front of one: a flood of `set_token` costs a stalled
        worker nothing."""
        self.in_flight_bytes += cost
        self.in_flight_messages += 1
        socket.in_flight_units = u8(i64(socket.in_flight_units) + self.share_units(cost))
        if socket.is_token_stale:
            socket.is_token_stale = False
            self.events.append((events.TOKEN, socket.id, socket.token, socket.applied_token_number))
        self.events.append(event)

    def pause(self) -> None:
        """Keeps messages and closes with their sockets, so that the worker runs empty: `in_flight_bytes` falls to 0, and
        `unhandled_closes` to what that worker has been told of."""
        self.is_paused = True
        for socket_id in self._waiting_closes():
            self.unhandled_closes.pop(socket_id, None)

    def resume(self) -> bool:
        """Lets them go on; says whether an event left."""
        self.is_paused = False
        self.unhandled_closes.update(self._waiting_closes())
        return self.send_waiting_events()

    def drop_waiting_messages(self) -> i64:
        """Has the messages that wait in inboxes dropped as their sockets' turns come, so that the CLOSE events behind
        them get through; returns how many messages. O(waiting)."""
        waiting = self.count_unhandled_messages() - self.in_flight_messages
        for socket in self.sockets_with_inbox.values():
            socket.is_discarding_messages = True
        return waiting

    def count_unhandled_messages(self) -> i64:
        """How many messages its worker would still handle, those that wait with their sockets too. O(waiting)."""
        found = self.in_flight_messages
        for socket in self.sockets_with_inbox.values():
            inbox = socket.inbox
            if inbox is not None and not socket.is_discarding_messages:
                for event in inbox:
                    if event[0] == events.MESSAGE:
                        found += 1
        return found

    def drop_all_events(self) -> list[tuple[object, ...]]:
        """Drops what was for a dead worker; returns the CLOSE events whose handler has not run."""
        self.unhandled_closes.update(self._waiting_closes())
        left = list(self.unhandled_closes.values())
        for socket in self.sockets_with_inbox.values():
            socket.inbox = None
        self.sockets_with_inbox.clear()
        self.parked_ids.clear()
        self.waiting_sockets.clear()
        self.events = []
        self.in_flight_bytes = 0
        self.in_flight_messages = 0
        self.unhandled_closes.clear()
        return left

    def reset_for_new_worker(self, sockets: dict[int, Socket]) -> None:
        """Another worker follows: nothing is in flight to it, and it knows no tokens. O(sockets).

        Args:
            sockets: all that are in the tables; those of other lanes stay as they are.
        """
        self.in_flight_bytes = 0
        self.in_flight_messages = 0
        for (
            socket
        ) in self.sockets_with_inbox.values():  # some have left the tables, with messages that are not handled yet
            if socket.id in self.parked_ids:
                self.waiting_sockets.append(socket)
            _reset_for_new_worker(socket)
        self.parked_ids.clear()
        for socket in sockets.values():
            if socket.worker_queue is self:
                _reset_for_new_worker(socket)

    def _waiting_closes(self) -> dict[int, tuple[object, ...]]:
        """The CLOSE events that wait behind messages of their sockets. O(waiting sockets)."""
        found: dict[int, tuple[object, ...]] = {}
        for socket in self.sockets_with_inbox.values():
            inbox = socket.inbox
            if inbox and inbox[-1][0] == events.CLOSE:
                found[socket.id] = _with_current_token(socket, inbox[-1])
        return found

    def get_socket_with_inbox(self, socket_id: int) -> Socket | None:
        """Returns a socket that has left the tables, or is about to, with events in its inbox; None: there is none."""
        return self.sockets_with_inbox.get(socket_id)


def _reset_for_new_worker(socket: Socket) -> None:
    socket.in_flight_units = 0
    socket.applied_token_number = 0
    socket.is_token_stale = socket.token is not None


def _with_current_token(socket: Socket, close: tuple[object, ...]) -> tuple[object, ...]:
    """A CLOSE event that waited: a handler that ran when the socket closed may have set its token since."""
    return (events.CLOSE, socket.id, socket.token, socket.applied_token_number, close[4], close[5])
