"""A lane: the way from the core to one worker, with its credit.

Events of a turn gather in `events` and leave as one batch. Messages spend credit, which comes back with HANDLED;
without credit they stay in the inbox of their socket, and the sockets take turns (`waiting`) when credit returns.
"""

from __future__ import annotations

from collections import deque
from typing import Final, cast, final

from mypy_extensions import i64

from wsbroker.broker.socket import Socket
from wsbroker.wire import events


@final
class Lane:
    """The core's side of one worker."""

    def __init__(self, index: int, credit_bytes: int, is_inline: bool) -> None:
        self.index: Final = index
        self.credit_bytes: i64 = credit_bytes
        self.is_inline: Final = is_inline
        self.generation: int = 0
        """Grows when the worker is replaced: what an older one still says is ignored."""
        self.in_flight: i64 = 0
        """Cost of the messages sent and not yet acknowledged as handled."""
        self.messages: i64 = 0
        """How many they are."""
        self.events: list[tuple[object, ...]] = []
        """This turn's batch (wire workers)."""
        self.sockets: list[Socket] = []
        """This turn's batch (inline): whose message `data` holds at the same index."""
        self.data: list[object] = []
        """str or bytes; a tuple is a CLOSE event, an empty one where an ending socket's messages end (`Broker.end`)."""
        self.waiting: deque[Socket] = deque()
        """Sockets with events in their inbox, in turn."""
        self.closing: dict[int, tuple[object, ...]] = {}
        """CLOSE events whose handler has not run yet, by socket id; of a held lane, only those that its worker has."""
        self.busy: dict[int, Socket] = {}
        """Inline: sockets with an async handler running, by id."""
        self.current: Socket | None = None
        """Inline: the socket whose handler is being called."""
        self.is_listed = False
        self.is_held = False
        """Messages and closes stay in their inboxes, whatever the credit: its worker is being exchanged."""
        self.socket_count: int = 0

    def take(self, socket: Socket, event: tuple[object, ...], cost: i64) -> bool:
        """Takes a MESSAGE event worth `cost`: on its way if there is credit and nobody who waits longer is passed, else
        False and it waits in its socket's inbox."""
        if self.waiting or self.is_held or (self.in_flight + cost > self.credit_bytes and self.in_flight != 0):
            self.keep(socket, event)
            return False
        self._send(socket, event, cost)
        return True

    def take_close(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Takes a CLOSE event: the last of its socket, behind the messages that still wait."""
        if not self.is_held:
            self.closing[socket.id] = event
        if socket.inbox or self.is_held:
            self.keep(socket, event)
        else:
            self.events.append(event)

    def keep(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Puts an event into its socket's inbox, and the socket in line."""
        inbox = socket.inbox
        if inbox is None:
            inbox = deque()
            socket.inbox = inbox
            self.waiting.append(socket)
        inbox.append(event)

    def move_on(self) -> bool:
        """Spends credit on the waiting inboxes, one event of each socket in turn; says whether an event left."""
        has_moved = False
        waiting = self.waiting
        while waiting and not self.is_held and self.in_flight < self.credit_bytes:
            socket = waiting.popleft()
            inbox = socket.inbox
            if not inbox:
                socket.inbox = None
                continue
            event = inbox.popleft()
            if event[0] == events.MESSAGE:
                self._send(socket, event, cast(int, event[3]))
            else:
                event = _with_token(socket, event)
                if socket.id in self.closing:
                    self.closing[socket.id] = event
                self.events.append(event)
            has_moved = True
            if inbox:
                waiting.append(socket)
            else:
                socket.inbox = None
        return has_moved

    def _send(self, socket: Socket, event: tuple[object, ...], cost: i64) -> None:
        """Spends credit on a MESSAGE event. The token only goes in front of one: a flood of `set_token` costs a stalled
        worker nothing."""
        self.in_flight += cost
        self.messages += 1
        if socket.is_token_stale:
            socket.is_token_stale = False
            self.events.append((events.TOKEN, socket.id, socket.token, socket.token_seen))
        self.events.append(event)

    def hold(self) -> None:
        """Keeps messages and closes with their sockets, so that the worker runs empty: `in_flight` falls to 0, and
        `closing` to what that worker has been told of."""
        self.is_held = True
        for socket_id in self._waiting_closes():
            self.closing.pop(socket_id, None)

    def unhold(self) -> bool:
        """Lets them go on; says whether an event left."""
        self.is_held = False
        self.closing.update(self._waiting_closes())
        return self.move_on()

    def unhandled(self) -> i64:
        """How many messages its worker would still handle, those that wait with their sockets too. O(waiting)."""
        found = self.messages
        for socket in self.waiting:
            inbox = socket.inbox
            if inbox is not None:
                for event in inbox:
                    if event[0] == events.MESSAGE:
                        found += 1
        return found

    def empty(self) -> list[tuple[object, ...]]:
        """Drops what was for a dead worker; returns the CLOSE events whose handler has not run."""
        self.closing.update(self._waiting_closes())
        left = list(self.closing.values())
        for waiting in self.waiting:
            waiting.inbox = None
        self.waiting.clear()
        self.events = []
        self.in_flight = 0
        self.messages = 0
        self.closing.clear()
        return left

    def _waiting_closes(self) -> dict[int, tuple[object, ...]]:
        """The CLOSE events that wait behind messages of their sockets. O(waiting sockets)."""
        found: dict[int, tuple[object, ...]] = {}
        for socket in self.waiting:
            inbox = socket.inbox
            if inbox and inbox[-1][0] == events.CLOSE:
                found[socket.id] = _with_token(socket, inbox[-1])
        return found

    def leaving(self, socket_id: int) -> Socket | None:
        """A socket that has left the tables, or is about to, with events in its inbox. O(waiting sockets)."""
        for socket in self.waiting:
            if socket.id == socket_id:
                return socket
        return None


def _with_token(socket: Socket, close: tuple[object, ...]) -> tuple[object, ...]:
    """A CLOSE event that waited: a handler that ran when the socket closed may have set its token since."""
    return (events.CLOSE, socket.id, socket.token, socket.token_seen, close[4], close[5])
