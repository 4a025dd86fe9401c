"""The end of a process that `run` or the command line may end: it does not wait for a thread of `asyncio.to_thread`.

Python joins those threads before it ends, for ever if need be. They get what is left of `shutdown_timeout`; then what
else happens at the end of a process is done here, and it exits. Threads that the application has started itself are
its own business: one that shall not be waited for is a daemon.
"""

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from time import monotonic

from wsbroker.pool.interpreters import flush_files
from wsbroker.worker.options import TO_THREAD

exit_status: int | None = None
"""What the command line is going to exit with."""


def leave_within(limit_s: float) -> None:
    """From here on the process waits no longer than this for threads of event loops that are over, once it is to end.

    Called on the main thread, before it ends. The exit status stays what it would have been, but for a `SystemExit` of
    a program that has called `run`: nothing tells of that one, and it is 0.
    """
    left = [thread for thread in threading.enumerate() if thread.name.startswith(TO_THREAD)]
    if left:
        deadline = monotonic() + limit_s
        # Called when the main thread has ended, before the joining; the one that was registered last comes first.
        threading._register_atexit(_leave, left, deadline)  # type: ignore[attr-defined]


def _leave(left: Sequence[threading.Thread], deadline: float) -> None:
    for thread in left:
        thread.join(max(0.0, deadline - monotonic()))
    stuck = [thread for thread in left if thread.is_alive()]
    if not stuck:
        return
    atexit._run_exitfuncs()
    text = f"wsbroker: the process exits without waiting for asyncio.to_thread, busy in {len(stuck)} threads\n"
    try:
        os.write(2, text.encode())
    except OSError:
        pass  # there is no stderr
    flush_files()
    os._exit(_status())


def _status() -> int:
    if exit_status is not None:
        return exit_status
    return 1 if getattr(sys, "last_value", None) is not None else 0
