"""Handlers in the loop: one Python call per message, made from compiled code.

What is rare (an async handler, an error, a close) goes to the interpreted runtime through the callables given here;
while an async handler runs, the later events of its socket are held in the socket's inbox.

No socket keeps the loop: once its handlers have had SHARE_S or SHARE_EVENTS in a row, its further events are held too,
and go on in turn after the flush of each loop turn (`run_deferred_sockets`), where they come behind what others have just sent.
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
from wsbroker.broker.worker_queue import WorkerQueue

MessageHandler = Callable[..., object]

TURN_SHARE_EVENTS: Final = 256
"""Events of one socket that are handled in a row, as many as a turn reads from it by default."""
TURN_SHARE_S: Final = 0.010
"""The same as time of handlers; also what a turn gives to the deferred sockets together, of which at least one goes on.
20 sockets that flood a handler of 0.3 ms keep another one waiting for some 10 ms, at most 0.2 s when they begin at once
(benchmarks: soak flood). Measured per event it is free: the clock is read anyway."""


def inbox_cost_bytes(data: object) -> i64:
    """What a held message counts against `inbox_bytes`."""
    if isinstance(data, str):
        return i64(len(data)) + MESSAGE_OVERHEAD_BYTES
    if isinstance(data, bytes):
        return i64(len(data)) + MESSAGE_OVERHEAD_BYTES
    return 0


@final
class InlineRunner:
    """Runs the message handlers of an inline lane.

    Args:
        handler: the application's function itself, or None; it gets the first `arity` of data, socket id, token.
        begin_result: ``(socket_id, result)``: takes what a handler returned; calls `resume_socket` once it is done.
        failed: ``(socket_id, exception)``: a handler raised.
        notice_s: what a call of a handler may take without being told of.
        slow: ``(socket_id, seconds, is_ended)``: a handler held the loop for longer than `slow_threshold_s`, to its end or its
            first `await`; returns the next `slow_threshold_s`.
        begin_close: ``(socket_id, token, code, reason)``: True: the close handler has ended; False: `resume_socket` follows.
        unhandled: called for a message when there is no handler.
    """

    def __init__(
        self,
        broker: Broker,
        lane: WorkerQueue,
        handler: MessageHandler | None,
        arity: int,
        notice_s: float,
        begin_result: Callable[[int, object], None],
        failed: Callable[[int, BaseException], None],
        slow: Callable[[int, float, bool], float],
        begin_close: Callable[[int, bytes | None, int, str], bool],
        unhandled: Callable[[int], None],
    ) -> None:
        self.broker: Final = broker
        self.worker_queue: Final = lane
        self.handler: Final = handler
        self.arity: Final = arity
        self.slow_threshold_s = notice_s
        self.begin_result: Final = begin_result
        self.on_failure: Final = failed
        self.on_slow_call: Final = slow
        self.begin_close_handler: Final = begin_close
        self.on_missing_handler: Final = unhandled
        self.busy_sockets: Final[dict[int, Socket]] = lane.busy_sockets
        self.deferred_sockets: Final[deque[Socket]] = deque()
        """Sockets that have had their share, with events in their inbox, in turn."""
        self.handled_messages: int = 0
        self.clock_s: float = 0.0
        """When the last handler ended or the turn began: the clock is read once per message, not twice (40 ns)."""
        self.starting_socket_id: int = 0
        """The socket whose result is being taken right now; a release of it then must not go on, the caller does."""

    @property
    def is_behind(self) -> bool:
        """Whether events wait, or an async handler of a message or a close runs."""
        return bool(self.worker_queue.inline_sockets) or bool(self.deferred_sockets) or bool(self.busy_sockets)

    def run(self) -> None:
        """Handles the events of this turn; what they cause is for the next one."""
        lane = self.worker_queue
        sockets = lane.inline_sockets
        if not sockets:
            return
        data = lane.inline_events
        lane.inline_sockets = []
        lane.inline_events = []
        done = 0
        served: Socket | None = None
        left: i64 = TURN_SHARE_EVENTS
        self.clock_s = time()
        until_s = self.clock_s + TURN_SHARE_S
        try:
            while done < len(sockets):
                socket = sockets[done]
                event = data[done]
                done += 1
                if socket is not served:
                    served = socket
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
            lane.current_socket = None
            if done < len(sockets):  # what reports an error has failed itself: the other events are for the next turn
                lane.inline_sockets = sockets[done:] + lane.inline_sockets
                lane.inline_events = data[done:] + lane.inline_events

    def run_deferred_sockets(self) -> None:
        """Goes on with the sockets that have had their share before, each for one share at most and all together for
        about the time of one; the others come first in the next turn."""
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
        """Has the messages that are held dropped, so that the close handlers behind them still run: the server stops,
        and there is no time for both. Returns how many; they are counted as lost."""
        dropped = 0
        for socket in [*self.deferred_sockets, *self.busy_sockets.values(), *self.worker_queue.inline_sockets]:
            inbox = socket.inbox
            if inbox and not socket.is_discarding_messages:
                for event in inbox:
                    if not isinstance(event[0], tuple):
                        dropped += 1
            socket.is_discarding_messages = True
        self.broker.counters.messages_lost += dropped
        return dropped

    def _defer_socket(self, socket: Socket) -> None:
        """Holds the further events of a socket that has had its share until `run_deferred_sockets` comes to it."""
        socket.is_busy = True
        self.deferred_sockets.append(socket)
        self.broker.schedule_turn()

    def _queue_in_inbox(self, socket: Socket, data: object) -> None:
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
        if isinstance(data, tuple):
            self.worker_queue.current_socket = None
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
        self.worker_queue.current_socket = socket
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
        now = time()  # the wall clock, 20 ns; whoever is told of slow handlers sorts out its steps
        elapsed = now - self.clock_s
        self.clock_s = now
        if elapsed > self.slow_threshold_s:
            self.slow_threshold_s = self.on_slow_call(socket_id, elapsed, result is None)
            self.clock_s = time()

    def _begin_async_handler(self, socket: Socket, result: object) -> None:
        socket.is_busy = True
        self.busy_sockets[socket.id] = socket
        self.starting_socket_id = socket.id
        self.begin_result(socket.id, result)
        self.starting_socket_id = 0

    def _handle_close(self, socket: Socket, event: tuple[object, ...]) -> None:
        socket.is_busy = True
        self.busy_sockets[socket.id] = socket
        # Not the event's token: a handler that ran when the socket closed may have set it since.
        if self.begin_close_handler(socket.id, socket.token, cast(int, event[4]), cast(str, event[5])):
            socket.is_busy = False
            self.busy_sockets.pop(socket.id, None)
        self.clock_s = time()

    def resume_socket(self, socket_id: int) -> None:
        """An async handler of this socket has ended: on with what was held. Unknown ids are ignored."""
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
        """Handles what is held of a socket, for one share or until an async handler of it runs."""
        inbox = socket.inbox
        lane = self.worker_queue
        current = lane.current_socket
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
            lane.current_socket = current
            if not inbox:
                socket.inbox = None
            elif not socket.is_busy:
                self._defer_socket(socket)
