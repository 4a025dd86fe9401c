"""Converts aiohttp's request heads into `HttpRequest`, and `HttpResponse` into bytes on the connection.

The header rules stand here: fields about one connection (hop-by-hop, RFC 9110 section 7.6.1) are set by the server, not
by a handler; fields about the content are the handler's.
"""

import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion, HttpVersion11

from wsbroker.front.aiohttp_private import HttpProtocol
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

SERVER_NAME: Final = "wsbroker"
"""The value of the Server field, if a handler sets none."""

_SERVER_FIELDS: Final = frozenset(
    {
        "connection",
        "content-length",  # not hop-by-hop, but the length of the body that the server writes
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that only the server sets, in lower case; a handler's are dropped."""
_STATUSES_WITHOUT_BODY: Final = frozenset({204, 205, 304})
_PHRASE_BY_STATUS: Final = {status.value: status.phrase for status in HTTPStatus}
_SERVER_FIELD: Final = ("Server", SERVER_NAME)
_DEFAULT_TYPE_FIELD: Final = ("Content-Type", "application/octet-stream")
"""The type of a body for which the handler sets no type (RFC 9110 section 8.3)."""

LARGE_BODY_BYTES: Final = 64 * 1024
"""A body of this size or more is written by itself; a smaller body is copied behind its head for one write."""


def request_from_head(head: RawRequestMessage, remote: str, body: bytes) -> HttpRequest:
    """Creates the request that handlers see from its parsed head and its body.

    Args:
        head: the head. Its target is ASCII, because the parser refuses anything else.
        remote: the client's address, ``""`` for a Unix socket.
        body: the whole body, without its transfer coding.
    """
    return HttpRequest(head.method, head.path, header_fields_of(head), body, remote=remote, scheme="http")


def content_length(head: RawRequestMessage) -> int | None:
    """Returns the value of the Content-Length field of a request, None if the request has none.

    (The parser accepts 64 bits, and any number of leading zeros, which would make `int` slow.)
    """
    length = head.headers.get(hdrs.CONTENT_LENGTH)
    return None if length is None else int(length.lstrip("0") or "0")


def header_fields_of(head: RawRequestMessage) -> list[tuple[str, str]]:
    """Returns the (name, value) pairs of a request's header fields in their order.

    A value that is not UTF-8, which aiohttp decodes to lone surrogates, is decoded as Latin-1 instead: that is what
    such bytes have always meant in HTTP (RFC 9110 section 5.5).
    """
    fields = list(head.headers.items())
    for _, value in fields:
        if not value.isascii():
            return [(name, _decode_surrogates(value)) for name, value in fields]
    return fields


def _decode_surrogates(value: str) -> str:
    """Decodes a header field's value as Latin-1 if it has lone surrogates in it; returns any other value unchanged.

    aiohttp makes lone surrogates of the bytes that are not UTF-8.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


class CompleteResponse:
    """A response that is complete when it is made: head and body leave in one write.

    It takes the place of a `web.StreamResponse` and has the three attributes that aiohttp's protocol uses: `prepare`,
    `write_eof`, `keep_alive`. aiohttp's own responses can be changed until the last moment, which costs 8 µs of a
    request's 50 (``python -m benchmarks http``).

    Args:
        status: the status.
        fields: the (name, value) pairs of the header fields, except Connection and Content-Length.
        body: the bytes to send behind the head.
        content_length: the value of the Content-Length field; None: the response has no such field.
        connection_options: options of the Connection field, beside ``close`` and ``keep-alive``.
        is_last: whether the connection is closed after this response.
    """

    __slots__ = ("unsent_body", "fields", "keep_alive", "content_length", "on_written", "connection_options", "status")

    def __init__(
        self,
        status: int,
        fields: list[tuple[str, str]],
        body: bytes,
        content_length: int | None,
        connection_options: tuple[str, ...] = (),
        is_last: bool = False,
    ) -> None:
        self.status: Final = status
        self.fields: Final = fields
        self.unsent_body = body
        self.content_length: Final = content_length
        self.connection_options: Final = connection_options
        self.keep_alive = not is_last
        """Whether the connection stays open after this response; final once the response is written."""
        self.on_written: Callable[[], None] | None = None
        """Called when the response is written."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Writes the whole response, and waits while the client does not read. Called by aiohttp.

        Raises:
            ConnectionError: the connection is closed or closing.
            ValueError: a field has a line break or a NUL in it; nothing is written.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        self.keep_alive = self.keep_alive and bool(request.keep_alive)
        head = self.encode_head(request.version)
        content, self.unsent_body = self.unsent_body, b""
        if len(content) < LARGE_BODY_BYTES:
            transport.write(head + content)
        else:
            transport.write(head)
            transport.write(content)
        # If the client leaves now, this frame stays in a cycle with its traceback until a garbage collection.
        del content
        connection = cast(HttpProtocol, request.protocol)
        if connection.is_writing_paused:
            connection.count_unsent_bytes()
            await request.writer.drain()
        if self.on_written is not None:
            self.on_written()

    async def write_eof(self) -> None:
        """Does nothing, because `prepare` has written the body. Called by aiohttp."""

    def encode_head(self, version: HttpVersion) -> bytes:
        """Encodes the status line and the header fields, with the empty line behind them.

        Args:
            version: the version of HTTP in which the request came.

        Raises:
            ValueError: a field has a line break or a NUL in it, past the checks of `HttpResponse`.
        """
        status = self.status
        lines = [f"HTTP/{version.major}.{version.minor} {status} {_PHRASE_BY_STATUS.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        if self.content_length is not None:
            lines.append(f"Content-Length: {self.content_length}")
        options = self.connection_options
        if version >= HttpVersion11:
            if not self.keep_alive:
                options = (*options, "close")
        elif self.keep_alive:
            options = (*options, "keep-alive")
        if options:
            lines.append(f"Connection: {', '.join(options)}")
        text = "\r\n".join(lines) + "\r\n\r\n"
        line_breaks = len(lines) + 1
        if text.count("\r") != line_breaks or text.count("\n") != line_breaks or "\0" in text:
            raise ValueError("a header field of the answer has a line break or a NUL in it")
        return text.encode()


def make_complete_response(response: HttpResponse, method: str, is_last: bool = False) -> CompleteResponse:
    """Creates the response for aiohttp's task from a handler's or the server's response.

    Args:
        response: the response.
        method: the method of the request; a response to HEAD has no body.
        is_last: whether the connection is closed afterwards. (A handler can ask for that too, with
            ``Connection: close``.)
    """
    status = response.status
    fields: list[tuple[str, str]] = []
    options: tuple[str, ...] = ()
    has_type = has_server = has_date = False
    for field in response.headers.pairs:
        lowered = field[0].lower()
        if lowered not in _SERVER_FIELDS:
            fields.append(field)
            has_type = has_type or lowered == "content-type"
            has_server = has_server or lowered == "server"
            has_date = has_date or lowered == "date"
        elif lowered == "connection":
            is_last = is_last or "close" in [option.strip().lower() for option in field[1].split(",")]
        elif lowered == "upgrade" and status == 426 and not options:
            # Only in this response is Upgrade part of the content: RFC 9110 section 15.5.22, and section 7.8 for the
            # option in Connection.
            fields.append(field)
            options = ("upgrade",)
    if not has_server:
        fields.append(_SERVER_FIELD)
    if not has_date:
        fields.append(("Date", current_date_field()))
    if status in _STATUSES_WITHOUT_BODY:
        return CompleteResponse(status, fields, b"", 0 if status == 205 else None, options, is_last)
    body = response.body
    if body and not has_type:
        fields.append(_DEFAULT_TYPE_FIELD)
    if method == hdrs.METH_HEAD:
        return CompleteResponse(status, fields, b"", len(body) or None, options, is_last)
    return CompleteResponse(status, fields, body, len(body), options, is_last)


_cached_date = (0, "")
"""The second of `current_date_field`'s last value, and that value."""


def current_date_field() -> str:
    """Returns the current time in the format of a Date field (RFC 9110 section 5.6.7); formats it once a second."""
    global _cached_date
    now_s = int(time.time())
    if _cached_date[0] != now_s:
        _cached_date = (now_s, formatdate(now_s, usegmt=True))
    return _cached_date[1]
