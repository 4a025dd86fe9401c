"""Separates a process that a handler has forked (`os.fork`, `multiprocessing`) from the server.

Such a child is a copy of the server, or of a worker, with all its descriptors. Left alone it keeps connections and
ports open that the server has closed, and the wire of a worker that has ended; when its handler returns it goes on as
the server and writes to the server's clients; and SIGTERM meets the server's handler in it. So, before the
application's code goes on in the child:

* the descriptors of the server and of workers are replaced (`register_child_action`), and the API has no broker;
* signals have the handlers that they had before the server or the worker installed its own. They are blocked until
  then, as a signal that came in between would be lost: the child may be told to end at once.

Where its handler ends, the child ends (`process_exit.exit_forked_child`). The runtimes do that where a handler returns
to them, and `ForkedLoopGuard` does so for all other code in the event loop.

A program that is started (`subprocess`, `multiprocessing` with "spawn") needs none of this: it inherits no descriptor
of ours, and signal handlers do not survive its start.
"""

import gc
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

from wsbroker import process_exit
from wsbroker.worker import api as worker_api
from wsbroker.worker.options import TO_THREAD_PREFIX

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import ThreadPoolExecutor

_T = TypeVar("_T")

SERVER_SIGNALS: Final = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The signals that stop the server, or have it reload its workers."""

_child_actions: Final[dict[Callable[[], None], None]] = {}
"""The functions to call in a forked child, in the order of their registration; a dict as an ordered set."""
_handled_signals: Final[set[int]] = set()
"""The signals that have a handler of the server or of a worker."""
_saved_signal_masks: Final[dict[int, set[int]]] = {}
"""For each thread that is forking right now: its signal mask from before."""


def register_child_action(action: Callable[[], None]) -> None:
    """Has `action` called in every process that is forked from this one, on the only thread there is then.

    Actions are called in reverse order of their registration. An action must take no lock: the thread that holds the
    lock may not exist in the child.
    """
    _child_actions[action] = None


def unregister_child_action(action: Callable[[], None]) -> None:
    """Removes an action that `register_child_action` has registered."""
    _child_actions.pop(action, None)


def install_signal_handlers(
    numbers: Iterable[int], handler: Callable[..., object], restore: Callable[[], None]
) -> None:
    """Installs a handler for signals, which a forked child never runs.

    Args:
        numbers: the numbers of the signals.
        handler: the handler for all of them.
        restore: installs the previous handlers again; called in a forked child while the signals are blocked.
    """
    for number in numbers:
        signal.signal(number, handler)
    _handled_signals.update(numbers)
    register_child_action(restore)


def unregister_signals(numbers: Iterable[int], restore: Callable[[], None]) -> None:
    """Removes signals from those blocked during forks, and `restore` from the actions of a forked child.

    The caller installs the previous handlers again itself.
    """
    _handled_signals.difference_update(numbers)
    unregister_child_action(restore)


def redirect_to_null_device(descriptors: Iterable[int]) -> None:
    """Points file descriptors at the null device.

    They are not closed: code that still uses such a number must not reach a file that the child opens later.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        null = -1
    for descriptor in descriptors:
        try:
            if null >= 0:
                os.dup2(null, descriptor, inheritable=False)
            else:
                os.close(descriptor)
        except OSError:
            pass  # the descriptor is closed already
    if null >= 0:
        os.close(null)


class ForkedLoopGuard:
    """Ends a forked child that comes back to the event loop of its parent, or leaves that loop by an exception.

    A context manager around the run of the loop, on the loop's thread.
    """

    def __init__(self, loop: "AbstractEventLoop") -> None:
        self._loop = loop
        self._thread_id = get_ident()
        self._is_forked = False

    def __enter__(self) -> None:
        register_child_action(self._on_forked)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        unregister_child_action(self._on_forked)
        if self._is_forked:
            process_exit.exit_forked_child(error)

    def _on_forked(self) -> None:
        """Has the child process end in its loop's next turn, if the loop's thread has forked. Called in the child.

        Does nothing for a loop whose queue of callbacks cannot be found (`_ready_callbacks`).
        """
        if get_ident() == self._thread_id:
            self._is_forked = True
            ready = _ready_callbacks(self._loop)
            if ready is not None:
                ready.clear()
                self._loop.call_soon(process_exit.exit_forked_child, None)


def make_thread_executor() -> "ThreadPoolExecutor":
    """Returns a thread pool for `asyncio.to_thread`; a child that is forked in a function ends with that function."""
    from concurrent.futures import Future, ThreadPoolExecutor

    class Executor(ThreadPoolExecutor):
        """asyncio's default executor, with other names of threads, and with an end for forked children."""

        def submit(self, function: Callable[..., _T], /, *args: object, **kwargs: object) -> Future[_T]:
            """Runs a function in a thread of the pool; a child that the function forks ends with that function."""
            return super().submit(_call_and_exit_if_forked, function, args, kwargs)

    return Executor(thread_name_prefix=TO_THREAD_PREFIX)


def _call_and_exit_if_forked(function: Callable[..., _T], args: tuple[object, ...], kwargs: dict[str, object]) -> _T:
    """Calls a function that was submitted to the thread pool; a child process that it forks ends with the function.

    Runs in the pool's thread. In the parent it returns or raises what the function returns or raises.
    """
    process_id = os.getpid()
    try:
        return function(*args, **kwargs)
    finally:
        if os.getpid() != process_id:
            process_exit.exit_forked_child(sys.exception())


def _ready_callbacks(loop: "AbstractEventLoop") -> "deque[object] | None":
    """Returns the queue of callbacks that a loop runs next; None if it cannot be found. For `ForkedLoopGuard`.

    The queue is an attribute of asyncio's loops; in uvloop's the garbage collector finds it.
    """
    ready = getattr(loop, "_ready", None)
    if ready is None:
        ready = next((each for each in gc.get_referents(loop) if type(each) is deque), None)
    return ready if isinstance(ready, deque) else None


# Called by Python. ----------------------------------------------------------------------------------------------------


def _block_handled_signals() -> None:
    """Blocks in this thread the signals that the server or a worker handles. Called by Python before each fork."""
    if _handled_signals:
        _saved_signal_masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _handled_signals)


def _restore_signal_mask() -> None:
    """Restores the signal mask of the thread that has forked. Called after each fork, in parent and child."""
    mask = _saved_signal_masks.pop(get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _reset_in_child() -> None:
    """Cuts a forked child off from the server: unsets the API, calls all child actions, restores the signal mask.

    Called by Python in the child after each fork. Does nothing in a child that uvloop has forked to start a program.
    """
    caller = sys._getframe().f_back
    if caller is not None and caller.f_globals.get("__name__") == "asyncio.subprocess":
        return  # uvloop: the parent waits until the child has become another program, with no signal blocked
    worker_api.set_default_api(None)
    worker_api.context_api.set(None)
    actions = list(reversed(_child_actions))
    _child_actions.clear()
    _handled_signals.clear()
    collects = gc.isenabled()
    gc.disable()  # a collection would copy each page of the heap: 100 ms where all actions take 5 (2,000 connections)
    try:
        _call_all_actions(actions)
    finally:
        if collects:
            gc.enable()
        _restore_signal_mask()
        _saved_signal_masks.clear()


def _call_all_actions(actions: list[Callable[[], None]]) -> None:
    """Calls all of a forked child's actions, also after one has raised an Exception; then raises the last of these."""
    failure: Exception | None = None
    for action in actions:
        try:
            action()
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_block_handled_signals, after_in_parent=_restore_signal_mask, after_in_child=_reset_in_child
    )
