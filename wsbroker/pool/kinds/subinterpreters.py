"""Subinterpreters: the one module that touches CPython's `_interpreters`.

What it knows of them:

* They are isolated, with a lock of their own; an extension module that cannot live in one is refused when it is
  imported, and that check stays on: without it such a module takes the process down.
* Nothing ends one from outside. One whose thread is stuck, or that has daemon threads left, can only be left behind.
* CPython ends the interpreters that are left when the process ends, and that hangs or aborts if one still runs. So a
  process that has such a one leaves by `os._exit`, as the last of its `atexit` functions (see `process_exit`). A
  process without one ends as ever.
* 3.13 loses 2 to 6 MiB for each one that was ended (3.14 does not), so none is ended without need.
"""

import atexit
import os
import sys
import threading
from importlib.util import find_spec
from typing import Final

from wsbroker import process_exit
from wsbroker.errors import WorkerError

_SHUTDOWN_PROGRAM: Final = """
import _thread, threading
threading._shutdown()
if _thread._count():
    raise RuntimeError("daemon threads are left")
"""
"""Run before an interpreter is ended. CPython waits for threads too, but aborts the process if it finds a daemon."""


_create_lock: Final = threading.Lock()
"""Making and ending one touches what all interpreters of the process share: one at a time."""


def are_available() -> bool:
    """Whether this Python has interpreters with a lock of their own that can be used from Python."""
    if sys.version_info < (3, 13) or sys.implementation.name != "cpython":
        return False
    return find_spec("_interpreters") is not None


def find_safety_obstacle() -> str:
    """Returns why interpreters would take the process down, or "".

    CPython's `tracemalloc` keeps one table for all interpreters: entries that another one allocated are freed in the
    main interpreter's heap when tracing stops ("free(): invalid pointer", seen on 3.13 and 3.14 with nothing of ours).
    """
    import tracemalloc

    if not tracemalloc.is_tracing():
        return ""
    return (
        "tracemalloc is on (PYTHONTRACEMALLOC, -X tracemalloc), and CPython's aborts the process with subinterpreters"
    )


class Interpreter:
    """A subinterpreter. All its methods are called on one thread, but for `mark_left_behind`.

    Args:
        name: for messages.
    """

    def __init__(self, name: str) -> None:
        import _interpreters

        self.name: Final = name
        # Daemon threads: handlers, and the libraries they use, start them in every other kind of worker. They are why
        # this is not `concurrent.interpreters`, which makes interpreters that refuse them and takes no configuration.
        config = _interpreters.new_config("isolated", allow_daemon_threads=True)
        with _create_lock:
            self._id = _interpreters.create(config)
        _live_interpreters.add(self)

    def run_program(self, program: str, start: bytes = b"") -> str:
        """Runs a program in the interpreter to its end, with a variable `start`.

        Returns:
            the traceback of what the program raised; "" if it ended well.
        """
        import _interpreters

        failure = _interpreters.exec(self._id, program, {"start": start})
        return "" if failure is None else str(getattr(failure, "errdisplay", "") or failure.formatted)

    def try_destroy(self) -> bool:
        """Ends the interpreter once the threads that its program left have ended.

        Returns:
            False: a daemon thread still runs in it, so that it stays.
        """
        import _interpreters

        if self.run_program(_SHUTDOWN_PROGRAM):
            self.mark_left_behind()
            return False
        with _create_lock:
            _interpreters.destroy(self._id)
        _live_interpreters.discard(self)
        return True

    def mark_left_behind(self) -> None:
        """Nobody waits for its end any more; it may still come. From any thread."""
        process_exit.watch_main_thread_end()


def create_interpreter(name: str) -> Interpreter:
    """Makes a new one; takes some 15 ms. `name` is for messages."""
    if not are_available():
        raise WorkerError("this Python has no interpreters that can be used")
    return Interpreter(name)


class _LiveInterpreters:
    """The interpreters that are there when the process ends: CPython's own end would wait for them."""

    def __init__(self) -> None:
        self._live: set[Interpreter] = set()
        self._lock = threading.Lock()
        self._is_exit_hook_registered = False

    def add(self, interpreter: Interpreter) -> None:
        with self._lock:
            self._live.add(interpreter)
            if not self._is_exit_hook_registered:
                self._is_exit_hook_registered = True
                process_exit.call_before_atexit(self._exit_if_any_live)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=self._live.clear)  # CPython ends them there

    def discard(self, interpreter: Interpreter) -> None:
        with self._lock:
            self._live.discard(interpreter)

    def _exit_if_any_live(self) -> None:
        """The first `atexit` function."""
        if self._live:
            atexit.unregister(self._exit_if_any_live)
            names = ", ".join(sorted(interpreter.name for interpreter in self._live))
            process_exit.exit_like_python(f"wsbroker: the process exits without waiting for {names}, still busy")


_live_interpreters: Final = _LiveInterpreters()
