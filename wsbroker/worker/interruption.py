"""Time limits of handlers that do not await: a second thread interrupts them.

CPython can raise an exception in another thread (`PyThreadState_SetAsyncExc`), at the next bytecode it runs there. That
must never hit our own code, in which a half-done write to the wire would break it. How that is kept:

* A handler runs between `armed = call` and `armed = None`, each one attribute store on the worker's thread.
* The helper announces first (`interrupting = call`) and looks then whether `armed_call` is still this call. The worker
  lowers `armed_call` first and looks then whether `announced_call` is its call. So at least one of them sees the other
  (Dekker's way, which needs no lock in the usual case): either the helper finds nothing armed and raises nothing, or
  the worker finds the announcement, waits until the helper is done (`_lock`), takes back an exception that was not
  raised yet, and raises one itself.
* What a handler calls of ours (a flush, a question to the broker) runs shielded, in the same way: an announcement that
  finds it there is raised where it ends, and again where the next one begins if the handler caught it.
* The helper raises at most once per call, so once that was taken back no other can come.

A handler that runs C code is interrupted when it returns from there; one that catches everything and goes on is not.
Both are hung after a while, which is for the broker to deal with.
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
    """Watches the handlers of one worker's thread; made on that thread.

    Args:
        look_s: how often the helper looks at least; not more than the shortest limit, or it would miss some.
        hang_s: seconds after its interruption from which a handler counts as hung.
        interrupted: told by the helper of each interruption: handler, socket, seconds since its start.
        hung: told by the helper, once per call, of a handler that does not end: likewise.
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
        look_s: float,
        hang_s: float,
        interrupted: Callable[[str, int, float], None],
        hung: Callable[[str, int, float], None],
    ) -> None:
        self._check_interval_s = None if look_s == float("inf") else look_s
        self._hang_timeout_s = hang_s
        self._on_interrupted = interrupted
        self._on_hung = hung
        self._lock = Lock()
        self._raise_interrupt, self._clear_interrupt = _make_interrupt_functions(get_ident())
        self._interrupted_at = 0.0
        self._is_forked = False
        self._reported_call: RunningCall | None = None
        self.running_call: RunningCall | None = None
        """The call whose time is running; written by the worker's thread."""
        self.armed_call: RunningCall | None = None
        """The same while it may be interrupted."""
        self.announced_call: RunningCall | None = None
        """The call that the helper is about to interrupt, or has; the last one there was."""

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
        """Calls a handler in its time.

        Raises:
            HandlerTimeout: it took too long, whether it let itself be interrupted or ended just then.
            BaseException: what it raised.
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
        """Begins a stretch of our own code within a handler; its result is for `resume_interruption`.

        Raises:
            HandlerTimeout: the interruption was on its way.
        """
        armed = self.armed_call
        if armed is not None:
            self.armed_call = None
            if self.announced_call is armed:
                self._finish_interruption()
        return armed

    def resume_interruption(self, armed: RunningCall | None) -> None:
        """Ends it.

        Raises:
            HandlerTimeout: the interruption came meanwhile.
        """
        if armed is not None:
            self.armed_call = armed
            if self.announced_call is armed:
                self.armed_call = None
                self._finish_interruption()

    def mark_forked(self) -> None:
        """Has this process, which a handler has just forked, end where that handler ends.

        As what `call_with_deadline` looks at anyway: a look of its own would cost each message 15 ns.
        """
        self._is_forked = True
        self.announced_call = self.running_call

    def _finish_interruption(self) -> None:
        """Waits until the helper is done with us and takes back what has not been raised yet.

        Raises:
            HandlerTimeout: we were interrupted; not if that is being raised already.
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

    # On the helper's thread. ------------------------------------------------------------------------------------

    def check_deadline(self) -> float | None:
        """Interrupts and reports what is due.

        Returns:
            in how many seconds to look again. A call that starts meanwhile has a deadline later than that, so none is
            missed although nobody wakes the helper for a call. None: there are no limits.
        """
        look_s = self._check_interval_s
        call = self.running_call
        if call is None:
            return look_s
        deadline, start, handler, socket_id = call
        now = monotonic()
        if now < deadline:
            return look_s if look_s is None else min(look_s, deadline - now)
        if call is not self.announced_call:
            self._interrupted_at = now
            with self._lock:
                self.announced_call = call
                if self.armed_call is call:
                    self._raise_interrupt()
            self._on_interrupted(handler, socket_id, now - start)
        left = self._interrupted_at + self._hang_timeout_s - now
        if left > 0:
            return left if look_s is None else min(look_s, left)  # it may end before, and others begin
        if call is not self._reported_call:
            self._reported_call = call
            reset_eval_breaker()  # its thread will not raise what was set there, perhaps never
            self._on_hung(handler, socket_id, now - start)
        return look_s


def _make_interrupt_functions(thread_id: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two functions: one raises `HandlerTimeout` in that thread, one takes it back if that has not happened yet."""
    try:
        from ctypes import c_ulong, py_object, pythonapi
    except ImportError:  # a build without them: handlers are interrupted only where they call the API
        return lambda: None, lambda: None
    set_async_exc = pythonapi.PyThreadState_SetAsyncExc
    thread, error = c_ulong(thread_id), py_object(HandlerTimeout)

    def clear_interrupt() -> None:
        set_async_exc(thread, None)
        reset_eval_breaker()

    return lambda: set_async_exc(thread, error), clear_interrupt


class _EvalBreakerReset(BaseException):
    """Raised by `reset_eval_breaker` in its own thread."""


def reset_eval_breaker() -> None:
    """Undoes what an exception leaves behind that was set in a thread and not raised there.

    Before CPython 3.13 it leaves the interpreter's eval breaker set for good: every call and loop of every thread takes
    the slow way, and `sys.setprofile` never returns. One that is raised, in any thread, resets it.
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
