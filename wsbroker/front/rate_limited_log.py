"""Log lines about peers, so few that no peer can fill a disk with them."""

from collections.abc import Callable
from typing import Final

from wsbroker.guarded_log import GuardedLog

MAX_PER_SECOND: Final = 10
REPEAT_S: Final = 60.0
"""A warning of the same kind is given again after this time."""
MAX_KINDS: Final = 256
"""Kinds that are remembered; when there are more, all are forgotten."""


class RateLimitedLog:
    """Warnings about what peers do: MAX_PER_SECOND in a second; how many more there were is said with the next one.

    Args:
        log: where they go.
        clock: the time in seconds.
    """

    __slots__ = ("_clock", "_kinds", "_left", "_left_out", "_log", "_second")

    def __init__(self, log: GuardedLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._second = 0
        self._left = MAX_PER_SECOND
        self._left_out = 0
        self._kinds: dict[object, float] = {}

    def warn_of_kind(self, kind: object, text: str, *values: object) -> None:
        """Logs a warning as `warn` does, unless one of the same kind was given in the last REPEAT_S seconds.

        Args:
            kind: anything that can be the key of a dict, of bounded size.
        """
        now_s = self._clock()
        kinds = self._kinds
        if now_s < kinds.get(kind, now_s):
            return
        if self.warn(text, *values):
            if len(kinds) >= MAX_KINDS:
                kinds.clear()
            kinds[kind] = now_s + REPEAT_S

    def warn(self, text: str, *values: object) -> bool:
        """Logs a warning, or counts it; returns whether it was logged."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._left = MAX_PER_SECOND
        if self._left == 0:
            self._left_out += 1
            return False
        self._left -= 1
        if self._left_out:
            self._log.warning("warnings about peers left out count=%d", self._left_out)
            self._left_out = 0
        self._log.warning(text, *values)
        return True
