"""Everything we touch of aiohttp that it does not promise (written against 3.14).

`HttpProtocol` is aiohttp's `RequestHandler` with five doors built in: parsing slice by slice (so that no read stalls
the loop, and an upgrade costs no task, future or timer), beginning to serve, refusing what follows, one rule for when
the transport is read, and letting go of the transport.
Nothing else in the package may use an underscored name of aiohttp's. `test_aiohttp_private.py` fails when one of
`PRIVATE_NAMES` changes, and when something of aiohttp stays behind after `detach_transport`.
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
"""A request and its body, or what was wrong with it."""

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
"""Attributes of `RequestHandler` used here."""

OVERRIDDEN_NAMES: Final = ("_pause_transport_reading", "_resume_transport_reading")
"""Methods of `RequestHandler` that it calls and that are replaced here."""

TOO_MANY_HEADERS: Final = "Too many headers received"
"""The text by which aiohttp's parser tells that a head has more fields than `max_headers`."""

READ_BUFFER_BYTES: Final = 64 * 1024
"""What is kept of the bytes behind an upgrade before reading stops; of a body that nobody reads yet, twice that."""

PIPELINE_HIGH_WATER: Final = 4
"""Requests read ahead of the one that is being answered before reading stops …"""
PIPELINE_LOW_WATER: Final = 2
"""… and goes on. (aiohttp's own 32 and 16 would let one connection hold 32 bodies.)"""

AIOHTTP_LOG: Final = cast(Logger, GuardedLog("aiohttp.server"))
"""Where aiohttp logs a failure before it answers it."""

NO_BODY: Final = EMPTY_PAYLOAD
"""The body of every request that has none."""

MAX_HEADERS: Final = 256
"""Header fields in a head, and trailer fields behind a body."""


class HttpProtocol(RequestHandler):
    """One connection, while it speaks HTTP.

    Args:
        server: where requests go (`request_handler`) once `start_serving` was called.
        loop: the running loop.
        keepalive_timeout_s: closes a connection that waits this long for its next request.
        max_head_bytes: of the request line, and of each field (the sum is the caller's to watch).
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
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp's own runner switches it off
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
        """The transport until the connection is lost or let go (aiohttp forgets its own when it closes it)."""
        self.unparsed_data = b""
        """Bytes that were read and are not all parsed yet. While there are any, the transport is not read."""
        self.parsed_prefix_bytes = 0
        """How many of them are."""
        self.has_upgrade = False
        """Whether the newest request is one behind which another protocol speaks; what that says waits in `unparsed_data`, and
        the transport is read: only so is a client noticed that does not wait for its answer."""
        self._is_reading = True
        self._is_reading_stopped = False

    def attach_transport(self, transport: asyncio.BaseTransport) -> None:
        """The transport to read from and to write to. aiohttp is told of it in `start_serving`."""
        self.live_transport = cast(asyncio.Transport, transport)

    # Parsing. -------------------------------------------------------------------------------------------------------

    def parse_slice(self, data: bytes) -> tuple[Sequence[ParsedRequest], bool]:
        """Feeds the parser.

        Args:
            data: must not go beyond the end of a message: behind some, aiohttp's parser drops what follows.

        Returns:
            the requests whose heads are complete now, and whether the newest is one behind which another protocol
            speaks: nothing more may be parsed then. What cannot be parsed is returned as an error message.
        """
        parser = self._parser
        assert parser is not None
        try:
            messages, is_upgrade, _ = parser.feed_data(data)
        except HttpProcessingError as error:
            # Its traceback has this frame, and with it this object, in whose queue it is going to stand.
            return [make_failed_request(400, error.with_traceback(None))], False
        return messages, is_upgrade

    def start_serving(self, messages: Sequence[ParsedRequest]) -> None:
        """Lets aiohttp serve: these requests first, then those that `enqueue_requests` adds."""
        assert self.live_transport is not None
        self._request_count = len(messages)
        self._messages.extend(messages)
        super().connection_made(self.live_transport)

    def enqueue_requests(self, messages: Sequence[ParsedRequest]) -> None:
        """Adds requests to those that wait."""
        self._request_count += len(messages)
        self._messages.extend(messages)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Reading the transport. -----------------------------------------------------------------------------------------

    def update_reading(self) -> None:
        """Reads the transport if, and only if, there is room for what it brings.

        aiohttp's own rule pauses its parser too, which then keeps the rest of what it was given; here the parser is
        given only what it is to parse.
        """
        is_full = len(self._messages) >= PIPELINE_HIGH_WATER
        is_behind = bool(self.unparsed_data) and not self.has_upgrade
        self._buffer_paused = is_full or is_behind  # which makes aiohttp's task ask for more when it has taken some
        is_wanted = not (self._buffer_paused or self._reading_paused or self._is_reading_stopped)
        if is_wanted != self._is_reading and self.live_transport is not None and not self.live_transport.is_closing():
            self._is_reading = is_wanted
            if is_wanted:
                self.live_transport.resume_reading()
            else:
                self.live_transport.pause_reading()

    def pause_reading(self) -> None:
        """A body that nobody reads yet has grown large."""
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        """A body is being read, or complete."""
        if self._reading_paused:
            self._reading_paused = False
            if resume_parser:
                self.data_received(b"")

    def drop_unparsed_data(self) -> None:
        """Forgets what was read and is not parsed."""
        self.unparsed_data = b""
        self.parsed_prefix_bytes = 0

    def _pause_transport_reading(self) -> None:
        self.update_reading()

    def _resume_transport_reading(self) -> None:
        self.update_reading()

    def stop_reading(self) -> None:
        """Stops reading the transport until `discard_and_resume_reading`."""
        self._is_reading_stopped = True
        self.update_reading()

    def discard_and_resume_reading(self) -> None:
        """Reads the transport again, whatever it was stopped for: what comes is another's, or discarded."""
        self.drop_unparsed_data()
        self._messages.clear()
        self._reading_paused = self._is_reading_stopped = False
        self.update_reading()

    # While it serves. -----------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether it waits for the next request."""
        return self._waiter is not None

    @property
    def can_parse(self) -> bool:
        """Whether there is room for another request, or another part of a body."""
        return not self._reading_paused and len(self._messages) < PIPELINE_HIGH_WATER and not self._force_close

    @property
    def closes_after_responses(self) -> bool:
        """Whether the connection ends behind the answers that are due."""
        return self._close

    @property
    def queued_request_count(self) -> int:
        """Requests read and not yet begun."""
        return len(self._messages)

    def queued_body_bytes(self) -> int:
        """Returns the size of what has been read of the bodies of requests that have not begun."""
        size = 0
        for _, body in self._messages:
            size += body.total_bytes
        return size

    @property
    def serving_task(self) -> "asyncio.Task[None] | None":
        """aiohttp's task for this connection."""
        return self._task_handler

    def newest_queued_requests(self, count: int) -> list[ParsedRequest]:
        """Returns the `count` requests that were read last (fewer if some have begun)."""
        messages = self._messages
        first = max(len(messages) - count, 0)
        return [messages[index] for index in range(first, len(messages))]

    def replace_newest_with_error(self, status: int, newest: int = 0) -> None:
        """Puts an error in the place of the `newest_queued_requests` last requests, or behind them all; it ends the connection.

        The requests before it are answered first.
        """
        for _ in range(min(newest, len(self._messages))):
            self._messages.pop()
        self.enqueue_requests([make_failed_request(status)])

    def stop_serving(self) -> None:
        """Makes aiohttp's task end behind the current answer without closing the transport, which reads on."""
        self._force_close = True
        self.discard_and_resume_reading()

    # Leaving. -------------------------------------------------------------------------------------------------------

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """Gives the transport away, reading; aiohttp's task, if it runs, ends quietly behind the current handler.

        The caller sets another protocol at once. Afterwards nothing of aiohttp refers to the transport or is reachable
        from it, and no timer or task keeps this object.

        Returns:
            the transport, and the bytes that arrived behind the last request.
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
        self._task_handler = None  # told that there is no task to wait for, the server forgets us at once
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
        """The transport is gone. Nothing stays that could keep this object, or what the client has sent, alive.

        aiohttp is not told why: it would store an exception in a future, which the traceback of that exception holds.
        """
        self.live_transport = None
        self.drop_unparsed_data()
        super().connection_lost(None)
        # aiohttp's task takes one more if it has been told of it already; that it has all the others nobody would see.
        is_told = self._waiter is not None and not self._waiter.cancelled()
        while len(self._messages) > is_told:
            self._messages.pop()


class NoResponse(web.StreamResponse):
    """What a handler returns when the connection is no longer aiohttp's to answer on."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Writes nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Writes nothing."""


def detach_transport(protocol: HttpProtocol) -> tuple[asyncio.Transport, bytes]:
    """See `HttpProtocol.detach_transport`."""
    return protocol.detach_transport()


def make_failed_request(status: int, error: BaseException | None = None) -> ParsedRequest:
    """Returns what stands in the queue of requests for one that cannot be served."""
    return _ErrInfo(status=status, exc=error or HttpBadRequest("refused"), message=""), NO_BODY


def is_size_error(error: BaseException | None) -> bool:
    """Whether aiohttp's parser refused a head because something in it is too long or too much."""
    return isinstance(error, LineTooLong) or getattr(error, "message", "") == TOO_MANY_HEADERS


def fail_body_stream(body: StreamReader) -> None:
    """Tells who reads a body that the rest will not come.

    aiohttp forgets to when the framing of a chunked body is broken: its reader would wait until a time-out.
    """
    body.set_exception(RequestPayloadError("the framing of the body is broken"))


def request_head_of(request: web.BaseRequest) -> RawRequestMessage:
    """Returns what the parser made of a request (`BaseRequest.message` is deprecated, for no substitute)."""
    return request._message


def force_http_1_1_response(request: web.BaseRequest) -> None:
    """Makes the answer to a request in another version of HTTP one in ours."""
    request._version = HttpVersion11


def is_writing_paused(protocol: RequestHandler) -> bool:
    """Whether the transport of a connection waits for its peer to read."""
    return protocol._paused


def has_body(body: StreamReader) -> bool:
    """Whether a request has a body, complete or not."""
    return body is not NO_BODY
