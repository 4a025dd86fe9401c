"""Logging that never raises, whatever the program's own log handlers do.

Handlers, filters and formatters of a program's loggers run inside each logging call and may raise anything, and so may
the text of a logged exception. That must not harm the caller: a line that cannot be logged is written to stderr, once,
and the caller goes on.

`logging.config.dictConfig` and `fileConfig` disable all existing loggers that they do not name, unless
`disable_existing_loggers` is false. Failures of an application's handlers would be logged nowhere then, so it has no
effect on a `GuardedLog`; levels, handlers, filters and `logging.disable` have.

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
"""The levels of `logging`, repeated here because that module is loaded late."""
_LEVEL_NAMES: Final = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR", CRITICAL: "CRITICAL"}

PACKAGE_LOGGER: Final = "wsbroker"
"""The name of the logger above all others of this package."""
MAX_TEXT_CHARS: Final = 256 * 1024
"""How many characters of one message or traceback are logged: the text of an exception may hold a whole data set."""


class GuardedLog:
    """A logger whose methods never raise and which `disable_existing_loggers` does not disable.

    Args:
        name: the logger's name.
    """

    __slots__ = ("_logger", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._logger: Logger | None = None

    def debug(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs a line at level DEBUG."""
        self._write_line(DEBUG, text, values, exc_info)

    def info(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs a line at level INFO."""
        self._write_line(INFO, text, values, exc_info)

    def warning(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs a line at level WARNING."""
        self._write_line(WARNING, text, values, exc_info)

    def error(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs a line at level ERROR."""
        self._write_line(ERROR, text, values, exc_info)

    def critical(self, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs a line at level CRITICAL."""
        self._write_line(CRITICAL, text, values, exc_info)

    def exception(self, text: str, *values: object, exc_info: OptExcInfo = True) -> None:
        """Logs a line at level ERROR, with the traceback of the exception that is being handled."""
        self._write_line(ERROR, text, values, exc_info)

    def log(self, level: int, text: str, *values: object, exc_info: OptExcInfo = None) -> None:
        """Logs a line at any level."""
        self._write_line(level, text, values, exc_info)

    def _write_line(self, level: int, text: str, values: tuple[object, ...], exc_info: OptExcInfo) -> None:
        """Logs a line, or writes the line to stderr if logging raises.

        Enables the logger again if it was disabled.

        Args:
            level: the level of the line.
            text: the text, with %-placeholders for `values`.
            values: the values for the placeholders.
            exc_info: the exception whose traceback is logged, as for `logging`; True: the one being handled; None:
                none.
        """
        handled = sys.exception()
        try:
            logger = self._logger
            if logger is None:
                from logging import getLogger

                logger = self._logger = getLogger(self.name)
            if logger.disabled:
                logger.disabled = False
            logger.log(level, text, *values, exc_info=exc_info, stacklevel=3)
        except BaseException as logging_error:
            error = handled if exc_info is True else exc_info[1] if isinstance(exc_info, tuple) else exc_info
            traceback = format_traceback(error) if isinstance(error, BaseException) else ""
            write_unlogged_line(level, self.name, _format_message(text, values), traceback, logging_error)


def is_package_logger(name: str) -> bool:
    """Returns whether a logger with this name belongs to this package."""
    return name == PACKAGE_LOGGER or name.startswith(PACKAGE_LOGGER + ".")


def log_loop_error(loop: "AbstractEventLoop", context: dict[str, object]) -> None:
    """Logs an error of a callback or of an unawaited task, as asyncio does. An exception handler for event loops.

    With asyncio's own exception handler, a logging handler that raises would end the loop: asyncio would log that
    failure by the same logger again.
    """
    try:
        loop.default_exception_handler(context)
    except BaseException as logging_error:
        error = context.get("exception")
        traceback = format_traceback(error) if isinstance(error, BaseException) else ""
        write_unlogged_line(ERROR, "asyncio", str(context.get("message")), traceback, logging_error)


# Texts of values, whatever their methods raise. -----------------------------------------------------------------------


def shorten_text(text: str, limit_chars: int = MAX_TEXT_CHARS) -> str:
    """Returns a text; of a longer one than the limit, its beginning and its end, with a note of the length left out."""
    if len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def format_type_name(value: object) -> str:
    """Returns the name of a value's type; ``"object"`` if the type's metaclass raises."""
    try:
        return str.__str__(type(value).__name__)
    except BaseException:
        return "object"


def format_repr(value: object) -> str:
    """Returns the shortened `repr` of a value; the name of its type if `repr` raises."""
    try:
        return shorten_text(str.__str__(repr(value)))
    except BaseException:
        return format_type_name(value)


def format_error(error: BaseException) -> str:
    """Returns ``"ValueError: text"`` on one line; a substitute for the text if the exception's methods raise."""
    name = format_type_name(error)
    try:
        text = shorten_text(" ".join(str.split(str(error))))
    except BaseException:
        text = "(its text cannot be shown)"
    return f"{name}: {text}" if text else name


def format_traceback(error: BaseException) -> str:
    """Returns the traceback of an exception as Python prints it; one line if the exception's methods raise."""
    try:
        from traceback import format_exception

        return shorten_text("".join(format_exception(error)))
    except BaseException:
        return f"{format_error(error)} (its traceback cannot be shown)\n"


def _format_message(text: str, values: tuple[object, ...]) -> str:
    """Returns a log message with its values filled in, shortened if it is long.

    If formatting a value raises, returns the text with its placeholders and a note.
    """
    try:
        return shorten_text(text % values if values else text)
    except BaseException:
        return f"{text} (its values cannot be shown)"


# Lines that could not be logged. --------------------------------------------------------------------------------------


def write_unlogged_line(
    level: int, logger_name: str, message: str, traceback: str, logging_error: BaseException
) -> None:
    """Writes a log line to stderr that could not be logged, and the reason. Never raises.

    Args:
        level: the level of the line.
        logger_name: the name of the logger.
        message: the text of the line.
        traceback: the traceback that belongs to the line; ``""``: there is none.
        logging_error: the exception that logging has raised.
    """
    try:
        lines = f"{_LEVEL_NAMES.get(level, level)} {logger_name}: {message}\n{traceback}".rstrip("\n")
        why = f"{format_error(logging_error)}{_format_raise_location(logging_error)}"
        write_to_stderr(f"{lines}\n(the lines above could not be logged: {why})\n")
    except BaseException:
        pass  # no memory, no stack: the line cannot be written either


def _format_raise_location(error: BaseException) -> str:
    """Returns ``", at app.py:12 in emit"``: the innermost line of code that raised an exception; "" if unknown."""
    entry = error.__traceback__
    if entry is None:
        return ""
    while entry.tb_next is not None:
        entry = entry.tb_next
    code = entry.tb_frame.f_code
    return f", at {code.co_filename}:{entry.tb_lineno} in {code.co_name}"


def write_to_stderr(text: str) -> None:
    """Writes a text to `sys.stderr`, or to `sys.__stderr__` if that fails. Never raises.

    Never to descriptor 2, which may be a file or socket in a program that began without a stderr.
    """
    for name in ("stderr", "__stderr__"):
        try:
            stream = getattr(sys, name, None)
            if stream is not None:
                stream.write(text)
                stream.flush()
                return
        except BaseException:
            pass  # closed, full, or replaced by the program and raising
