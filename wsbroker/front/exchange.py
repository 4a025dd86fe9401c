"""Plain HTTP between aiohttp's types and ours.

The header rules stand here: what is about one connection (hop-by-hop, RFC 9110 section 7.6.1) is ours to say, not a
handler's; what is about the content is the handler's.
"""

from collections.abc import Iterable
from html import escape
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict

from wsbroker.errors import HandshakeError
from wsbroker.wire.http import HttpRequest, HttpResponse

SERVER_NAME: Final = "wsbroker"

OVERLOADED: Final = "this server has no room for another connection; try again later"
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


def response_of(answer: HttpResponse, method: str, is_last: bool = False) -> web.Response:
    """Returns aiohttp's form of an answer to a request with this method.

    Args:
        is_last: the connection ends behind it. (A handler can ask for that too, with ``Connection: close``.)
    """
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in answer.headers.pairs:
        lowered = name.lower()
        if lowered not in _OURS:
            headers.add(name, value)
        elif lowered == "connection":
            is_last = is_last or "close" in [option.strip().lower() for option in value.split(",")]
    if answer.status == 426 and "upgrade" in answer.headers:
        # The one answer in which Upgrade is not about the next hop's business but the answer itself: RFC 9110
        # sections 15.5.22, and 7.8 for the option in Connection.
        headers[hdrs.UPGRADE] = answer.headers["upgrade"]
        headers[hdrs.CONNECTION] = "upgrade, close" if is_last else "upgrade"
    headers.setdefault(hdrs.SERVER, SERVER_NAME)
    body = b"" if answer.status in _NO_CONTENT else answer.body
    if method == hdrs.METH_HEAD and body:
        headers[hdrs.CONTENT_LENGTH] = str(len(body))
        body = b""
    response = web.Response(status=answer.status, headers=headers, body=body)
    if is_last:
        response.force_close()
    return response
