"""Logging of a worker that has an interpreter of its own: its records go to the broker's process, over the wire.

So logging is set up once, by the program: its levels, its format and its handlers (a file, JSON, a collector) hold for
every kind of worker alike, and lines of several workers do not mix. A record leaves at once, in front of what its
handler does next: the last words of a worker that hangs or crashes arrive. What is logged when the broker is gone goes
to stderr.

An application that logs much sets up handlers of its own (`logging.config.dictConfig` in its module): those run in its
worker and cost the broker nothing.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Final

from wsbroker.guarded_log import format_traceback, shorten_text
from wsbroker.wire import commands
from wsbroker.worker.wire_api import WireApi

NS_PER_S: Final = 1_000_000_000
_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s (worker=%(processName)s)"


class WireLogHandler(logging.Handler):
    """Sends records to the broker.

    Args:
        port: the worker's.
        worker: its name.
    """

    def __init__(self, api: WireApi, worker_name: str) -> None:
        super().__init__()
        self._api = api
        self._worker_name = worker_name
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Formats the message here, where its arguments are, and sends it, cut if it is longer than `MAX_TEXT_CHARS`."""
        try:
            if not self._api.send_log_record(self._make_log_command(record)):
                record.processName = self._worker_name
                sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def _make_log_command(self, record: logging.LogRecord) -> commands.Command:
        if record.exc_info and not record.exc_text:
            record.exc_text = self._format_traceback(record.exc_info)
        return (
            commands.LOG,
            _exact_number(record.levelno),
            _exact_text(record.name),
            _exact_text(record.getMessage()),
            _exact_text(record.exc_text),
            _exact_text(record.stack_info),
            _exact_number(record.created, NS_PER_S),
            _exact_text(record.pathname),
            _exact_number(record.lineno),
            _exact_text(record.funcName),
            _exact_text(record.threadName),
            _exact_number(record.process),
        )

    def _format_traceback(self, exc_info: object) -> str:
        """The traceback, whatever an exception's own methods do when it is formatted."""
        try:
            formatter = self.formatter or logging.Formatter()
            return formatter.formatException(exc_info)  # type: ignore[arg-type]  # the record's factory may be anybody's
        except Exception:
            error = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else exc_info
            return format_traceback(error) if isinstance(error, BaseException) else "(no traceback that could be shown)"


def _exact_text(text: object) -> str:
    """Returns what the wire carries of a text. A record of the application's may have anything there."""
    if text is None:
        return ""
    return shorten_text(str.__str__(text if isinstance(text, str) else str(text)))


def _exact_number(value: object, factor: int = 1) -> int:
    """Returns what the wire carries of a number, 0 where there is none."""
    try:
        return int(value * factor)  # type: ignore[operator]
    except (TypeError, ValueError, OverflowError):
        return 0


def set_up_logging(levels: Mapping[str, int], api: WireApi, worker_name: str) -> WireLogHandler:
    """Has everything that is logged in this interpreter sent to the broker.

    Args:
        levels: those that the broker's program has set, by the logger's name; ``""`` is the root's.
        port: the worker's.
        worker: its name.
    """
    handler = WireLogHandler(api, worker_name)
    root = logging.getLogger()
    root.addHandler(handler)
    for name, level in levels.items():
        (logging.getLogger(name) if name else root).setLevel(level)
    return handler


def configured_log_levels() -> dict[str, int]:
    """The levels that somebody has set in this interpreter, for `set_up_logging` in another one."""
    root = logging.getLogger()
    levels = {"": root.level}
    for name, logger in list(root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels
