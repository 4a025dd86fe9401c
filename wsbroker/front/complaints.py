"""Log lines about peers, so few that no peer can fill a disk with them."""

from collections.abc import Callable
from typing import Final

from wsbroker.guarded_log import GuardedLog

MAX_PER_SECOND: Final = 10


class Complaints:
    """Warnings about what peers do: MAX_PER_SECOND in a second; how many more there were is said with the next one.

    Args:
        log: where they go.
        clock: the time in seconds.
    """

    __slots__ = ("_clock", "_left", "_left_out", "_log", "_second")

    def __init__(self, log: GuardedLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._second = 0
        self._left = MAX_PER_SECOND
        self._left_out = 0

    def warn(self, text: str, *values: object) -> None:
        """Logs a warning, or counts it."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._left = MAX_PER_SECOND
        if self._left == 0:
            self._left_out += 1
            return
        self._left -= 1
        if self._left_out:
            self._log.warning("warnings about peers left out count=%d", self._left_out)
            self._left_out = 0
        self._log.warning(text, *values)
