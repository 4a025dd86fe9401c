"""Runs handlers in the broker's own event loop (kind inline): all but message handlers, which compiled code calls.

The compiled runner (`connections.inline_runner`) calls this module when a message handler returned something, raised
or was slow, and for every other handler.
"""

import sys
from collections.abc import Awaitable, Callable
from threading import get_ident
from time import monotonic, time
from typing import TYPE_CHECKING, Final, cast

from wsbroker.errors import CommandError
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.process_exit import exit_forked_child
from wsbroker.types import SocketId
from wsbroker.worker import forks
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.async_calls import CLOSE, HTTP, MESSAGE, OPEN, AsyncCalls, HandlerCall, is_awaitable
from wsbroker.worker.loader import Handler, Handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.outcomes import BaseRuntime, no_handler_response
from wsbroker.worker.report import HandlerReport

if TYPE_CHECKING:
    from asyncio import Future

    from wsbroker.worker.async_calls import CallCoroutine

INTERNAL_ERROR: Final = 1011
HANDLER_ERROR: Final = "handler error"

CLOSE_HANDLERS_SHARE: Final = 0.5
"""The part of the time to stop that close handlers get when messages had to be dropped."""
STOP_POLL_S: Final = 0.005
"""Seconds between two checks of `stop` whether messages still wait for their handlers."""


def _resume_no_socket(socket_id: int) -> None:
    """Does nothing: the value of `InlineRuntime.resume_socket` until the inline runner sets a function of its own."""


class InlineRuntime(BaseRuntime):
    """Runs the handlers of an inline worker; on the loop's thread only.

    Sync handlers cannot be interrupted here: no other code runs meanwhile. Slow ones are logged and counted.

    Args:
        handlers: the application's handlers.
        api: closes the sockets of handlers that failed.
        options: how handlers are run.
    """

    def __init__(self, handlers: Handlers, api: BrokerApi, options: HandlerOptions) -> None:
        super().__init__(handlers, HandlerReport(options.name or "inline", self._count_statistic), options)
        self.counters: dict[str, int] = {}
        """Statistics by name; the names stand in `report`."""
        self.resume_socket: Callable[[int], None] = _resume_no_socket
        """Called with a socket's id when the handler has ended that kept the socket's next event waiting: a message
        handler that came to `on_message_result`, a close handler that `begin_close_handler` returned False for."""
        self.drop_waiting_messages: Callable[[], int] = int
        """Drops the messages that wait for their handlers; returns their number."""
        self.is_behind: Callable[[], bool] = bool
        """Returns whether messages or closes are waiting for their handlers, or being handled."""
        self._api = api
        self._limit_s = options.handler_timeout
        self._http_limit_s = options.http_timeout
        self._async_calls: AsyncCalls | None = None
        self._epoch_s = time() - monotonic()
        self._thread_id = get_ident()

    def _count_statistic(self, name: str, amount: int) -> None:
        """Adds `amount` to the statistic of this name in `counters`. Called by `HandlerReport`."""
        self.counters[name] = self.counters.get(name, 0) + amount

    # Start and end. ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Runs `handle_worker_start`; what that handler raises reaches the caller."""
        self._get_async_calls()
        forks.register_child_action(self._mark_forked)
        try:
            if self._handlers.worker_start is not None:
                returned = self._handlers.worker_start(self._options.worker_arg)
                if is_awaitable(returned):
                    await cast(Awaitable[object], returned)
        except BaseException as error:
            if self.is_forked:
                exit_forked_child(error)
            forks.unregister_child_action(self._mark_forked)
            raise
        if self.is_forked:
            exit_forked_child(None)

    def _mark_forked(self) -> None:
        """Stores that this process is a child forked by a handler, if the loop's thread forked. Called in the child."""
        if get_ident() == self._thread_id:
            self.is_forked = self._get_async_calls().is_forked = True

    async def stop(self, timeout_s: float) -> bool:
        """Waits for the handlers that are running, cancels those that do not end, and runs `handle_worker_stop`.

        Args:
            timeout_s: seconds for the handlers, and again for `handle_worker_stop`.

        Returns:
            whether neither of the two took longer than `timeout_s`.
        """
        from asyncio import sleep, timeout

        async_calls = self._get_async_calls()
        deadline = monotonic() + timeout_s
        is_idle = await async_calls.wait_until_idle(timeout_s)
        while is_idle and self.is_behind():  # messages that wait are handled in the next turns of the loop
            await sleep(STOP_POLL_S)
            is_idle = await async_calls.wait_until_idle(max(0.0, deadline - monotonic())) and monotonic() < deadline
        if not is_idle:
            self._report.log_messages_dropped(self.drop_waiting_messages())
            async_calls.cancel_all_calls()
            deadline = monotonic() + timeout_s * CLOSE_HANDLERS_SHARE
            while self.is_behind() and monotonic() < deadline:  # the close handlers behind them
                await sleep(STOP_POLL_S)
        try:
            if self._handlers.worker_stop is not None:
                returned = self._handlers.worker_stop()
                if is_awaitable(returned):
                    async with timeout(timeout_s):
                        await cast(Awaitable[object], returned)
        except TimeoutError as error:
            self._report.report_stop_failed(error)
            is_idle = False
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # a handler does not end the server
            if self.is_forked:
                exit_forked_child(error)
            self._report.report_stop_failed(error)
        finally:
            if self.is_forked:
                exit_forked_child(sys.exception())
            forks.unregister_child_action(self._mark_forked)
            async_calls.cancel_timers()
        return is_idle

    def _get_async_calls(self) -> AsyncCalls:
        """Returns the object that runs async calls, created at the first use, which needs a running loop."""
        async_calls = self._async_calls
        if async_calls is None:
            limits_s = {self._limit_s, self._http_limit_s}
            async_calls = self._async_calls = AsyncCalls(self, limits_s, self._options.worker_hang_timeout)
        return async_calls

    # Messages and closes. ---------------------------------------------------------------------------------------

    def on_message_result(self, socket_id: int, result: object) -> None:
        """Processes the value that a message handler returned; runs an awaitable as a task.

        `resume_socket` is called when the handler has ended, perhaps before this method returns.
        """
        call = HandlerCall(MESSAGE, socket_id, self._limit_s)
        if is_awaitable(result):
            self._get_async_calls().start_call(call, self._limit_s, cast(Awaitable[object], result))
        else:
            try:
                self.on_call_returned(call, result)
            finally:
                self.resume_socket(socket_id)

    def on_message_failed(self, socket_id: int, error: BaseException) -> None:
        """Counts, answers and logs an exception of a message handler. Called by the inline runner."""
        self.on_call_failed(HandlerCall(MESSAGE, socket_id, self._limit_s), error)

    def on_message_slow(self, socket_id: int, seconds: float, is_ended: bool) -> float:
        """Records a message handler that took longer than the threshold that this method returned last (at first, 0).

        Args:
            socket_id: the socket.
            seconds: by the wall clock, which is cheap where it was read; a call during which that clock was set is
                ignored here.
            is_ended: whether the handler has ended; False: this was the first step of an async handler.

        Returns:
            the new threshold: seconds of a call that need not be recorded.
        """
        if self.is_forked:
            exit_forked_child(None)
        epoch_s, self._epoch_s = self._epoch_s, time() - monotonic()
        if abs(self._epoch_s - epoch_s) < seconds / 2:
            if seconds > self._limit_s:
                self._report.report_slow_call(MESSAGE, socket_id, seconds)
            if is_ended:
                self.record_long_call(MESSAGE, socket_id, seconds)
        return self.slow_threshold_s

    def on_message_unhandled(self, socket_id: int) -> None:
        """Counts, and once logs, a message for which the application has no handler."""
        self._report.report_missing_handler()

    def begin_close_handler(self, socket_id: int, token: bytes | None, code: int, reason: str) -> bool:
        """Calls the close handler.

        Args:
            socket_id: the socket, which is closed already.
            token: its last token.
            code: the close code.
            reason: the close reason.

        Returns:
            True: the handler has ended. False: `resume_socket` is called when the handler has ended.
        """
        handler = self._handlers.close
        if handler is None:
            return True
        call = HandlerCall(CLOSE, socket_id, self._limit_s)
        returned = self._call_handler(call, handler, SocketId(socket_id), token, code, reason)
        if not is_awaitable(returned):
            return True
        coroutine = self._get_async_calls().start_call(call, self._limit_s, cast(Awaitable[object], returned))
        if coroutine.is_ended:
            return True
        call.must_resume_socket = True
        return False

    # Opens and requests. ----------------------------------------------------------------------------------------

    async def run_open(self, request: HttpRequest, socket_id: int) -> HttpResponse | Accept | None:
        """Runs the open handler; None and an `Accept` accept the socket, a response is sent instead of the 101."""
        handler = self._handlers.open
        if handler is None:
            return None
        call = HandlerCall(OPEN, socket_id, self._limit_s, request=request)
        verdict = await self._run_and_wait(call, self._limit_s, handler, request, SocketId(socket_id))
        return cast("HttpResponse | Accept | None", verdict)

    async def run_http(self, request: HttpRequest) -> HttpResponse:
        """Runs the HTTP handler; returns the response to send, whatever happens to the handler."""
        handler = self._handlers.http
        if handler is None:
            return no_handler_response(request.headers)
        call = HandlerCall(HTTP, 0, self._http_limit_s)
        return cast("HttpResponse", await self._run_and_wait(call, self._http_limit_s, handler, request))

    async def _run_and_wait(self, call: HandlerCall, limit_s: float, handler: Handler, *arguments: object) -> object:
        """Runs an open or HTTP handler and returns its answer; a cancellation of the caller cancels the handler too.

        (Unless the handler is overdue: then it was cancelled already.)
        """
        import asyncio  # loaded already, as a loop is running; to import a name from it would cost 0.5 µs each time

        answer: Future[object] = asyncio.get_running_loop().create_future()
        call.answer = answer
        returned = self._call_handler(call, handler, *arguments)
        if answer.done():
            return answer.result()
        coroutine: CallCoroutine = self._get_async_calls().start_call(call, limit_s, cast(Awaitable[object], returned))
        try:
            return await answer
        finally:
            if not coroutine.is_overdue:
                self._get_async_calls().cancel_call(coroutine)

    def _call_handler(self, call: HandlerCall, handler: Handler, *arguments: object) -> object:
        """Calls an open, close or HTTP handler; returns an awaitable, or processes the end and returns None."""
        try:
            returned = handler(*arguments)
        except BaseException as error:
            self.on_call_failed(call, error)
        else:
            if is_awaitable(returned):
                return returned
            self.on_call_returned(call, returned)
        now = monotonic()
        if now > call.deadline:
            self._report.report_slow_call(call.handler, call.socket_id, now - call.start)
        self._measure_call(call, now)
        return None

    def _measure_call(self, call: HandlerCall, now: float) -> None:
        """Passes a call that took longer than `slow_threshold_s` to `record_long_call`; `now`: when it ended."""
        seconds = now - call.start
        if seconds > self.slow_threshold_s:
            self.record_long_call(call.handler, call.socket_id, seconds)

    # Where answers go. ------------------------------------------------------------------------------------------

    def answer_open(self, call: HandlerCall, verdict: HttpResponse | Accept | None) -> None:
        """Hands the verdict to `run_open`, which waits for it."""
        self._resolve_answer(call, verdict)

    def answer_http(self, call: HandlerCall, response: HttpResponse) -> None:
        """Hands the response to `run_http`, which waits for it."""
        self._resolve_answer(call, response)

    def _resolve_answer(self, call: HandlerCall, verdict: HttpResponse | Accept | None) -> None:
        """Sets the result that `run_open` or `run_http` waits for, unless it was set or cancelled already."""
        answer = call.answer
        if answer is not None and not answer.done():
            answer.set_result(verdict)

    def close_failed_socket(self, socket_id: int) -> None:
        """Closes the socket of a failed handler; does nothing if the broker has stopped and the socket is gone."""
        try:
            self._api.close(socket_id, INTERNAL_ERROR, HANDLER_ERROR)
        except CommandError:
            pass

    def on_call_ended(self, call: HandlerCall) -> None:
        """Records a call that has ended, and has the socket's next event handled."""
        self._measure_call(call, monotonic())
        if call.handler == MESSAGE or (call.handler == CLOSE and call.must_resume_socket):
            self.resume_socket(call.socket_id)

    def report_slowest_call(self, handler: str, socket_id: int, seconds: float, at: float) -> None:
        """Does nothing: the pool reads `slowest_calls` of an inline worker itself."""

    def on_call_hung(self, call: HandlerCall) -> None:
        """Logs and counts a handler that does not end; the broker's own loop cannot be replaced."""
        self._report.report_hung_call(call.handler, call.socket_id, monotonic() - call.start)
