"""Logging that cannot fail: the broker reports with it on behalf of handlers, peers and the operator.

What a program has attached to its loggers (handlers, filters, formatters) runs inside each logging call and may raise
anything, and so may the text of the exception that is reported. A report that fails must not cost more than itself: a
line that cannot be logged is written to stderr, once, and the caller goes on.

`logging.config.dictConfig` and `fileConfig` switch off all loggers that exist and that they do not name, unless they
are told otherwise (`disable_existing_loggers`). That is not meant for failures of handlers, which would be seen nowhere
then, so it has no effect on a `GuardedLog`: levels, handlers, filters and `logging.disable` have.

May import: light standard library. `logging` itself is loaded with the first line.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from logging import Logger

OptExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | BaseException | bool | None
"""As logging's `exc_info`: True means the exception that is being handled."""

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
CRITICAL: Final = 50
"""The levels of `logging`, which is not loaded for their sake."""
_LEVEL_NAMES: Final = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR", CRITICAL: "CRITICAL"}

PACKAGE_LOGGER: Final = "wsbroker"
"""The name of the logger above all others of this package."""
MAX_TEXT_CHARS: Final = 256 * 1024
"""Characters that are shown of one text: of a message, or of a traceback. An exception may hold a whole data set."""


class GuardedLog:
    """A logger whose methods never raise, and which `disable_existing_loggers` does not switch off.

    Args:
        name: of the logger.
    """

    __slots__ = ("_logger", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._logger: Logger | None = None

    def debug(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs at level DEBUG."""
        self._write_line(DEBUG, text, values, exc_info)

    def info(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs at level INFO."""
        self._write_line(INFO, text, values, exc_info)

    def warning(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs at level WARNING."""
        self._write_line(WARNING, text, values, exc_info)

    def error(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs at level ERROR."""
        self._write_line(ERROR, text, values, exc_info)

    def critical(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs at level CRITICAL."""
        self._write_line(CRITICAL, text, values, exc_info)

    def exception(self, text: str, *values: object, exc_info: OptExcInfo = True) -> None:
        """Logs at level ERROR, with the traceback of the exception that is being handled."""
        self._write_line(ERROR, text, values, exc_info)

    def log(self, level: int, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs at this level."""
        self._write_line(level, text, values, exc_info)

    def _write_line(self, level: int, text: str, values: tuple[object, ...], exc_info: OptExcInfo) -> None:
        handled = sys.exception()
        try:
            logger = self._logger
            if logger is None:
                from logging import getLogger

                logger = self._logger = getLogger(self.name)
            if logger.disabled:
                logger.disabled = False
            logger.log(level, text, *values, exc_info=exc_info, stacklevel=3)
        except BaseException as problem:
            error = handled if exc_info is True else exc_info[1] if isinstance(exc_info, tuple) else exc_info
            shown = format_traceback(error) if isinstance(error, BaseException) else ""
            write_unlogged_line(level, self.name, _format_message(text, values), shown, problem)


def is_package_logger(name: str) -> bool:
    """Returns whether a logger of this name is one of this package."""
    return name == PACKAGE_LOGGER or name.startswith(PACKAGE_LOGGER + ".")


def log_loop_error(loop: "AbstractEventLoop", context: dict[str, object]) -> None:
    """Logs what a callback or a forgotten task has raised, as asyncio does; an exception handler for event loops.

    Without it a logging handler that raises ends the whole loop: asyncio logs that failure by the same logger again.
    """
    try:
        loop.default_exception_handler(context)
    except BaseException as problem:
        error = context.get("exception")
        trace = format_traceback(error) if isinstance(error, BaseException) else ""
        write_unlogged_line(ERROR, "asyncio", str(context.get("message")), trace, problem)


# Texts that can always be had. ----------------------------------------------------------------------------------------


def shorten_text(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Returns a text, or its beginning and its end with a note of how much is missing between."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def format_type_name(value: object) -> str:
    """Returns the name of a value's type, whatever its metaclass does."""
    try:
        return str.__str__(type(value).__name__)
    except BaseException:
        return "object"


def format_repr(value: object) -> str:
    """Returns the `repr` of a value, or the name of its type where it has none."""
    try:
        return shorten_text(str.__str__(repr(value)))
    except BaseException:
        return format_type_name(value)


def format_error(error: BaseException) -> str:
    """Returns ``"ValueError: text"`` on one line, whatever the exception's own methods do."""
    name = format_type_name(error)
    try:
        text = shorten_text(" ".join(str.split(str(error))))
    except BaseException:
        text = "(its text cannot be shown)"
    return f"{name}: {text}" if text else name


def format_traceback(error: BaseException) -> str:
    """Returns the traceback of an exception as Python prints it, whatever the exception's own methods do."""
    try:
        from traceback import format_exception

        return shorten_text("".join(format_exception(error)))
    except BaseException:
        return f"{format_error(error)} (its traceback cannot be shown)\n"


def _format_message(text: str, values: tuple[object, ...]) -> str:
    try:
        return shorten_text(text % values if values else text)
    except BaseException:
        return f"{text} (its values cannot be shown)"


# The last resort. -----------------------------------------------------------------------------------------------------


def write_unlogged_line(level: int, name: str, message: str, trace: str, problem: BaseException) -> None:
    """Writes to stderr what could not be logged, and why. Never raises.

    Args:
        level: of the line.
        name: of its logger.
        message: its text.
        trace: the traceback that belongs to it; ``""``: there is none.
        problem: what logging has raised.
    """
    try:
        lines = f"{_LEVEL_NAMES.get(level, level)} {name}: {message}\n{trace}".rstrip("\n")
        why = f"{format_error(problem)}{_format_raise_location(problem)}"
        write_to_stderr(f"{lines}\n(the lines above could not be logged: {why})\n")
    except BaseException:
        pass  # no memory, no stack: there is nothing left to say it with


def _format_raise_location(problem: BaseException) -> str:
    """Returns ``", at app.py:12 in emit"``: the innermost line of what has raised."""
    trace = problem.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f", at {code.co_filename}:{trace.tb_lineno} in {code.co_name}"


def write_to_stderr(text: str) -> None:
    """Writes a text to stderr, or to what stderr was before the program has replaced it. Never raises.

    Not to descriptor 2, which may belong to somebody else where a program began without a stderr.
    """
    for name in ("stderr", "__stderr__"):
        try:
            stream = getattr(sys, name, None)
            if stream is not None:
                stream.write(text)
                stream.flush()
                return
        except BaseException:
            pass  # closed, full, or a program's own that raises
