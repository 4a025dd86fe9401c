"""Every use of names that aiohttp does not promise to keep (written against 3.14).

`HttpProtocol` is aiohttp's `RequestHandler` with five additions: parsing slice by slice (so that no read stalls the
loop, and an upgrade costs no task, future or timer), a call that starts to serve, a call that replaces requests by an
error, one rule for when the transport is read, and a call that detaches the transport.
No other module of the package may use an underscored name of aiohttp's. `test_aiohttp_private.py` fails when one of
`PRIVATE_NAMES` changes, and when an object of aiohttp's survives `detach_transport`.
"""

import asyncio
from collections.abc import Sequence
from logging import Logger
from typing import Final, TypeAlias, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpBadRequest, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from wsbroker.guarded_log import GuardedLog

ParsedRequest: TypeAlias = tuple[RawRequestMessage | _ErrInfo, StreamReader]
"""What aiohttp's parser returns: the head and body of a request, or an error message and `NO_BODY`."""

PRIVATE_NAMES: Final = (
    "_buffer_paused",
    "_close",
    "_force_close",
    "_keepalive_handle",
    "_manager",
    "_max_msg_queue_size",
    "_messages",
    "_msg_queue_resume_size",
    "_parser",
    "_paused",
    "_reading_paused",
    "_request_count",
    "_request_factory",
    "_request_handler",
    "_task_handler",
    "_waiter",
)
"""Attributes of `RequestHandler` that this module uses."""

OVERRIDDEN_NAMES: Final = ("_pause_transport_reading", "_resume_transport_reading")
"""Methods that `RequestHandler` calls and that `HttpProtocol` overrides."""

TOO_MANY_HEADERS: Final = "Too many headers received"
"""The text by which aiohttp's parser tells that a head has more fields than `max_headers`."""

READ_BUFFER_BYTES: Final = 64 * 1024
"""How many bytes behind an upgrade are kept before reading stops; of a body that is not collected yet, twice that."""

PIPELINE_HIGH_WATER: Final = 4
"""How many requests may wait behind the one that is being answered before reading stops."""
PIPELINE_LOW_WATER: Final = 2
"""How many requests wait when reading resumes. (aiohttp's own 32 and 16 would let one connection hold 32 bodies.)"""

AIOHTTP_LOG: Final = cast(Logger, GuardedLog("aiohttp.server"))
"""The log to which aiohttp writes a failure before answering it."""

NO_BODY: Final = EMPTY_PAYLOAD
"""The stream that stands for the body of every request without a body."""

MAX_HEADERS: Final = 256
"""The most header fields in a head, and trailer fields behind a body."""


class HttpProtocol(RequestHandler):
    """The asyncio protocol of one connection while the connection speaks HTTP.

    Args:
        server: aiohttp's server, whose `request_handler` answers the requests after `start_serving`.
        loop: the running loop.
        keepalive_timeout_s: how long a connection may wait for its next request before it is closed, in seconds.
        max_head_bytes: the most bytes of the request line, and of each field (the caller has to limit their sum).
    """

    __slots__ = (
        "_is_reading_stopped",
        "_is_reading",
        "has_upgrade",
        "parsed_prefix_bytes",
        "unparsed_data",
        "live_transport",
    )

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, keepalive_timeout_s: float, max_head_bytes: int
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=keepalive_timeout_s,
            tcp_keepalive=False,
            logger=AIOHTTP_LOG,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own runner passes None to switch it off
            max_line_size=max_head_bytes,
            max_field_size=max_head_bytes,
            max_headers=MAX_HEADERS,
            lingering_time=0.0,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
        )
        self._max_msg_queue_size = PIPELINE_HIGH_WATER
        self._msg_queue_resume_size = PIPELINE_LOW_WATER
        self.live_transport: asyncio.Transport | None = None
        """The transport until the connection is lost or detached (aiohttp drops its own when it closes)."""
        self.unparsed_data = b""
        """Bytes that were read and are not all parsed yet. While there are any, the transport is not read."""
        self.parsed_prefix_bytes = 0
        """How many bytes at the beginning of `unparsed_data` are parsed."""
        self.has_upgrade = False
        """Whether the newest request is an upgrade, behind which the client speaks another protocol. Bytes behind the
        request wait in `unparsed_data`, and the transport is read on so that a client that leaves is noticed."""
        self._is_reading = True
        """Whether the transport is being read."""
        self._is_reading_stopped = False
        """Whether `stop_reading` was called."""

    def attach_transport(self, transport: asyncio.BaseTransport) -> None:
        """Stores the transport of the accepted connection; `start_serving` passes the transport to aiohttp later."""
        self.live_transport = cast(asyncio.Transport, transport)

    # Parsing. -------------------------------------------------------------------------------------------------------

    def parse_slice(self, data: bytes) -> tuple[Sequence[ParsedRequest], bool]:
        """Feeds one slice of the input to aiohttp's parser.

        Args:
            data: must not go beyond the end of a message, because behind some messages aiohttp's parser drops the
                following bytes.

        Returns:
            the requests whose heads are complete now, and whether the newest of them is an upgrade, behind which
            nothing may be parsed. For input that cannot be parsed, an error message takes the place of a request.
        """
        parser = self._parser
        assert parser is not None
        try:
            messages, is_upgrade, _ = parser.feed_data(data)
        except HttpProcessingError as error:
            # The traceback refers to this frame and so to this object, in whose queue the error is going to stand.
            return [make_failed_request(400, error.with_traceback(None))], False
        return messages, is_upgrade

    def start_serving(self, messages: Sequence[ParsedRequest]) -> None:
        """Starts aiohttp's task, which answers the given requests and then those that `enqueue_requests` adds."""
        assert self.live_transport is not None
        self._request_count = len(messages)
        self._messages.extend(messages)
        super().connection_made(self.live_transport)

    def enqueue_requests(self, messages: Sequence[ParsedRequest]) -> None:
        """Appends requests to the queue of aiohttp's task, and wakes the task if it waits for a request."""
        self._request_count += len(messages)
        self._messages.extend(messages)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Reading the transport. -----------------------------------------------------------------------------------------

    def update_reading(self) -> None:
        """Pauses or resumes reading the transport, so that it is read exactly while there is room for more input.

        Called after every change of what is queued. (aiohttp's own rule also pauses the parser, which then keeps the
        rest of its input; here the parser gets only input that it is to parse now.)
        """
        is_full = len(self._messages) >= PIPELINE_HIGH_WATER
        is_behind = bool(self.unparsed_data) and not self.has_upgrade
        self._buffer_paused = is_full or is_behind  # so that aiohttp's task resumes reading when it has taken requests
        is_wanted = not (self._buffer_paused or self._reading_paused or self._is_reading_stopped)
        if is_wanted != self._is_reading and self.live_transport is not None and not self.live_transport.is_closing():
            self._is_reading = is_wanted
            if is_wanted:
                self.live_transport.resume_reading()
            else:
                self.live_transport.pause_reading()

    def pause_reading(self) -> None:
        """Marks reading as paused because a body that is not collected yet has grown large. Called by aiohttp."""
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Ends the pause of `pause_reading`, because a body is being collected or is complete. Called by aiohttp.

        Args:
            resume_parser: whether pending input is to be parsed now.
        """
        if self._reading_paused:
            self._reading_paused = False
            if resume_parser:
                self.data_received(b"")

    def drop_unparsed_data(self) -> None:
        """Drops all input that was read and is not parsed."""
        self.unparsed_data = b""
        self.parsed_prefix_bytes = 0

    def _pause_transport_reading(self) -> None:
        """Calls `update_reading` where aiohttp would pause the transport by its own rule. Called by aiohttp."""
        self.update_reading()

    def _resume_transport_reading(self) -> None:
        """Calls `update_reading` where aiohttp would resume the transport by its own rule. Called by aiohttp."""
        self.update_reading()

    def stop_reading(self) -> None:
        """Stops reading the transport until `discard_and_resume_reading`."""
        self._is_reading_stopped = True
        self.update_reading()

    def discard_and_resume_reading(self) -> None:
        """Drops pending input and queued requests, and reads the transport again, for whatever reason reading stopped.

        Called when further input belongs to another protocol or is going to be discarded.
        """
        self.drop_unparsed_data()
        self._messages.clear()
        self._reading_paused = self._is_reading_stopped = False
        self.update_reading()

    # While aiohttp serves. ------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether aiohttp's task waits for the next request."""
        return self._waiter is not None

    @property
    def can_parse(self) -> bool:
        """Whether the queue has room for another request, or a body for another part."""
        return not self._reading_paused and len(self._messages) < PIPELINE_HIGH_WATER and not self._force_close

    @property
    def closes_after_responses(self) -> bool:
        """Whether aiohttp closes the connection after the responses that are due."""
        return self._close

    @property
    def queued_request_count(self) -> int:
        """How many requests wait in the queue of aiohttp's task."""
        return len(self._messages)

    def queued_body_bytes(self) -> int:
        """Returns how many bytes of bodies have been read for the requests that wait in the queue."""
        size_bytes = 0
        for _, body in self._messages:
            size_bytes += body.total_bytes
        return size_bytes

    @property
    def serving_task(self) -> "asyncio.Task[None] | None":
        """aiohttp's task for this connection, None before `start_serving` and after the end."""
        return self._task_handler

    def newest_queued_requests(self, count: int) -> list[ParsedRequest]:
        """Returns the newest `count` requests in the queue of aiohttp's task; fewer if the queue is shorter."""
        messages = self._messages
        first = max(len(messages) - count, 0)
        return [messages[index] for index in range(first, len(messages))]

    def replace_newest_with_error(self, status: int, replaced_count: int = 0) -> None:
        """Replaces the newest requests in the queue of aiohttp's task by an error response, which ends the connection.

        The requests before them are answered first.

        Args:
            status: the status of the error response.
            replaced_count: how many requests to replace; 0 puts the error behind all requests.
        """
        for _ in range(min(replaced_count, len(self._messages))):
            self._messages.pop()
        self.enqueue_requests([make_failed_request(status)])

    def stop_serving(self) -> None:
        """Makes aiohttp's task end after the current response, without closing the transport, which is read on."""
        self._force_close = True
        self.discard_and_resume_reading()

    # Writing. -------------------------------------------------------------------------------------------------------

    @property
    def is_writing_paused(self) -> bool:
        """Whether the transport waits for the client to read."""
        return self._paused

    def count_unsent_bytes(self) -> None:
        """Counts the response bytes in the transport's buffer. Called after a write while writing is paused."""

    # Ending. --------------------------------------------------------------------------------------------------------

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """Detaches the transport from this protocol and from aiohttp, for the caller to set another protocol at once.

        Afterwards no object of aiohttp's refers to the transport or is reachable from it, and no timer or task keeps
        this object. aiohttp's task, if it runs, ends quietly after the current handler.

        Returns:
            the transport, which is being read, and the bytes that arrived behind the last request.
        """
        transport = self.live_transport
        assert transport is not None and not self._paused
        tail = self.unparsed_data
        if tail or not self._is_reading:
            self.discard_and_resume_reading()
        self._messages.clear()
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._keepalive_handle = None
        self._task_handler = None  # without a task to wait for, the server drops this connection at once
        if self._manager is not None:
            self._manager.connection_lost(self)
        self._force_close = True
        self._parser = None
        self._manager = None
        self._request_factory = None
        self._request_handler = None
        self.transport = None
        self.live_transport = None
        return transport, tail

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drops everything that could keep this object or the client's input alive. Called when the transport is lost.

        aiohttp does not get the exception: it would store `exc` in a future, to which the traceback of `exc` refers.
        """
        self.live_transport = None
        self.drop_unparsed_data()
        super().connection_lost(None)
        # aiohttp's task takes one more request if it was woken for that request; the others would never be answered.
        is_woken = self._waiter is not None and not self._waiter.cancelled()
        while len(self._messages) > is_woken:
            self._messages.pop()


class NoResponse(web.StreamResponse):
    """A response that writes nothing, for aiohttp, when the connection no longer belongs to aiohttp."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Writes no head, because the connection does not belong to aiohttp any more. Called by aiohttp."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Writes no body, because the connection does not belong to aiohttp any more. Called by aiohttp."""


def make_failed_request(status: int, error: BaseException | None = None) -> ParsedRequest:
    """Returns a stand-in for a request, to which aiohttp's task makes an error response.

    Args:
        status: the status of the error response.
        error: the exception that the stand-in carries; None: an `HttpBadRequest`.
    """
    return _ErrInfo(status=status, exc=error or HttpBadRequest("refused"), message=""), NO_BODY


def is_size_error(error: BaseException | None) -> bool:
    """Returns whether aiohttp's parser refused a head because a line is too long or there are too many fields."""
    return isinstance(error, LineTooLong) or getattr(error, "message", "") == TOO_MANY_HEADERS


def fail_body_stream(body: StreamReader) -> None:
    """Sets an exception on the stream of a body whose framing is broken, so that the body's reader stops waiting.

    (aiohttp does not do that when a chunked body is malformed: the reader would wait until a time-out.)
    """
    body.set_exception(RequestPayloadError("the framing of the body is broken"))


def request_head_of(request: web.BaseRequest) -> RawRequestMessage:
    """Returns the parsed head of a request (`BaseRequest.message` is deprecated, without a substitute)."""
    return request._message


def force_http_1_1_response(request: web.BaseRequest) -> None:
    """Makes aiohttp answer a request in HTTP/1.1, whatever version the request has."""
    request._version = HttpVersion11


def has_body(body: StreamReader) -> bool:
    """Returns whether the stream of a request's body stands for a body at all, complete or not."""
    return body is not NO_BODY
