"""Handlers of a worker with an event loop: async ones run as one task each, those of a socket one after the other.

Sync handlers run directly in the loop's callback, as they do without a loop.
"""

from collections import deque
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from wsbroker.guarded_log import log_loop_error
from wsbroker.wire import events
from wsbroker.wire.events import Event
from wsbroker.worker.async_calls import Call, Tasks, is_awaitable
from wsbroker.worker.forks import LoopGuard, to_thread_executor
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.loader import Handlers
from wsbroker.worker.options import Options
from wsbroker.worker.report import Report
from wsbroker.worker.sync_runtime import Unfinished, WireRuntime
from wsbroker.worker.wire_api import WireApi

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable
    from socket import socket

_QUEUED: Final = frozenset({events.OPEN, events.MESSAGE, events.CLOSE, events.DROP_UNOPENED})
"""Events that wait while a handler of their socket runs. A TOKEN does not: a handler gets the newest when it starts."""


class LoopRuntime(WireRuntime):
    """Handles the events of one worker; those of sockets whose handler awaits wait for it, the others go on.

    Args:
        wire: what the port reads from, for the loop to watch.
        hung: told of a handler that does not end after it was cancelled: handler, socket, seconds.
        unfinished: what made a worker without a loop go on here.
    """

    def __init__(
        self,
        handlers: Handlers,
        port: WireApi,
        watch: HandlerTimer,
        report: Report,
        options: Options,
        wire: "socket",
        hung: "Callable[[str, int, float], None]",
        unfinished: Unfinished | None = None,
    ) -> None:
        super().__init__(handlers, port, watch, report, options)
        self._wire = wire
        self._tell_hung = hung
        self._resumed = unfinished
        self._context = copy_context()
        """What every handler starts from: an event that waited must not inherit the context of whom it waited for."""
        self._loop: AbstractEventLoop
        self._tasks: Tasks
        self._over: Future[None]
        self._is_armed = False

    def run(self) -> Unfinished | None:
        """Runs the worker, from `handle_worker_start` to its end. What that handler raises reaches the caller."""
        from asyncio import Runner

        with Runner(loop_factory=_new_loop) as runner, LoopGuard(runner.get_loop()):
            runner.run(self._main())
        return None

    async def _main(self) -> None:
        from asyncio import get_running_loop

        self._loop = loop = get_running_loop()
        loop.set_exception_handler(log_loop_error)
        limits_s = {self._limit_s, self._http_limit_s}
        self._tasks = Tasks(self, limits_s, self._options.worker_hang_timeout, self._watch)
        self._over = loop.create_future()
        loop.set_default_executor(to_thread_executor())
        port = self._port
        port.wake = self._wake
        port.arm = self._arm
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            self.start()
            resumed, self._unfinished = self._unfinished, None
        port.flush()
        if resumed is not None and resumed.call is None:
            await resumed.awaitable
            self.started()
        elif resumed is not None:
            self.is_started = True
            self.begin(resumed)
        loop.add_reader(self._wire, self._readable)
        try:
            self._drain()
            await self._over
        finally:
            loop.remove_reader(self._wire)
        if self._is_stopping:
            await self._stop()
        else:
            self._tasks.cancel_all()
        self._tasks.close()

    async def _stop(self) -> None:
        """Everything that came before has to end; a handler that hangs does not keep the rest from it."""
        from asyncio import sleep

        longest_s = max(self._limit_s, self._http_limit_s) + self._options.worker_hang_timeout
        while self._tasks.count or self._port.queues:
            if not await self._tasks.wait_idle(longest_s):
                break
            await sleep(0)
        try:
            if self._handlers.worker_stop is not None:
                returned = self._handlers.worker_stop()
                if is_awaitable(returned):
                    await returned  # type: ignore[misc]
        except BaseException as error:
            self.stop_failed(error)
        self.stopped()

    # Events. ----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        self._port.read_ready()
        self._drain()

    def _wake(self) -> None:
        """Somebody who waited for an answer has read events; called on any thread."""
        try:
            self._loop.call_soon_threadsafe(self._drain, context=self._context)
        except RuntimeError:
            pass  # the loop is closed: the worker has ended

    def _drain(self) -> None:
        """Handles what was read. Called by the loop only: while a handler waits for an answer, events wait."""
        port = self._port
        while not self._is_stopping:
            batch = port.take_batch()
            if batch is None:
                break
            self.handle_batch(batch)
        if (self._is_stopping or port.is_ended) and not self._over.done():
            self._over.set_result(None)
        self._arm()

    def handle(self, event: Event) -> None:
        """Handles one event, or lets it wait for its socket."""
        queues = self._port.queues
        if queues and event[0] in _QUEUED:
            socket_id = cast(int, event[1])
            if socket_id in queues:
                waiting = queues[socket_id]
                if waiting is None:
                    queues[socket_id] = deque((event,))
                else:
                    waiting.append(event)
                return
        super().handle(event)

    def begin(self, unfinished: Unfinished) -> None:
        """Runs what a handler returned as a task."""
        call, limit_s, awaitable = unfinished
        assert call is not None  # handle_worker_start is awaited in `_main`
        if call.socket_id:
            self._port.queues[call.socket_id] = None
        self._tasks.start(call, limit_s, awaitable)

    def ended(self, call: Call) -> None:
        """Acknowledges the event and lets the socket's next one go on."""
        socket_id = call.socket_id
        queues = self._port.queues
        waiting = queues.pop(socket_id, None)
        super().ended(call)
        if waiting and not self._port.is_ended:  # else another worker is handling what is left
            queues[socket_id] = waiting
            self._loop.call_soon(self._go_on, socket_id, context=self._context)
        self._arm()

    def _go_on(self, socket_id: int) -> None:
        queues = self._port.queues
        waiting = queues.pop(socket_id, None)
        while waiting and not self._port.is_ended:
            self.handle(waiting.popleft())
            if socket_id in queues:
                queues[socket_id] = waiting or None
                break
        self._arm()

    def hung(self, call: Call) -> None:
        """Said to the broker, which gives the worker up."""
        seconds = monotonic() - call.start
        self._report.hung(call.handler, call.socket_id, seconds)
        self._port.flush()
        self._tell_hung(call.handler, call.socket_id, seconds)

    # Commands. --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Makes sure that what was asked for leaves at the end of this turn of the loop."""
        if not self._is_armed:
            self._is_armed = True
            self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._is_armed = False
        self._port.flush()


def _new_loop() -> "AbstractEventLoop":
    """A loop that can watch a socket; on Windows the usual one cannot."""
    from asyncio import SelectorEventLoop

    return SelectorEventLoop()
