"""Upgrade requests: the opening handshake, the open handler, and handing the transport to a WebSocket connection."""

import asyncio
from typing import Final, Generic, cast

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage

from wsbroker.errors import HandshakeError
from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import NoResponse
from wsbroker.front.conversion import header_fields_of, request_from_head
from wsbroker.front.error_responses import (
    CONNECTION_LIMIT_REACHED,
    REQUEST_BYTES_LIMIT_REACHED,
    UPGRADE_WITH_BODY,
    error_response_for,
    handshake_error_response,
)
from wsbroker.front.http_connection import HttpConnection
from wsbroker.front.interfaces import ConnectionsLike, OpeningConnectionT, PoolLike
from wsbroker.front.rate_limited_log import RateLimitedLog
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.http.targets import escape_text, split_target
from wsbroker.settings.config import Config
from wsbroker.websocket.handshake import Upgrade, check_upgrade, encode_response_head

log: Final = GuardedLog(__name__)

NO_SUBPROTOCOL_WARNING: Final = (
    "no subprotocol chosen remote=%s offered=%d: browsers close the connection then; list one that the client offers "
    "(its header Sec-WebSocket-Protocol) in the setting subprotocols, or return Accept(subprotocol=...) from "
    "handle_socket_open"
)


class Upgrader(Generic[OpeningConnectionT]):
    """Turns HTTP connections into WebSocket connections, or refuses their upgrade requests.

    Loop thread only.

    Args:
        config: the subprotocols and origins that are allowed.
        connections: the table of WebSocket connections, which takes over upgraded connections.
        pool: the pool of workers, which runs the open handler.
        rate_limited_log: the log for warnings about clients.
    """

    def __init__(
        self,
        config: Config,
        connections: ConnectionsLike[OpeningConnectionT],
        pool: PoolLike,
        rate_limited_log: RateLimitedLog,
    ) -> None:
        self._subprotocols: Final = config.subprotocols
        self._allowed_origins: Final = config.allowed_origins
        self._connections: Final = connections
        self._pool: Final = pool
        self._rate_limited_log: Final = rate_limited_log
        self._loop: Final = asyncio.get_running_loop()
        self.opening_count = 0
        """How many sockets exist whose connections still speak HTTP."""
        self.open_handler_tasks: Final[set[asyncio.Task[None]]] = set()
        """The tasks that run open handlers for the first requests of their connections."""

    def upgrade_first_request(self, http_connection: HttpConnection, head: RawRequestMessage) -> None:
        """Answers an upgrade that is the first request of its connection, the usual case, without aiohttp's task.

        Without an open handler the connection is a WebSocket connection when this call returns.
        """
        upgrade = self._check_upgrade_request(http_connection, head)
        if isinstance(upgrade, HttpResponse):
            http_connection.refuse_first_request(head, upgrade)
            return
        if http_connection.unparsed_data and not http_connection.has_room_for_early_bytes():
            http_connection.refuse_first_request(head, REQUEST_BYTES_LIMIT_REACHED)
            return
        worker_index = self._pool.choose_worker_index()
        connection = self._connections.admit_connection(worker_index)
        if connection is None:
            http_connection.refuse_first_request(head, CONNECTION_LIMIT_REACHED)
        elif self._pool.has_open_handler:
            self._begin_opening(http_connection, connection)
            task = self._loop.create_task(
                self._open_then_upgrade_first(http_connection, head, upgrade, connection, worker_index)
            )
            self.open_handler_tasks.add(task)
            task.add_done_callback(self.open_handler_tasks.discard)
        else:
            self._complete_upgrade(http_connection, upgrade, None, connection)

    async def _open_then_upgrade_first(
        self,
        http_connection: HttpConnection,
        head: RawRequestMessage,
        upgrade: Upgrade,
        connection: OpeningConnectionT,
        worker_index: int,
    ) -> None:
        """Runs the open handler for a connection's first request, then upgrades the connection or sends the refusal.

        The coroutine of a task of its own. If the client has left meanwhile, its socket is discarded.
        """
        result = await self._run_open_handler(http_connection, head, connection, worker_index)
        try:
            if self._discard_if_client_left(http_connection, connection):
                return
            if isinstance(result, HttpResponse):
                self._end_opening(http_connection)
                self._connections.discard_connection(connection)
                http_connection.refuse_first_request(head, result)
            else:
                self._complete_upgrade(http_connection, upgrade, result, connection)
        except Exception:
            http_connection.close_after_failure()

    async def upgrade_later_request(
        self, http_connection: HttpConnection, request: web.BaseRequest
    ) -> web.StreamResponse:
        """Answers an upgrade behind other requests of its connection, inside aiohttp's task.

        Returns:
            the response that refuses the upgrade, or a response that writes nothing.
        """
        head = aiohttp_private.request_head_of(request)
        upgrade = self._check_upgrade_request(http_connection, head)
        if isinstance(upgrade, HttpResponse):
            return http_connection.make_last_response(upgrade)
        if not http_connection.has_upgrade or aiohttp_private.has_body(request.content):
            return http_connection.make_last_response(UPGRADE_WITH_BODY)
        worker_index = self._pool.choose_worker_index()
        connection = self._connections.admit_connection(worker_index)
        if connection is None:
            return http_connection.make_last_response(CONNECTION_LIMIT_REACHED)
        self._begin_opening(http_connection, connection)
        accept: Accept | None = None
        if self._pool.has_open_handler:
            result = await self._run_open_handler(http_connection, head, connection, worker_index)
            if not isinstance(result, HttpResponse):
                accept = result
            elif not self._discard_if_client_left(http_connection, connection):
                self._end_opening(http_connection)
                self._connections.discard_connection(connection)
                return http_connection.make_last_response(result)
        if not self._discard_if_client_left(http_connection, connection):
            self._complete_upgrade(http_connection, upgrade, accept, connection)
        return NoResponse()

    def discard_opening_socket(self, http_connection: HttpConnection) -> None:
        """Discards the socket whose open handler runs for a lost connection, if there is one."""
        connection = self._end_opening(http_connection)
        if connection is not None:
            self._connections.discard_connection(connection)

    def _check_upgrade_request(
        self, http_connection: HttpConnection, head: RawRequestMessage
    ) -> Upgrade | HttpResponse:
        """Checks an upgrade request; returns what the 101 needs, or the error response after logging the reason.

        The rate of the log lines is limited (`_warn_of_refused_upgrade`).
        """
        version = head.version
        try:
            authority = "" if head.method != hdrs.METH_GET else _authority_of(head)
            return check_upgrade(
                head.method,
                version.major,
                version.minor,
                header_fields_of(head),
                self._subprotocols,
                self._allowed_origins,
                authority,
            )
        except HandshakeError as error:
            self._warn_of_refused_upgrade(http_connection, head, error)
            return handshake_error_response(error)

    def _warn_of_refused_upgrade(
        self, http_connection: HttpConnection, head: RawRequestMessage, error: HandshakeError
    ) -> None:
        """Logs why an upgrade request is refused; the same once a minute at most, and less if many warnings come.

        The same: for a 403 the same origin and host, which are logged too; else the same reason. See `RateLimitedLog`.
        """
        if error.status != 403:
            text = "upgrade refused remote=%s status=%d: %s"
            self._rate_limited_log.warn_once_per_kind(
                error.reason, text, http_connection.remote, error.status, error.reason
            )
            return
        text = "upgrade refused remote=%s status=%d origin=%s host=%s: %s"
        origin = escape_text(head.headers.get(hdrs.ORIGIN, ""))
        host = escape_text(request_from_head(head, "", b"").host)
        self._rate_limited_log.warn_once_per_kind(
            (origin, host), text, http_connection.remote, error.status, origin, host, error.reason
        )

    def _warn_of_no_subprotocol(self, http_connection: HttpConnection, upgrade: Upgrade) -> None:
        """Logs that none of a client's subprotocols was chosen, once a minute at most; browsers then close.

        The offers are not logged: some clients offer a token among them, because a browser lets them set no other
        header field.
        """
        self._rate_limited_log.warn_once_per_kind(
            NO_SUBPROTOCOL_WARNING,
            NO_SUBPROTOCOL_WARNING,
            http_connection.remote,
            len(upgrade.offered_subprotocols),
        )

    async def _run_open_handler(
        self,
        http_connection: HttpConnection,
        head: RawRequestMessage,
        connection: OpeningConnectionT,
        worker_index: int,
    ) -> HttpResponse | Accept | None:
        """Runs the application's open handler in the socket's worker and returns the decision about the socket.

        If the handler accepts and the client has left meanwhile, the socket is discarded here and in the worker.

        Returns:
            None or an `Accept` to accept the socket, or the response that refuses it (500 if the pool fails).
        """
        try:
            result = await self._pool.run_open_handler(
                connection.id, worker_index, request_from_head(head, http_connection.remote, b"")
            )
            if not isinstance(result, HttpResponse) and self._discard_if_client_left(http_connection, connection):
                self._pool.drop_unopened_socket(connection.id, worker_index)
            return result
        except Exception:
            log.exception("cannot ask the open handler socket=%d remote=%s", connection.id, http_connection.remote)
            return error_response_for(500)

    def _complete_upgrade(
        self, http_connection: HttpConnection, upgrade: Upgrade, accept: Accept | None, connection: OpeningConnectionT
    ) -> None:
        """Hands the transport of an HTTP connection to its WebSocket connection, which sends the 101.

        Args:
            http_connection: the connection whose upgrade is accepted.
            upgrade: the checked upgrade request.
            accept: the open handler's header fields and subprotocol; None: the handler returned True or None.
            connection: the WebSocket connection.
        """
        subprotocol = upgrade.subprotocol
        if accept is None:
            response_head = encode_response_head(upgrade)
        else:
            subprotocol = accept.subprotocol or subprotocol
            response_head = encode_response_head(upgrade, subprotocol, accept.headers.pairs)
        if upgrade.offered_subprotocols and subprotocol is None:
            self._warn_of_no_subprotocol(http_connection, upgrade)
        self._end_opening(http_connection)
        transport, early_bytes = http_connection.detach_transport()
        try:
            self._connections.accept_upgrade(connection, transport, response_head, early_bytes)
        except Exception:
            if transport.get_protocol() is http_connection:
                self._connections.discard_connection(connection)
            transport.abort()
            log.exception("cannot hand over a connection socket=%d", connection.id)

    def _begin_opening(self, http_connection: HttpConnection, connection: OpeningConnectionT) -> None:
        """Records that a WebSocket connection is opening on an HTTP connection, and counts that.

        Called before the open handler runs, if there is one.
        """
        self.opening_count += 1
        http_connection.begin_opening(connection)

    def _end_opening(self, http_connection: HttpConnection) -> OpeningConnectionT | None:
        """Removes the record of `_begin_opening`; returns its WebSocket connection, None if there is no record."""
        if http_connection.opening_connection is None:
            return None
        self.opening_count -= 1
        return cast("OpeningConnectionT", http_connection.end_opening())

    def _discard_if_client_left(self, http_connection: HttpConnection, connection: OpeningConnectionT) -> bool:
        """Returns whether the client has left since `_begin_opening`; if so, discards its socket unless that is done.

        Called when the open handler has ended.
        """
        if http_connection.opening_connection is not connection:
            return True  # the connection is lost, and the socket was discarded then
        if http_connection.live_transport is None or http_connection.live_transport.is_closing():
            self._end_opening(http_connection)
            self._connections.discard_connection(connection)
            return True
        return False


def _authority_of(head: RawRequestMessage) -> str:
    """Returns host and port of an upgrade request's target if that is a whole URL, else ``""``.

    Raises:
        HandshakeError: the target has none of the forms that a server answers.
    """
    try:
        return split_target(head.method, head.path)[2]
    except ValueError as error:
        raise HandshakeError(400, str(error)) from None
