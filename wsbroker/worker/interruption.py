"""Interrupts handlers that pass their time limit without awaiting: an exception raised from a second thread.

CPython can raise an exception in another thread (`PyThreadState_SetAsyncExc`), at the next bytecode it runs there. That
must never hit our own code, in which a half-done write to the wire would break it. How that is kept:

* A handler runs between `armed_call = call` and `armed_call = None`, each one attribute store on the worker's thread.
* The control thread announces first (`announced_call = call`) and checks then whether `armed_call` is still this call.
  The worker clears `armed_call` first and checks then whether `announced_call` is its call. So at least one of the two
  sees the other (Dekker's algorithm, which needs no lock in the usual case): either the control thread finds no armed
  call and raises nothing, or the worker finds the announcement, waits until the control thread is done (`_lock`),
  clears an exception that was not raised yet, and raises one itself.
* Our own code that a handler calls (a flush, a question to the broker) runs with interruption suspended, in the same
  way: an interruption that is announced meanwhile is raised where that code ends, and again where the next such code
  begins if the handler caught the exception.
* The control thread raises at most once per call, so once that exception was cleared no other can come.

| state of a call | `armed_call` | `announced_call` | left by |
| --- | --- | --- | --- |
| none is running | None | an older call | `call_with_deadline` → interruptible |
| interruptible | the call | an older call | `suspend_interruption` → suspended · deadline → announced · end → none |
| suspended | None | an older call | `resume_interruption` → interruptible · deadline → announced |
| announced | the call or None | the call | HandlerTimeout is raised, then the end → none |

A handler that runs C code is interrupted when it returns from there; a handler that catches everything and goes on is
not. Both count as hung after a while; the broker then replaces the worker.
"""

import sys
from collections.abc import Callable
from threading import Lock, get_ident
from time import monotonic
from typing import TypeAlias, TypeVar

from wsbroker.process_exit import exit_forked_child

_Returned = TypeVar("_Returned")

RunningCall: TypeAlias = tuple[float, float, str, int]
"""A call that is running: its deadline, its start (both of `monotonic`), the handler's name, the socket's id."""


class HandlerTimeout(BaseException):
    """Raised in a handler that takes too long. Not an `Exception`: ``except Exception`` must not stop it."""


class HandlerTimer:
    """Keeps the handlers of one worker's thread to their time; made on that thread.

    Args:
        check_interval_s: seconds between two checks of the control thread at most; not more than the shortest limit, or
            it would miss deadlines; infinite: there are no limits.
        hang_timeout_s: seconds after its interruption from which a handler counts as hung.
        on_interrupted: called on the control thread for each interruption: handler, socket id, seconds since the start.
        on_hung: called on the control thread, once per call, for a handler that does not end: with the same arguments.
    """

    __slots__ = (
        "_hang_timeout_s",
        "_on_hung",
        "_on_interrupted",
        "_interrupted_at",
        "_is_forked",
        "_lock",
        "_check_interval_s",
        "_reported_call",
        "_raise_interrupt",
        "_clear_interrupt",
        "armed_call",
        "announced_call",
        "running_call",
    )

    def __init__(
        self,
        check_interval_s: float,
        hang_timeout_s: float,
        on_interrupted: Callable[[str, int, float], None],
        on_hung: Callable[[str, int, float], None],
    ) -> None:
        self._check_interval_s = None if check_interval_s == float("inf") else check_interval_s
        self._hang_timeout_s = hang_timeout_s
        self._on_interrupted = on_interrupted
        self._on_hung = on_hung
        self._lock = Lock()
        self._raise_interrupt, self._clear_interrupt = _make_interrupt_functions(get_ident())
        self._interrupted_at = 0.0
        self._is_forked = False
        self._reported_call: RunningCall | None = None
        self.running_call: RunningCall | None = None
        """The call whose time is running; written by the worker's thread only."""
        self.armed_call: RunningCall | None = None
        """That call while it may be interrupted; None while it may not."""
        self.announced_call: RunningCall | None = None
        """The call that the control thread is about to interrupt, or has interrupted; the last such call."""

    # On the worker's thread. ------------------------------------------------------------------------------------

    def call_with_deadline(
        self,
        deadline: float,
        start: float,
        handler: str,
        socket_id: int,
        function: Callable[..., _Returned],
        *args: object,
    ) -> _Returned:
        """Calls a function of the application, which is interrupted when its time is over; returns its value.

        Args:
            deadline: when the time is over, on the clock `monotonic`.
            start: when the call began, on that clock.
            handler: the handler's name, for reports.
            socket_id: the socket, for reports; 0: an HTTP request.
            function: the function to call.
            *args: its arguments.

        Raises:
            HandlerTimeout: the function took too long, and was interrupted or ended just then.
            BaseException: what the function raised.
        """
        call = (deadline, start, handler, socket_id)
        self.armed_call = self.running_call = call
        try:
            try:
                return function(*args)
            finally:
                self.armed_call = None
                if self.announced_call is call:
                    self._finish_interruption()
                self.running_call = None
        except HandlerTimeout:
            # Raised by the handler's own code, by `_finish_interruption`, or between the two.
            self.armed_call = None
            if self.announced_call is call:
                self._finish_interruption()
            self.running_call = None
            raise

    def suspend_interruption(self) -> RunningCall | None:
        """Makes the running handler uninterruptible; called when it calls a function of this package.

        Returns:
            the argument for `resume_interruption`.

        Raises:
            HandlerTimeout: the handler's time is over.
        """
        armed_call = self.armed_call
        if armed_call is not None:
            self.armed_call = None
            if self.announced_call is armed_call:
                self._finish_interruption()
        return armed_call

    def resume_interruption(self, armed_call: RunningCall | None) -> None:
        """Makes the handler interruptible again.

        Args:
            armed_call: what `suspend_interruption` returned.

        Raises:
            HandlerTimeout: the handler's time was over meanwhile.
        """
        if armed_call is not None:
            self.armed_call = armed_call
            if self.announced_call is armed_call:
                self.armed_call = None
                self._finish_interruption()

    def mark_forked(self) -> None:
        """Has this process, which a handler has just forked, end where that handler ends. Called in the forked child.

        The call counts as announced, which `call_with_deadline` checks anyway: a check of its own would cost 15 ns for
        each message.
        """
        self._is_forked = True
        self.announced_call = self.running_call

    def _finish_interruption(self) -> None:
        """Ends an interruption that has begun: takes the pending exception back, and raises HandlerTimeout itself.

        Called on the worker's thread when the control thread has announced the interruption of the running call; waits
        for the control thread. In a forked child: ends the process.

        Raises:
            HandlerTimeout: always, unless that exception is being raised already.
        """
        if self._is_forked:
            error = sys.exception()
            exit_forked_child(
                None if isinstance(error, StopIteration) else error
            )  # a coroutine ends by a StopIteration
        with self._lock:
            self._clear_interrupt()
        if not isinstance(sys.exception(), HandlerTimeout):
            raise HandlerTimeout

    # On the control thread. -------------------------------------------------------------------------------------

    def check_deadline(self) -> float | None:
        """Interrupts the running handler if its time is over, and reports the handler if it hangs.

        Returns:
            in how many seconds to check again. A call that starts meanwhile has a later deadline, so no deadline is
            missed although the control thread is not woken for a call. None: there are no limits.
        """
        interval_s = self._check_interval_s
        call = self.running_call
        if call is None:
            return interval_s
        deadline, start, handler, socket_id = call
        now = monotonic()
        if now < deadline:
            return interval_s if interval_s is None else min(interval_s, deadline - now)
        if call is not self.announced_call:
            self._interrupted_at = now
            with self._lock:
                self.announced_call = call
                if self.armed_call is call:
                    self._raise_interrupt()
            self._on_interrupted(handler, socket_id, now - start)
        remaining_s = self._interrupted_at + self._hang_timeout_s - now
        if remaining_s > 0:
            return (
                remaining_s if interval_s is None else min(interval_s, remaining_s)
            )  # the call may end before that, and another begin
        if call is not self._reported_call:
            self._reported_call = call
            reset_eval_breaker()  # the handler's thread does not raise the exception that was set there, perhaps never
            self._on_hung(handler, socket_id, now - start)
        return interval_s


def _make_interrupt_functions(thread_id: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Returns two functions: the first has HandlerTimeout raised in a thread, the second takes that back.

    Both do nothing in a Python without `ctypes`.

    Args:
        thread_id: the thread, which runs the handlers.
    """
    try:
        from ctypes import c_ulong, py_object, pythonapi
    except ImportError:  # a build without them: handlers are interrupted only where they call the API
        return lambda: None, lambda: None
    set_async_exc = pythonapi.PyThreadState_SetAsyncExc
    thread, error = c_ulong(thread_id), py_object(HandlerTimeout)

    def clear_interrupt() -> None:
        """Takes back a HandlerTimeout that was set for the thread and not raised yet."""
        set_async_exc(thread, None)
        reset_eval_breaker()

    return lambda: set_async_exc(thread, error), clear_interrupt


class _EvalBreakerReset(BaseException):
    """Raised by `reset_eval_breaker` in its own thread, and caught there."""


def reset_eval_breaker() -> None:
    """Makes Python run at full speed again after an exception was set in a thread and never raised (before 3.13).

    Before CPython 3.13 such an exception leaves the eval breaker set for good: every call and loop of every thread
    takes the slow way, and `sys.setprofile` never returns. An exception that is raised, in any thread, resets it.
    """
    if sys.version_info >= (3, 13):
        return
    try:
        from ctypes import c_ulong, py_object, pythonapi
    except ImportError:
        return
    try:
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(get_ident()), py_object(_EvalBreakerReset))
        for _ in range(1000):  # raised at the end of one of the first rounds
            pass
    except _EvalBreakerReset:
        pass
