"""Runs message handlers in the event loop (worker kind inline): one Python call per message, made from compiled code.

Rare events (an async handler, an error, a close) go to the interpreted runtime through the callables given here; while
an async handler runs, the later events of its socket wait in the socket's inbox.

No socket keeps the loop: once its handlers have had TURN_SHARE_S or TURN_SHARE_EVENTS in a row, its further events wait
in the inbox too; `run_deferred_sockets` handles them after the flush of each loop turn, behind the events of other
sockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, cast, final

from librt.time import time
from mypy_extensions import i64

from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import MESSAGE_OVERHEAD_BYTES
from wsbroker.broker.socket import Socket

MessageHandler = Callable[..., object]

TURN_SHARE_EVENTS: Final = 256
"""The most events of one socket that are handled in a row; by default a turn reads as many frames of a socket."""
TURN_SHARE_S: Final = 0.010
"""The most time that handlers of one socket take in a row, and that a turn gives to all deferred sockets together (at
least one of them goes on). 20 sockets that flood a handler of 0.3 ms delay another socket by some 10 ms, at most 0.2 s
when they begin at once (benchmarks: soak flood). Checking per event is free: the clock is read anyway."""


def inbox_cost_bytes(data: object) -> i64:
    """Returns the cost in bytes of an inline event that waits in an inbox; 0 for a close event."""
    if isinstance(data, str):
        return i64(len(data)) + MESSAGE_OVERHEAD_BYTES
    if isinstance(data, bytes):
        return i64(len(data)) + MESSAGE_OVERHEAD_BYTES
    return 0


@final
class InlineHandlers:
    """Holds the application's message handler, and the callables of the interpreted runtime for rare events.

    Args:
        message_handler: the application's function itself, or None; it gets the first `arity` of data, socket id,
            token.
        arity: number of arguments of `message_handler`, 0 to 3.
        slow_threshold_s: duration of a handler call from which `on_slow_call` is called.
        process_result: ``(socket_id, result)``: takes any value but None that a handler returned; calls `resume_socket`
            once that value has been processed.
        on_failure: ``(socket_id, exception)``: called when a handler has raised.
        on_slow_call: ``(socket_id, seconds, is_ended)``: called when a handler has held the loop for longer than
            `slow_threshold_s`, until its end or its first `await`; returns the next `slow_threshold_s`.
        begin_close_handler: ``(socket_id, token, code, reason)``: starts the close handler. True: the handler has
            ended; False: `resume_socket` follows.
        on_missing_handler: ``(socket_id)``: called for a message when there is no handler.
    """

    def __init__(
        self,
        *,
        message_handler: MessageHandler | None,
        arity: int,
        slow_threshold_s: float,
        process_result: Callable[[int, object], None],
        on_failure: Callable[[int, BaseException], None],
        on_slow_call: Callable[[int, float, bool], float],
        begin_close_handler: Callable[[int, bytes | None, int, str], bool],
        on_missing_handler: Callable[[int], None],
    ) -> None:
        self.message_handler: Final = message_handler
        self.arity: Final = arity
        self.slow_threshold_s: Final = slow_threshold_s
        self.process_result: Final = process_result
        self.on_failure: Final = on_failure
        self.on_slow_call: Final = on_slow_call
        self.begin_close_handler: Final = begin_close_handler
        self.on_missing_handler: Final = on_missing_handler


@final
class InlineRunner:
    """Runs the message handlers of an inline worker, in the event loop."""

    def __init__(self, broker: Broker, handlers: InlineHandlers) -> None:
        self.broker: Final = broker
        self.queue: Final = broker.inline_queue
        # Copied from the record: a message reads them here, without another step.
        self.handler: Final = handlers.message_handler
        self.arity: Final = handlers.arity
        self.slow_threshold_s = handlers.slow_threshold_s
        self.process_result: Final = handlers.process_result
        self.on_failure: Final = handlers.on_failure
        self.on_slow_call: Final = handlers.on_slow_call
        self.begin_close_handler: Final = handlers.begin_close_handler
        self.on_missing_handler: Final = handlers.on_missing_handler
        self.busy_sockets: Final[dict[int, Socket]] = broker.inline_queue.busy_sockets
        self.deferred_sockets: Final[deque[Socket]] = deque()
        """Sockets that have used up their part of a turn, with events in their inbox, in order of their turns."""
        self.handled_messages: int = 0
        self.clock_s: float = 0.0
        """Time at which the last handler ended or the turn began: read once per message, not twice (40 ns)."""
        self.starting_socket_id: int = 0
        """Id of the socket inside `process_result`; `resume_socket` then leaves its next events to the caller."""

    @property
    def is_behind(self) -> bool:
        """Whether events wait, or an async message or close handler runs."""
        return bool(self.queue.sockets) or bool(self.deferred_sockets) or bool(self.busy_sockets)

    def run(self) -> None:
        """Handles the events of this turn; events queued meanwhile are left for the next turn. Called once per turn."""
        queue = self.queue
        sockets = queue.sockets
        if not sockets:
            return
        data = queue.events
        queue.sockets = []
        queue.events = []
        done = 0
        current: Socket | None = None
        left: i64 = TURN_SHARE_EVENTS
        self.clock_s = time()
        until_s = self.clock_s + TURN_SHARE_S
        try:
            while done < len(sockets):
                socket = sockets[done]
                event = data[done]
                done += 1
                if socket is not current:
                    current = socket
                    left = TURN_SHARE_EVENTS
                    until_s = self.clock_s + TURN_SHARE_S
                elif (left <= 0 or self.clock_s >= until_s) and not socket.is_busy:
                    self._defer_socket(socket)
                if socket.is_busy:
                    self._queue_in_inbox(socket, event)
                else:
                    left -= 1
                    self._handle_event(socket, event)
        finally:
            queue.current_socket = None
            if done < len(sockets):  # the report of an error has failed: the other events are for the next turn
                queue.sockets = sockets[done:] + queue.sockets
                queue.events = data[done:] + queue.events

    def run_deferred_sockets(self) -> None:
        """Handles events of the sockets that used up their part of a turn, for about TURN_SHARE_S for all together.

        Called after the flush of each turn. Sockets that are not reached come first in the next turn.
        """
        deferred = self.deferred_sockets
        waiting = len(deferred)
        if not waiting:
            return
        self.clock_s = time()
        until_s = self.clock_s + TURN_SHARE_S
        while waiting and self.clock_s < until_s:
            waiting -= 1
            socket = deferred.popleft()
            socket.is_busy = False
            self._handle_inbox(socket)

    def drop_waiting_messages(self) -> int:
        """Marks the waiting messages of all sockets as dropped, so that the close handlers behind them run in time.

        Called when the server stops and has no time for all messages.

        Returns:
            how many messages are dropped; they are counted as lost.
        """
        dropped = 0
        for socket in [*self.deferred_sockets, *self.busy_sockets.values(), *self.queue.sockets]:
            inbox = socket.inbox
            if inbox and not socket.is_discarding_messages:
                for event in inbox:
                    if not isinstance(event[0], tuple):
                        dropped += 1
            socket.is_discarding_messages = True
        self.broker.counters.messages_lost += dropped
        return dropped

    def _defer_socket(self, socket: Socket) -> None:
        """Has a socket's events wait for `run_deferred_sockets`, because the socket has used up its part of this turn.

        The part is TURN_SHARE_EVENTS events or TURN_SHARE_S of handlers in a row.
        """
        socket.is_busy = True
        self.deferred_sockets.append(socket)
        self.broker.schedule_turn()

    def _queue_in_inbox(self, socket: Socket, data: object) -> None:
        """Puts an event into its socket's inbox, and pauses the socket's reading if the inbox is full.

        Called for a busy socket: an async handler runs, or the socket has used up its part of this turn.

        Args:
            data: the event, as for `_handle_event`.
        """
        inbox = socket.inbox
        if inbox is None:
            inbox = deque()
            socket.inbox = inbox
        inbox.append((data,))
        cost = inbox_cost_bytes(data)
        socket.unhandled_bytes += cost
        broker = self.broker
        broker.unhandled_bytes += cost
        if socket.unhandled_bytes >= broker.inbox_limit_bytes():
            socket.pause_reading()

    def _handle_event(self, socket: Socket, data: object) -> None:
        """Handles one event of a socket: calls the message handler, starts the close handler, or applies a due close.

        Messages of a socket that discards its messages are dropped.

        Args:
            data: a message (str or bytes), a CLOSE event (tuple), or an empty tuple: the last message of a socket
                whose close was postponed has been handled.
        """
        if isinstance(data, tuple):
            self.queue.current_socket = None
            if data:
                self._handle_close(socket, data)
            else:
                self.broker.apply_pending_close(socket)
            return
        handler = self.handler
        if handler is None:
            self.on_missing_handler(socket.id)
            return
        if socket.is_discarding_messages:
            return
        socket_id = socket.id
        self.queue.current_socket = socket
        result: object = None
        try:
            if self.arity == 3:
                result = handler(data, socket_id, socket.token)
            elif self.arity == 2:
                result = handler(data, socket_id)
            elif self.arity == 1:
                result = handler(data)
            else:
                result = handler()
        except BaseException as error:  # SystemExit included: a handler does not end the server
            self.on_failure(socket_id, error)
        else:
            if result is not None:
                self._begin_async_handler(socket, result)
        self.handled_messages += 1
        now = time()  # the wall clock, 20 ns; `on_slow_call` sorts out steps of that clock
        elapsed = now - self.clock_s
        self.clock_s = now
        if elapsed > self.slow_threshold_s:
            self.slow_threshold_s = self.on_slow_call(socket_id, elapsed, result is None)
            self.clock_s = time()

    def _begin_async_handler(self, socket: Socket, result: object) -> None:
        """Hands the awaitable that a message handler returned to the runtime; the socket is busy until `resume_socket`.

        Args:
            result: the awaitable, or any other value but None, which the runtime sorts out.
        """
        socket.is_busy = True
        self.busy_sockets[socket.id] = socket
        self.starting_socket_id = socket.id
        self.process_result(socket.id, result)
        self.starting_socket_id = 0

    def _handle_close(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Starts the close handler of a socket with code and reason of its CLOSE event.

        The socket is busy until the handler ends (`resume_socket`, unless it has ended at once).
        """
        socket.is_busy = True
        self.busy_sockets[socket.id] = socket
        # Not the event's token: a handler that ran when the socket closed may have set it since.
        if self.begin_close_handler(socket.id, socket.token, cast(int, event[4]), cast(str, event[5])):
            socket.is_busy = False
            self.busy_sockets.pop(socket.id, None)
        self.clock_s = time()

    def resume_socket(self, socket_id: int) -> None:
        """Handles the events of a socket that waited for its async handler; called when that handler has ended.

        An unknown id is ignored.
        """
        socket = self.busy_sockets.pop(socket_id, None)
        if socket is None:
            return
        socket.is_busy = False
        if socket_id == self.starting_socket_id:
            return
        if socket.inbox:
            self.clock_s = time()
            self._handle_inbox(socket)
        else:
            socket.inbox = None

    def _handle_inbox(self, socket: Socket) -> None:
        """Handles the events in a socket's inbox until its part of the turn is used up, or until an async handler runs.

        Called for a socket whose wait is over. If events remain and no handler runs, the socket is deferred again.
        """
        inbox = socket.inbox
        queue = self.queue
        current = queue.current_socket
        left: i64 = TURN_SHARE_EVENTS
        until_s = self.clock_s + TURN_SHARE_S
        try:
            while inbox and not socket.is_busy and left > 0 and self.clock_s < until_s:
                left -= 1
                data = inbox.popleft()[0]
                cost = inbox_cost_bytes(data)
                self.broker.unhandled_bytes -= cost
                self.broker.release_inbox_bytes(socket, cost)
                self._handle_event(socket, data)
        finally:
            queue.current_socket = current
            if not inbox:
                socket.inbox = None
            elif not socket.is_busy:
                self._defer_socket(socket)
