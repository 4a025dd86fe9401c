"""The event loop a server runs in: which one, what becomes of what is left in it, and how often threads take turns."""

import asyncio
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Final

from wsbroker.guarded_log import GuardedLog, log_loop_error
from wsbroker.worker.forks import ForkedLoopGuard, make_thread_executor

logger = GuardedLog(__name__)

SWITCH_INTERVAL_S: Final = 0.0002
"""While the loop's thread is busy, other threads wait for the interpreter lock up to this long at a time; at the
default of 5 ms a busy loop starves them for seconds."""

REMAINING_TASKS_TIMEOUT_S: Final = 1.0
"""How long what is left in the event loop may take to end once it is cancelled, when the server has stopped."""


def run_loop(main: Coroutine[object, object, None]) -> None:
    """Runs `main` in a new loop. What the application has left in it has a moment to end.

    Not by `asyncio.Runner`, which waits for ever for a task that catches its cancellation, and for a thread of
    `asyncio.to_thread`; its `run` would also take SIGINT for itself, and ours are set already.
    """
    try:
        loop = (_find_loop_factory() or asyncio.new_event_loop)()
    except BaseException:  # there are no descriptors left
        main.close()
        raise
    loop.set_default_executor(make_thread_executor())
    loop.set_exception_handler(log_loop_error)
    life = loop.create_task(main, name="wsbroker")
    try:
        with ForkedLoopGuard(loop):
            loop.run_until_complete(life)
    finally:
        try:
            loop.run_until_complete(_cancel_remaining_tasks(life))
        finally:
            close_loop(loop)


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop with all that the application has left open in it.

    uvloop warns of each such thing before it closes it. Where warnings are errors (``python -W error``) it would not
    get to that, and wait for ever for what is open.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed resource", ResourceWarning)
        loop.close()


async def _cancel_remaining_tasks(life: "asyncio.Task[None]") -> None:
    if not life.done():  # the application stopped the loop under it
        life.cancel()
        await asyncio.wait([life])
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    left.add(loop.create_task(loop.shutdown_asyncgens(), name="end of the async generators"))
    _, stuck = await asyncio.wait(left, timeout=REMAINING_TASKS_TIMEOUT_S)
    if stuck:
        logger.error("tasks that do not end when cancelled are left behind: %s", ", ".join(map(_describe_task, stuck)))


def _describe_task(task: "asyncio.Task[object]") -> str:
    frames = task.get_stack(limit=1)
    where = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()}{where}"


def _find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, winloop on Windows, asyncio's own loop where neither is installed."""
    try:
        if sys.platform == "win32":
            import winloop

            return winloop.new_event_loop
        import uvloop

        return uvloop.new_event_loop
    except ImportError:
        logger.info("uvloop is not installed: asyncio's own event loop runs, which is slower")
        return None


def set_switch_interval() -> float:
    """Lets threads take turns often; returns what to restore, in seconds."""
    before = sys.getswitchinterval()
    if before > SWITCH_INTERVAL_S:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        logger.debug("thread switch interval from_s=%g to_s=%g", before, SWITCH_INTERVAL_S)
    return before


def restore_switch_interval(before: float) -> None:
    """Undoes `set_switch_interval`."""
    if before > SWITCH_INTERVAL_S:
        sys.setswitchinterval(before)
