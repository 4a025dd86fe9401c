"""Runs the handlers of a worker with an event loop: one task for each async call, one call at a time for each socket.

Sync handlers run directly in the loop's callback, as they do without a loop.
"""

from collections import deque
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from wsbroker.guarded_log import log_loop_error
from wsbroker.wire import events
from wsbroker.wire.events import Event
from wsbroker.worker.async_calls import AsyncCalls, HandlerCall, is_awaitable
from wsbroker.worker.forks import ForkedLoopGuard, make_thread_executor
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.loader import Handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.report import HandlerReport
from wsbroker.worker.sync_runtime import SyncRuntime, UnfinishedCall
from wsbroker.worker.wire_api import WireApi

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable
    from socket import socket

_QUEUED_EVENTS: Final = frozenset({events.OPEN, events.MESSAGE, events.CLOSE, events.DROP_UNOPENED})
"""Events that wait while a handler of their socket runs. A TOKEN does not: a handler gets the newest token anyway."""


class AsyncRuntime(SyncRuntime):
    """Handles the events of one worker; events of a socket wait while an async handler of that socket is running.

    Args:
        wire: the socket that the API reads from, for the loop to watch.
        send_hung: tells the broker of a handler that does not end after its cancellation: handler, socket, seconds.
        unfinished_call: the call that needed an event loop, in a worker that began without one.
    """

    def __init__(
        self,
        handlers: Handlers,
        api: WireApi,
        timer: HandlerTimer,
        report: HandlerReport,
        options: HandlerOptions,
        wire: "socket",
        send_hung: "Callable[[str, int, float], None]",
        unfinished_call: UnfinishedCall | None = None,
    ) -> None:
        super().__init__(handlers, api, timer, report, options)
        self._wire = wire
        self._send_hung = send_hung
        self._resumed_call = unfinished_call
        self._context = copy_context()
        """The context in which every handler starts: an event that waited must not inherit that of another call."""
        self._loop: AbstractEventLoop
        self._async_calls: AsyncCalls
        self._end_future: Future[None]
        self._is_flush_scheduled = False

    def run(self) -> UnfinishedCall | None:
        """Runs the worker in an event loop, from its start to its end; raises what `handle_worker_start` raises."""
        from asyncio import Runner

        with Runner(loop_factory=_make_event_loop) as runner, ForkedLoopGuard(runner.get_loop()):
            runner.run(self._run_worker())
        return None

    async def _run_worker(self) -> None:
        """Starts the worker and handles events until STOP or the wire's end. The loop's main task.

        After STOP the worker is stopped in order (`_stop_worker`); after the wire's end all calls are cancelled.
        """
        from asyncio import get_running_loop

        self._loop = loop = get_running_loop()
        loop.set_exception_handler(log_loop_error)
        limits_s = {self._limit_s, self._http_limit_s}
        self._async_calls = AsyncCalls(self, limits_s, self._options.worker_hang_timeout, self._timer)
        self._end_future = loop.create_future()
        loop.set_default_executor(make_thread_executor())
        self._io.wake_loop = self._wake_loop
        self._api.schedule_flush = self._schedule_flush
        resumed, self._resumed_call = self._resumed_call, None
        if resumed is None:
            self.start()
            resumed, self._unfinished_call = self._unfinished_call, None
        self._api.flush()
        if resumed is not None and resumed.call is None:
            await resumed.awaitable
            self.report_started()
        elif resumed is not None:
            self.is_started = True
            self.continue_async(resumed)
        loop.add_reader(self._wire, self._on_wire_readable)
        try:
            self._handle_read_events()
            await self._end_future
        finally:
            loop.remove_reader(self._wire)
        if self._is_stopping:
            await self._stop_worker()
        else:
            self._async_calls.cancel_all_calls()
        self._async_calls.cancel_timers()

    async def _stop_worker(self) -> None:
        """Waits for the handlers of all events before STOP, runs `handle_worker_stop`, reports the end to the pool.

        A handler that hangs is waited for no longer than its time limit and `worker_hang_timeout`.
        """
        from asyncio import sleep

        longest_s = max(self._limit_s, self._http_limit_s) + self._options.worker_hang_timeout
        while self._async_calls.running_count or self._sockets.event_queues:
            if not await self._async_calls.wait_until_idle(longest_s):
                break
            await sleep(0)
        try:
            if self._handlers.worker_stop is not None:
                returned = self._handlers.worker_stop()
                if is_awaitable(returned):
                    await returned  # type: ignore[misc]
        except BaseException as error:
            self.report_stop_failed(error)
        self.report_stopped()

    # Events. ----------------------------------------------------------------------------------------------------

    def _on_wire_readable(self) -> None:
        """Reads the events that the broker has sent, and handles them. Called by the loop when the wire has bytes."""
        self._io.read_available()
        self._handle_read_events()

    def _wake_loop(self) -> None:
        """Has the loop handle the events that another thread has read from the wire; called on any thread."""
        try:
            self._loop.call_soon_threadsafe(self._handle_read_events, context=self._context)
        except RuntimeError:
            pass  # the loop is closed: the worker has ended

    def _handle_read_events(self) -> None:
        """Handles all events read from the wire so far; after STOP or the wire's end, has `_run_worker` go on.

        Called in the loop only: events that are read while a sync handler waits for an answer come after that handler.
        """
        io = self._io
        while not self._is_stopping:
            batch = io.pop_batch()
            if batch is None:
                break
            self.handle_batch(batch)
        if (self._is_stopping or io.is_ended) and not self._end_future.done():
            self._end_future.set_result(None)
        self._schedule_flush()

    def handle_event(self, event: Event) -> None:
        """Handles one event, or queues the event while a handler of its socket is running."""
        queues = self._sockets.event_queues
        if queues and event[0] in _QUEUED_EVENTS:
            socket_id = cast(int, event[1])
            if socket_id in queues:
                waiting = queues[socket_id]
                if waiting is None:
                    queues[socket_id] = deque((event,))
                else:
                    waiting.append(event)
                return
        super().handle_event(event)

    def continue_async(self, unfinished_call: UnfinishedCall) -> None:
        """Runs the awaitable that a handler returned as a task; the socket's events are queued until its end."""
        call, limit_s, awaitable = unfinished_call
        assert call is not None  # handle_worker_start is awaited in `_run_worker`
        if call.socket_id:
            self._sockets.event_queues[call.socket_id] = None
        self._async_calls.start_call(call, limit_s, awaitable)

    def on_call_ended(self, call: HandlerCall) -> None:
        """Acknowledges the event of a call that has ended, and has the socket's next event handled."""
        socket_id = call.socket_id
        queues = self._sockets.event_queues
        waiting = queues.pop(socket_id, None)
        super().on_call_ended(call)
        if waiting and not self._io.is_ended:  # otherwise another worker is handling these events
            queues[socket_id] = waiting
            self._loop.call_soon(self._resume_socket, socket_id, context=self._context)
        self._schedule_flush()

    def _resume_socket(self, socket_id: int) -> None:
        """Handles the queued events of a socket whose async handler has ended, until another of its handlers awaits.

        Drops them if the wire has ended. Called by the loop, in the turn after that end.
        """
        queues = self._sockets.event_queues
        waiting = queues.pop(socket_id, None)
        while waiting and not self._io.is_ended:
            self.handle_event(waiting.popleft())
            if socket_id in queues:
                queues[socket_id] = waiting or None
                break
        self._schedule_flush()

    def on_call_hung(self, call: HandlerCall) -> None:
        """Reports a handler that does not end to the broker, which replaces this worker."""
        seconds = monotonic() - call.start
        self._report.report_hung_call(call.handler, call.socket_id, seconds)
        self._api.flush()
        self._send_hung(call.handler, call.socket_id, seconds)

    # Commands. --------------------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        """Has the loop send the collected commands in its next turn, unless that is scheduled already."""
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush_commands, context=self._context)

    def _flush_commands(self) -> None:
        """Sends the collected commands to the broker. Called by the loop in the turn after `_schedule_flush`."""
        self._is_flush_scheduled = False
        self._api.flush()


def _make_event_loop() -> "AbstractEventLoop":
    """Returns a new event loop that can watch the wire's socket for bytes; the usual loop on Windows cannot."""
    from asyncio import SelectorEventLoop

    return SelectorEventLoop()
