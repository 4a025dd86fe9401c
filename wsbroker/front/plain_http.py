"""Plain HTTP requests: their checks, their bodies, and their responses from the HTTP handler."""

import asyncio
import re
from typing import Final, Generic, cast

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from aiohttp.streams import StreamReader

from wsbroker.front import aiohttp_private
from wsbroker.front.conversion import content_length, header_fields_of, make_complete_response, request_from_head
from wsbroker.front.error_responses import error_response_for, make_error_response
from wsbroker.front.http_connection import HttpConnection
from wsbroker.front.interfaces import OpeningConnectionT, PoolLike
from wsbroker.front.rate_limited_log import RateLimitedLog
from wsbroker.front.upgrade import Upgrader
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import HttpResponse
from wsbroker.http.targets import is_websocket_without_upgrade, split_target
from wsbroker.websocket.handshake import offers_websocket

log: Final = GuardedLog(__name__)

CONTINUE_RESPONSE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

NO_UPGRADE_WARNING: Final = (
    "a WebSocket was meant, but the request has no Upgrade: websocket remote=%s: a proxy in front must pass the "
    "Upgrade and Connection headers on"
)

_HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
"""The characters of uri-host [ ":" port ] (RFC 3986 section 3.2.2)."""


class RequestResponder(Generic[OpeningConnectionT]):
    """Answers the requests that aiohttp's tasks take from the HTTP connections.

    Args:
        max_body_bytes: the most bytes of a request's body.
        pool: the pool of workers, which runs the HTTP handler.
        upgrader: answers the upgrade requests.
        rate_limited_log: the log for warnings about clients.
    """

    def __init__(
        self,
        max_body_bytes: int,
        pool: PoolLike,
        upgrader: Upgrader[OpeningConnectionT],
        rate_limited_log: RateLimitedLog,
    ) -> None:
        self._max_body_bytes: Final = max_body_bytes
        self._pool: Final = pool
        self._upgrader: Final = upgrader
        self._rate_limited_log: Final = rate_limited_log

    async def respond_to_request(self, request: web.BaseRequest) -> web.StreamResponse:
        """Makes the response to one request. Called by aiohttp, for one request of a connection after the other."""
        http_connection = request.protocol
        assert isinstance(http_connection, HttpConnection)
        if http_connection.begin_response():
            await asyncio.sleep(0)
        try:
            if http_connection.first_request_refusal is not None:
                refusal = http_connection.pop_first_request_refusal()
                assert refusal is not None
                return http_connection.make_last_response(refusal)
            head = aiohttp_private.request_head_of(request)
            if hdrs.UPGRADE in head.headers and offers_websocket(header_fields_of(head)):
                return await self._upgrader.upgrade_later_request(http_connection, request)
            problem = _response_to_bad_request(head)
            if problem is not None:
                aiohttp_private.force_http_1_1_response(request)
                return http_connection.make_last_response(problem, head.method)
            if head.method == hdrs.METH_GET and is_websocket_without_upgrade(head.headers):
                self._rate_limited_log.warn_once_per_kind(
                    NO_UPGRADE_WARNING, NO_UPGRADE_WARNING, http_connection.remote
                )
            body = b""
            if aiohttp_private.has_body(request.content):
                body_or_error = await self._read_body(http_connection, head, request.content)
                if isinstance(body_or_error, HttpResponse):
                    return http_connection.make_last_response(body_or_error, head.method)
                body = body_or_error
            response = await self._pool.run_http_handler(request_from_head(head, http_connection.remote, body))
            return cast(
                web.StreamResponse,
                make_complete_response(response, head.method, http_connection.is_answering_last_request),
            )
        except Exception:
            log.exception("cannot answer remote=%s method=%s", http_connection.remote, request.method)
            return http_connection.make_last_response(error_response_for(500), request.method)
        finally:
            http_connection.release_oldest_request()

    async def _read_body(
        self, http_connection: HttpConnection, head: RawRequestMessage, content: StreamReader
    ) -> bytes | HttpResponse:
        """Waits for the whole body of a request; returns it, or the error response if the body cannot be read.

        Sends ``100 Continue`` first, if the client waits for that.

        Args:
            http_connection: the connection of the request.
            head: the head of the request.
            content: the stream into which the parser puts the body.
        """
        limit_bytes = self._max_body_bytes
        length = content_length(head)
        if length is not None and length > limit_bytes:
            return error_response_for(413)
        expectation = head.headers.get(hdrs.EXPECT)
        if expectation is not None and head.version == HttpVersion11:
            if expectation.lower() != "100-continue":
                return error_response_for(417)
            if not content.total_bytes and not content.is_eof() and http_connection.live_transport is not None:
                http_connection.live_transport.write(CONTINUE_RESPONSE)
        body: bytes | int | None = http_connection.read_complete_body(content)
        if body is None:
            body = await http_connection.read_body(content, limit_bytes)
        if isinstance(body, int):
            return error_response_for(body)
        return body if len(body) <= limit_bytes else error_response_for(413)


def _response_to_bad_request(head: RawRequestMessage) -> HttpResponse | None:
    """Returns the error response to a request whose version, method, transfer coding, Host or target is not acceptable.

    Returns None if the request may go to the handler. aiohttp's parser has accepted the request already.
    """
    version = head.version
    if version != HttpVersion11 and version != HttpVersion10:
        return error_response_for(505 if version.major >= 2 else 400)
    if head.method == hdrs.METH_CONNECT:
        return error_response_for(501)
    coding = head.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None:
        if version == HttpVersion10:  # RFC 9112 section 6.1: its framing is faulty
            return error_response_for(400)
        if [each.strip().lower() for each in coding.split(",")].count("chunked") > 1:
            return error_response_for(400)  # RFC 9112 section 6.1; only one of aiohttp's two parsers refuses this
        if coding.lower() != "chunked":
            return error_response_for(501)
    if _HOST_PATTERN.fullmatch(head.headers.get(hdrs.HOST, "")) is None:  # RFC 9112 section 3.2
        return error_response_for(400)
    try:
        split_target(head.method, head.path)
    except ValueError as error:
        return make_error_response(400, str(error))
    return None
