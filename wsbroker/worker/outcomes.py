"""Handles the end of a handler's call, in every kind of worker: answer, close with 1011, log record, statistic."""

from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Final, TypeVar

from wsbroker.errors import HandlerError
from wsbroker.http.handler_returns import to_http_response, to_open_result
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.http.targets import is_websocket_without_upgrade
from wsbroker.process_exit import exit_forked_child
from wsbroker.worker.async_calls import CLOSE, HTTP, MESSAGE, OPEN, HandlerCall
from wsbroker.worker.interruption import HandlerTimeout
from wsbroker.worker.loader import Handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.report import ERRORS, TIMEOUTS, HandlerReport
from wsbroker.worker.slowest import SlowestCalls

_Read = TypeVar("_Read")

LONG_CALL_SHARE: Final = 0.1
"""The part of `handler_timeout` beyond which a call is counted as long."""


def internal_error_response() -> HttpResponse:
    """Returns the response when a handler raised: the error itself stands in the log only."""
    return HttpResponse(500, (), "Internal Server Error")


def timeout_response() -> HttpResponse:
    """Returns the response when a handler took too long."""
    return HttpResponse(504, (), "Gateway Timeout")


NO_HTTP_HANDLER: Final = "No HTTP handler registered"
NO_UPGRADE: Final = (
    "This was meant to become a WebSocket, but there is no Upgrade: websocket in the request. A proxy in front must "
    "pass the Upgrade and Connection headers on (nginx: proxy_http_version 1.1; "
    'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";).'
)


def no_handler_response(headers: Mapping[str, str]) -> HttpResponse:
    """Returns the response when the application has no HTTP handler, with a hint if a WebSocket was meant.

    Args:
        headers: the header fields of the request.
    """
    return HttpResponse(
        503, (), f"{NO_HTTP_HANDLER}\n{NO_UPGRADE}\n" if is_websocket_without_upgrade(headers) else NO_HTTP_HANDLER
    )


class BaseRuntime:
    """Handles the end of each handler's call; the subclasses deliver the answers.

    It is the `CallObserver` of async handlers, and is called by the subclasses for sync handlers. A failure is counted
    and answered first, and logged then.

    Args:
        handlers: the application's handlers.
        report: logs and counts failures.
        options: how handlers are run.
    """

    def __init__(self, handlers: Handlers, report: HandlerReport, options: HandlerOptions) -> None:
        self._handlers = handlers
        self._report = report
        self._options = options
        self._long_call_s = options.handler_timeout * LONG_CALL_SHARE
        self.slowest_calls = SlowestCalls()
        self.slow_threshold_s = 0.0
        """Seconds: a call that took no longer is not recorded; it costs nothing more than this comparison."""
        self.is_forked = False
        """Whether this process is a child that an inline handler has forked: it ends where that handler ends."""

    # Where answers go. ------------------------------------------------------------------------------------------

    def answer_open(self, call: HandlerCall, verdict: HttpResponse | Accept | None) -> None:
        """Delivers the verdict of an open handler; None and an `Accept` accept the socket."""
        raise NotImplementedError

    def answer_http(self, call: HandlerCall, response: HttpResponse) -> None:
        """Delivers the response of an HTTP handler."""
        raise NotImplementedError

    def close_failed_socket(self, socket_id: int) -> None:
        """Closes the socket of a message handler that failed, with 1011."""
        raise NotImplementedError

    def report_slowest_call(self, handler: str, socket_id: int, seconds: float, at: float) -> None:
        """Tells the pool of a call that is one of the slowest so far.

        Args:
            handler: the handler's name.
            socket_id: the socket; 0: an HTTP request.
            seconds: how long the call took.
            at: when the call ended, in seconds since the Unix epoch.
        """
        raise NotImplementedError

    # How a call ends (see `CallObserver`). -----------------------------------------------------------------------

    def on_call_returned(self, call: HandlerCall, returned: object) -> None:
        """Converts and delivers the value that a handler returned in time; warns if the value is ignored."""
        if self.is_forked:
            exit_forked_child(None)
        handler = call.handler
        if handler not in (OPEN, HTTP):
            if returned is not None:
                self._report.warn_ignored_return(handler, returned)
            return
        verdict: HttpResponse | Accept | None
        try:
            if handler == OPEN:
                assert call.request is not None
                verdict = self.convert_returned(call, to_open_result, returned, call.request)
            else:
                verdict = self.convert_returned(call, to_http_response, returned)
        except HandlerError as error:
            self._report.increment_statistic(ERRORS)
            self._answer_failure(call, internal_error_response())
            self._report.log_illegal_return(handler, call.socket_id, str(error))
            return
        except HandlerTimeout as timeout:
            self.on_call_timed_out(call, timeout)
            return
        except BaseException as error:  # the conversion ran the application's code: a property, a mapping of its own
            self.on_call_failed(call, error)
            return
        if handler == OPEN:
            self.answer_open(call, verdict)
        else:
            assert isinstance(verdict, HttpResponse)
            self.answer_http(call, verdict)

    def convert_returned(self, call: HandlerCall, reader: Callable[..., _Read], *arguments: object) -> _Read:
        """Converts the value that a handler returned, by a call of `reader`, which may run the application's code."""
        return reader(*arguments)

    def on_call_failed(self, call: HandlerCall, error: BaseException) -> None:
        """Counts, answers and logs an exception of a handler. SystemExit and KeyboardInterrupt count like any other."""
        if self.is_forked:
            exit_forked_child(error)
        self._report.increment_statistic(ERRORS)
        self._answer_failure(call, internal_error_response())
        self._report.log_failure(call.handler, call.socket_id, error)

    def on_call_timed_out(self, call: HandlerCall, cause_or_position: BaseException | str) -> None:
        """Counts, answers and logs a handler whose time is over; the handler may still run.

        Args:
            call: the call.
            cause_or_position: the exception that interrupted the handler, or the position where the handler waits.
        """
        self._report.increment_statistic(TIMEOUTS)
        self._answer_failure(call, timeout_response())
        self._report.log_timeout(call.handler, call.socket_id, monotonic() - call.start, cause_or_position)

    def record_long_call(self, handler: str, socket_id: int, seconds: float) -> None:
        """Counts a long call, and keeps one of the slowest. Called for each call longer than `slow_threshold_s`."""
        if seconds > self._long_call_s:
            self._report.count_long_call()
        now = time()
        if self.slowest_calls.add_call(handler, socket_id, seconds, now):
            self.report_slowest_call(handler, socket_id, seconds, now)
        self.slow_threshold_s = min(self.slowest_calls.threshold_s, self._long_call_s)

    def _answer_failure(self, call: HandlerCall, response: HttpResponse) -> None:
        """Sends `response` for a failed open or HTTP call; for a failed message, closes the socket unless told not to.

        Does nothing for a failed close handler, and for a message if `on_handler_error` is ``"log"``.
        """
        handler = call.handler
        if handler == OPEN:
            self.answer_open(call, response)
        elif handler == HTTP:
            self.answer_http(call, response)
        elif handler == MESSAGE and self._options.on_handler_error != "log":
            self.close_failed_socket(call.socket_id)
        else:
            assert handler in (MESSAGE, CLOSE), handler
