"""The event loop of a server: its kind, the end of the tasks that remain in it, and the thread switch interval."""

import asyncio
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Final

from wsbroker.guarded_log import GuardedLog, log_loop_error
from wsbroker.worker.forks import ForkedLoopGuard, make_thread_executor

logger = GuardedLog(__name__)

SWITCH_INTERVAL_S: Final = 0.0002
"""How long a thread may hold the interpreter lock while others wait for that; at Python's default of 5 ms a busy loop
starves other threads for seconds."""

REMAINING_TASKS_TIMEOUT_S: Final = 1.0
"""How long tasks that remain in the event loop may take to end once they are cancelled, when the server has stopped."""


def run_loop(coroutine: Coroutine[object, object, None]) -> None:
    """Runs a coroutine in a new event loop until its end, cancels the tasks that remain, and closes the loop.

    Not by `asyncio.Runner`, which waits for ever for a task that catches its cancellation, and for a thread of
    `asyncio.to_thread`; its `run` would also replace the handler of SIGINT that the server has installed.
    """
    try:
        loop = (_find_loop_factory() or asyncio.new_event_loop)()
    except BaseException:  # no descriptors left
        coroutine.close()
        raise
    loop.set_default_executor(make_thread_executor())
    loop.set_exception_handler(log_loop_error)
    server_task = loop.create_task(coroutine, name="wsbroker")
    try:
        with ForkedLoopGuard(loop):
            loop.run_until_complete(server_task)
    finally:
        try:
            loop.run_until_complete(_cancel_remaining_tasks(server_task))
        finally:
            close_loop(loop)


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Closes an event loop, with the servers and connections that the application has left open in it.

    uvloop warns of each of them before it closes that one. Where warnings are errors (``python -W error``) the warning
    would keep uvloop from closing them, and its `close` would wait for ever.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed resource", ResourceWarning)
        loop.close()


async def _cancel_remaining_tasks(server_task: "asyncio.Task[None]") -> None:
    """Cancels all tasks of the loop and waits `REMAINING_TASKS_TIMEOUT_S` for their end; logs those that do not end.

    Called when `run_loop` has run the server's task. That task is waited for without a limit; it has ended unless the
    application stopped the loop.
    """
    if not server_task.done():
        server_task.cancel()
        await asyncio.wait([server_task])
    loop = asyncio.get_running_loop()
    remaining = asyncio.all_tasks() - {asyncio.current_task()}
    for task in remaining:
        task.cancel()
    remaining.add(loop.create_task(loop.shutdown_asyncgens(), name="end of the async generators"))
    _, stuck = await asyncio.wait(remaining, timeout=REMAINING_TASKS_TIMEOUT_S)
    if stuck:
        logger.error("tasks that do not end when cancelled are left behind: %s", ", ".join(map(_describe_task, stuck)))


def _describe_task(task: "asyncio.Task[object]") -> str:
    """Returns a task's name and the line at which its outermost coroutine waits, for the log."""
    frames = task.get_stack(limit=1)
    where = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()}{where}"


def _find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns the function that makes uvloop's event loops (winloop's on Windows); None, logged, if not installed."""
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
    """Lowers Python's thread switch interval to `SWITCH_INTERVAL_S`; returns the one before, in seconds."""
    before = sys.getswitchinterval()
    if before > SWITCH_INTERVAL_S:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        logger.debug("thread switch interval from_s=%g to_s=%g", before, SWITCH_INTERVAL_S)
    return before


def restore_switch_interval(previous_s: float) -> None:
    """Restores the thread switch interval that `set_switch_interval` returned, in seconds."""
    if previous_s > SWITCH_INTERVAL_S:
        sys.setswitchinterval(previous_s)
