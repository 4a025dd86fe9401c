"""Everything we touch of aiohttp that it does not promise (written against 3.14).

`HttpProtocol` is aiohttp's `RequestHandler` with four doors built in: parsing before aiohttp's task runs (so that an
upgrade costs no task, future or timer), beginning to serve, refusing what follows, and letting go of the transport.
Nothing else in the package may use an underscored name of aiohttp's. `test_aiohttp_private.py` fails when one of
`PRIVATE_NAMES` changes, and when something of aiohttp stays behind after `let_go`.
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

Message: TypeAlias = tuple[RawRequestMessage | _ErrInfo, StreamReader]
"""A request and its body, or what was wrong with it."""

PRIVATE_NAMES: Final = (
    "_buffer_paused",
    "_force_close",
    "_keepalive_handle",
    "_manager",
    "_max_msg_queue_size",
    "_message_tail",
    "_messages",
    "_msg_queue_resume_size",
    "_parser",
    "_pause_reading_for_buffer",
    "_paused",
    "_reading_paused",
    "_request_count",
    "_request_factory",
    "_request_handler",
    "_task_handler",
    "_upgraded",
    "_waiter",
)
"""Attributes of `RequestHandler` used here."""

TOO_MANY_HEADERS: Final = "Too many headers received"
"""The text by which aiohttp's parser tells that a head has more fields than `max_headers`."""

READ_BUFFER_BYTES: Final = 64 * 1024
"""What aiohttp keeps of a body, or of the bytes behind an upgrade, before it stops reading (body: twice that)."""

PIPELINE_HIGH: Final = 4
"""Requests read ahead of the one that is being answered before reading stops …"""
PIPELINE_LOW: Final = 2
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
        server: where requests go (`request_handler`) once `begin` was called.
        loop: the running loop.
        keepalive_timeout_s: closes a connection that waits this long for its next request.
        max_head_bytes: of the request line, and of each field (the sum is the caller's to watch).
    """

    __slots__ = ("wire",)

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
        self._max_msg_queue_size = PIPELINE_HIGH
        self._msg_queue_resume_size = PIPELINE_LOW
        self.wire: asyncio.Transport | None = None
        """The transport until the connection is lost or let go (aiohttp forgets its own when it closes it)."""

    def take(self, transport: asyncio.BaseTransport) -> None:
        """The transport to read from and to write to. aiohttp is told of it in `begin`."""
        self.wire = cast(asyncio.Transport, transport)

    # Before aiohttp serves. -----------------------------------------------------------------------------------------

    def parse(self, data: bytes) -> tuple[Sequence[Message], bool, bytes]:
        """Feeds the parser of a connection that does not serve yet.

        Returns:
            the complete requests, whether the last one asks for an upgrade that aiohttp knows, and the bytes behind it.
            What cannot be parsed is returned as an error message.
        """
        assert self._parser is not None
        try:
            messages, is_upgrade, tail = self._parser.feed_data(data)
        except HttpProcessingError as error:
            return [error_message(400, error)], False, b""
        return messages, is_upgrade, tail

    def begin(self, messages: Sequence[Message], is_upgrade: bool, tail: bytes) -> None:
        """Lets aiohttp serve: these requests first, then whatever comes."""
        assert self.wire is not None
        self._request_count = len(messages)
        self._messages.extend(messages)
        self._upgraded = is_upgrade
        self._message_tail = tail
        if len(messages) >= self._max_msg_queue_size or len(tail) >= READ_BUFFER_BYTES:
            # Before its task starts, which is what resumes (and from Python 3.12 on runs at once).
            self.transport = self.wire
            self._pause_reading_for_buffer()
        super().connection_made(self.wire)

    # While it serves. -----------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether it waits for the next request."""
        return self._waiter is not None

    @property
    def has_upgrade(self) -> bool:
        """Whether the parser has stopped behind an upgrade request."""
        return self._upgraded

    @property
    def request_count(self) -> int:
        """Requests read so far."""
        return self._request_count

    @property
    def waiting(self) -> int:
        """Requests read and not yet begun."""
        return len(self._messages)

    @property
    def task(self) -> "asyncio.Task[None] | None":
        """aiohttp's task for this connection."""
        return self._task_handler

    def newest(self, count: int) -> list[Message]:
        """Returns the `count` requests that were read last (fewer if some have begun)."""
        messages = self._messages
        first = max(len(messages) - count, 0)
        return [messages[index] for index in range(first, len(messages))]

    def refuse(self, status: int, newest: int = 0) -> None:
        """Puts an error in the place of the `newest` last requests, or behind them all; it ends the connection.

        The requests before it are answered first.
        """
        for _ in range(min(newest, len(self._messages))):
            self._messages.pop()
        self._messages.append(error_message(status))
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end_serving(self) -> None:
        """Makes aiohttp's task end behind the current answer without closing the transport, which reads on."""
        self._force_close = True
        self._read_on()

    def pause_reading_here(self) -> None:
        """Stops reading until `let_go` or `end_serving`."""
        if not self._buffer_paused:
            self._buffer_paused = True
            assert self.wire is not None
            self.wire.pause_reading()

    def _read_on(self) -> None:
        if self._reading_paused or self._buffer_paused:
            self._reading_paused = self._buffer_paused = False
            assert self.wire is not None
            self.wire.resume_reading()

    # Leaving. -------------------------------------------------------------------------------------------------------

    def let_go(self) -> tuple[asyncio.Transport, bytes]:
        """Gives the transport away, reading; aiohttp's task, if it runs, ends quietly behind the current handler.

        The caller sets another protocol at once. Afterwards nothing of aiohttp refers to the transport or is reachable
        from it, and no timer or task keeps this object.

        Returns:
            the transport, and the bytes that arrived behind the last request.
        """
        transport = self.wire
        assert transport is not None and not self._paused
        tail = self._message_tail
        self._read_on()
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._keepalive_handle = None
        self._task_handler = None  # told that there is no task to wait for, the server forgets us at once
        if self._manager is not None:
            self._manager.connection_lost(self)
        self._force_close = True
        self._messages.clear()
        self._message_tail = b""
        self._parser = None
        self._manager = None
        self._request_factory = None
        self._request_handler = None
        self.transport = None
        self.wire = None
        return transport, tail


class NoAnswer(web.StreamResponse):
    """What a handler returns when the connection is no longer aiohttp's to answer on."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Writes nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Writes nothing."""


def detach(protocol: HttpProtocol) -> tuple[asyncio.Transport, bytes]:
    """See `HttpProtocol.let_go`."""
    return protocol.let_go()


def error_message(status: int, error: BaseException | None = None) -> Message:
    """Returns what stands in the queue of requests for one that cannot be served."""
    return _ErrInfo(status=status, exc=error or HttpBadRequest("refused"), message=""), NO_BODY


def is_about_size(error: BaseException | None) -> bool:
    """Whether aiohttp's parser refused a head because something in it is too long or too much."""
    return isinstance(error, LineTooLong) or getattr(error, "message", "") == TOO_MANY_HEADERS


def break_body(body: StreamReader) -> None:
    """Tells who reads a body that the rest will not come.

    aiohttp forgets to when the framing of a chunked body is broken: its reader would wait until a time-out.
    """
    body.set_exception(RequestPayloadError("the framing of the body is broken"))


def message_of(request: web.BaseRequest) -> RawRequestMessage:
    """Returns what the parser made of a request (`BaseRequest.message` is deprecated, for no substitute)."""
    return request._message


def answer_in_1_1(request: web.BaseRequest) -> None:
    """Makes the answer to a request in another version of HTTP one in ours."""
    request._version = HttpVersion11


def is_writing_paused(protocol: RequestHandler) -> bool:
    """Whether the transport of a connection waits for its peer to read."""
    return protocol._paused


def has_body(body: StreamReader) -> bool:
    """Whether a request has a body, complete or not."""
    return body is not NO_BODY
