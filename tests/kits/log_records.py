"""Records the log while a test runs, and checks it for errors and secrets."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

SECRET: Final = "hidden-from-the-log"
"""A text that the tests put into everything that must not be logged; see `Log`."""


class Log(logging.Handler):
    """A logging handler that keeps all lines. A test names the errors that it causes; `check` fails for others."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line of a record."""
        self._lines.append((record.levelno, self.format(record)))

    @property
    def text(self) -> str:
        """All lines so far."""
        return "\n".join([line for _, line in self._lines])

    def forgives(self, *texts: str) -> None:
        """Exempts lines with one of these texts from `check`."""
        self._lines = [(0 if any(text in line for text in texts) else level, line) for level, line in self._lines]

    def check(self) -> None:
        """Asserts that no error was logged but forgiven ones, and no secret."""
        assert SECRET not in self.text
        errors = [line for level, line in self._lines if level >= logging.ERROR]
        assert errors == []


@contextlib.contextmanager
def recorded() -> Iterator[Log]:
    """Records the log of wsbroker, asyncio and aiohttp while the block runs."""
    log = Log()
    loggers = [logging.getLogger(name) for name in ("wsbroker", "asyncio", "aiohttp")]
    loggers[0].setLevel(logging.DEBUG)
    for logger in loggers:
        logger.addHandler(log)
    try:
        yield log
    finally:
        loggers[0].setLevel(logging.NOTSET)
        for logger in loggers:
            logger.removeHandler(log)
