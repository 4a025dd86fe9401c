"""A start that does not come to its end is not silent: nobody else would say that a worker's start handler hangs."""

import asyncio
from types import TracebackType
from typing import Final

from wsbroker.guarded_log import GuardedLog

logger = GuardedLog(__name__)

REMINDER_INTERVAL_S: Final = 10.0
"""How often it is said."""


class StartReminder:
    """Warns again and again while its block waits for a worker's start.

    Args:
        worker: its name.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._waited_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(REMINDER_INTERVAL_S, self._log_reminder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _log_reminder(self) -> None:
        self._waited_s += REMINDER_INTERVAL_S
        logger.warning(
            "worker has not started yet, it imports the handlers or handle_worker_start has not returned "
            "worker=%s seconds=%g",
            self._worker,
            self._waited_s,
        )
        self.__enter__()
