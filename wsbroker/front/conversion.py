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
from wsbroker.http.messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from wsbroker.front.http_connection import HttpConnection

SERVER_NAME: Final = "wsbroker"

OVERLOADED: Final = "this server has no room for another connection; try again later"
TOO_BUSY: Final = "this server holds too many unfinished requests; try again later"
RETRY_AFTER_S: Final = 5

_OURS: Final = frozenset(
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
_NO_CONTENT: Final = frozenset({204, 205, 304})
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_SERVER: Final = ("Server", SERVER_NAME)
_BYTES: Final = ("Content-Type", "application/octet-stream")
"""What a body is that nobody says anything about (RFC 9110 section 8.3)."""

LARGE: Final = 64 * 1024
"""A body of this size is not copied to stand behind its head."""


def error_answer(status: int, text: str = "", headers: Iterable[tuple[str, str]] = ()) -> HttpResponse:
    """Returns an answer in plain text; without `text` it is the status and its reason phrase."""
    fields = [("Content-Type", "text/plain; charset=utf-8"), *headers]
    return HttpResponse(status, fields, (text or f"{status} {HTTPStatus(status).phrase}") + "\n")


def refusal_of(error: HandshakeError) -> HttpResponse:
    """Returns the answer to an upgrade request that breaks the rules."""
    return error_answer(error.status, escape(error.reason, quote=False), error.headers)


def overloaded() -> HttpResponse:
    """Returns the answer to a connection too many."""
    return error_answer(503, OVERLOADED, [("Retry-After", str(RETRY_AFTER_S))])


def too_busy() -> HttpResponse:
    """Returns the answer to a request for whose bytes there is no room (`max_request_bytes_total`)."""
    return error_answer(503, TOO_BUSY, [("Retry-After", str(RETRY_AFTER_S))])


def raw(answer: HttpResponse) -> bytes:
    """Returns an answer as bytes, for a connection that aiohttp does not serve; it ends the connection."""
    pairs = [*answer.headers.pairs, ("Content-Length", str(len(answer.body))), ("Connection", "close")]
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{key}: {value}" for key, value in pairs),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


RAW_OVERLOADED: Final = raw(overloaded())
RAW_INTERNAL_ERROR: Final = raw(error_answer(500))


def request_of(message: RawRequestMessage, remote: str, body: bytes) -> HttpRequest:
    """Returns the request as handlers see it.

    Args:
        message: its head. Its target is ASCII: the parser refuses anything else.
        remote: the peer's address, ``""`` for a Unix socket.
        body: as it was sent, but for its transfer coding.
    """
    return HttpRequest(message.method, message.path, fields_of(message), body, remote=remote, scheme="http")


def content_length(message: RawRequestMessage) -> int | None:
    """Returns what Content-Length says, None without one. The parser lets 64 bits through, and any number of zeros."""
    length = message.headers.get(hdrs.CONTENT_LENGTH)
    return None if length is None else int(length.lstrip("0") or "0")


def fields_of(message: RawRequestMessage) -> list[tuple[str, str]]:
    """Returns the header fields in their order, without the lone surrogates in which aiohttp hides what is not UTF-8.

    Such values are read as Latin-1, which is what those bytes always meant in HTTP (RFC 9110 section 5.5).
    """
    fields = list(message.headers.items())
    for _, value in fields:
        if not value.isascii():
            return [(name, _as_text(value)) for name, value in fields]
    return fields


def _as_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


class Answer:
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

    __slots__ = ("content", "fields", "keep_alive", "length", "on_written", "options", "status")

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
        self.content = body
        self.length: Final = length
        self.options: Final = options
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
        head = self.head(request.version)
        content, self.content = self.content, b""
        if len(content) < LARGE:
            transport.write(head + content)
        else:
            transport.write(head)
            transport.write(content)
        # Should the client leave now, this call stays in a cycle (its own traceback) until the collector comes by.
        del content
        if is_writing_paused(request.protocol):
            cast("HttpConnection", request.protocol).count_unsent()
            await request.writer.drain()
        if self.on_written is not None:
            self.on_written()

    async def write_eof(self) -> None:
        """It is written."""

    def head(self, version: HttpVersion) -> bytes:
        """Returns the status line and the fields, with the empty line behind them.

        Raises:
            ValueError: a field has a line break or a NUL in it, past the checks of `HttpResponse`.
        """
        status = self.status
        lines = [f"HTTP/{version.major}.{version.minor} {status} {_PHRASES.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        options = self.options
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


def response_of(answer: HttpResponse, method: str, is_last: bool = False) -> Answer:
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
        if lowered not in _OURS:
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
        fields.append(_SERVER)
    if not has_date:
        fields.append(("Date", date_now()))
    if status in _NO_CONTENT:
        return Answer(status, fields, b"", 0 if status == 205 else None, options, is_last)
    body = answer.body
    if body and not has_type:
        fields.append(_BYTES)
    if method == hdrs.METH_HEAD:
        return Answer(status, fields, b"", len(body) or None, options, is_last)
    return Answer(status, fields, body, len(body), options, is_last)


_date = (0, "")


def date_now() -> str:
    """Returns the time as a Date field has it (RFC 9110 section 5.6.7); made once a second."""
    global _date
    now_s = int(time.time())
    if _date[0] != now_s:
        _date = (now_s, formatdate(now_s, usegmt=True))
    return _date[1]
