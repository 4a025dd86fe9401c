"""Runs the handlers of a thread, interpreter or process worker one after the other, without an event loop.

`async_runtime` adds the event loop, for workers that have async handlers.
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, NamedTuple, TypeVar, cast

from wsbroker.errors import HandlerError
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.process_exit import exit_forked_child
from wsbroker.types import SocketId
from wsbroker.wire import commands, events
from wsbroker.wire.events import Event
from wsbroker.worker.async_calls import CLOSE, HTTP, MESSAGE, OPEN, HandlerCall, is_awaitable
from wsbroker.worker.interruption import HandlerTimeout, HandlerTimer
from wsbroker.worker.loader import Handler, Handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.outcomes import BaseRuntime, no_handler_response
from wsbroker.worker.report import HandlerReport
from wsbroker.worker.wire_api import MAX_DATA, WireApi

_Read = TypeVar("_Read")

FLUSH_S: Final = 0.002
"""Seconds that commands of handlers wait for the end of their batch, roughly: slow handlers in a long batch would hold
back the answers of the first handlers."""


class UnfinishedCall(NamedTuple):
    """The call of a plain function that returned something to await, in a worker that has no event loop yet."""

    call: HandlerCall | None
    """The call; None: that of `handle_worker_start`."""
    limit_s: float
    """The call's time limit in seconds."""
    awaitable: Awaitable[object]


class SyncRuntime(BaseRuntime):
    """Handles the events of one worker in order.

    Args:
        handlers: the application's handlers.
        api: the worker's API.
        timer: keeps sync handlers to their time.
        report: logs and counts failures.
        options: how handlers are run.
    """

    def __init__(
        self, handlers: Handlers, api: WireApi, timer: HandlerTimer, report: HandlerReport, options: HandlerOptions
    ) -> None:
        super().__init__(handlers, report, options)
        self._api = api
        self._io = api.io
        self._sockets = api.sockets
        self._timer = timer
        self._limit_s = options.handler_timeout
        self._http_limit_s = options.http_timeout
        self._raw_message_handler = handlers.raw_message_handler
        self._message_arity = handlers.message_arity
        self._flush_at = 0.0
        self.is_started = False
        """Whether `handle_worker_start` has returned."""
        self._is_stopping = False
        self._unfinished_call: UnfinishedCall | None = None
        self._must_pause = False
        """Whether no further event may be handled for now: one of the two above is so, or the worker was given up."""
        self._io.on_abandoned = self._on_abandoned

    # The worker's life. -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Runs `handle_worker_start` and reports the start to the pool. What that handler raises reaches the caller."""
        start = self._handlers.worker_start
        if start is not None:
            returned = start(self._options.worker_arg)
            if is_awaitable(returned):
                self._unfinished_call = UnfinishedCall(None, 0.0, cast(Awaitable[object], returned))
                return
        self.report_started()

    def report_started(self) -> None:
        """Tells the pool that the worker is ready."""
        if self._api.is_forked:
            exit_forked_child(None)
        self.is_started = True
        self._api.append_command(commands.make_started(self._handlers.names))
        self._api.flush()

    def run(self) -> UnfinishedCall | None:
        """Handles events until STOP or the wire's end.

        Returns:
            a call that needs an event loop to go on; None: the worker has ended.
        """
        while self._unfinished_call is None:
            batch = self._io.wait_for_batch()
            if batch is None:
                return None
            self.handle_batch(batch)
            self._api.flush()
            if self._is_stopping:
                self.stop()
                return None
        return self._unfinished_call

    def stop(self) -> None:
        """Runs `handle_worker_stop` and reports the end to the pool."""
        try:
            if self._handlers.worker_stop is not None:
                returned = self._handlers.worker_stop()
                if is_awaitable(returned):
                    _run_awaitable(cast(Awaitable[object], returned))
        except BaseException as error:
            self.report_stop_failed(error)
        self.report_stopped()

    def report_stop_failed(self, error: BaseException) -> None:
        """Logs and counts that `handle_worker_stop` raised."""
        if self._api.is_forked:
            exit_forked_child(error)
        self._report.report_stop_failed(error)

    def report_stopped(self) -> None:
        """Tells the pool that this worker sends nothing more."""
        if self._api.is_forked:
            exit_forked_child(None)
        self._api.flush()
        self._api.append_command((commands.STOPPED,))
        self._api.flush()

    # Events. ----------------------------------------------------------------------------------------------------

    def handle_batch(self, batch: list[Event]) -> None:
        """Handles a batch of events in order; if an event pauses this worker, the events behind it are put back."""
        self._flush_at = monotonic() + FLUSH_S
        remaining = iter(batch)
        for event in remaining:
            self.handle_event(event)
            if self._must_pause:
                self._io.prepend_events(list(remaining))
                return

    def handle_event(self, event: Event) -> None:
        """Handles one event of the broker according to its kind; an unknown kind is counted and skipped."""
        kind = event[0]
        if kind == events.MESSAGE:
            _, socket_id, data, cost = cast("tuple[int, int, str | bytes, int]", event)
            self._handle_message(socket_id, data, cost)
        elif kind == events.TOKEN:
            _, socket_id, token, seen_number = cast("tuple[int, int, bytes | None, int]", event)
            self._sockets.apply_token_event(socket_id, token, seen_number)
        elif kind == events.OPEN:
            _, socket_id, fields = cast("tuple[int, int, tuple[object, ...]]", event)
            self._handle_open(socket_id, fields)
        elif kind == events.CLOSE:
            _, socket_id, token, seen_number, code, reason = cast("tuple[int, int, bytes | None, int, int, str]", event)
            self._handle_close(socket_id, token, seen_number, code, reason)
        elif kind == events.HTTP:
            _, request_id, fields = cast("tuple[int, int, tuple[object, ...]]", event)
            self._handle_http(request_id, fields)
        elif kind == events.DROP_UNOPENED:
            self._sockets.drop_socket(cast(int, event[1]))
        elif kind == events.ANSWER:
            pass  # the thread that asked has been interrupted
        elif kind == events.STOP:
            self._is_stopping = self._must_pause = True
        else:
            self._report.report_unknown_event(kind)

    def _handle_message(self, socket_id: int, data: str | bytes, cost: int) -> None:
        """Runs the message handler; acknowledges the message when the handler has ended or failed.

        Called for each MESSAGE event. If the handler returns an awaitable, the message is acknowledged when that has
        been awaited (`_process_returned`). If the socket is being closed, or the application has no message handler,
        which is reported, the message is only acknowledged.

        Args:
            socket_id: the socket.
            data: the message.
            cost: the bytes that the broker gets back by the acknowledgement.
        """
        sockets = self._sockets
        raw = self._raw_message_handler
        if raw is None:
            self._report.report_missing_handler()
        elif not sockets.closing_sockets or socket_id not in sockets.closing_sockets:
            start = monotonic()
            if start > self._flush_at:
                self._api.flush()
                self._flush_at = start + FLUSH_S
            arity = self._message_arity
            call = self._timer.call_with_deadline
            deadline = start + self._limit_s
            sockets.running_socket_id = socket_id
            try:
                if arity == 3:
                    returned = call(
                        deadline, start, MESSAGE, socket_id, raw, data, socket_id, sockets.tokens.get(socket_id)
                    )
                elif arity == 2:
                    returned = call(deadline, start, MESSAGE, socket_id, raw, data, socket_id)
                elif arity == 1:
                    returned = call(deadline, start, MESSAGE, socket_id, raw, data)
                else:
                    returned = call(deadline, start, MESSAGE, socket_id, raw)
            except HandlerTimeout as timeout:
                self.on_call_timed_out(HandlerCall(MESSAGE, socket_id, 0.0, message_cost=cost, start=start), timeout)
            except BaseException as error:
                self.on_call_failed(HandlerCall(MESSAGE, socket_id, 0.0, message_cost=cost, start=start), error)
            else:
                if returned is not None:
                    sockets.running_socket_id = 0
                    self._process_returned(
                        HandlerCall(MESSAGE, socket_id, self._limit_s, message_cost=cost, start=start),
                        self._limit_s,
                        returned,
                    )
                    return
            finally:
                sockets.running_socket_id = 0
            seconds = monotonic() - start
            if seconds > self.slow_threshold_s:
                self.record_long_call(MESSAGE, socket_id, seconds)
        self._api.acknowledge_message(socket_id, cost)

    def _handle_open(self, socket_id: int, fields: tuple[object, ...]) -> None:
        """Runs the open handler for an upgrade request (the fields of an `HttpRequest`); without a handler, accepts."""
        handler = self._handlers.open
        if handler is None:
            self._api.append_command(commands.make_open_result(socket_id, 101, [], b""))
            return
        request = HttpRequest.from_fields(fields)
        call = HandlerCall(OPEN, socket_id, self._limit_s, request=request)
        self._sockets.running_socket_id = socket_id
        self._invoke_handler(call, self._limit_s, handler, request, SocketId(socket_id))

    def _handle_close(self, socket_id: int, token: bytes | None, seen_number: int, code: int, reason: str) -> None:
        """Runs the close handler of a socket with its newest token; without a handler, acknowledges at once.

        Args:
            socket_id: the socket.
            token: its token in the broker.
            seen_number: the number of this worker's last SET_TOKEN that the broker had applied; it says which token is
                newer.
            code: the close code.
            reason: the close reason.
        """
        sockets = self._sockets
        handler = self._handlers.close
        if handler is None:
            self._acknowledge_close(socket_id)
            return
        sockets.apply_token_event(socket_id, token, seen_number)
        call = HandlerCall(CLOSE, socket_id, self._limit_s)
        self._invoke_handler(
            call, self._limit_s, handler, SocketId(socket_id), sockets.tokens.get(socket_id), code, reason
        )

    def _handle_http(self, request_id: int, fields: tuple[object, ...]) -> None:
        """Runs the HTTP handler for a request, the fields of an `HttpRequest`.

        Sends `no_handler_response` if the application has no such handler.
        """
        handler = self._handlers.http
        call = HandlerCall(HTTP, 0, self._http_limit_s, request_id=request_id)
        if handler is None:
            self.answer_http(call, no_handler_response(HttpRequest.from_fields(fields).headers))
            return
        self._invoke_handler(call, self._http_limit_s, handler, HttpRequest.from_fields(fields))

    def _invoke_handler(self, call: HandlerCall, limit_s: float, handler: Handler, *arguments: object) -> None:
        """Calls an open, close or HTTP handler within its time limit, and processes what it returns or raises."""
        try:
            returned = self._timer.call_with_deadline(
                call.deadline, call.start, call.handler, call.socket_id, handler, *arguments
            )
        except HandlerTimeout as timeout:
            self.on_call_timed_out(call, timeout)
        except BaseException as error:
            self.on_call_failed(call, error)
        else:
            self._sockets.running_socket_id = 0
            self._process_returned(call, limit_s, returned)
            return
        self._sockets.running_socket_id = 0
        self.on_call_ended(call)

    def _process_returned(self, call: HandlerCall, limit_s: float, returned: object) -> None:
        """Processes the value that a handler returned: answers and acknowledges, or has an awaitable awaited.

        Args:
            call: the call that has returned.
            limit_s: its time limit in seconds, which holds for the awaitable too.
            returned: the value.
        """
        if is_awaitable(returned):
            self.continue_async(UnfinishedCall(call, limit_s, cast(Awaitable[object], returned)))
        else:
            self.on_call_returned(call, returned)
            self.on_call_ended(call)

    def continue_async(self, unfinished_call: UnfinishedCall) -> None:
        """Pauses the worker, so that `run` returns this call. Called when a handler returned an awaitable."""
        self._unfinished_call = unfinished_call
        self._must_pause = True

    def _on_abandoned(self) -> None:
        """Has the worker stop before its next event; called when the broker is gone or has given this worker up.

        Another worker may be handling the events behind already. Called on any thread.
        """
        self._must_pause = True

    # Where answers go. ------------------------------------------------------------------------------------------

    def convert_returned(self, call: HandlerCall, reader: Callable[..., _Read], *arguments: object) -> _Read:
        """Converts the value that a handler returned, in the time that the handler has left.

        Raises:
            HandlerError: a body is too long for the wire.
            HandlerTimeout: the conversion, which may run the application's code, took too long.
        """
        verdict = self._timer.call_with_deadline(
            call.deadline, call.start, call.handler, call.socket_id, reader, *arguments
        )
        if isinstance(verdict, HttpResponse) and len(verdict.body) > MAX_DATA:
            text = f"{call.handler} returned a body of {len(verdict.body)} bytes; a worker can send {MAX_DATA} at once"
            raise HandlerError(text)
        return verdict

    def answer_open(self, call: HandlerCall, verdict: HttpResponse | Accept | None) -> None:
        """Sends the verdict of an open handler to the pool."""
        socket_id = call.socket_id
        if verdict is None:
            self._api.append_command(commands.make_open_result(socket_id, 101, [], b""))
            return
        headers = list(verdict.headers.pairs)
        if isinstance(verdict, Accept):
            self._api.append_command(
                commands.make_open_result(socket_id, 101, headers, (verdict.subprotocol or "").encode())
            )
        else:
            body = verdict.body
            command = commands.make_open_result(socket_id, verdict.status, headers, body)
            self._api.append_command(command, len(body))

    def answer_http(self, call: HandlerCall, response: HttpResponse) -> None:
        """Sends the response of an HTTP handler to the pool."""
        headers, body = list(response.headers.pairs), response.body
        command = commands.make_response(call.request_id, response.status, headers, body)
        self._api.append_command(command, len(body))

    def close_failed_socket(self, socket_id: int) -> None:
        """Has the core close a failed socket; later messages of that socket are not handled."""
        self._sockets.closing_sockets.add(socket_id)
        self._api.append_command((commands.HANDLER_FAILED, socket_id))

    def on_call_ended(self, call: HandlerCall) -> None:
        """Acknowledges the message or close that a call has handled."""
        seconds = monotonic() - call.start
        if seconds > self.slow_threshold_s:
            self.record_long_call(call.handler, call.socket_id, seconds)
        if call.handler == MESSAGE:
            self._api.acknowledge_message(call.socket_id, call.message_cost)
        elif call.handler == CLOSE:
            self._acknowledge_close(call.socket_id)

    def _acknowledge_close(self, socket_id: int) -> None:
        """Tells the broker that a socket's close was handled, and removes everything that is kept of the socket."""
        self._api.append_command((commands.CLOSE_HANDLED, socket_id))
        self._sockets.drop_socket(socket_id)

    def report_slowest_call(self, handler: str, socket_id: int, seconds: float, at: float) -> None:
        """Tells the pool of one of the slowest calls so far."""
        self._api.append_command(commands.make_slowest(handler, socket_id, seconds, at))

    def on_call_hung(self, call: HandlerCall) -> None:
        """Raises an AssertionError: without an event loop no async handler runs that could be reported as hung."""
        raise AssertionError(call.handler)


def _run_awaitable(awaitable: Awaitable[object]) -> None:
    """Awaits an awaitable in a new event loop. Called for a `handle_worker_stop` that has returned one."""
    from asyncio import run

    async def await_value() -> None:
        """Awaits the awaitable as a coroutine, which is all that `asyncio.run` takes."""
        await awaitable

    run(await_value())
