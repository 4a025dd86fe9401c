"""Async handlers: one task per call, with its time limit. For workers with an event loop, and for the broker's own."""

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
    """One call of a handler.

    Args:
        handler: its name.
        socket_id: whose; 0: an HTTP request.
        limit_s: how long it may take.
        number: what its answer is for: an HTTP request's number, or the cost of a message.
        start: when it was called, if that was not just now.
        request: what an open handler was called with.
    """

    __slots__ = ("answer", "deadline", "handler", "number", "request", "socket_id", "start")

    def __init__(
        self,
        handler: str,
        socket_id: int,
        limit_s: float,
        number: int = 0,
        start: float | None = None,
        request: "HttpRequest | None" = None,
    ) -> None:
        self.handler = handler
        self.socket_id = socket_id
        self.number = number
        self.start = monotonic() if start is None else start
        self.deadline = self.start + limit_s
        self.request = request
        self.answer: Future[object] | None = None
        """Resolved with the answer, for whoever waits for it in the same loop."""


class CallObserver(Protocol):
    """Who has handlers running: told how they end. One of the first three per call, and then `ended`."""

    def on_call_returned(self, call: HandlerCall, returned: object) -> None:
        """It returned in time."""

    def on_call_failed(self, call: HandlerCall, error: BaseException) -> None:
        """It raised in time."""

    def on_call_timed_out(self, call: HandlerCall, where: BaseException | str) -> None:
        """Its time is over and it is being cancelled; it may still run."""

    def on_call_ended(self, call: HandlerCall) -> None:
        """Nothing of it runs any more."""

    def on_call_hung(self, call: HandlerCall) -> None:
        """It was cancelled a while ago and still runs."""


class CallCoroutine(Coroutine[object, object, None]):
    """What a handler's task drives: the handler, and how it ends.

    A coroutine of our own rather than an `async def` around the handler's: it sees each step of the handler, so that a
    step that blocks the loop can be interrupted; it ends without a callback of the task and the turn of the loop that
    one costs; and SystemExit, which a task would throw out of the loop, stays inside.
    """

    __slots__ = ("_coroutine", "_async_calls", "call", "is_ended", "is_overdue", "is_unwanted", "task")

    def __init__(self, tasks: "AsyncCalls", call: HandlerCall, coroutine: Coroutine[object, object, object]) -> None:
        self._async_calls = tasks
        self._coroutine = coroutine
        self.call = call
        self.task: Task[None] | None = None
        self.is_ended = False
        self.is_overdue = False
        """Its time is over: that was reported, and it was cancelled."""
        self.is_unwanted = False
        """It was cancelled because nobody waits for it."""

    @property
    def position(self) -> str:
        """Where the handler waits."""
        return await_position(self._coroutine)

    def send(self, value: object) -> object:
        """One step."""
        return self._run_step(self._coroutine.send, value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> object:
        """One step that begins with an exception: the task was cancelled."""
        error = typ if isinstance(typ, BaseException) else typ() if val is None else val
        return self._run_step(self._coroutine.throw, error)

    def close(self) -> None:
        """The task is thrown away."""
        self._coroutine.close()

    def __await__(self) -> "CallCoroutine":  # type: ignore[override]
        return self

    def _run_step(self, go: Callable[..., object], value: object) -> object:
        try:
            watch = self._async_calls.timer
            if watch is None:
                waits_for = go(value)
                if self._async_calls.is_forked:
                    exit_forked_child(None)
                return waits_for
            call = self.call
            start = monotonic()
            # What is late already runs its clean-up: as long as its hanging is tolerated.
            deadline = start + self._async_calls.hang_timeout_s if self.is_overdue else call.deadline
            return watch.call_with_deadline(deadline, start, call.handler, call.socket_id, go, value)
        except StopIteration as end:
            self._async_calls.on_coroutine_ended(self, end.value, None)
        except HandlerTimeout as timeout:
            self._close_coroutine()
            self._async_calls.on_coroutine_ended(self, None, timeout)
        except BaseException as error:
            self._async_calls.on_coroutine_ended(self, None, error)
        raise StopIteration

    def _close_coroutine(self) -> None:
        """A handler that caught its interruption and awaits again is not given another step, only its `finally`s."""
        try:
            self._coroutine.close()
        except BaseException:
            pass  # it has been told, and reported, once


class _DeadlineQueue:
    """Runs with one time limit, so that their order is that of their deadlines: one timer serves them all."""

    __slots__ = ("_limit_s", "_loop", "_on_overdue", "_runs", "_timer")

    def __init__(self, loop: "AbstractEventLoop", limit_s: float, overdue: Callable[[CallCoroutine], None]) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._on_overdue = overdue
        self._runs: dict[CallCoroutine, float] = {}
        self._timer: Handle | None = None

    def add_call(self, run: CallCoroutine) -> None:
        if self._limit_s < FOREVER:
            self._runs[run] = monotonic() + self._limit_s
            if self._timer is None:
                self._timer = self._loop.call_later(self._limit_s, self._expire_due_calls)

    def discard_call(self, run: CallCoroutine) -> None:
        self._runs.pop(run, None)

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire_due_calls(self) -> None:
        """The timer is left running when its run ends, so it fires at most once per limit and finds what is due."""
        self._timer = None
        runs = self._runs
        now = monotonic()
        while runs:
            run, deadline = next(iter(runs.items()))
            if deadline > now:
                self._timer = self._loop.call_later(max(deadline - now, 0.001), self._expire_due_calls)
                return
            del runs[run]
            try:
                self._on_overdue(run)
            except BaseException:
                self._timer = self._loop.call_soon(self._expire_due_calls)  # the others are due all the same
                raise


class AsyncCalls:
    """The async handlers that are running.

    Args:
        owner: told how they end.
        limits_s: the time limits there are; every `HandlerCall` has one of them.
        hang_s: how long a cancelled handler may take to end.
        watch: interrupts steps that block; None: nobody does (the broker's own loop).
    """

    def __init__(
        self, owner: CallObserver, limits_s: set[float], hang_s: float, watch: HandlerTimer | None = None
    ) -> None:
        from asyncio import Task, get_running_loop

        self.hang_timeout_s = hang_s
        self.timer = watch
        self.is_forked = False
        """This process is a child that a handler without a watch has forked."""
        self._observer = owner
        self._loop = loop = get_running_loop()
        self._deadlines = {limit_s: _DeadlineQueue(loop, limit_s, self._cancel_overdue) for limit_s in limits_s}
        self._hang_deadlines = _DeadlineQueue(loop, hang_s, self._report_hung)
        self._runs: dict[CallCoroutine, _DeadlineQueue] = {}
        self._idle_future: Future[None] | None = None
        self._make_task = Task

    @property
    def running_count(self) -> int:
        """How many run."""
        return len(self._runs)

    def start_call(self, call: HandlerCall, limit_s: float, awaitable: Awaitable[object]) -> CallCoroutine:
        """Runs what a handler returned as a task."""
        if isinstance(awaitable, CoroutineType):
            run = CallCoroutine(self, call, awaitable)
        else:
            run = CallCoroutine(self, call, _await_awaitable(awaitable))
        deadlines = self._deadlines[limit_s]
        self._runs[run] = deadlines
        deadlines.add_call(run)
        if sys.version_info >= (3, 12):
            # The first step runs at once: a handler that does not wait costs no turn of the loop.
            task = self._make_task(run, loop=self._loop, eager_start=True)
        else:
            task = self._make_task(run, loop=self._loop)
        if not run.is_ended:
            run.task = task
        return run

    def cancel_call(self, run: CallCoroutine) -> None:
        """Cancels a call that nobody waits for any more: how it ends is not reported."""
        if run.task is not None and not run.is_ended:
            run.is_unwanted = True
            run.task.cancel()

    def cancel_all_calls(self) -> None:
        """Cancels all that run."""
        for run in list(self._runs):
            self.cancel_call(run)

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Waits until none runs; returns whether that was so in time."""
        from asyncio import timeout

        if self._runs:
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
        """Lets go of the timers."""
        self._hang_deadlines.cancel_timer()
        for deadlines in self._deadlines.values():
            deadlines.cancel_timer()

    def on_coroutine_ended(self, run: CallCoroutine, returned: object, error: BaseException | None) -> None:
        """A run has ended; called by it."""
        if self.is_forked:
            exit_forked_child(error)
        run.is_ended = True
        run.task = None
        self._runs.pop(run).discard_call(run)
        call = run.call
        try:
            if run.is_overdue:
                self._hang_deadlines.discard_call(run)
            elif run.is_unwanted:
                pass
            elif error is None:
                self._observer.on_call_returned(call, returned)
            elif isinstance(error, HandlerTimeout):
                self._observer.on_call_timed_out(call, error)
            else:
                self._observer.on_call_failed(call, error)
        finally:  # whatever fails there, the socket's next event goes on
            try:
                self._observer.on_call_ended(call)
            finally:
                if not self._runs and self._idle_future is not None and not self._idle_future.done():
                    self._idle_future.set_result(None)

    def _cancel_overdue(self, run: CallCoroutine) -> None:
        run.is_overdue = True
        where = run.position
        if run.task is not None:
            run.task.cancel()
        self._hang_deadlines.add_call(run)
        self._observer.on_call_timed_out(run.call, where)

    def _report_hung(self, run: CallCoroutine) -> None:
        self._observer.on_call_hung(run.call)


async def _await_awaitable(awaitable: Awaitable[object]) -> object:
    """A coroutine of anything that can be awaited."""
    return await awaitable


def is_awaitable(returned: object) -> bool:
    """Whether a handler returned something to await."""
    if type(returned) is CoroutineType:
        return True
    try:
        return hasattr(type(returned), "__await__")
    except BaseException:  # a metaclass of the application
        return False
