"""Warnings in the log about a worker whose start does not end, such as a `handle_worker_start` that hangs."""

import asyncio
from types import TracebackType
from typing import Final

from wsbroker.guarded_log import GuardedLog

logger = GuardedLog(__name__)

REMINDER_INTERVAL_S: Final = 10.0
"""Seconds between two warnings."""


class StartReminder:
    """A context manager that logs a warning every 10 s while its block waits for a worker to start.

    Args:
        worker: the worker's name, for the log.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._waited_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Starts the timer of the next warning."""
        self._timer = asyncio.get_running_loop().call_later(REMINDER_INTERVAL_S, self._log_reminder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the timer: the worker has started, or its start has failed."""
        if self._timer is not None:
            self._timer.cancel()

    def _log_reminder(self) -> None:
        """Logs that the worker has not started yet, and starts the timer again.

        Called by the loop every REMINDER_INTERVAL_S seconds.
        """
        self._waited_s += REMINDER_INTERVAL_S
        logger.warning(
            "worker has not started yet, it imports the handlers or handle_worker_start has not returned "
            "worker=%s seconds=%g",
            self._worker,
            self._waited_s,
        )
        self.__enter__()
