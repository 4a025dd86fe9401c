"""What becomes of a process that a handler forks: by `os.fork`, `multiprocessing`, a process pool.

Such a child is a copy of the server, or of a worker, with all its descriptors. Left alone it keeps connections and
ports open that the server has closed, and the wire of a worker that has ended; when its handler returns it goes on as
the server and writes to the server's clients; and SIGTERM meets the server's handler in it. So, before the
application's code goes on in the child:

* whoever owns descriptors has replaced them (`register_child_action`), and the API has no broker;
* the signals that the server or the worker has taken are as they were before. They are blocked meanwhile, as one that
  comes between the fork and that would be lost: whoever has started the child may end it at once.

Where its handler ends, the child ends (`process_exit.exit_forked_child`). The runtimes see to that, each where a handler
returns to it, and `ForkedLoopGuard` for what else runs in the event loop.

A program that is started (`subprocess`, `multiprocessing` with "spawn") needs none of this: no descriptor of ours is
inherited by it, and handlers of signals do not survive its start.
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
"""What stops the server, or has it reload its workers."""

_child_actions: Final[dict[Callable[[], None], None]] = {}
_handled_signals: Final[set[int]] = set()
_saved_signal_masks: Final[dict[int, set[int]]] = {}
"""By the thread that forks: its signal mask before."""


def register_child_action(action: Callable[[], None]) -> None:
    """Has `action` called in every process that is forked from this one, on the only thread there is then.

    What was registered last is called first. It must take no lock: the thread that holds one may not be there any more.
    """
    _child_actions[action] = None


def unregister_child_action(action: Callable[[], None]) -> None:
    """Takes `register_child_action` back."""
    _child_actions.pop(action, None)


def install_signal_handlers(
    numbers: Iterable[int], handler: Callable[..., object], restore: Callable[[], None]
) -> None:
    """Handles signals, with handlers that a forked child does not have for a moment.

    Args:
        numbers: of the signals.
        handler: of all of them.
        restore: gives them back to who handled them before; called in a forked child.
    """
    for number in numbers:
        signal.signal(number, handler)
    _handled_signals.update(numbers)
    register_child_action(restore)


def unregister_signals(numbers: Iterable[int], restore: Callable[[], None]) -> None:
    """Takes `install_signal_handlers` back, but for the handlers."""
    _handled_signals.difference_update(numbers)
    unregister_child_action(restore)


def redirect_to_null_device(descriptors: Iterable[int]) -> None:
    """Has these numbers stand for the null device.

    They are not closed: what still knows one of them must not reach a file that the child opens and that gets it.
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
            pass  # it is closed already
    if null >= 0:
        os.close(null)


class ForkedLoopGuard:
    """Ends a forked child that comes back to the event loop of its parent, or that leaves it by an exception.

    A context manager around the run of the loop, on its thread.
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
        if get_ident() == self._thread_id:
            self._is_forked = True
            ready = _ready_callbacks(self._loop)
            if ready is not None:
                ready.clear()
                self._loop.call_soon(process_exit.exit_forked_child, None)


def make_thread_executor() -> "ThreadPoolExecutor":
    """Makes what runs `asyncio.to_thread` in a loop of ours. A child that is forked in it ends with its function."""
    from concurrent.futures import Future, ThreadPoolExecutor

    class Executor(ThreadPoolExecutor):
        """asyncio's own, but for that and for the names of its threads."""

        def submit(self, function: Callable[..., _T], /, *args: object, **kwargs: object) -> Future[_T]:
            return super().submit(_call_and_exit_if_forked, function, args, kwargs)

    return Executor(thread_name_prefix=TO_THREAD_PREFIX)


def _call_and_exit_if_forked(function: Callable[..., _T], args: tuple[object, ...], kwargs: dict[str, object]) -> _T:
    process = os.getpid()
    try:
        return function(*args, **kwargs)
    finally:
        if os.getpid() != process:
            process_exit.exit_forked_child(sys.exception())


def _ready_callbacks(loop: "AbstractEventLoop") -> "deque[object] | None":
    """The callbacks that the loop runs next: an attribute of asyncio's loops, and not to be seen of uvloop's."""
    ready = getattr(loop, "_ready", None)
    if ready is None:
        ready = next((each for each in gc.get_referents(loop) if type(each) is deque), None)
    return ready if isinstance(ready, deque) else None


# Called by Python. ----------------------------------------------------------------------------------------------------


def _block_handled_signals() -> None:
    if _handled_signals:
        _saved_signal_masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _handled_signals)


def _restore_signal_mask() -> None:
    mask = _saved_signal_masks.pop(get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _reset_in_child() -> None:
    caller = sys._getframe().f_back
    if caller is not None and caller.f_globals.get("__name__") == "asyncio.subprocess":
        return  # uvloop's: it waits until the child has become another program, with no signal blocked
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
    """Calls each; raises what one of them has raised when all were called."""
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
