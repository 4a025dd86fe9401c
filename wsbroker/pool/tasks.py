"""The pool's background tasks: each logs its own exception, and none outlives `PoolTasks.cancel_all`."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Final

from wsbroker.guarded_log import GuardedLog

logger = GuardedLog(__name__)


class PoolTasks:
    """The background tasks of a pool: started by name, cancelled together."""

    def __init__(self) -> None:
        self._running_tasks: Final[set[asyncio.Task[None]]] = set()

    def __len__(self) -> int:
        """Returns the number of running tasks."""
        return len(self._running_tasks)

    def spawn_task(self, coroutine: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Starts a task that runs the coroutine and logs its exception, if it raises one."""
        task = asyncio.get_running_loop().create_task(_run_logging_errors(coroutine, name), name=name)
        self._running_tasks.add(task)
        task.add_done_callback(self._running_tasks.discard)
        task.add_done_callback(lambda _: coroutine.close())  # a task cancelled before its first step has not run it
        return task

    async def cancel_all(self) -> None:
        """Cancels all running tasks of the pool except the calling task, and waits until they have ended."""
        running = [task for task in self._running_tasks if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def wait_for_any(futures: Sequence[asyncio.Future[None]], deadline: float) -> bool:
    """Waits until one of the futures is done or the deadline has passed; then cancels the others.

    Args:
        deadline: a time of the loop's clock.

    Returns:
        whether a future is done.
    """
    timeout_s = max(0.0, deadline - asyncio.get_running_loop().time())
    try:
        done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for future in futures:
            future.cancel()


async def _run_logging_errors(coroutine: Coroutine[object, object, None], name: str) -> None:
    """Awaits the coroutine; logs its exception under the task's name instead of raising. Body of every pool task."""
    try:
        await coroutine
    except Exception:
        logger.exception("task failed task=%s", name)
