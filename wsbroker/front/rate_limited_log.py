"""Warnings about clients, limited in rate so that no client can fill a disk with log lines."""

from collections.abc import Callable
from typing import Final

from wsbroker.guarded_log import GuardedLog

MAX_PER_SECOND: Final = 10
REPEAT_S: Final = 60.0
"""How long after a warning of one kind the next of the same kind is logged."""
MAX_KINDS: Final = 256
"""How many kinds are remembered; when there are more, all are forgotten."""


class RateLimitedLog:
    """Logs at most MAX_PER_SECOND warnings per second; the next one is preceded by the count of those left out.

    Args:
        log: the log that the warnings go to.
        clock: returns the time in seconds.
    """

    __slots__ = ("_clock", "_next_time_by_kind", "_remaining_in_second", "_suppressed_count", "_log", "_current_second")

    def __init__(self, log: GuardedLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._current_second = 0
        self._remaining_in_second = MAX_PER_SECOND
        self._suppressed_count = 0
        self._next_time_by_kind: dict[object, float] = {}

    def warn_once_per_kind(self, kind: object, text: str, *values: object) -> None:
        """Logs a warning as `warn_or_count` does, unless one of the same kind was logged in the last REPEAT_S seconds.

        Args:
            kind: any hashable value of bounded size that tells kinds of warnings apart.
            text: the message, with ``%`` placeholders.
            *values: the values for the placeholders.
        """
        now_s = self._clock()
        kinds = self._next_time_by_kind
        if now_s < kinds.get(kind, now_s):
            return
        if self.warn_or_count(text, *values):
            if len(kinds) >= MAX_KINDS:
                kinds.clear()
            kinds[kind] = now_s + REPEAT_S

    def warn_or_count(self, text: str, *values: object) -> bool:
        """Logs a warning, or only counts it if MAX_PER_SECOND warnings were logged in this second.

        Args:
            text: the message, with ``%`` placeholders.
            *values: the values for the placeholders.

        Returns:
            whether the warning was logged.
        """
        second = int(self._clock())
        if second != self._current_second:
            self._current_second = second
            self._remaining_in_second = MAX_PER_SECOND
        if self._remaining_in_second == 0:
            self._suppressed_count += 1
            return False
        self._remaining_in_second -= 1
        if self._suppressed_count:
            self._log.warning("warnings about peers left out count=%d", self._suppressed_count)
            self._suppressed_count = 0
        self._log.warning(text, *values)
        return True
