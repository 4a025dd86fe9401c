"""The events from the core to one worker: how many may be under way (credit), and how its sockets share that fairly.

Events of a turn gather in `events` and leave as one batch. Messages spend credit, which comes back with HANDLED;
without credit they stay in the inbox of their socket, and the sockets take turns (`waiting_sockets`) when credit
returns.

No socket has more in flight than its share (`limits.SHARE_UNITS`, `limits.CROWDED_SHARE_UNITS`): its further messages
stay in its inbox, and the socket is parked (`parked_ids`), so that the messages of other sockets pass. The socket gets
back in line when its worker has handled one of its messages; such a message is always in flight, because the share was
used up.
"""

from __future__ import annotations

from collections import deque
from typing import Final, cast, final

from mypy_extensions import i64, u8

from wsbroker.broker.inbox import SocketInbox
from wsbroker.broker.limits import CREDIT_DIVISOR, CROWDED_FROM_MESSAGES, CROWDED_SHARE_UNITS, SHARE_UNITS
from wsbroker.wire import events


@final
class WorkerQueue:
    """The core's side of one worker: the events for the worker, its credit and the inboxes of its sockets."""

    def __init__(self, index: int, credit_bytes: int, is_inline: bool) -> None:
        self.index: Final = index
        self.credit_bytes: i64 = credit_bytes
        self.share_unit_bytes: i64 = max(1, credit_bytes // CREDIT_DIVISOR // SHARE_UNITS)
        """The most that a message may cost to count as one unit of its socket's share."""
        self.is_inline: Final = is_inline
        self.generation: int = 0
        """Number of the workers of this queue that were lost or replaced: later commands of those are ignored."""
        self.in_flight_bytes: i64 = 0
        """Cost of the messages sent and not yet acknowledged as handled."""
        self.unhandled_bytes: i64 = 0
        """Cost of the messages received and not yet acknowledged as handled: those in flight and those in inboxes."""
        self.dropped_bytes: i64 = 0
        """Part of `unhandled_bytes` that was dropped from inboxes and is still to be subtracted by the broker."""
        self.in_flight_messages: i64 = 0
        """Number of messages sent and not yet acknowledged as handled."""
        self.handled_messages: i64 = 0
        """Messages acknowledged as handled since the start, by all successive workers of this queue."""
        self.events: list[tuple[object, ...]] = []
        """Batch of this turn; empty for the inline worker, whose events are in `Broker.inline_queue`."""
        self.waiting_sockets: deque[SocketInbox] = deque()
        """Sockets with events in their inbox that wait for credit, in order of their turns."""
        self.sockets_with_inbox: dict[int, SocketInbox] = {}
        """All sockets with events in their inbox, by id: those in line and those that are parked."""
        self.parked_ids: set[int] = set()
        """Ids of the sockets with events in their inbox that have their share in flight."""
        self.unhandled_closes: dict[int, tuple[object, ...]] = {}
        """CLOSE events whose handler has not run yet, by socket id; while paused, only those sent to the worker."""
        self.is_dirty = False
        self.is_paused = False
        """Whether messages and closes stay in their inboxes, whatever the credit: the worker is being replaced."""
        self.socket_count: int = 0
        """Registered sockets that belong to this worker."""

    def queue_message(self, socket: SocketInbox, event: tuple[object, ...], cost_bytes: i64) -> bool:
        """Queues a MESSAGE event for the worker, or in the socket's inbox.

        The event goes into the inbox while as many messages of the socket are in flight as one socket may have (its
        share), there is no credit, the queue is paused, or other sockets wait.

        Returns:
            False: the event waits for credit. True: the event goes out with this turn's batch, or waits only for other
            messages of its socket.
        """
        if (
            socket.inbox is not None
            or self.waiting_sockets
            or self.is_paused
            or (self.in_flight_bytes + cost_bytes > self.credit_bytes and self.in_flight_bytes != 0)
            or not self._has_share_left(socket)
        ):
            self.queue_in_inbox(socket, event)
            return socket.id in self.parked_ids
        self._send_message(socket, event, cost_bytes)
        return True

    def queue_close(self, socket: SocketInbox, event: tuple[object, ...]) -> None:
        """Queues the CLOSE event of a socket, its last event, behind the socket's messages that still wait."""
        if not self.is_paused:
            self.unhandled_closes[socket.id] = event
        if socket.inbox or self.is_paused:
            self.queue_in_inbox(socket, event)
        else:
            self.events.append(event)

    def queue_in_inbox(self, socket: SocketInbox, event: tuple[object, ...]) -> None:
        """Puts an event into its socket's inbox; if that inbox is new, the socket begins to wait for the worker.

        A waiting socket stands in line for credit or, while its messages in flight are at the limit of one socket, is
        parked until one of them has been handled.
        """
        inbox = socket.inbox
        if inbox is None:
            inbox = deque()
            socket.inbox = inbox
            self.sockets_with_inbox[socket.id] = socket
            self._enqueue_or_park(socket)
        inbox.append(event)

    def _has_share_left(self, socket: SocketInbox) -> bool:
        """Returns whether a socket may have one more message in flight: sent to the worker and not yet handled.

        The limit is CROWDED_SHARE_UNITS, or SHARE_UNITS while fewer than CROWDED_FROM_MESSAGES are in flight.
        """
        units = i64(socket.in_flight_units)
        return units < CROWDED_SHARE_UNITS or (units < SHARE_UNITS and self.in_flight_messages < CROWDED_FROM_MESSAGES)

    def _enqueue_or_park(self, socket: SocketInbox) -> None:
        """Puts a socket that has an inbox in line for the worker's credit, or parks the socket.

        Parks a socket whose messages in flight are at the limit of one socket: `return_share` puts the socket in line
        when one of them has been handled.
        """
        if self._has_share_left(socket):
            self.waiting_sockets.append(socket)
        else:
            self.parked_ids.add(socket.id)

    def count_share_units(self, cost_bytes: i64) -> i64:
        """Returns as how many messages a message of this cost counts against its socket's limit of messages in flight.

        1 for a cost up to `share_unit_bytes`, then in proportion to the cost, at most SHARE_UNITS.
        """
        if cost_bytes <= self.share_unit_bytes:
            return 1
        units = (cost_bytes + self.share_unit_bytes - 1) // self.share_unit_bytes
        return units if units < SHARE_UNITS else SHARE_UNITS

    def return_share(self, socket: SocketInbox, cost_bytes: i64) -> None:
        """Takes a handled message off its socket's messages in flight; puts a parked socket back in line for credit.

        Called once per handled message of this worker, with the message's cost.
        """
        remaining = i64(socket.in_flight_units) - self.count_share_units(cost_bytes)
        socket.in_flight_units = u8(remaining) if remaining > 0 else u8(0)
        if self.parked_ids and socket.id in self.parked_ids and self._has_share_left(socket):
            self.parked_ids.discard(socket.id)
            self.waiting_sockets.append(socket)

    def send_waiting_events(self) -> bool:
        """Moves events from inboxes to the worker's batch while there is credit, one event of each socket in turn.

        Returns:
            whether an event was moved.
        """
        has_moved = False
        waiting = self.waiting_sockets
        while waiting and not self.is_paused and self.in_flight_bytes < self.credit_bytes:
            socket = waiting.popleft()
            inbox = socket.inbox
            if inbox and socket.is_discarding_messages:
                self._drop_discarded_messages(inbox)
            if not inbox:
                self._drop_inbox(socket)
                continue
            event = inbox.popleft()
            if event[0] == events.MESSAGE:
                self._send_message(socket, event, cast(int, event[3]))
            else:
                event = _copy_with_current_token(socket, event)
                if socket.id in self.unhandled_closes:
                    self.unhandled_closes[socket.id] = event
                self.events.append(event)
            has_moved = True
            if not inbox:
                self._drop_inbox(socket)
            else:
                self._enqueue_or_park(socket)
        return has_moved

    def _drop_discarded_messages(self, inbox: deque[tuple[object, ...]]) -> None:
        """Drops the messages at the front of an inbox, up to a CLOSE event, and adds their cost to `dropped_bytes`.

        Called for a socket that discards its messages: the application has closed the socket, or the server stops. The
        worker that closed the socket drops messages itself; a worker that replaces it would handle them.
        """
        while inbox and inbox[0][0] == events.MESSAGE:
            self.dropped_bytes += i64(cast(int, inbox.popleft()[3]))

    def _drop_inbox(self, socket: SocketInbox) -> None:
        """Removes a socket's empty inbox, and the socket from `sockets_with_inbox`."""
        socket.inbox = None
        self.sockets_with_inbox.pop(socket.id, None)

    def _send_message(self, socket: SocketInbox, event: tuple[object, ...], cost_bytes: i64) -> None:
        """Adds a MESSAGE event to the worker's batch, after the socket's token if that is new; counts it as in flight.

        Tokens go out only with messages, so that a flood of `set_token` costs a stalled worker nothing.

        Args:
            socket: the socket of the message.
            event: the MESSAGE event.
            cost_bytes: cost of the message, which is in flight until the worker reports the message as handled.
        """
        self.in_flight_bytes += cost_bytes
        self.in_flight_messages += 1
        socket.in_flight_units = u8(i64(socket.in_flight_units) + self.count_share_units(cost_bytes))
        if socket.is_token_stale:
            socket.is_token_stale = False
            self.events.append((events.TOKEN, socket.id, socket.token, socket.applied_token_number))
        self.events.append(event)

    def pause(self) -> None:
        """Keeps all further messages and closes in the inboxes, so that the worker runs empty before its replacement.

        `in_flight_bytes` falls to 0, and `unhandled_closes` holds only events sent to that worker.
        """
        self.is_paused = True
        for socket_id in self._copy_waiting_closes():
            self.unhandled_closes.pop(socket_id, None)

    def resume(self) -> bool:
        """Ends a pause and sends waiting events; returns whether an event was moved to the worker's batch."""
        self.is_paused = False
        self.unhandled_closes.update(self._copy_waiting_closes())
        return self.send_waiting_events()

    def drop_waiting_messages(self) -> i64:
        """Marks all sockets with an inbox, so that `send_waiting_events` drops their messages and sends their closes.

        Returns:
            how many messages wait in inboxes. O(waiting messages).
        """
        waiting = self.count_unhandled_messages() - self.in_flight_messages
        for socket in self.sockets_with_inbox.values():
            socket.is_discarding_messages = True
        return waiting

    def count_unhandled_messages(self) -> i64:
        """Returns how many messages are in flight or wait in inboxes. O(waiting messages)."""
        messages = self.in_flight_messages
        for socket in self.sockets_with_inbox.values():
            inbox = socket.inbox
            if inbox is not None and not socket.is_discarding_messages:
                for event in inbox:
                    if event[0] == events.MESSAGE:
                        messages += 1
        return messages

    def drop_all_events(self) -> list[tuple[object, ...]]:
        """Drops all events for a dead worker; returns the CLOSE events whose handler has not run."""
        self.unhandled_closes.update(self._copy_waiting_closes())
        closes = list(self.unhandled_closes.values())
        for socket in self.sockets_with_inbox.values():
            socket.inbox = None
        self.sockets_with_inbox.clear()
        self.parked_ids.clear()
        self.waiting_sockets.clear()
        self.events = []
        self.in_flight_bytes = 0
        self.in_flight_messages = 0
        self.unhandled_closes.clear()
        return closes

    def reset_for_new_worker(self, sockets: list[SocketInbox]) -> None:
        """Resets credit, messages in flight and token states for a new worker, to which nothing was sent. O(sockets).

        Args:
            sockets: the registered sockets of this worker.
        """
        self.in_flight_bytes = 0
        self.in_flight_messages = 0
        # Sockets with an inbox may be unregistered, with messages that are not handled yet.
        for socket in self.sockets_with_inbox.values():
            if socket.id in self.parked_ids:
                self.waiting_sockets.append(socket)
            _reset_socket_for_new_worker(socket)
        self.parked_ids.clear()
        for socket in sockets:
            _reset_socket_for_new_worker(socket)

    def _copy_waiting_closes(self) -> dict[int, tuple[object, ...]]:
        """Returns copies of the CLOSE events that wait in inboxes, each with its socket's present token, by socket id.

        O(sockets with an inbox).
        """
        closes: dict[int, tuple[object, ...]] = {}
        for socket in self.sockets_with_inbox.values():
            inbox = socket.inbox
            if inbox and inbox[-1][0] == events.CLOSE:
                closes[socket.id] = _copy_with_current_token(socket, inbox[-1])
        return closes

    def get_socket_with_inbox(self, socket_id: int) -> SocketInbox | None:
        """Returns the socket of this id, registered or not, if events wait in its inbox; else None."""
        return self.sockets_with_inbox.get(socket_id)


def _reset_socket_for_new_worker(socket: SocketInbox) -> None:
    """Marks a socket as having no message in flight, and its token, if any, as unknown to the worker.

    Called for each socket of a worker queue when its worker is replaced.
    """
    socket.in_flight_units = 0
    socket.applied_token_number = 0
    socket.is_token_stale = socket.token is not None


def _copy_with_current_token(socket: SocketInbox, close: tuple[object, ...]) -> tuple[object, ...]:
    """Returns a copy of a CLOSE event that waited in an inbox, with the token that the socket has now.

    A handler that ran while the event waited may have set a new token.
    """
    return (events.CLOSE, socket.id, socket.token, socket.applied_token_number, close[4], close[5])
