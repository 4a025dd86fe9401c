"""The log records and counters of errors, time-outs and slow calls of handlers; they hold no message and no token."""

from collections.abc import Callable
from types import CoroutineType, GeneratorType, TracebackType
from typing import Final

from wsbroker.guarded_log import GuardedLog, format_type_name

ERRORS: Final = "handler_errors"
"""Statistic: handlers that raised, or returned a value that is not allowed."""
TIMEOUTS: Final = "handler_timeouts"
"""Statistic: handlers that were cancelled or interrupted because they took too long."""
SLOW: Final = "slow_handlers"
"""Statistic: handlers that took too long where nothing can interrupt them (inline)."""
HUNG: Final = "hung_handlers"
"""Statistic: handlers that had not ended `worker_hang_timeout` after their interruption."""
LONG: Final = "long_handlers"
"""Statistic: calls of handlers that took longer than a tenth of `handler_timeout`."""
EVENTS_REFUSED: Final = "events_refused"
"""Statistic: events of an unknown kind, which the worker has skipped."""
MESSAGES_DROPPED: Final = "messages dropped, there is no time left for their handlers count=%d"
UNHANDLED: Final = "messages_without_handler"
"""Statistic: messages dropped because the application has no message handler."""

_warned_of_no_message_handler = False
"""Whether this process has logged that messages come and there is no handler for them."""


def _application_exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Returns the `exc_info` to log an exception with, its traceback cut to begin at the application's first line.

    Never raises, although the exception's class may have a `__traceback__` that does.
    """
    try:
        trace = error.__traceback__
        return type(error), error, _strip_own_frames(trace)
    except BaseException:
        return type(error), error, None


def _strip_own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Returns a traceback without its outermost frames in this package; unchanged if all frames are in it."""
    first = trace
    while first is not None and first.tb_frame.f_globals.get("__package__") == __package__:
        first = first.tb_next
    return trace if first is None else first


def await_position(awaited: object) -> str:
    """Returns the position where a suspended coroutine waits: ``"app.py:12 in fetch"``; ``""`` if unknown."""
    position = ""
    while True:
        if isinstance(awaited, CoroutineType):
            frame, inner = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, GeneratorType):
            frame, inner = awaited.gi_frame, awaited.gi_yieldfrom
        else:
            return position
        if frame is not None:
            position = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = inner


class HandlerReport:
    """Logs and counts what goes wrong in one worker. Its methods never raise: see `guarded_log`.

    Args:
        worker_name: the worker's name.
        count_statistic: adds a number to the statistic of this name.
    """

    __slots__ = ("_count_statistic", "_logger", "_reported", "worker_name")

    def __init__(self, worker_name: str, count_statistic: Callable[[str, int], None]) -> None:
        self.worker_name = worker_name
        self._count_statistic = count_statistic
        self._logger: Final = GuardedLog("wsbroker.worker")
        self._reported: set[str] = set()

    def increment_statistic(self, statistic: str) -> None:
        """Adds one to a statistic. Called before a failure is answered; the matching `log_…` method is called after."""
        self._count_statistic(statistic, 1)

    def log_messages_dropped(self, count: int) -> None:
        """Logs that `count` messages were dropped because the server stops; does nothing for 0."""
        if count:
            self._logger.warning(MESSAGES_DROPPED, count)

    def report_stop_failed(self, error: BaseException) -> None:
        """Counts and logs that `handle_worker_stop` raised."""
        self._count_statistic(ERRORS, 1)
        self.log_failure("handle_worker_stop", 0, error)

    def log_failure(self, handler: str, socket_id: int, error: BaseException) -> None:
        """Logs that a handler raised."""
        trace = _application_exc_info(error)
        self._logger.error(
            "handler failed handler=%s socket=%d worker=%s", handler, socket_id, self.worker_name, exc_info=trace
        )

    def log_illegal_return(self, handler: str, socket_id: int, problem: str) -> None:
        """Logs that a handler returned a value that is not allowed.

        Args:
            handler: the handler's name.
            socket_id: the socket; 0: an HTTP request.
            problem: what was returned, and the list of what is allowed.
        """
        self._logger.error(
            "handler returned what it may not handler=%s socket=%d worker=%s: %s",
            handler,
            socket_id,
            self.worker_name,
            problem,
        )

    def log_timeout(self, handler: str, socket_id: int, seconds: float, cause_or_position: BaseException | str) -> None:
        """Logs that a handler took too long.

        Args:
            handler: the handler's name.
            socket_id: the socket; 0: an HTTP request.
            seconds: how long the call has taken so far.
            cause_or_position: the exception that interrupted the handler, or the position where it waits.
        """
        text = "handler took too long handler=%s socket=%d worker=%s seconds=%.3f"
        if isinstance(cause_or_position, str):
            self._logger.error(
                text + " at=%s", handler, socket_id, self.worker_name, seconds, cause_or_position or "unknown"
            )
        else:
            trace = _application_exc_info(cause_or_position)
            self._logger.error(text, handler, socket_id, self.worker_name, seconds, exc_info=trace)

    def count_long_call(self) -> None:
        """Counts a call that took longer than a tenth of `handler_timeout`."""
        self._count_statistic(LONG, 1)

    def report_slow_call(self, handler: str, socket_id: int, seconds: float) -> None:
        """Logs and counts an inline handler that took too long and could not be interrupted."""
        self._count_statistic(SLOW, 1)
        self._logger.error(
            "handler took too long in the event loop, everybody waited handler=%s socket=%d seconds=%.3f",
            handler,
            socket_id,
            seconds,
        )

    def report_hung_call(self, handler: str, socket_id: int, seconds: float) -> None:
        """Logs and counts a handler that has not ended `worker_hang_timeout` after its interruption."""
        self._count_statistic(HUNG, 1)
        self._logger.error(
            "handler hangs handler=%s socket=%d worker=%s seconds=%.3f", handler, socket_id, self.worker_name, seconds
        )

    def warn_ignored_return(self, handler: str, returned: object) -> None:
        """Logs, once for each handler, that a value was returned by a handler whose value is ignored."""
        if handler not in self._reported:
            self._reported.add(handler)
            self._logger.warning(
                "what a handler returned is ignored handler=%s type=%s worker=%s (return None; to answer, use send)",
                handler,
                format_type_name(returned),
                self.worker_name,
            )

    def report_unknown_event(self, kind: object) -> None:
        """Counts an event of an unknown kind; logs the first one."""
        self._count_statistic(EVENTS_REFUSED, 1)
        if EVENTS_REFUSED not in self._reported:
            self._reported.add(EVENTS_REFUSED)
            text = "event not understood and skipped, please report this worker=%s kind=%r"
            self._logger.error(text, self.worker_name, kind)

    def report_missing_handler(self) -> None:
        """Counts a message for which the application has no handler; logs the first one in this process."""
        global _warned_of_no_message_handler
        self._count_statistic(UNHANDLED, 1)
        if not _warned_of_no_message_handler:
            _warned_of_no_message_handler = True
            text = "messages are dropped: the application has no handle_socket_message worker=%s"
            self._logger.warning(text, self.worker_name)
