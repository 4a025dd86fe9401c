"""Ends this process by `os._exit` where Python's own end could hang; computes the exit status.

Python's own end waits for every thread and every interpreter, for ever if one of them is stuck. Where that may happen,
the process first does the rest of Python's end (`atexit` functions, flushing files) and then calls `os._exit`, with the
status that Python's own end would have given:

* after an exception in the main thread: the code of a SystemExit, 130 after a KeyboardInterrupt, 1 after any other;
* before Python 3.12, which does not report a SystemExit or KeyboardInterrupt to us: the status given to
  `set_expected_status`, which is the code of the command line; 0 in a program that is not our command line;
* else 0.

May import: `errors`, standard library.
"""

import atexit
import gc
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from types import CodeType
from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""The status after a KeyboardInterrupt: 128 + SIGINT."""
STATUS_FORCED: Final = 1
"""The status of a process that was ended by force because it did not end by itself."""

_expected_status: int | None = None
"""The status given to `set_expected_status`."""
_main_thread_error: BaseException | None = None
"""The SystemExit or KeyboardInterrupt that ended the main thread."""
_lock: Final = threading.Lock()
"""Held while `_is_watching` changes."""
_is_watching = False
"""Whether `watch_main_thread_end` was called."""


def exit_now(status: int, text: str = "") -> NoReturn:
    """Ends the process at once, without flushing files and without waiting for threads.

    Args:
        status: the exit status.
        text: a line for stderr; "": none.
    """
    if text:
        try:
            os.write(2, f"{text}\n".encode())
        except OSError:
            pass  # there is no stderr
    os._exit(status)


def exit_like_python(text: str) -> NoReturn:
    """Runs the `atexit` functions, flushes all files and ends the process without waiting for threads.

    Called on the main thread, when that has come to its end. The exit status is that of Python's own end.

    Args:
        text: a line for stderr that says why the process does not wait.
    """
    atexit._run_exitfuncs()
    flush_open_files()
    exit_now(exit_status(), text)


def exit_forked_child(error: BaseException | None) -> NoReturn:
    """Ends the forked child of a process that goes on: flushes stdout and stderr and runs no `atexit` function.

    Args:
        error: the exception that ended the child's code, whose traceback is printed unless it is a SystemExit;
            None: the child's code returned.
    """
    from traceback import print_exception  # loads more than the other imports of this module together

    try:
        if isinstance(error, SystemExit):
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        elif error is not None:
            print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        pass  # the stream has no reader
    finally:
        exit_now(exit_status_after(error))


def exit_after_timeout(limit_s: float, status: int, text: str) -> None:
    """Starts a thread that ends the process after a time limit, if it has not ended by itself; returns at once.

    Args:
        limit_s: seconds.
        status: the exit status in that case.
        text: a line for stderr in that case.
    """

    def exit_when_over() -> None:
        """Ends the process when the time limit is over. The target of the thread."""
        sleep(limit_s)
        exit_now(status, text)

    try:
        threading.Thread(target=exit_when_over, name="leave", daemon=True).start()
    except RuntimeError:
        pass  # no thread can be started, perhaps because the process ends already


def limit_thread_wait(limit_s: float, prefix: str) -> None:
    """Limits how long the process waits, once its main thread has ended, for threads that run now.

    Python joins the threads of `asyncio.to_thread` before it ends. Threads that the application has started itself are
    not limited: the application can make them daemons. Called on the main thread, before that ends.

    Args:
        limit_s: seconds from now on; then the process ends without those threads.
        prefix: the beginning of the names of the limited threads.
    """
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]
    if threads:
        watch_main_thread_end()
        # Called when the main thread has ended, before the joining; the last registered function is called first.
        threading._register_atexit(_join_threads_or_exit, threads, monotonic() + limit_s)  # type: ignore[attr-defined]


def _join_threads_or_exit(threads: Sequence[threading.Thread], deadline: float) -> None:
    """Joins threads until `deadline`, a time of `monotonic`; ends the process if some still run then.

    Called when the main thread has ended.
    """
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    stuck = [thread for thread in threads if thread.is_alive()]
    if stuck:
        exit_like_python(
            f"wsbroker: the process exits without waiting for asyncio.to_thread, busy in {len(stuck)} threads"
        )


def call_before_atexit(function: Callable[[], None]) -> None:
    """Registers a function to be called at the end of the process, before all `atexit` functions."""
    # The callback comes when the main thread has ended. A function registered with `atexit` so late is called first.
    threading._register_atexit(atexit.register, function)  # type: ignore[attr-defined]


# The status. ----------------------------------------------------------------------------------------------------------


def set_expected_status(status: int) -> None:
    """Sets the status with which the process is going to exit. Called by the command line when it returns."""
    global _expected_status
    _expected_status = status


def watch_main_thread_end() -> None:
    """Starts to record the exception that ends the main thread, which callbacks at the end of the process cannot see.

    That is an exception that leaves the main thread's outermost frame; `sys.monitoring` (Python 3.12) reports those.
    Does nothing before Python 3.12.
    """
    global _is_watching
    if sys.version_info < (3, 12):
        return
    monitoring = sys.monitoring
    with _lock:
        if _is_watching:
            return
        _is_watching = True
        for tool in (4, 3):  # the tool numbers that no tool has by convention
            if monitoring.get_tool(tool) is None:
                monitoring.use_tool_id(tool, "wsbroker")
                monitoring.register_callback(tool, monitoring.events.PY_UNWIND, _on_frame_unwound)
                monitoring.set_events(tool, monitoring.events.PY_UNWIND)
                return


def _on_frame_unwound(code: CodeType, offset: int, error: BaseException) -> None:
    """Records a SystemExit or KeyboardInterrupt that leaves the main thread's outermost frame.

    Called by Python for each frame that an exception leaves.
    """
    global _main_thread_error
    if isinstance(error, SystemExit | KeyboardInterrupt):
        if sys._getframe(1).f_back is None and threading.current_thread() is threading.main_thread():
            _main_thread_error = error


def exit_status() -> int:
    """Returns the exit status of the process, by the rule of this module. Called when the main thread has ended."""
    if _main_thread_error is not None:
        return exit_status_after(_main_thread_error)
    if _expected_status is not None:
        return _expected_status
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return 1 if last is not None and not sys.flags.interactive else 0


def exit_status_after(error: BaseException | None) -> int:
    """Returns the exit status of a program that ends by this exception, as CPython computes it."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        code = error.code
        if code is None:
            return 0
        return code & 0xFF if isinstance(code, int) else 1
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def flush_open_files() -> None:
    """Flushes all open files of the process, as CPython does when it ends."""
    files = [each for each in gc.get_objects() if issubclass(type(each), io.TextIOWrapper | io.BufferedWriter)]
    for file in sorted(files, key=lambda file: issubclass(type(file), io.BufferedWriter)):  # text first
        try:
            file.flush()
        except (OSError, ValueError):
            pass  # closed, or its disk is full
