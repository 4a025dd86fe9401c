"""Time limits of handlers that do not await: a second thread interrupts them.

CPython can raise an exception in another thread (`PyThreadState_SetAsyncExc`), at the next bytecode it runs there. That
must never hit our own code, in which a half-done write to the wire would break it. How that is kept:

* A handler runs between `armed = call` and `armed = None`, each one attribute store on the worker's thread.
* The helper announces first (`interrupting = call`) and looks then whether `armed` is still this call. The worker
  lowers `armed` first and looks then whether `interrupting` is its call. So at least one of them sees the other
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

from wsbroker.process_exit import exit_forked

_Returned = TypeVar("_Returned")

Running: TypeAlias = tuple[float, float, str, int]
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
        "_hang_s",
        "_hung",
        "_interrupted",
        "_interrupted_at",
        "_is_forked",
        "_lock",
        "_look_s",
        "_reported",
        "_raise",
        "_take_back",
        "armed",
        "interrupting",
        "running",
    )

    def __init__(
        self,
        look_s: float,
        hang_s: float,
        interrupted: Callable[[str, int, float], None],
        hung: Callable[[str, int, float], None],
    ) -> None:
        self._look_s = None if look_s == float("inf") else look_s
        self._hang_s = hang_s
        self._interrupted = interrupted
        self._hung = hung
        self._lock = Lock()
        self._raise, self._take_back = _interrupter(get_ident())
        self._interrupted_at = 0.0
        self._is_forked = False
        self._reported: Running | None = None
        self.running: Running | None = None
        """The call whose time is running; written by the worker's thread."""
        self.armed: Running | None = None
        """The same while it may be interrupted."""
        self.interrupting: Running | None = None
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
        self.armed = self.running = call
        try:
            try:
                return function(*args)
            finally:
                self.armed = None
                if self.interrupting is call:
                    self._finish_interruption()
                self.running = None
        except HandlerTimeout:
            # Raised by the handler's own code, by `_finish_interruption`, or between the two.
            self.armed = None
            if self.interrupting is call:
                self._finish_interruption()
            self.running = None
            raise

    def suspend_interruption(self) -> Running | None:
        """Begins a stretch of our own code within a handler; its result is for `resume_interruption`.

        Raises:
            HandlerTimeout: the interruption was on its way.
        """
        armed = self.armed
        if armed is not None:
            self.armed = None
            if self.interrupting is armed:
                self._finish_interruption()
        return armed

    def resume_interruption(self, armed: Running | None) -> None:
        """Ends it.

        Raises:
            HandlerTimeout: the interruption came meanwhile.
        """
        if armed is not None:
            self.armed = armed
            if self.interrupting is armed:
                self.armed = None
                self._finish_interruption()

    def become_child(self) -> None:
        """Has this process, which a handler has just forked, end where that handler ends.

        As what `call_with_deadline` looks at anyway: a look of its own would cost each message 15 ns.
        """
        self._is_forked = True
        self.interrupting = self.running

    def _finish_interruption(self) -> None:
        """Waits until the helper is done with us and takes back what has not been raised yet.

        Raises:
            HandlerTimeout: we were interrupted; not if that is being raised already.
        """
        if self._is_forked:
            error = sys.exception()
            exit_forked(None if isinstance(error, StopIteration) else error)  # a coroutine ends by a StopIteration
        with self._lock:
            self._take_back()
        if not isinstance(sys.exception(), HandlerTimeout):
            raise HandlerTimeout

    # On the helper's thread. ------------------------------------------------------------------------------------

    def check_deadline(self) -> float | None:
        """Interrupts and reports what is due.

        Returns:
            in how many seconds to look again. A call that starts meanwhile has a deadline later than that, so none is
            missed although nobody wakes the helper for a call. None: there are no limits.
        """
        look_s = self._look_s
        call = self.running
        if call is None:
            return look_s
        deadline, start, handler, socket_id = call
        now = monotonic()
        if now < deadline:
            return look_s if look_s is None else min(look_s, deadline - now)
        if call is not self.interrupting:
            self._interrupted_at = now
            with self._lock:
                self.interrupting = call
                if self.armed is call:
                    self._raise()
            self._interrupted(handler, socket_id, now - start)
        left = self._interrupted_at + self._hang_s - now
        if left > 0:
            return left if look_s is None else min(look_s, left)  # it may end before, and others begin
        if call is not self._reported:
            self._reported = call
            reset_eval_breaker()  # its thread will not raise what was set there, perhaps never
            self._hung(handler, socket_id, now - start)
        return look_s


def _interrupter(thread_id: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two functions: one raises `HandlerTimeout` in that thread, one takes it back if that has not happened yet."""
    try:
        from ctypes import c_ulong, py_object, pythonapi
    except ImportError:  # a build without them: handlers are interrupted only where they call the API
        return lambda: None, lambda: None
    set_async_exc = pythonapi.PyThreadState_SetAsyncExc
    thread, error = c_ulong(thread_id), py_object(HandlerTimeout)

    def take_back() -> None:
        set_async_exc(thread, None)
        reset_eval_breaker()

    return lambda: set_async_exc(thread, error), take_back


class _Settled(BaseException):
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
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(get_ident()), py_object(_Settled))
        for _ in range(1000):  # raised at the end of one of the first rounds
            pass
    except _Settled:
        pass
