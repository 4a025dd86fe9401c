"""What a handler may return, turned into the checked response or acceptance that is sent for it.

The check happens here, on the worker's side, before the answer crosses the wire.
"""

from typing import Final

from wsbroker.errors import HandlerError
from wsbroker.http.headers import describe_type
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.http.targets import escape_text, split_comma_list

_RESPONSE_KEYS: Final = frozenset({"status", "headers", "body"})
"""The keys of a dict that spells a response; `status` must be among them."""

_RESERVED_IN_101: Final = frozenset({"upgrade", "connection", "content-length", "transfer-encoding"})
"""Fields of a 101 that are the server's, beside those that begin with ``sec-websocket-``."""

_HTTP_RETURNS_TEXT: Final = (
    "HttpResponse, str, bytes, a dict with status, and headers and body if it has them (sent as that response), "
    "any other dict (sent as JSON, as HttpResponse.json sends every dict) or None (200 OK)"
)
_OPEN_RETURNS_TEXT: Final = (
    "True or None (accept), False (403), an HttpResponse (sent as it is) or an Accept (accept with header fields and "
    "a subprotocol that the client has offered)"
)


def to_http_response(returned: object) -> HttpResponse:
    """Converts the return value of an HTTP handler into the response to send.

    Returns:
        a response that is made and checked here, so that no code of the application runs and nothing changes later.

    Raises:
        HandlerError: a handler may not return that value; the message lists the legal ones.
    """
    try:
        if isinstance(returned, HttpResponse):
            return HttpResponse(returned.status, returned.headers, returned.body)
        if returned is None:
            return HttpResponse(200, (), "OK")
        if isinstance(returned, str | bytes):
            return HttpResponse(200, (), returned)
        if isinstance(returned, dict):
            if "status" in returned and returned.keys() <= _RESPONSE_KEYS:
                return HttpResponse(returned["status"], returned.get("headers", ()), returned.get("body", b""))
            return HttpResponse.json(returned)
    except Exception as error:
        raise _unsendable_return_error("handle_http_request", returned, error, _HTTP_RETURNS_TEXT) from error
    raise HandlerError(f"handle_http_request returned {describe_type(returned)}; it may return {_HTTP_RETURNS_TEXT}")


def to_open_result(returned: object, request: HttpRequest) -> HttpResponse | Accept | None:
    """Converts the return value of an open handler into the decision about its socket.

    Args:
        returned: what the handler returned.
        request: the upgrade request; only a subprotocol that this request offers may be chosen.

    Returns:
        None or an `Accept` to accept the socket, or the response to send instead of the 101. The `Accept` or the
        response is made and checked here, as by `to_http_response`.

    Raises:
        HandlerError: a handler may not return that value; the message lists the legal ones.
    """
    if returned is None or returned is True:
        return None
    if returned is False:
        return HttpResponse(403, (), "Forbidden")
    try:
        if isinstance(returned, HttpResponse):
            return HttpResponse(returned.status, returned.headers, returned.body)
        if isinstance(returned, Accept):
            return _check_accept(Accept(returned.headers, returned.subprotocol), request)
    except Exception as error:
        raise _unsendable_return_error("handle_socket_open", returned, error, _OPEN_RETURNS_TEXT) from error
    raise HandlerError(f"handle_socket_open returned {describe_type(returned)}; it may return {_OPEN_RETURNS_TEXT}")


def _check_accept(accept: Accept, request: HttpRequest) -> Accept:
    """Returns an open handler's `Accept` unchanged if its header fields and subprotocol fit the upgrade request.

    Raises:
        ValueError: the `Accept` has a header field that only the server sets in a 101, or a subprotocol that the client
            has not offered.
    """
    for name, _ in accept.headers.pairs:
        lowered = name.lower()
        if lowered in _RESERVED_IN_101 or lowered.startswith("sec-websocket-"):
            hint = ": use its subprotocol" if lowered == "sec-websocket-protocol" else ""
            raise ValueError(f"the header {name!r} of a 101 is the server's{hint}")
    chosen = accept.subprotocol
    if chosen is not None:
        offered = [offer for offer in split_comma_list(request.headers.get_all("sec-websocket-protocol")) if offer]
        if chosen not in offered:
            # The text does not show the client's offers, because they came from the peer.
            said = "offered others" if offered else "offered none"
            raise ValueError(f"the client has not offered the subprotocol {escape_text(chosen)}: it {said}")
    return accept


def _unsendable_return_error(handler: str, returned: object, error: Exception, legal_returns_text: str) -> HandlerError:
    """Returns the error for a handler's return value that has a legal type but content that cannot be sent.

    (The application may have changed a response after it was checked, so that a legal type is not enough.)

    Args:
        handler: the handler's name, for the text.
        returned: what the handler returned.
        error: the exception that the check of the content raised.
        legal_returns_text: what the handler may return, for the text.
    """
    problem = f"{type(error).__name__}: {error}"
    return HandlerError(
        f"{handler} returned {describe_type(returned)} that cannot be sent ({problem}); it may return "
        f"{legal_returns_text}"
    )
