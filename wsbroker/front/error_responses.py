"""The error responses that the front sends by itself, without a handler: one table, one function for each exception.

status   sent for
400      a request that breaks the rules of HTTP, or an upgrade request with a body
403, 4xx an upgrade request that `check_upgrade` refuses (the status and text of its HandshakeError)
408      a body that is not complete within `http_timeout`
413      a body of more than `max_body_size` bytes
417      an Expect other than ``100-continue``
431      a head of more than `max_head_size` bytes, or with too many fields
500      a failure of the server's own code
501      a CONNECT, or a transfer coding other than ``chunked``
503      a connection too many, or too many bytes of unfinished requests
505      HTTP/2 or later
"""

from collections.abc import Iterable
from html import escape
from http import HTTPStatus
from typing import Final

from wsbroker.errors import HandshakeError
from wsbroker.http.response import HttpResponse

RETRY_AFTER_S: Final = 5
"""The value of Retry-After in responses with status 503."""


def make_error_response(status: int, text: str = "", headers: Iterable[tuple[str, str]] = ()) -> HttpResponse:
    """Creates an error response with a plain text body.

    Args:
        status: the status.
        text: the body, without its line break; ``""``: the status and its reason phrase.
        headers: (name, value) pairs of further header fields.
    """
    fields = [("Content-Type", "text/plain; charset=utf-8"), *headers]
    return HttpResponse(status, fields, (text or f"{status} {HTTPStatus(status).phrase}") + "\n")


_RETRY_FIELDS: Final = (("Retry-After", str(RETRY_AFTER_S)),)
_RESPONSE_BY_STATUS: Final[dict[int, HttpResponse]] = {
    status: make_error_response(status) for status in (400, 408, 413, 417, 431, 500, 501, 505)
}
UPGRADE_WITH_BODY: Final = make_error_response(400, "a request for a WebSocket has no body")
CONNECTION_LIMIT_REACHED: Final = make_error_response(
    503, "this server has no room for another connection; try again later", _RETRY_FIELDS
)
REQUEST_BYTES_LIMIT_REACHED: Final = make_error_response(
    503, "this server holds too many unfinished requests; try again later", _RETRY_FIELDS
)
"""Sent for a request for whose bytes there is no room (`max_request_bytes_total`)."""


def error_response_for(status: int) -> HttpResponse:
    """Returns the error response for a status; 503 means that there is no room for the request's bytes."""
    if status == 503:
        return REQUEST_BYTES_LIMIT_REACHED
    return _RESPONSE_BY_STATUS.get(status) or make_error_response(status)


def handshake_error_response(error: HandshakeError) -> HttpResponse:
    """Creates the response to an upgrade request that `check_upgrade` refuses."""
    return make_error_response(error.status, escape(error.reason, quote=False), error.headers)


def encode_last_response(response: HttpResponse) -> bytes:
    """Encodes a response for a connection that aiohttp does not serve and that is closed after the response."""
    pairs = [*response.headers.pairs, ("Content-Length", str(len(response.body))), ("Connection", "close")]
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        *(f"{name}: {value}" for name, value in pairs),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + response.body


ENCODED_CONNECTION_LIMIT_REACHED: Final = encode_last_response(CONNECTION_LIMIT_REACHED)
ENCODED_INTERNAL_ERROR: Final = encode_last_response(error_response_for(500))
