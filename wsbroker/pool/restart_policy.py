"""How long to wait before a lost worker is replaced (0.1 to 10 s), and when a crash loop ends the server."""

from collections import deque
from typing import Final

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 10.0
WINDOW_S: Final = 60.0
MAX_DEATHS: Final = 5
SUCCESSFUL_RUN_S: Final = 10.0
"""A worker that ran this long counts as a success: its death was not caused by its start. Equal to the longest delay,
so that a handler that hangs now and then never stops the server, and a crash loop always does."""


class RestartPolicy:
    """The deaths of the workers of one slot, and the delays before their replacements.

    The delay doubles from 0.1 s to 10 s. More than 5 deaths within 60 s without a successful run in between are a crash
    loop.
    """

    __slots__ = ("_deaths", "_delay_s", "restart_count")

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS + 1)
        self._delay_s = FIRST_DELAY_S
        self.restart_count = 0

    def record_death(self, now: float, lived_s: float) -> float | None:
        """Counts a worker's death and returns the delay before its replacement is started.

        Args:
            now: a monotonic time in seconds.
            lived_s: seconds between the worker's start and its death; 0 if the start failed.

        Returns:
            seconds; None: a crash loop, so that no replacement is to be started.
        """
        if lived_s >= SUCCESSFUL_RUN_S:
            self._deaths.clear()
            self._delay_s = FIRST_DELAY_S
        self._deaths.append(now)
        if len(self._deaths) > MAX_DEATHS and now - self._deaths[0] <= WINDOW_S:
            return None
        self.restart_count += 1
        delay_s = self._delay_s
        self._delay_s = min(LAST_DELAY_S, delay_s * 2)
        return delay_s
