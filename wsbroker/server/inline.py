"""Handlers in the loop: one Python call per message, made from compiled code.

What is rare (an async handler, an error, a close) goes to the interpreted runtime through the callables given here;
while an async handler runs, the later events of its socket are held in the socket's inbox.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, cast, final

from librt.time import time
from mypy_extensions import i64

from wsbroker.broker.broker import Broker
from wsbroker.broker.lane import Lane
from wsbroker.broker.limits import MESSAGE_OVERHEAD_BYTES
from wsbroker.broker.socket import Socket

MessageHandler = Callable[..., object]


def cost_of(data: object) -> i64:
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
        begin_result: ``(socket_id, result)``: takes what a handler returned; calls `release` once it is done.
        failed: ``(socket_id, exception)``: a handler raised.
        notice_s: what a call of a handler may take without being told of.
        slow: ``(socket_id, seconds, is_ended)``: a handler held the loop for longer than `notice_s`, to its end or its
            first `await`; returns the next `notice_s`.
        begin_close: ``(socket_id, token, code, reason)``: True: the close handler has ended; False: `release` follows.
        unhandled: called for a message when there is no handler.
    """

    def __init__(
        self,
        broker: Broker,
        lane: Lane,
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
        self.lane: Final = lane
        self.handler: Final = handler
        self.arity: Final = arity
        self.notice_s = notice_s
        self.begin_result: Final = begin_result
        self.failed: Final = failed
        self.slow: Final = slow
        self.begin_close: Final = begin_close
        self.unhandled: Final = unhandled
        self.busy: Final[dict[int, Socket]] = lane.busy
        self.handled: int = 0
        self.clock_s: float = 0.0
        """When the last handler ended or the turn began: the clock is read once per message, not twice (40 ns)."""
        self.starting: int = 0
        """The socket whose result is being taken right now; a release of it then must not go on, the caller does."""

    def run(self) -> None:
        """Handles the events of this turn; what they cause is for the next one."""
        lane = self.lane
        sockets = lane.sockets
        if not sockets:
            return
        data = lane.data
        lane.sockets = []
        lane.data = []
        done = 0
        self.clock_s = time()
        try:
            while done < len(sockets):
                socket = sockets[done]
                event = data[done]
                done += 1
                if socket.is_busy:
                    self._hold(socket, event)
                else:
                    self._handle(socket, event)
        finally:
            lane.current = None
            if done < len(sockets):  # what reports an error has failed itself: the other events are for the next turn
                lane.sockets = sockets[done:] + lane.sockets
                lane.data = data[done:] + lane.data

    def _hold(self, socket: Socket, data: object) -> None:
        inbox = socket.inbox
        if inbox is None:
            inbox = deque()
            socket.inbox = inbox
        inbox.append((data,))
        socket.unhandled += cost_of(data)
        if socket.unhandled >= self.broker.limits.inbox_bytes:
            socket.pause_reading()

    def _handle(self, socket: Socket, data: object) -> None:
        if isinstance(data, tuple):
            if data:
                self._handle_close(socket, data)
            else:
                self.broker.handled_all(socket)
            return
        handler = self.handler
        if handler is None:
            self.unhandled(socket.id)
            return
        if socket.is_muted:
            return
        socket_id = socket.id
        self.lane.current = socket
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
            self.failed(socket_id, error)
        else:
            if result is not None:
                self._begin(socket, result)
        self.handled += 1
        now = time()  # the wall clock, 20 ns; whoever is told of slow handlers sorts out its steps
        elapsed = now - self.clock_s
        self.clock_s = now
        if elapsed > self.notice_s:
            self.notice_s = self.slow(socket_id, elapsed, result is None)
            self.clock_s = time()

    def _begin(self, socket: Socket, result: object) -> None:
        socket.is_busy = True
        self.busy[socket.id] = socket
        self.starting = socket.id
        self.begin_result(socket.id, result)
        self.starting = 0

    def _handle_close(self, socket: Socket, event: tuple[object, ...]) -> None:
        socket.is_busy = True
        self.busy[socket.id] = socket
        # Not the event's token: a handler that ran when the socket closed may have set it since.
        if self.begin_close(socket.id, socket.token, cast(int, event[4]), cast(str, event[5])):
            socket.is_busy = False
            self.busy.pop(socket.id, None)
        self.clock_s = time()

    def release(self, socket_id: int) -> None:
        """An async handler of this socket has ended: on with what was held. Unknown ids are ignored."""
        socket = self.busy.pop(socket_id, None)
        if socket is None:
            return
        socket.is_busy = False
        if socket_id == self.starting:
            return
        inbox = socket.inbox
        if inbox:
            self.clock_s = time()
        while inbox and not socket.is_busy:
            data = inbox.popleft()[0]
            self.broker.release(socket, cost_of(data))
            self._handle(socket, data)
        if not inbox:
            socket.inbox = None
