"""Subinterpreters: creates, runs and destroys them. The only module that uses CPython's `_interpreters`.

Its assumptions about them:

* They are isolated and have a lock of their own; an extension module that does not support them is refused when it is
  imported. This check stays on: without it such a module crashes the process.
* A subinterpreter cannot be ended from outside. While its thread is stuck, or daemon threads are left, it cannot
  be destroyed either.
* CPython ends the remaining interpreters when the process ends, and hangs or aborts if one of them still runs. So a
  process with such an interpreter exits by `os._exit`, as the last of its `atexit` functions (see `process_exit`). A
  process without one exits as usual.
* 3.13 loses 2 to 6 MiB for each interpreter that was destroyed (3.14 does not), so none is destroyed without need.
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
"""Run before an interpreter is destroyed. CPython waits for threads too, but aborts the process at a daemon thread."""


_create_lock: Final = threading.Lock()
"""Held while an interpreter is created or destroyed: both change state that all interpreters share."""


def are_available() -> bool:
    """Returns whether this Python has interpreters with a lock of their own that can be used from Python."""
    if sys.version_info < (3, 13) or sys.implementation.name != "cpython":
        return False
    return find_spec("_interpreters") is not None


def find_safety_obstacle() -> str:
    """Returns why subinterpreters would abort the process, or "" if no reason is known.

    CPython's `tracemalloc` keeps one table for all interpreters: entries that another interpreter allocated are freed
    in the main interpreter's heap when tracing stops ("free(): invalid pointer", seen on 3.13 and 3.14 without our
    code).
    """
    import tracemalloc

    if not tracemalloc.is_tracing():
        return ""
    return (
        "tracemalloc is on (PYTHONTRACEMALLOC, -X tracemalloc), and CPython's aborts the process with subinterpreters"
    )


class Interpreter:
    """A subinterpreter. All methods must be called on one thread, except `prepare_forced_exit`.

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
            the traceback of an exception that the program raised; "" if it ended well.
        """
        import _interpreters

        failure = _interpreters.exec(self._id, program, {"start": start})
        return "" if failure is None else str(getattr(failure, "errdisplay", "") or failure.formatted)

    def try_destroy(self) -> bool:
        """Waits for the threads of the interpreter's program and destroys the interpreter.

        Returns:
            False: a daemon thread still runs in the interpreter, so that it cannot be destroyed.
        """
        import _interpreters

        if self.run_program(_SHUTDOWN_PROGRAM):
            self.prepare_forced_exit()
            return False
        with _create_lock:
            _interpreters.destroy(self._id)
        _live_interpreters.discard(self)
        return True

    def prepare_forced_exit(self) -> None:
        """Prepares for the exit of the process while this interpreter's program still runs. Called on any thread.

        The process then ends by `os._exit`; its exit status is recorded from now on.
        """
        process_exit.watch_main_thread_end()


def create_interpreter(name: str) -> Interpreter:
    """Creates a subinterpreter; takes some 15 ms. `name` is for messages.

    Raises:
        WorkerError: this Python has no usable subinterpreters.
    """
    if not are_available():
        raise WorkerError("this Python has no interpreters that can be used")
    return Interpreter(name)


class _LiveInterpreters:
    """The interpreters that are not destroyed yet; if any is left at exit, the process ends by `os._exit`."""

    def __init__(self) -> None:
        self._live: set[Interpreter] = set()
        self._lock = threading.Lock()
        self._is_exit_hook_registered = False

    def add(self, interpreter: Interpreter) -> None:
        """Adds a new interpreter; the first call registers the functions for the process's exit and for forks."""
        with self._lock:
            self._live.add(interpreter)
            if not self._is_exit_hook_registered:
                self._is_exit_hook_registered = True
                process_exit.call_before_atexit(self._exit_if_any_live)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=self._live.clear)  # CPython ends them in the child

    def discard(self, interpreter: Interpreter) -> None:
        """Removes an interpreter that was destroyed."""
        with self._lock:
            self._live.discard(interpreter)

    def _exit_if_any_live(self) -> None:
        """Ends the process by `os._exit` if an interpreter is not destroyed. Called before other `atexit` functions."""
        if self._live:
            atexit.unregister(self._exit_if_any_live)
            names = ", ".join(sorted(interpreter.name for interpreter in self._live))
            process_exit.exit_like_python(f"wsbroker: the process exits without waiting for {names}, still busy")


_live_interpreters: Final = _LiveInterpreters()
