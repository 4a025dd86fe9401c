"""Plain HTTP between aiohttp's types and ours.

The header rules stand here: what is about one connection (hop-by-hop, RFC 9110 section 7.6.1) is ours to say, not a
handler's; what is about the content is the handler's.
"""

import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion, HttpVersion11

from wsbroker.errors import HandshakeError
from wsbroker.front.aiohttp_private import is_writing_paused
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

if TYPE_CHECKING:
    from wsbroker.front.http_connection import HttpConnection

SERVER_NAME: Final = "wsbroker"

CONNECTION_LIMIT_TEXT: Final = "this server has no room for another connection; try again later"
REQUEST_BYTES_LIMIT_TEXT: Final = "this server holds too many unfinished requests; try again later"
RETRY_AFTER_S: Final = 5

_RESERVED_FIELDS: Final = frozenset(
    {
        "connection",
        "content-length",  # not hop-by-hop, but it is the length of what we write
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_STATUSES_WITHOUT_BODY: Final = frozenset({204, 205, 304})
_PHRASE_BY_STATUS: Final = {status.value: status.phrase for status in HTTPStatus}
_SERVER_FIELD: Final = ("Server", SERVER_NAME)
_DEFAULT_TYPE_FIELD: Final = ("Content-Type", "application/octet-stream")
"""What a body is that nobody says anything about (RFC 9110 section 8.3)."""

LARGE_BODY_BYTES: Final = 64 * 1024
"""A body of this size is not copied to stand behind its head."""


def error_response(status: int, text: str = "", headers: Iterable[tuple[str, str]] = ()) -> HttpResponse:
    """Returns an answer in plain text; without `text` it is the status and its reason phrase."""
    fields = [("Content-Type", "text/plain; charset=utf-8"), *headers]
    return HttpResponse(status, fields, (text or f"{status} {HTTPStatus(status).phrase}") + "\n")


def handshake_error_response(error: HandshakeError) -> HttpResponse:
    """Returns the answer to an upgrade request that breaks the rules."""
    return error_response(error.status, escape(error.reason, quote=False), error.headers)


def connection_limit_response() -> HttpResponse:
    """Returns the answer to a connection too many."""
    return error_response(503, CONNECTION_LIMIT_TEXT, [("Retry-After", str(RETRY_AFTER_S))])


def request_bytes_limit_response() -> HttpResponse:
    """Returns the answer to a request for whose bytes there is no room (`max_request_bytes_total`)."""
    return error_response(503, REQUEST_BYTES_LIMIT_TEXT, [("Retry-After", str(RETRY_AFTER_S))])


def encode_response(answer: HttpResponse) -> bytes:
    """Returns an answer as bytes, for a connection that aiohttp does not serve; it ends the connection."""
    pairs = [*answer.headers.pairs, ("Content-Length", str(len(answer.body))), ("Connection", "close")]
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{key}: {value}" for key, value in pairs),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


RAW_CONNECTION_LIMIT: Final = encode_response(connection_limit_response())
RAW_INTERNAL_ERROR: Final = encode_response(error_response(500))


def request_from_head(message: RawRequestMessage, remote: str, body: bytes) -> HttpRequest:
    """Returns the request as handlers see it.

    Args:
        message: its head. Its target is ASCII: the parser refuses anything else.
        remote: the peer's address, ``""`` for a Unix socket.
        body: as it was sent, but for its transfer coding.
    """
    return HttpRequest(message.method, message.path, header_fields_of(message), body, remote=remote, scheme="http")


def content_length(message: RawRequestMessage) -> int | None:
    """Returns what Content-Length says, None without one. The parser lets 64 bits through, and any number of zeros."""
    length = message.headers.get(hdrs.CONTENT_LENGTH)
    return None if length is None else int(length.lstrip("0") or "0")


def header_fields_of(message: RawRequestMessage) -> list[tuple[str, str]]:
    """Returns the header fields in their order, without the lone surrogates in which aiohttp hides what is not UTF-8.

    Such values are read as Latin-1, which is what those bytes always meant in HTTP (RFC 9110 section 5.5).
    """
    fields = list(message.headers.items())
    for _, value in fields:
        if not value.isascii():
            return [(name, _decode_surrogates(value)) for name, value in fields]
    return fields


def _decode_surrogates(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


class CompleteResponse:
    """An answer that is complete: head and body leave in one write.

    It stands in for a `web.StreamResponse`, with the three things that aiohttp's protocol asks one for: `prepare`,
    `write_eof`, `keep_alive`. aiohttp's own can be changed until the last moment, which costs 8 µs of a request's 50
    (``python -m benchmarks http``).

    Args:
        fields: the header fields, but for Connection, and what says how long the body is.
        body: to be sent behind the head.
        length: what Content-Length says; None: nothing.
        options: of Connection, besides what this connection needs.
        is_last: the connection ends behind it.
    """

    __slots__ = ("unsent_body", "fields", "keep_alive", "content_length", "on_written", "connection_options", "status")

    def __init__(
        self,
        status: int,
        fields: list[tuple[str, str]],
        body: bytes,
        length: int | None,
        options: tuple[str, ...] = (),
        is_last: bool = False,
    ) -> None:
        self.status: Final = status
        self.fields: Final = fields
        self.unsent_body = body
        self.content_length: Final = length
        self.connection_options: Final = options
        self.keep_alive = not is_last
        """Whether the connection stays open behind it; known for good once it is written."""
        self.on_written: Callable[[], None] | None = None

    async def prepare(self, request: web.BaseRequest) -> None:
        """Writes all of it.

        Raises:
            ConnectionError: the connection is gone.
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
        # Should the client leave now, this call stays in a cycle (its own traceback) until the collector comes by.
        del content
        if is_writing_paused(request.protocol):
            cast("HttpConnection", request.protocol).count_unsent_bytes()
            await request.writer.drain()
        if self.on_written is not None:
            self.on_written()

    async def write_eof(self) -> None:
        """It is written."""

    def encode_head(self, version: HttpVersion) -> bytes:
        """Returns the status line and the fields, with the empty line behind them.

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
        breaks = len(lines) + 1
        if text.count("\r") != breaks or text.count("\n") != breaks or "\0" in text:
            raise ValueError("a header field of the answer has a line break or a NUL in it")
        return text.encode()


def make_complete_response(answer: HttpResponse, method: str, is_last: bool = False) -> CompleteResponse:
    """Returns what is sent for a request with this method.

    Args:
        is_last: the connection ends behind it. (A handler can ask for that too, with ``Connection: close``.)
    """
    status = answer.status
    fields: list[tuple[str, str]] = []
    options: tuple[str, ...] = ()
    has_type = has_server = has_date = False
    for field in answer.headers.pairs:
        lowered = field[0].lower()
        if lowered not in _RESERVED_FIELDS:
            fields.append(field)
            has_type = has_type or lowered == "content-type"
            has_server = has_server or lowered == "server"
            has_date = has_date or lowered == "date"
        elif lowered == "connection":
            is_last = is_last or "close" in [option.strip().lower() for option in field[1].split(",")]
        elif lowered == "upgrade" and status == 426 and not options:
            # The one answer in which Upgrade is not about the next hop's business but the answer itself: RFC 9110
            # sections 15.5.22, and 7.8 for the option in Connection.
            fields.append(field)
            options = ("upgrade",)
    if not has_server:
        fields.append(_SERVER_FIELD)
    if not has_date:
        fields.append(("Date", current_date_field()))
    if status in _STATUSES_WITHOUT_BODY:
        return CompleteResponse(status, fields, b"", 0 if status == 205 else None, options, is_last)
    body = answer.body
    if body and not has_type:
        fields.append(_DEFAULT_TYPE_FIELD)
    if method == hdrs.METH_HEAD:
        return CompleteResponse(status, fields, b"", len(body) or None, options, is_last)
    return CompleteResponse(status, fields, body, len(body), options, is_last)


_cached_date = (0, "")


def current_date_field() -> str:
    """Returns the time as a Date field has it (RFC 9110 section 5.6.7); made once a second."""
    global _cached_date
    now_s = int(time.time())
    if _cached_date[0] != now_s:
        _cached_date = (now_s, formatdate(now_s, usegmt=True))
    return _cached_date[1]
