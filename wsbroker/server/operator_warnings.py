"""Warnings about counters of the broker that grow: at once, then at intervals, with the growth since the last warning.

A worker that falls behind every night is reported every night; a worker that is always behind, a few times an hour.
"""

from typing import Final

from wsbroker.guarded_log import GuardedLog

REPEAT_INTERVAL_S: Final = 300.0
"""The least time between two warnings about one counter: a dozen an hour are read, one a second fills a disk."""


class OperatorWarnings:
    """Logs warnings about counters that grow, each counter at most once in `REPEAT_INTERVAL_S`.

    Args:
        log: the log for the warnings.
    """

    __slots__ = ("_log", "_last_warnings")

    def __init__(self, log: GuardedLog) -> None:
        self._log = log
        self._last_warnings: dict[str, tuple[int, float]] = {}
        """By text: the counter at the last warning, and the time of that."""

    def warn_if_grown(self, count: int, text: str, now_s: float) -> None:
        """Logs a warning if a counter has grown since the last warning with this text, and that is long enough ago.

        Args:
            count: the counter's present value; a counter begins at 0 and never falls.
            text: the meaning of the counter and the settings that matter; always the same text for one counter.
            now_s: a monotonic time in seconds.
        """
        if not count:
            return
        last, at = self._last_warnings.get(text, (0, now_s - REPEAT_INTERVAL_S))
        if count > last and now_s - at >= REPEAT_INTERVAL_S:
            self._last_warnings[text] = (count, now_s)
            self._log.warning("%s count=%d", text, count - last)
