"""When a lost worker is replaced, and when that has become pointless. Time comes in as an argument."""

from collections import deque
from typing import Final

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 10.0
WINDOW_S: Final = 60.0
MAX_DEATHS: Final = 5
SUCCESSFUL_RUN_S: Final = 10.0
"""A worker that ran this long counts as a success: what killed it was not its start. As long as the longest delay, so
that a handler that hangs once in a while never stops the server, and a crash loop always does."""


class RestartPolicy:
    """The deaths of one place in the pool.

    Back-off doubles from 0.1 s to 10 s. More than 5 deaths within 60 s without a success in between are a crash loop.
    """

    __slots__ = ("_deaths", "_delay_s", "restart_count")

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS + 1)
        self._delay_s = FIRST_DELAY_S
        self.restart_count = 0

    def record_death(self, now: float, lived_s: float) -> float | None:
        """Notes a death.

        Args:
            now: a monotonic time in seconds.
            lived_s: how long the worker ran since it had started; 0 if it never did.

        Returns:
            seconds to wait before the replacement is started; None: a crash loop, give up.
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
