"""What is logged while a test runs."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

SECRET: Final = "hidden-from-the-log"
"""Stands in everything that must not be logged; see `Log`."""


class Log(logging.Handler):
    """Everything that is logged in this process. A test names the errors that it causes; another one fails it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps it."""
        self._lines.append((record.levelno, self.format(record)))

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join([line for _, line in self._lines])

    def forgives(self, *texts: str) -> None:
        """Errors with one of these texts are what the test has asked for."""
        self._lines = [(0 if any(text in line for text in texts) else level, line) for level, line in self._lines]

    def check(self) -> None:
        """No error that was not forgiven, and nothing that must stay hidden."""
        assert SECRET not in self.text
        errors = [line for level, line in self._lines if level >= logging.ERROR]
        assert errors == []


@contextlib.contextmanager
def recorded() -> Iterator[Log]:
    """Records what is logged meanwhile."""
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
