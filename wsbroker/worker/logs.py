"""Sends the log records of a worker that has an interpreter of its own to the broker's process, over the wire.

So logging is set up once, by the program: its levels, its format and its handlers (a file, JSON, a collector) hold for
every kind of worker alike, and lines of several workers do not mix. A record is sent at once, before the handler goes
on: so the last records of a worker that hangs or crashes arrive. What is logged when the broker is gone goes to
stderr.

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
    """A logging handler that sends records to the broker.

    Args:
        api: the worker's API.
        worker_name: the worker's name.
    """

    def __init__(self, api: WireApi, worker_name: str) -> None:
        super().__init__()
        self._api = api
        self._worker_name = worker_name
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Formats and sends a record, its texts cut at `MAX_TEXT_CHARS`; writes to stderr if the broker is gone."""
        try:
            if not self._api.send_log_record(self._make_log_command(record)):
                record.processName = self._worker_name
                sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def _make_log_command(self, record: logging.LogRecord) -> commands.Command:
        """Returns the LOG command for a record, with the message and the traceback formatted."""
        if record.exc_info and not record.exc_text:
            record.exc_text = self._format_traceback(record.exc_info)
        fields = (
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
        return commands.make_log(fields)

    def _format_traceback(self, exc_info: object) -> str:
        """Returns the formatted traceback of a record's `exc_info`, also if the exception's own methods raise."""
        try:
            formatter = self.formatter or logging.Formatter()
            return formatter.formatException(exc_info)  # type: ignore[arg-type]  # the record may come from any factory
        except Exception:
            error = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else exc_info
            return format_traceback(error) if isinstance(error, BaseException) else "(no traceback that could be shown)"


def _exact_text(text: object) -> str:
    """Returns a field of a log record, any object, as a plain `str`, shortened if it is long; "" for None."""
    if text is None:
        return ""
    return shorten_text(str.__str__(text if isinstance(text, str) else str(text)))


def _exact_number(value: object, factor: int = 1) -> int:
    """Returns a log record's field times `factor` as a plain `int`; 0 if the field is no number."""
    try:
        return int(value * factor)  # type: ignore[operator]
    except (TypeError, ValueError, OverflowError):
        return 0


def set_up_logging(levels: Mapping[str, int], api: WireApi, worker_name: str) -> WireLogHandler:
    """Has everything that is logged in this interpreter sent to the broker; returns the logging handler.

    Args:
        levels: the levels that the broker's program has set, by the logger's name; ``""``: the root logger.
        api: the worker's API.
        worker_name: the worker's name.
    """
    handler = WireLogHandler(api, worker_name)
    root = logging.getLogger()
    root.addHandler(handler)
    for name, level in levels.items():
        (logging.getLogger(name) if name else root).setLevel(level)
    return handler


def configured_log_levels() -> dict[str, int]:
    """Returns the log levels that are set in this interpreter, by the logger's name; for `set_up_logging`."""
    root = logging.getLogger()
    levels = {"": root.level}
    for name, logger in list(root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels
