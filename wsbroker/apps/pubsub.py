"""The built-in pub/sub application: JSON in text frames; over HTTP publishing, a health check and a test page.

    → {"type": "subscribe", "channel": C}             ← {"type": "subscribed", "channel": C}
    → {"type": "unsubscribe", "channel": C}           ← {"type": "unsubscribed", "channel": C}
    → {"type": "publish", "channel": C, "data": ANY}  ← {"type": "published", "channel": C, "delivered": N}
    → {"type": "ping"}                                ← {"type": "pong"}
    → {"type": "auth", "secret": S}                   ← {"type": "authenticated"}

A request may carry an ``"id"``, any JSON value, which comes back in its answer; ``published`` is sent only for a
request that has one. Every subscriber of C, the publisher among them, gets
``{"type": "message", "channel": C, "data": ANY}``, and the publisher gets it before ``published``. Subscribing or
unsubscribing twice is answered like the first time. What is not understood or not allowed is answered with
``{"type": "error", "error": CODE, "message": TEXT}`` and the socket stays open. There are these codes and no others:

    not_text           a binary frame
    not_json           not JSON, or nested too deeply, or with NaN, Infinity or an endless integer
    bad_request        not an object, or of no known "type"
    bad_id             an "id" that cannot be sent back
    bad_channel        "channel" is not a string of 1 to 255 bytes of UTF-8
    bad_data           "data" is missing, or cannot be carried: lone surrogates, numbers beyond a double, too deep
    too_many_channels  the socket has as many subscriptions as a socket may have
    auth_required      a secret is needed first
    wrong_secret       not this one; after MAX_ATTEMPTS the socket is closed with 1008

HTTP, whose errors are ``{"error": CODE, "message": TEXT}`` too (and ``not_found``, ``method_not_allowed``,
``not_utf8``, ``bad_origin``):

    GET /              a page to try it all
    POST /channels/C   publishes the body, JSON if it is that, else text; answers {"delivered": N}. C is percent-encoded
    GET /healthz       {"status": "ok", "auth": whether a secret is needed}

With a secret, publishing and subscribing need ``Authorization: Bearer SECRET`` (on the upgrade, or on the POST) or a
first message ``auth``; a socket that does not come up with one in time is closed with 1008. Page and health stay open.

Runs inline: a number in ``delivered`` is exact because nothing happens between the count and the publication.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from wsbroker import (
    HttpRequest,
    HttpResponse,
    SocketId,
    close,
    send,
    send_to_channel,
    set_token,
    subscribe,
    subscriber_count,
    subscriptions,
    unsubscribe,
)
from wsbroker.apps.access import Access

MAX_CHANNEL_BYTES: Final = 255
"""The longest name of a channel, in UTF-8."""

MAX_ATTEMPTS: Final = 3
"""How many wrong secrets a socket may send before it is closed."""

POLICY_VIOLATION: Final = 1008

# The token of a socket: AUTHENTICATED, the number of wrong secrets that the socket has sent, or None.
AUTHENTICATED: Final = b"authenticated"

Fields = dict[str, object]


class RequestRefused(Exception):
    """A request that is answered with an error, over WebSocket or HTTP.

    Args:
        code: the code for the client, see the top of this module.
        text: the explanation for the client.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


_access = Access()
_auth_deadlines: dict[int, asyncio.TimerHandle] = {}
"""The timers that close sockets which do not authenticate in time, by socket."""


def handle_worker_start(arg: str | None) -> None:
    """Reads the secret from the worker's argument; see `Access` for the forms of `arg`."""
    global _access
    _access = Access(arg)


def handle_worker_stop() -> None:
    """Cancels the timers of all sockets that have not authenticated."""
    for deadline in _auth_deadlines.values():
        deadline.cancel()
    _auth_deadlines.clear()


# WebSocket


async def handle_socket_open(request: HttpRequest, socket_id: SocketId) -> HttpResponse | None:
    """Accepts a socket, or refuses one with a wrong secret in its header.

    If there is a secret and none in the header, starts the timer within which the socket has to authenticate.
    """
    if _access.has_no_secret:
        return None
    admitted = _access.accepts_header(request.headers.get("authorization"))
    if admitted is False:
        return _unauthorized_response()
    if admitted:
        set_token(socket_id, AUTHENTICATED)
    else:
        loop = asyncio.get_running_loop()
        _auth_deadlines[socket_id] = loop.call_later(_access.auth_timeout_s, _close_unauthenticated, socket_id)
    return None


def handle_socket_message(data: str | bytes, socket_id: SocketId, token: bytes | None) -> None:
    """Carries out one request of a client and answers it."""
    request: Fields = {}
    try:
        request = _parse_request(data)
        _check_id(request)
        kind = request.get("type")
        action = _ACTIONS.get(kind) if isinstance(kind, str) else None
        if action is None:
            raise RequestRefused("bad_request", f'"type" must be one of {", ".join(_ACTIONS)}')
        if not (token == AUTHENTICATED or kind in _TYPES_WITHOUT_AUTH or _access.has_no_secret):
            raise RequestRefused("auth_required", 'send {"type": "auth", "secret": …} first')
        action(request, socket_id, token)
    except RequestRefused as refused:
        _send_answer(request, socket_id, type="error", error=refused.code, message=refused.text)


def handle_socket_close(socket_id: SocketId) -> None:
    """Cancels the socket's authentication timer."""
    _cancel_auth_deadline(socket_id)


def _answer_subscribe(request: Fields, socket_id: SocketId, token: bytes | None) -> None:
    """Subscribes the socket to the request's channel and answers; raises RequestRefused if that is not possible."""
    channel = _check_channel_name(request.get("channel"))
    if not subscribe(socket_id, channel) and channel.encode() not in subscriptions(socket_id):
        raise RequestRefused("too_many_channels", "this socket has as many subscriptions as a socket may have")
    _send_answer(request, socket_id, type="subscribed", channel=channel)


def _answer_unsubscribe(request: Fields, socket_id: SocketId, token: bytes | None) -> None:
    """Unsubscribes the socket from the request's channel and answers; raises RequestRefused for a wrong channel."""
    channel = _check_channel_name(request.get("channel"))
    unsubscribe(socket_id, channel)
    _send_answer(request, socket_id, type="unsubscribed", channel=channel)


def _answer_publish(request: Fields, socket_id: SocketId, token: bytes | None) -> None:
    """Publishes the request's data and, if the request has an ``id``, answers how many sockets get the data.

    Raises RequestRefused for a wrong channel, or data that cannot be sent.
    """
    channel = _check_channel_name(request.get("channel"))
    if "data" not in request:
        raise RequestRefused("bad_data", '"data" is missing; it may be any JSON value')
    try:
        delivered = _publish_message(channel, request["data"])
    except (ValueError, RecursionError):
        raise RequestRefused(
            "bad_data", '"data" cannot be carried: a lone surrogate, too large a number, too deep'
        ) from None
    if "id" in request:
        _send_answer(request, socket_id, type="published", channel=channel, delivered=delivered)


def _answer_ping(request: Fields, socket_id: SocketId, token: bytes | None) -> None:
    """Answers a ``ping`` request with ``pong``."""
    _send_answer(request, socket_id, type="pong")


def _answer_auth(request: Fields, socket_id: SocketId, token: bytes | None) -> None:
    """Marks the socket as authenticated if the request has the right secret, else answers with an error.

    Closes a socket that has sent MAX_ATTEMPTS wrong secrets and no right one; ignores its requests behind the last of
    them.

    Args:
        request: the request's fields.
        socket_id: the socket.
        token: AUTHENTICATED, or the number of wrong secrets that the socket has sent; None: no secret yet.
    """
    attempts = int(token) if token and token != AUTHENTICATED else 0
    if attempts == MAX_ATTEMPTS:
        return  # the socket is being closed: requests behind the last attempt are ignored
    if _access.accepts_secret(request.get("secret")):
        _cancel_auth_deadline(socket_id)
        set_token(socket_id, AUTHENTICATED)
        _send_answer(request, socket_id, type="authenticated")
        return
    attempts += 1
    if token != AUTHENTICATED:
        set_token(socket_id, b"%d" % attempts)
    _send_answer(request, socket_id, type="error", error="wrong_secret", message="this is not the secret")
    if attempts == MAX_ATTEMPTS:
        close(socket_id, POLICY_VIOLATION, "too many wrong secrets")


_ACTIONS: Final[dict[str, Callable[[Fields, SocketId, bytes | None], None]]] = {
    "subscribe": _answer_subscribe,
    "unsubscribe": _answer_unsubscribe,
    "publish": _answer_publish,
    "ping": _answer_ping,
    "auth": _answer_auth,
}
_TYPES_WITHOUT_AUTH: Final = frozenset({"ping", "auth"})


def _close_unauthenticated(socket_id: int) -> None:
    """Closes a socket that has not authenticated in time. Called by the socket's timer."""
    del _auth_deadlines[socket_id]
    close(socket_id, POLICY_VIOLATION, "not authenticated in time")


def _cancel_auth_deadline(socket_id: int) -> None:
    """Cancels the socket's authentication timer, if there is one."""
    deadline = _auth_deadlines.pop(socket_id, None)
    if deadline is not None:
        deadline.cancel()


def _publish_message(channel: str, data: object) -> int:
    """Publishes any JSON value to a channel; returns how many sockets get the message. Raises as `_encode_json`."""
    text = _encode_json({"type": "message", "channel": channel, "data": data})
    delivered = subscriber_count(channel)
    send_to_channel(channel, text)
    return delivered


def _send_answer(request: Fields, socket_id: SocketId, **fields: object) -> None:
    """Sends the answer to a request: a JSON object of `fields`, and of the request's ``id`` if there is one."""
    if "id" in request:
        fields["id"] = request["id"]
    send(socket_id, _encode_json(fields))


# JSON, strict in both directions. Wrong input of a client raises a ValueError or a RecursionError.


def _refuse_json_constant(name: str) -> NoReturn:
    """Raises ValueError for ``NaN`` and ``Infinity``. Called by the JSON decoder."""
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_json_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _encode_json(value: object) -> str:
    """Returns a value as a text of JSON; raises ValueError or RecursionError if it cannot be JSON in UTF-8."""
    text = _ENCODER.encode(value)
    if not text.isascii():
        text.encode()  # a lone surrogate is no text: UnicodeEncodeError, a ValueError
    return text


def _parse_request(data: str | bytes) -> Fields:
    """Returns the fields of a client's message; raises RequestRefused if the message is no JSON object as text."""
    if isinstance(data, bytes):
        raise RequestRefused("not_text", "requests are text frames with JSON")
    try:
        request = _DECODER.decode(data)
    except (ValueError, RecursionError):
        raise RequestRefused(
            "not_json", "a request is one JSON object: no NaN, no Infinity, not nested too deeply"
        ) from None
    if not isinstance(request, dict):
        raise RequestRefused("bad_request", 'a request is a JSON object with a "type"')
    return request


def _check_id(request: Fields) -> None:
    """Raises RequestRefused if the request's ``id`` cannot be sent back in an answer, and removes that ``id``."""
    if "id" not in request:
        return
    try:
        _encode_json(request["id"])
    except (ValueError, RecursionError):
        del request["id"]
        raise RequestRefused("bad_id", 'this "id" cannot be sent back: use a string or a number') from None


def _check_channel_name(name: object) -> str:
    """Returns the name of a channel that a client has sent; raises RequestRefused if the value is no channel's name."""
    try:
        if isinstance(name, str) and 1 <= len(name.encode()) <= MAX_CHANNEL_BYTES:
            return name
    except UnicodeEncodeError:
        pass
    raise RequestRefused("bad_channel", f'"channel" must be a string of 1 to {MAX_CHANNEL_BYTES} bytes of UTF-8')


# HTTP


def handle_http_request(request: HttpRequest) -> HttpResponse:
    """Answers an HTTP request for the page, the health check or ``POST /channels/C``."""
    path = request.path
    if path == "/":
        return _serve_allowed_method(request, ("GET", "HEAD"), _serve_page)
    if path == "/healthz":
        return _serve_allowed_method(request, ("GET", "HEAD"), _serve_health)
    if path.startswith(_CHANNELS_PATH):
        return _serve_allowed_method(request, ("POST",), _serve_publication)
    return _json_response(404, {"error": "not_found", "message": "there are /, /healthz and /channels/NAME"})


def _serve_allowed_method(
    request: HttpRequest, methods: tuple[str, ...], serve: Callable[[HttpRequest], HttpResponse]
) -> HttpResponse:
    """Answers an HTTP request by `serve` if its method is one of `methods`, else with 405."""
    if request.method in methods:
        return serve(request)
    allowed = ", ".join(methods)
    fields = {"error": "method_not_allowed", "message": f"this is for {allowed}"}
    return _json_response(405, fields, {"Allow": allowed})


def _serve_health(request: HttpRequest) -> HttpResponse:
    """Answers a GET or HEAD request for ``/healthz``: that the server runs, and whether a secret is needed."""
    return _json_response(200, {"status": "ok", "auth": not _access.has_no_secret})


def _serve_publication(request: HttpRequest) -> HttpResponse:
    """Publishes the body of a ``POST /channels/C`` and answers how many sockets get the message, or with an error.

    The body is published as its JSON value, or as a text if it is not JSON.
    """
    if not _is_same_origin(request):
        return _json_response(403, {"error": "bad_origin", "message": "pages of other sites may not publish"})
    if not (_access.has_no_secret or _access.accepts_header(request.headers.get("authorization"))):
        return _unauthorized_response()
    try:
        channel = _check_channel_name(unquote_to_bytes(request.path.removeprefix(_CHANNELS_PATH)).decode())
    except UnicodeDecodeError:
        return _json_response(400, {"error": "bad_channel", "message": "the channel's name is not UTF-8"})
    except RequestRefused as refused:
        return _json_response(400, {"error": refused.code, "message": refused.text})
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return _json_response(400, {"error": "not_utf8", "message": "the body is not UTF-8"})
    try:
        delivered = _publish_message(channel, _DECODER.decode(text))
    except (ValueError, RecursionError):
        delivered = _publish_message(channel, text)
    return _json_response(200, {"delivered": delivered})


def _is_same_origin(request: HttpRequest) -> bool:
    """Returns whether a POST comes from a page of this server's host and port, or from a client that is no browser.

    Browsers let any site post to any other and send the site's origin; other clients send no origin.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return True
    # Not urlsplit: it normalises Unicode, which takes 0.3 s for 16 KB of combining characters.
    scheme, _, authority = origin.lower().partition("://")
    default_port = ":443" if scheme == "https" else ":80"
    return authority.removesuffix(default_port) == request.host.lower().removesuffix(default_port)


def _serve_page(request: HttpRequest) -> HttpResponse:
    """Answers a GET or HEAD request for ``/`` with the test page, or with 304 if the client has this version."""
    if request.headers.get("if-none-match") == _PAGE_HEADERS["ETag"]:
        return HttpResponse(304, _PAGE_HEADERS)
    return HttpResponse(200, {"Content-Type": "text/html; charset=utf-8", **_PAGE_HEADERS}, _PAGE)


def _unauthorized_response() -> HttpResponse:
    """Returns the 401 for a request or socket without the right secret."""
    fields = {"error": "auth_required", "message": "send Authorization: Bearer with the secret"}
    return _json_response(401, fields, {"WWW-Authenticate": "Bearer"})


def _json_response(status: int, fields: object, headers: dict[str, str] | None = None) -> HttpResponse:
    """Returns an HTTP response with `fields` as its JSON body, which may not be cached."""
    return HttpResponse.json(fields, status, {"Cache-Control": "no-store", **(headers or {})})


def _csp_digest(element: str) -> str:
    """Returns the Content-Security-Policy source that allows only the page's own `element` (CSP3 section 6.7.2).

    Args:
        element: ``"script"`` or ``"style"``; the page has one of each.
    """
    match = re.search(rf"<{element}>(.*?)</{element}>".encode(), _PAGE, re.DOTALL)
    assert match is not None, element
    return f"'sha256-{base64.b64encode(hashlib.sha256(match[1]).digest()).decode()}'"


_CHANNELS_PATH: Final = "/channels/"
_PAGE: Final = Path(__file__).with_name("pubsub.html").read_bytes()
_PAGE_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "ETag": f'"{hashlib.sha256(_PAGE).hexdigest()[:32]}"',
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_csp_digest('script')}; style-src {_csp_digest('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
