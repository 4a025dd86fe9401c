"""The pool's tasks: each has a root that logs what nobody else caught, and none outlives `cancel_all`."""

import asyncio
from collections.abc import Coroutine
from typing import Final

from wsbroker.guarded_log import GuardedLog

logger = GuardedLog(__name__)


class PoolTasks:
    """Starts tasks and ends them together."""

    def __init__(self) -> None:
        self._running_tasks: Final[set[asyncio.Task[None]]] = set()

    def __len__(self) -> int:
        return len(self._running_tasks)

    def spawn_task(self, coroutine: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Runs `coroutine` as a task of this name."""
        task = asyncio.get_running_loop().create_task(_run_logging_errors(coroutine, name), name=name)
        self._running_tasks.add(task)
        task.add_done_callback(self._running_tasks.discard)
        task.add_done_callback(
            lambda _: coroutine.close()
        )  # one that was cancelled before its first step never got to it
        return task

    async def cancel_all(self) -> None:
        """Cancels what still runs, but for the task that calls this, and waits for its end."""
        running = [task for task in self._running_tasks if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def _run_logging_errors(coroutine: Coroutine[object, object, None], name: str) -> None:
    try:
        await coroutine
    except Exception:
        logger.exception("task failed task=%s", name)
