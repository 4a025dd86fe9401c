"""What went wrong with a handler: one log record and one count each. Never what a peer sent, never a token."""

from collections.abc import Callable
from types import CoroutineType, GeneratorType, TracebackType
from typing import Final

from wsbroker.guarded_log import GuardedLog, format_type_name

ERRORS: Final = "handler_errors"
"""Statistic: handlers that raised or returned what they may not."""
TIMEOUTS: Final = "handler_timeouts"
"""Statistic: handlers that were cancelled or interrupted because they took too long."""
SLOW: Final = "slow_handlers"
"""Statistic: handlers that took too long where nothing can interrupt them (inline)."""
HUNG: Final = "hung_handlers"
"""Statistic: handlers that had not ended `worker_hang_timeout` after their interruption."""
LONG: Final = "long_handlers"
"""Statistic: calls of handlers that took longer than a tenth of `handler_timeout`."""
EVENTS_REFUSED: Final = "events_refused"
"""Statistic: events of a kind that the worker does not understand; it has skipped them."""
MESSAGES_DROPPED: Final = "messages dropped, there is no time left for their handlers count=%d"
UNHANDLED: Final = "messages_without_handler"
"""Statistic: messages dropped because the application has no message handler."""

_warned_of_no_message_handler = False


def _application_exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Returns an exception as logging takes it, with its traceback from the application's first line on.

    Whatever the exception's own methods do: its class may have a `__traceback__` that raises.
    """
    try:
        trace = error.__traceback__
        return type(error), error, _strip_own_frames(trace)
    except BaseException:
        return type(error), error, None


def _strip_own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the application's first line on."""
    first = trace
    while first is not None and first.tb_frame.f_globals.get("__package__") == __package__:
        first = first.tb_next
    return trace if first is None else first


def await_position(awaited: object) -> str:
    """Returns where a suspended coroutine waits: ``"app.py:12 in fetch"``; ``""`` if it cannot be seen."""
    where = ""
    while True:
        if isinstance(awaited, CoroutineType):
            frame, inner = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, GeneratorType):
            frame, inner = awaited.gi_frame, awaited.gi_yieldfrom
        else:
            return where
        if frame is not None:
            where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = inner


class HandlerReport:
    """Says what went wrong in one worker. Its methods never raise: see `guarded_log`.

    Args:
        worker: its name.
        count: adds to a statistic.
    """

    __slots__ = ("_count_statistic", "_logger", "_reported", "worker_name")

    def __init__(self, worker: str, count: Callable[[str, int], None]) -> None:
        self.worker_name = worker
        self._count_statistic = count
        self._logger: Final = GuardedLog("wsbroker.worker")
        self._reported: set[str] = set()

    def increment_statistic(self, statistic: str) -> None:
        """Adds one to a statistic: for `log_failure`, `log_illegal_return` and `log_timeout`, which follow the answer."""
        self._count_statistic(statistic, 1)

    def log_messages_dropped(self, count: int) -> None:
        """Logs that messages were dropped because the server stops."""
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
        """Logs that a handler returned what it may not; `problem` lists what it may."""
        self._logger.error(
            "handler returned what it may not handler=%s socket=%d worker=%s: %s",
            handler,
            socket_id,
            self.worker_name,
            problem,
        )

    def log_timeout(self, handler: str, socket_id: int, seconds: float, where: BaseException | str) -> None:
        """Logs that a handler took too long: `where` is the exception that interrupted it, or a position."""
        text = "handler took too long handler=%s socket=%d worker=%s seconds=%.3f"
        if isinstance(where, str):
            self._logger.error(text + " at=%s", handler, socket_id, self.worker_name, seconds, where or "unknown")
        else:
            trace = _application_exc_info(where)
            self._logger.error(text, handler, socket_id, self.worker_name, seconds, exc_info=trace)

    def count_long_call(self) -> None:
        """A handler took a good part of its time: only counted."""
        self._count_statistic(LONG, 1)

    def report_slow_call(self, handler: str, socket_id: int, seconds: float) -> None:
        """A handler took too long and nothing could interrupt it."""
        self._count_statistic(SLOW, 1)
        self._logger.error(
            "handler took too long in the event loop, everybody waited handler=%s socket=%d seconds=%.3f",
            handler,
            socket_id,
            seconds,
        )

    def report_hung_call(self, handler: str, socket_id: int, seconds: float) -> None:
        """A handler has not ended after its interruption."""
        self._count_statistic(HUNG, 1)
        self._logger.error(
            "handler hangs handler=%s socket=%d worker=%s seconds=%.3f", handler, socket_id, self.worker_name, seconds
        )

    def warn_ignored_return(self, handler: str, returned: object) -> None:
        """A handler whose return value means nothing returned one: said once."""
        if handler not in self._reported:
            self._reported.add(handler)
            self._logger.warning(
                "what a handler returned is ignored handler=%s type=%s worker=%s (return None; to answer, use send)",
                handler,
                format_type_name(returned),
                self.worker_name,
            )

    def report_unknown_event(self, kind: object) -> None:
        """Counts an event of a kind that this worker does not understand; the first one is logged."""
        self._count_statistic(EVENTS_REFUSED, 1)
        if EVENTS_REFUSED not in self._reported:
            self._reported.add(EVENTS_REFUSED)
            text = "event not understood and skipped, please report this worker=%s kind=%r"
            self._logger.error(text, self.worker_name, kind)

    def report_missing_handler(self) -> None:
        """A message came and there is no handler for it: said once per process."""
        global _warned_of_no_message_handler
        self._count_statistic(UNHANDLED, 1)
        if not _warned_of_no_message_handler:
            _warned_of_no_message_handler = True
            text = "messages are dropped: the application has no handle_socket_message worker=%s"
            self._logger.warning(text, self.worker_name)
