"""An accepted connection while it speaks HTTP (asyncio protocol): its states, until it ends or becomes a WebSocket.

    event / state              NEW          OPENING      SERVING          LINGERING    OVER_LIMIT
    accepted past the limit    OVER_LIMIT
    upgrade, no open handler   ENDED                     ENDED
    upgrade, open handler      OPENING                   (waits)
    open handler accepts                    ENDED        ENDED
    open handler refuses                    SERVING      (last response)
    other request, bad input   SERVING                   (queued)
    last response written                                LINGERING
    other input                (parsed)     (kept)       (parsed)         (discarded)  503, LINGERING
    head deadline              close                     close if idle
    body deadline                                        (408)
    linger deadline                                                       close        503, close
    write deadline                                       abort            abort        abort
    the front stops            close                     close if idle    close        close
    failure of our own code    500, close   500, close   abort            abort        abort
    connection lost            ENDED        ENDED        ENDED            ENDED        ENDED

The main events. Capitals name the next state; an empty field means that the event does not occur or changes nothing. A
closed or aborted transport is lost soon after. ENDED is final: the transport is lost, or detached for a WebSocket
connection.
In NEW this protocol feeds aiohttp's parser directly, so that the usual connection (one upgrade request in one segment)
costs no task, no future and no timer. All other requests are answered by aiohttp's own task (SERVING).
All attributes are assigned here or in the base class `RequestReader`, by methods that are named for events.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import ParsedRequest
from wsbroker.front.connection_resources import ConnectionResources
from wsbroker.front.conversion import make_complete_response
from wsbroker.front.error_responses import (
    ENCODED_CONNECTION_LIMIT_REACHED,
    ENCODED_INTERNAL_ERROR,
    error_response_for,
)
from wsbroker.front.interfaces import OpeningConnection
from wsbroker.front.request_reader import ENDED, LINGERING, NEW, OPENING, OVER_LIMIT, SERVING, RequestReader
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import HttpResponse

log: Final = GuardedLog(__name__)

STATE_NAMES: Final = ("fresh", "opening", "serving", "leaving", "turned away", "gone")
"""The names of the states in log lines."""

HALF_CLOSED_CHECK_S: Final = 0.02
"""After this time a half-closed connection is closed if it is answered already; aiohttp's task knows by then."""

RESPONSES_PER_LOOP_TURN: Final = 16
"""How many pipelined requests of a connection are answered before other connections have their turn (where a handler
awaits nothing, aiohttp would go on until all input is answered: a read can hold 7,000 requests)."""


class HttpConnectionOwner(Protocol):
    """The front as its HTTP connections use it."""

    def admit_http_connection(self, connection: "HttpConnection") -> bool:
        """Adds an accepted connection to the table; returns whether it is under the limit of connections."""
        ...

    def remove_http_connection(self, connection: "HttpConnection") -> None:
        """Removes from the table a connection that is lost or detached."""
        ...

    def discard_opening_socket(self, connection: "HttpConnection") -> None:
        """Discards the socket, if there is one, whose open handler runs for a lost connection."""
        ...

    def upgrade_first_request(self, connection: "HttpConnection", head: RawRequestMessage) -> None:
        """Answers the first request of a connection, an upgrade without a body."""
        ...


class HttpConnection(RequestReader):
    """The asyncio protocol of one accepted connection while it speaks HTTP; see the module for its states.

    Args:
        resources: the limits, deadlines, counts and the log that all connections share.
        owner: the front, which keeps the table of connections.
    """

    __slots__ = (
        "_last_unsent_bytes",
        "_owner",
        "answer_bytes",
        "first_request_refusal",
        "is_half_closed",
        "is_last_request_read",
        "opening_connection",
    )

    def __init__(self, resources: ConnectionResources, owner: HttpConnectionOwner) -> None:
        super().__init__(resources)
        self._owner: Final = owner
        self.opening_connection: OpeningConnection | None = None
        """The WebSocket connection whose open handler is running."""
        self.first_request_refusal: HttpResponse | None = None
        """The response to the first request, if it was decided before aiohttp served."""
        self.is_half_closed = False
        """Whether the client has closed its side."""
        self.is_last_request_read = False
        """Whether the connection is closed after the requests that have been read."""
        self._last_unsent_bytes = 0
        """The size of the transport's buffer when its progress was last checked."""
        self.answer_bytes = 0
        """This connection's part of `ConnectionResources.answer_bytes`."""

    def __repr__(self) -> str:
        return f"<HttpConnection {self.remote or 'unix'} {STATE_NAMES[self.state]}>"

    # Called by the transport. ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the deadline for the first head, or marks the connection as over the limit of connections."""
        self.attach_transport(transport)
        try:
            if self._owner.admit_http_connection(self):
                self.resources.head_deadlines.add(self)
            else:
                self.state = OVER_LIMIT
                self.resources.start_linger_deadline(self)
        except Exception:
            self.close_after_failure()

    def data_received(self, data: bytes) -> None:
        """Parses, keeps, discards or refuses input, depending on the state.

        Called by the transport, and by aiohttp with ``b""`` to parse pending input.

        Args:
            data: bytes from the client, split anywhere.
        """
        state = self.state
        try:
            if state == NEW or state == SERVING:
                self.read_input(data)
            elif state == OPENING:
                self.unparsed_data += data
                self.limit_early_bytes()
                self.count_held_bytes()
            elif state == OVER_LIMIT:
                assert self.live_transport is not None
                self.live_transport.write(ENCODED_CONNECTION_LIMIT_REACHED)
                self._start_lingering()
        except Exception:
            self.close_after_failure()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps a half-closed connection
        """Closes a connection whose client has closed its side, unless there are complete requests to answer.

        (The client may still read.) Called by the transport.

        Returns:
            whether the connection stays open.
        """
        if self.state != SERVING or self.is_idle or self.has_upgrade or self.incomplete_body is not None:
            return False
        self.is_half_closed = self.is_last_request_read = True
        self.resources.head_deadlines.add(self)
        self.resources.loop.call_later(HALF_CLOSED_CHECK_S, self._close_if_answered)
        return True

    def _close_if_answered(self) -> None:
        """Closes the connection, whose client has closed its side, if no request is being answered any more.

        Called HALF_CLOSED_CHECK_S after `eof_received` has kept the connection open.
        """
        if self.state == SERVING and self.is_idle and self.live_transport is not None:
            self.live_transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Removes the lost connection from the front, and drops all data of its requests. Called by the transport."""
        if self.state == ENDED:
            return
        self.state = ENDED
        try:
            self._remove_from_front()
            self._owner.discard_opening_socket(self)
        except Exception:
            log.exception("cannot forget a lost connection")
        super().connection_lost(exc)
        self.incomplete_body = None
        self.abort_current_body(400)
        self.release_counted_bytes()

    def pause_writing(self) -> None:
        """Starts the write deadline, because the client does not read its responses."""
        super().pause_writing()
        self._start_write_deadline()

    def resume_writing(self) -> None:
        """Ends the write deadline, because the client has read nearly everything.

        While the transport is closing the deadline stays: no other event would show that the rest is not read.
        """
        super().resume_writing()
        self._subtract_unsent_bytes()
        if self.live_transport is None or not self.live_transport.is_closing():
            self.resources.write_deadlines.remove(self)

    # Unsent bytes. --------------------------------------------------------------------------------------------------

    def count_unsent_bytes(self) -> None:
        """Counts the response bytes in the transport's buffer, unless the transport is closing.

        Called after a write while writing is paused.
        """
        if self.live_transport is not None and not self.live_transport.is_closing():
            self._add_unsent_bytes(self.live_transport)

    def _add_unsent_bytes(self, transport: asyncio.Transport) -> None:
        """Adds the bytes by which the transport's buffer has grown to the unsent bytes of this and of all connections.

        Called after a write while the client reads slowly, and when the write deadline starts. Bytes that the client
        reads stay counted until it has read nearly all: a transport frees a response as a whole. If the sum of all
        connections passes its limit, the slowest other connections are aborted.
        """
        new_bytes = transport.get_write_buffer_size() - self.answer_bytes
        if new_bytes > 0:
            self.answer_bytes += new_bytes
            self.resources.add_answer_bytes(new_bytes, self)

    def _subtract_unsent_bytes(self) -> None:
        """Subtracts this connection's unsent bytes from the sum of all connections, and sets them to 0.

        Called when the client has read nearly all, and when the connection is aborted, lost or detached.
        """
        self.resources.answer_bytes -= self.answer_bytes
        self.answer_bytes = 0

    def _start_write_deadline(self) -> None:
        """Starts the deadline within which the client must read some of the unsent bytes, and counts these bytes.

        Called when writing is paused, and when the connection closes while bytes are unsent.
        """
        transport = self.live_transport
        assert transport is not None
        self._last_unsent_bytes = transport.get_write_buffer_size()
        self.resources.write_deadlines.add(self)
        self._add_unsent_bytes(transport)

    def abort_unread_responses(self) -> None:
        """Aborts the connection because its client reads too slowly and all clients together leave too much unread."""
        self._subtract_unsent_bytes()
        self.resources.write_deadlines.remove(self)
        self.abort_transport()

    # Deadlines. -----------------------------------------------------------------------------------------------------

    def on_head_timeout(self) -> None:
        """Closes the connection; while a request is being answered, starts the deadline again instead.

        Called by `head_deadlines`.
        """
        if self.live_transport is None:
            return
        log.debug("no request head in time remote=%s", self.remote)
        if self.state != SERVING:
            self.live_transport.close()
        elif self.is_idle:
            self.force_close()
        else:
            self.resources.head_deadlines.add(self)  # the next head has time until the current request is answered

    def on_write_timeout(self) -> None:
        """Aborts the connection if the client has read nothing since the last check. Called by `write_deadlines`."""
        transport = self.live_transport
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent < self._last_unsent_bytes:
            self._last_unsent_bytes = unsent
            self.resources.write_deadlines.add(self)
        else:
            self.resources.log.warn_or_count("answer not taken remote=%s unsent_bytes=%d", self.remote, unsent)
            transport.abort()

    def on_linger_timeout(self) -> None:
        """Closes the connection, after a 503 if it is over the limit of connections. Called by `linger_deadlines`."""
        transport = self.live_transport
        if transport is not None:
            if self.state == OVER_LIMIT:
                transport.write(ENCODED_CONNECTION_LIMIT_REACHED)
            transport.close()
            if transport.get_write_buffer_size():
                self._start_write_deadline()

    # Called when the front stops. -----------------------------------------------------------------------------------

    def close_after_response(self) -> None:
        """Closes the connection at once if it is idle, else after the current response."""
        self.is_last_request_read = True
        if self.state == SERVING:
            if self.is_idle:
                self.force_close()
            else:
                self.close()  # after the current response, also if it was made before the stop began
        elif self.state in (NEW, LINGERING, OVER_LIMIT) and self.live_transport is not None:
            self.live_transport.close()

    def abort_incomplete_request(self) -> None:
        """Aborts the connection if a request's body is incomplete: a client could hold up the stop with it."""
        if self.incomplete_body is not None:
            self.abort_transport()

    def abort_transport(self) -> None:
        """Aborts the transport, if it is not lost yet."""
        if self.live_transport is not None:
            self.live_transport.abort()

    # Upgrades. ------------------------------------------------------------------------------------------------------

    def begin_upgrade(self, head: RawRequestMessage) -> None:
        """Answers the first request, which is an upgrade without a body."""
        self._owner.upgrade_first_request(self, head)

    def begin_opening(self, connection: OpeningConnection) -> None:
        """Records the WebSocket connection that is opening, and keeps further input. Called before its open handler."""
        self.opening_connection = connection
        if self.state == NEW:
            self.state = OPENING
            self.resources.head_deadlines.remove(self)
            if self.unparsed_data:
                self.limit_early_bytes()
                self.count_held_bytes()

    def end_opening(self) -> OpeningConnection | None:
        """Returns the WebSocket connection that was opening, and clears the record; None if there is none."""
        connection, self.opening_connection = self.opening_connection, None
        return connection

    def refuse_first_request(self, head: RawRequestMessage, response: HttpResponse) -> None:
        """Answers the first request, an upgrade, with a response instead of the 101, and discards further input."""
        self.first_request_refusal = response
        self.discards_input = True
        self.drop_unparsed_data()
        self.begin_serving([(head, aiohttp_private.NO_BODY)])

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """Ends this protocol for a WebSocket connection that takes the transport over.

        Returns:
            the transport, and the bytes that arrived behind the last request.
        """
        self.state = ENDED
        self.opening_connection = None
        self._remove_from_front()
        self.release_counted_bytes()
        return super().detach_transport()

    def _remove_from_front(self) -> None:
        """Removes the connection from the front's table, from all deadlines and from the queue of connections to parse.

        Subtracts its unsent bytes from the sum of all connections. Called when the connection is lost or becomes a
        WebSocket connection.
        """
        resources = self.resources
        self._owner.remove_http_connection(self)
        if self.answer_bytes:
            self._subtract_unsent_bytes()
        resources.head_deadlines.remove(self)
        resources.write_deadlines.remove(self)
        resources.linger_deadlines.remove(self)
        if self.body_collector is not None:
            resources.body_deadlines.remove(self)
        resources.parse_scheduler.remove_connection(self)

    # Responses. -----------------------------------------------------------------------------------------------------

    def begin_serving(self, requests: Sequence[ParsedRequest]) -> None:
        """Hands the connection over to aiohttp's task, which answers the given requests first."""
        self.state = SERVING
        self.resources.head_deadlines.remove(self)
        self.start_serving(requests)

    def begin_response(self) -> bool:
        """Counts a response that begins; returns True if other connections are to be served before it."""
        self.response_count += 1
        return self.response_count % RESPONSES_PER_LOOP_TURN == 0

    def pop_first_request_refusal(self) -> HttpResponse | None:
        """Returns the response with which the first request is refused, once; None if there is none."""
        refusal, self.first_request_refusal = self.first_request_refusal, None
        return refusal

    @property
    def is_answering_last_request(self) -> bool:
        """Whether the connection is closed after the response to the current request."""
        return self.is_last_request_read and not self.queued_request_count or self.resources.is_stopping

    def make_last_response(self, response: HttpResponse, method: str = "GET") -> web.StreamResponse:
        """Makes the response after which the connection is closed; further input is discarded.

        Args:
            response: the response.
            method: the method of its request.
        """
        self.discards_input = True
        last_response = make_complete_response(response, method, is_last=True)
        last_response.on_written = self._on_last_response_written
        return cast(web.StreamResponse, last_response)

    def _on_last_response_written(self) -> None:
        """Starts to wait for the client to close. Called when the response of `make_last_response` is written."""
        if self.state == SERVING:
            self._start_lingering()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Makes the response to a request that could not be parsed, or whose processing by aiohttp raised `exc`.

        Called by aiohttp. The response never repeats what the client sent.
        """
        if status >= 500:
            if status == 503:  # `_refuse_unfinished_requests` has logged the reason
                return self.make_last_response(error_response_for(503))
            log.error("cannot answer remote=%s", self.remote, exc_info=exc)
        else:
            if aiohttp_private.is_size_error(exc):
                status = 431
            problem = type(exc).__name__
            self.resources.log.warn_or_count("bad request remote=%s status=%d problem=%s", self.remote, status, problem)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        aiohttp_private.force_http_1_1_response(request)
        return self.make_last_response(error_response_for(status))

    async def start(self) -> None:
        """Runs aiohttp's task for this connection, then starts the write deadline for bytes that are unsent."""
        try:
            await super().start()
        finally:
            if self.state == SERVING and self.live_transport is not None:
                # The transport is closing; the client has `write_timeout` for each bit of progress.
                self._start_write_deadline()

    def _start_lingering(self) -> None:
        """Closes the sending side, and discards input until the client closes or LINGER_S is over.

        Called when the last response is written; closes the connection if the client has closed its side already.
        Closing at once would reset the connection because of input that was not read, and the client would lose the
        response.
        """
        self.state = LINGERING
        transport = self.live_transport
        assert transport is not None
        self.stop_serving()
        if self.is_half_closed:
            transport.close()
        else:
            try:
                transport.write_eof()
            except (OSError, RuntimeError):  # closing already
                transport.close()
        self.resources.head_deadlines.remove(self)
        self.resources.start_linger_deadline(self)

    def close_after_failure(self) -> None:
        """Closes the connection after an exception in the server's own code. Called while the exception is handled."""
        state = self.state
        transport = self.live_transport
        if transport is not None and not transport.is_closing():
            if state in (NEW, OPENING):
                transport.write(ENCODED_INTERNAL_ERROR)
                transport.close()
            else:
                transport.abort()
        log.error("connection failed remote=%s state=%s", self.remote, STATE_NAMES[state], exc_info=True)
