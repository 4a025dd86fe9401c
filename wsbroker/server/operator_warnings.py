"""Warnings about what the core counts: at once, and then at intervals as long as it goes on, with how often it was.

A worker that falls behind every night is reported every night; one that is behind all the time, a few times an hour.
"""

from typing import Final

from wsbroker.guarded_log import GuardedLog

REPEAT_INTERVAL_S: Final = 300.0
"""The least time between two lines about the same: a dozen lines an hour are read, one a second fills a disk."""


class OperatorWarnings:
    """Logs that a counter has grown, each at most once in `REPEAT_INTERVAL_S`. Time comes in as an argument.

    Args:
        log: where the lines go.
    """

    __slots__ = ("_log", "_last_warnings")

    def __init__(self, log: GuardedLog) -> None:
        self._log = log
        self._last_warnings: dict[str, tuple[int, float]] = {}
        """By text: what its counter was at the last line, and when that was."""

    def warn_if_grown(self, count: int, text: str, now: float) -> None:
        """Warns if a counter has grown since the last line about it, and that is long enough ago.

        Args:
            count: what the counter is now; it only grows, and began at 0.
            text: what that means, and which settings are about it; always the same for this counter.
            now: a monotonic time in seconds.
        """
        if not count:
            return
        last, at = self._last_warnings.get(text, (0, now - REPEAT_INTERVAL_S))
        if count > last and now - at >= REPEAT_INTERVAL_S:
            self._last_warnings[text] = (count, now)
            self._log.warning("%s count=%d", text, count - last)
