"""The end of this process by `os._exit`: the one place that calls it, and the one rule for the status.

Python's own end waits for every thread and every interpreter, for ever if one of them is stuck. Where that may be so,
the process first does what else belongs to its end (`atexit` functions, buffered files) and then leaves by `os._exit`,
with the status that it would have had:

* what ended the main thread: the code of a SystemExit, 130 after a KeyboardInterrupt, 1 after another exception;
* before Python 3.12, where nothing tells of a SystemExit or KeyboardInterrupt: what `set_expected_status` was told, which is
  the code of the command line; a program of its own that ends by one of the two has 0 there;
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
"""The status of a process that had to be ended because it did not end by itself."""

_expected_status: int | None = None
_main_thread_error: BaseException | None = None
_lock: Final = threading.Lock()
_is_watching = False


def exit_now(status: int, text: str = "") -> NoReturn:
    """Ends the process at once; nothing is flushed, nobody is waited for.

    Args:
        status: the exit status.
        text: a line for stderr.
    """
    if text:
        try:
            os.write(2, f"{text}\n".encode())
        except OSError:
            pass  # there is no stderr
    os._exit(status)


def exit_like_python(text: str) -> NoReturn:
    """Does what belongs to Python's own end and exits with the status that this would have had.

    Called on the main thread, when it has come to its end.

    Args:
        text: a line for stderr that says why the process does not wait.
    """
    atexit._run_exitfuncs()
    flush_open_files()
    exit_now(exit_status(), text)


def exit_forked_child(error: BaseException | None) -> NoReturn:
    """Ends the forked child of a process that goes on: flushes stdout and stderr and runs no `atexit` function.

    Args:
        error: what ended the code that the child ran, whose traceback is printed, but for a SystemExit; None: it
            returned.
    """
    from traceback import print_exception  # loads more than all the rest of this module

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
        pass  # there is nobody to read it
    finally:
        exit_now(exit_status_after(error))


def exit_after_timeout(limit_s: float, status: int, text: str) -> None:
    """Ends the process after so many seconds, if it has not ended by itself; returns at once.

    Args:
        limit_s: seconds.
        status: the exit status then.
        text: the line for stderr then.
    """

    def exit_when_over() -> None:
        sleep(limit_s)
        exit_now(status, text)

    try:
        threading.Thread(target=exit_when_over, name="leave", daemon=True).start()
    except RuntimeError:
        pass  # no threads left, or the end is here already


def limit_thread_wait(limit_s: float, prefix: str) -> None:
    """Has the process wait no longer than this for the threads of this name that run now, once its main thread ends.

    Python joins the threads of `asyncio.to_thread` before it ends. Threads that the application has started itself are
    its own business: one that shall not be waited for is a daemon. Called on the main thread, before it ends.

    Args:
        limit_s: seconds from now on.
        prefix: what the names of the threads begin with.
    """
    left = [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]
    if left:
        watch_main_thread_end()
        # Called when the main thread has ended, before the joining; the one that was registered last comes first.
        threading._register_atexit(_join_threads_or_exit, left, monotonic() + limit_s)  # type: ignore[attr-defined]


def _join_threads_or_exit(left: Sequence[threading.Thread], deadline: float) -> None:
    for thread in left:
        thread.join(max(0.0, deadline - monotonic()))
    stuck = [thread for thread in left if thread.is_alive()]
    if stuck:
        exit_like_python(
            f"wsbroker: the process exits without waiting for asyncio.to_thread, busy in {len(stuck)} threads"
        )


def call_before_atexit(function: Callable[[], None]) -> None:
    """Has `function` called at the end of the process, as the first of all `atexit` functions."""
    # The callback comes when the main thread has ended. What is registered with `atexit` as late as that comes first.
    threading._register_atexit(atexit.register, function)  # type: ignore[attr-defined]


# The status. ----------------------------------------------------------------------------------------------------------


def set_expected_status(status: int) -> None:
    """Says what the process is going to exit with."""
    global _expected_status
    _expected_status = status


def watch_main_thread_end() -> None:
    """Notes from here on what ends the main thread: nothing else tells a callback at the end of the process of it.

    An exception that leaves the main thread's outermost frame is it; `sys.monitoring` (Python 3.12) tells of those.
    """
    global _is_watching
    if sys.version_info < (3, 12):
        return
    monitoring = sys.monitoring
    with _lock:
        if _is_watching:
            return
        _is_watching = True
        for tool in (4, 3):  # the numbers that are nobody's by convention
            if monitoring.get_tool(tool) is None:
                monitoring.use_tool_id(tool, "wsbroker")
                monitoring.register_callback(tool, monitoring.events.PY_UNWIND, _on_frame_unwound)
                monitoring.set_events(tool, monitoring.events.PY_UNWIND)
                return


def _on_frame_unwound(code: CodeType, offset: int, error: BaseException) -> None:
    global _main_thread_error
    if isinstance(error, SystemExit | KeyboardInterrupt):
        if sys._getframe(1).f_back is None and threading.current_thread() is threading.main_thread():
            _main_thread_error = error


def exit_status() -> int:
    """Returns the exit status that the process has by now, by the rule of this module."""
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
    """Flushes the files that are open, as CPython does when it ends."""
    files = [each for each in gc.get_objects() if issubclass(type(each), io.TextIOWrapper | io.BufferedWriter)]
    for file in sorted(files, key=lambda file: issubclass(type(file), io.BufferedWriter)):  # text first
        try:
            file.flush()
        except (OSError, ValueError):
            pass  # closed, or its disk is full
