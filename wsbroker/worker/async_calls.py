"""Runs async handlers, in workers and inline: one task per call, cancelled when its time limit has passed.

The states of one call of a handler that returned something to await (`CallCoroutine`), and the calls of the observer:

| state | coroutine ends | its time is over | `cancel_call` |
| --- | --- | --- | --- |
| running | ended: returned, failed or timed_out, then ended | overdue: timed_out, cancelled | unwanted: cancelled |
| overdue | ended: ended | hung (once, the call stays overdue) | – |
| unwanted | ended: ended | overdue: timed_out, cancelled | – |
"""

import sys
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Final, Protocol

from wsbroker.process_exit import exit_forked_child
from wsbroker.worker.interruption import HandlerTimeout, HandlerTimer
from wsbroker.worker.report import await_position

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Handle, Task

    from wsbroker.http.request import HttpRequest

MESSAGE: Final = "handle_socket_message"
OPEN: Final = "handle_socket_open"
CLOSE: Final = "handle_socket_close"
HTTP: Final = "handle_http_request"

FOREVER: Final = float("inf")


class HandlerCall:
    """One call of a handler: what was called, for which socket, and until when.

    Args:
        handler: the handler's name, for example `MESSAGE`.
        socket_id: the socket that the call is for; 0: an HTTP request.
        limit_s: seconds that the call may take.
        message_cost: for a message handler: the cost that is given back when the call has ended.
        request_id: for an HTTP handler: the id that the response is sent with.
        start: when the handler was called, on the clock `monotonic`; None: just now.
        request: for an open handler: the upgrade request.
    """

    __slots__ = (
        "answer",
        "deadline",
        "handler",
        "must_resume_socket",
        "message_cost",
        "request",
        "request_id",
        "socket_id",
        "start",
    )

    def __init__(
        self,
        handler: str,
        socket_id: int,
        limit_s: float,
        *,
        message_cost: int = 0,
        request_id: int = 0,
        start: float | None = None,
        request: "HttpRequest | None" = None,
    ) -> None:
        self.handler = handler
        self.socket_id = socket_id
        self.message_cost = message_cost
        self.request_id = request_id
        self.start = monotonic() if start is None else start
        self.deadline = self.start + limit_s
        self.request = request
        self.answer: Future[object] | None = None
        """Resolved with the answer of an open or HTTP handler, for a coroutine that waits in the same loop."""
        self.must_resume_socket = False
        """Whether the socket's next event waits for the end of this inline close handler: `resume_socket` follows."""


class CallObserver(Protocol):
    """Receives the ends of async handlers' calls: at most one of the first three methods, then `on_call_ended`."""

    def on_call_returned(self, call: HandlerCall, returned: object) -> None:
        """Called when a handler has returned in time, with the value."""

    def on_call_failed(self, call: HandlerCall, error: BaseException) -> None:
        """Called when a handler has raised in time, with the exception."""

    def on_call_timed_out(self, call: HandlerCall, cause_or_position: BaseException | str) -> None:
        """Called when a handler's time is over; the handler is being cancelled and may still run.

        Args:
            call: the call.
            cause_or_position: the exception that interrupted a blocking step, or the position where the handler waits.
        """

    def on_call_ended(self, call: HandlerCall) -> None:
        """Called when nothing of the call runs any more."""

    def on_call_hung(self, call: HandlerCall) -> None:
        """Called when a handler still runs `hang_timeout_s` after its cancellation."""


class CallCoroutine(Coroutine[object, object, None]):
    """Wraps the coroutine of a handler: a task drives this object, which drives the handler and reports its end.

    This is not an `async def` around the handler's coroutine: so it sees each step of the handler, and a step that
    blocks the loop can be interrupted; it ends without a callback of the task, which would cost a turn of the loop; and
    SystemExit, which a task would throw out of the loop, stays inside.
    """

    __slots__ = ("_coroutine", "_async_calls", "call", "is_ended", "is_overdue", "is_unwanted", "task")

    def __init__(
        self, async_calls: "AsyncCalls", call: HandlerCall, handler_coroutine: Coroutine[object, object, object]
    ) -> None:
        self._async_calls = async_calls
        self._coroutine = handler_coroutine
        self.call = call
        self.task: Task[None] | None = None
        self.is_ended = False
        self.is_overdue = False
        """Whether the handler's time is over: that was reported, and the handler was cancelled."""
        self.is_unwanted = False
        """Whether the handler was cancelled because its answer is of no use any more."""

    @property
    def position(self) -> str:
        """The position in the code where the handler waits."""
        return await_position(self._coroutine)

    def send(self, value: object) -> object:
        """Runs the handler to its next await. Called by the task."""
        return self._run_step(self._coroutine.send, value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> object:
        """Raises an exception where the handler waits, and runs the handler on. Called by the task, to cancel."""
        error = typ if isinstance(typ, BaseException) else typ() if val is None else val
        return self._run_step(self._coroutine.throw, error)

    def close(self) -> None:
        """Closes the handler's coroutine. Called when the task is thrown away."""
        self._coroutine.close()

    def __await__(self) -> "CallCoroutine":  # type: ignore[override]
        return self

    def _run_step(self, advance: Callable[..., object], value: object) -> object:
        """Runs a handler to its next await, within its time limit; if the handler ends there, reports its end.

        Args:
            advance: `send` or `throw` of the handler's coroutine.
            value: the argument for `advance`.

        Returns:
            what the task has to wait for before the next step.

        Raises:
            StopIteration: the handler has ended; for the task.
        """
        try:
            timer = self._async_calls.timer
            if timer is None:
                waits_for = advance(value)
                if self._async_calls.is_forked:
                    exit_forked_child(None)
                return waits_for
            call = self.call
            start = monotonic()
            # An overdue handler runs its clean-up: that may take as long as hanging is tolerated.
            deadline = start + self._async_calls.hang_timeout_s if self.is_overdue else call.deadline
            return timer.call_with_deadline(deadline, start, call.handler, call.socket_id, advance, value)
        except StopIteration as end:
            self._async_calls.on_coroutine_ended(self, end.value, None)
        except HandlerTimeout as timeout:
            self._close_coroutine()
            self._async_calls.on_coroutine_ended(self, None, timeout)
        except BaseException as error:
            self._async_calls.on_coroutine_ended(self, None, error)
        raise StopIteration

    def _close_coroutine(self) -> None:
        """Closes the coroutine of a handler that has raised HandlerTimeout in a step; ignores what the closing raises.

        A handler that has caught its HandlerTimeout and awaits again does not go on: only its `finally` blocks run.
        """
        try:
            self._coroutine.close()
        except BaseException:
            pass  # the handler was interrupted, and that was reported, once


class _DeadlineQueue:
    """Running calls with the same time limit, in the order of their starts: one timer reports those that are overdue.

    Args:
        loop: the loop of the timer.
        limit_s: the time limit in seconds.
        on_overdue: called for each call that has not ended within the limit.
    """

    __slots__ = ("_limit_s", "_loop", "_on_overdue", "_coroutines", "_timer")

    def __init__(self, loop: "AbstractEventLoop", limit_s: float, on_overdue: Callable[[CallCoroutine], None]) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._on_overdue = on_overdue
        self._coroutines: dict[CallCoroutine, float] = {}
        self._timer: Handle | None = None

    def add_call(self, coroutine: CallCoroutine) -> None:
        """Adds a call, whose time limit begins now; does nothing if the limit is infinite."""
        if self._limit_s < FOREVER:
            self._coroutines[coroutine] = monotonic() + self._limit_s
            if self._timer is None:
                self._timer = self._loop.call_later(self._limit_s, self._expire_due_calls)

    def discard_call(self, coroutine: CallCoroutine) -> None:
        """Removes a call that has ended, so that it is not reported; does nothing if it was reported already."""
        self._coroutines.pop(coroutine, None)

    def cancel_timer(self) -> None:
        """Cancels the timer, so that no call is reported any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire_due_calls(self) -> None:
        """Calls `on_overdue` for the calls whose deadline has passed, and sets the timer for the next deadline, if any.

        Called by the timer, which is not cancelled when a call ends: so calls that end in time need no timer of their
        own. If `on_overdue` raises, the other due calls follow in the loop's next turn.
        """
        self._timer = None
        coroutines = self._coroutines
        now = monotonic()
        while coroutines:
            coroutine, deadline = next(iter(coroutines.items()))
            if deadline > now:
                self._timer = self._loop.call_later(max(deadline - now, 0.001), self._expire_due_calls)
                return
            del coroutines[coroutine]
            try:
                self._on_overdue(coroutine)
            except BaseException:
                self._timer = self._loop.call_soon(self._expire_due_calls)  # the others are due all the same
                raise


class AsyncCalls:
    """The calls of async handlers that are running in one event loop.

    Args:
        observer: receives the ends of the calls.
        limits_s: the time limits there are, in seconds; every `HandlerCall` has one of them.
        hang_timeout_s: seconds a cancelled handler may take to end.
        timer: interrupts steps that block; None: they cannot be interrupted (the broker's own loop).
    """

    def __init__(
        self, observer: CallObserver, limits_s: set[float], hang_timeout_s: float, timer: HandlerTimer | None = None
    ) -> None:
        from asyncio import Task, get_running_loop

        self.hang_timeout_s = hang_timeout_s
        self.timer = timer
        self.is_forked = False
        """Whether this process is a child that a handler has forked, in a loop without a timer."""
        self._observer = observer
        self._loop = loop = get_running_loop()
        self._deadlines = {limit_s: _DeadlineQueue(loop, limit_s, self._cancel_overdue) for limit_s in limits_s}
        self._hang_deadlines = _DeadlineQueue(loop, hang_timeout_s, self._report_hung)
        self._coroutines: dict[CallCoroutine, _DeadlineQueue] = {}
        self._idle_future: Future[None] | None = None
        self._make_task = Task

    @property
    def running_count(self) -> int:
        """The number of calls that are running."""
        return len(self._coroutines)

    def start_call(self, call: HandlerCall, limit_s: float, awaitable: Awaitable[object]) -> CallCoroutine:
        """Runs the awaitable that a handler returned as a task, and starts the call's time limit.

        Args:
            call: the call of the handler.
            limit_s: the call's time limit in seconds, one of `limits_s`.
            awaitable: the coroutine, or other awaitable, that the handler returned.
        """
        if isinstance(awaitable, CoroutineType):
            coroutine = CallCoroutine(self, call, awaitable)
        else:
            coroutine = CallCoroutine(self, call, _await_awaitable(awaitable))
        deadlines = self._deadlines[limit_s]
        self._coroutines[coroutine] = deadlines
        deadlines.add_call(coroutine)
        if sys.version_info >= (3, 12):
            # The first step runs at once: a handler that does not wait costs no turn of the loop.
            task = self._make_task(coroutine, loop=self._loop, eager_start=True)
        else:
            task = self._make_task(coroutine, loop=self._loop)
        if not coroutine.is_ended:
            coroutine.task = task
        return coroutine

    def cancel_call(self, coroutine: CallCoroutine) -> None:
        """Cancels a running call whose answer nothing waits for any more; its result is not reported, only its end."""
        if coroutine.task is not None and not coroutine.is_ended:
            coroutine.is_unwanted = True
            coroutine.task.cancel()

    def cancel_all_calls(self) -> None:
        """Cancels all calls that are running, as `cancel_call` does."""
        for coroutine in list(self._coroutines):
            self.cancel_call(coroutine)

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Waits until no call is running, at most `timeout_s`; returns whether that was reached."""
        from asyncio import timeout

        if self._coroutines:
            self._idle_future = self._loop.create_future()
            try:
                async with timeout(timeout_s if timeout_s < FOREVER else None):
                    await self._idle_future
            except TimeoutError:
                return False
            finally:
                self._idle_future = None
        return True

    def cancel_timers(self) -> None:
        """Cancels all timers. Called when the loop is about to end."""
        self._hang_deadlines.cancel_timer()
        for deadlines in self._deadlines.values():
            deadlines.cancel_timer()

    def on_coroutine_ended(self, coroutine: CallCoroutine, returned: object, error: BaseException | None) -> None:
        """Reports how a call has ended. Called by its `CallCoroutine`.

        Args:
            coroutine: the coroutine that has ended.
            returned: the handler's value, if it returned.
            error: what the handler raised; a HandlerTimeout if a step was interrupted; None: it returned.
        """
        if self.is_forked:
            exit_forked_child(error)
        coroutine.is_ended = True
        coroutine.task = None
        self._coroutines.pop(coroutine).discard_call(coroutine)
        call = coroutine.call
        try:
            if coroutine.is_overdue:
                self._hang_deadlines.discard_call(coroutine)
            elif coroutine.is_unwanted:
                pass
            elif error is None:
                self._observer.on_call_returned(call, returned)
            elif isinstance(error, HandlerTimeout):
                self._observer.on_call_timed_out(call, error)
            else:
                self._observer.on_call_failed(call, error)
        finally:  # so that the socket's next event is handled, whatever fails there
            try:
                self._observer.on_call_ended(call)
            finally:
                if not self._coroutines and self._idle_future is not None and not self._idle_future.done():
                    self._idle_future.set_result(None)

    def _cancel_overdue(self, coroutine: CallCoroutine) -> None:
        """Cancels the task of a call whose time limit has passed, and reports the time-out to the observer.

        Called by the timer of that limit. The call counts as hung if it still runs `hang_timeout_s` later.
        """
        coroutine.is_overdue = True
        position = coroutine.position
        if coroutine.task is not None:
            coroutine.task.cancel()
        self._hang_deadlines.add_call(coroutine)
        self._observer.on_call_timed_out(coroutine.call, position)

    def _report_hung(self, coroutine: CallCoroutine) -> None:
        """Reports to the observer that a call still runs `hang_timeout_s` after its cancellation. Called by a timer."""
        self._observer.on_call_hung(coroutine.call)


async def _await_awaitable(awaitable: Awaitable[object]) -> object:
    """Awaits an awaitable that is no coroutine, and returns its value. For a task, which runs coroutines only."""
    return await awaitable


def is_awaitable(returned: object) -> bool:
    """Returns whether a handler returned something that has to be awaited."""
    if type(returned) is CoroutineType:
        return True
    try:
        return hasattr(type(returned), "__await__")
    except BaseException:  # a metaclass of the application
        return False
