"""The front: its listeners, its connections and their deadlines, and what happens to each request."""

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Final, Generic, cast

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from aiohttp.streams import StreamReader

from wsbroker.errors import HandshakeError
from wsbroker.front import aiohttp_private, listening
from wsbroker.front.aiohttp_private import NoResponse
from wsbroker.front.conversion import (
    RAW_CONNECTION_LIMIT,
    connection_limit_response,
    content_length,
    error_response,
    handshake_error_response,
    header_fields_of,
    make_complete_response,
    request_bytes_limit_response,
    request_from_head,
)
from wsbroker.front.deadlines import DeadlineQueue
from wsbroker.front.http_connection import LINGERING, NEW, OVER_LIMIT, SERVING, HttpConnection
from wsbroker.front.interfaces import ConnectionsLike, OpeningConnectionT, PoolLike
from wsbroker.front.rate_limited_log import RateLimitedLog
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.http.targets import escape_text, is_websocket_without_upgrade, split_target
from wsbroker.settings.addresses import Address, BindAddress
from wsbroker.settings.config import Config
from wsbroker.websocket.handshake import Upgrade, check_upgrade, encode_response_head, offers_websocket

log: Final = GuardedLog(__name__)

LINGER_S: Final = 2.0
"""How long a connection that we end may go on sending, so that it gets to read our answer; and how long one too many
may take to send its request, so that the answer comes behind it (some clients stumble over an earlier one)."""

MAX_LINGERING: Final = 256
"""How many may do so at a time; the others are closed at once."""

CANCEL_WAIT_S: Final = 1.0
"""How long `stop` waits for what it has cancelled."""

RESPONSES_PER_LOOP_TURN: Final = 16
"""Pipelined requests that one connection gets answered before the others have their turn (where a handler needs no
await, aiohttp would go on until all that was read is answered: a read can hold 7,000 requests)."""

FREED_LIMIT_DIVISOR: Final = 16
"""When too much waits for all connections together, so many are aborted that one part in this many of the limit is free
again: the search for the largest is not to be repeated for each answer."""

PARSE_BUDGETS_PER_LOOP_TURN: Final = 4
"""Connections that use up their budget (`read_budget_frames` lines of heads and chunks) in one turn of the loop; the
others wait for the next one. So nobody waits longer when 200 send one-byte chunks than when 20 do."""

CONTINUE_RESPONSE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

NO_SUBPROTOCOL_WARNING: Final = (
    "no subprotocol chosen remote=%s offered=%d: browsers close the connection then; list one that the client offers "
    "(its header Sec-WebSocket-Protocol) in the setting subprotocols, or return Accept(subprotocol=...) from "
    "handle_socket_open"
)
NO_UPGRADE_WARNING: Final = (
    "a WebSocket was meant, but the request has no Upgrade: websocket remote=%s: a proxy in front must pass the "
    "Upgrade and Connection headers on"
)

_HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
"""uri-host [ ":" port ], as far as its characters tell (RFC 3986 section 3.2.2)."""


class Front(Generic[OpeningConnectionT]):
    """Accepts connections, answers plain HTTP, and gives upgraded connections to the sockets.

    Made in the running loop. Loop thread only.

    Args:
        config: limits and times.
        sockets: who takes upgraded connections.
        pool: who runs handlers.
    """

    def __init__(self, config: Config, sockets: ConnectionsLike[OpeningConnectionT], pool: PoolLike) -> None:
        self.config: Final = config
        self.connections: Final = sockets
        self.pool: Final = pool
        self.loop: Final = asyncio.get_running_loop()
        self.aiohttp_server: Final = web.Server(self.respond_to_request, loop=self.loop)
        self.http_connections: Final[set[HttpConnection]] = set()
        """Every accepted connection that is not a socket yet, or never becomes one."""
        self.head_deadlines: Final = DeadlineQueue[HttpConnection](
            self.loop, config.handshake_timeout, self._on_head_timeout
        )
        """Who must send a request head."""
        self.write_deadlines: Final = DeadlineQueue[HttpConnection](
            self.loop, config.write_timeout, self._on_write_timeout
        )
        """Who must take what was written."""
        self.linger_deadlines: Final = DeadlineQueue[HttpConnection](self.loop, LINGER_S, self._on_linger_timeout)
        """Who has been answered for the last time."""
        self.body_deadlines: Final = DeadlineQueue[HttpConnection](
            self.loop, config.http_timeout, self._on_body_timeout
        )
        """Who must send the rest of a body."""
        self.rate_limited_log: Final = RateLimitedLog(log, self.loop.time)
        self.is_stopping = False
        self.max_parse_lines: Final = config.read_budget_frames
        """Lines of heads and chunks that a connection may have parsed in one turn of the loop."""
        self.request_bytes = 0
        """What the connections hold of requests that are not answered: memory for heads, bytes of bodies."""
        self.peak_request_bytes = 0
        """The most that `request_bytes` has been since whoever watches it set this back."""
        self.max_request_bytes: Final = config.request_bytes_limit()
        self.requests_shed = 0
        """Requests that were refused because all together held too much."""
        self.answer_bytes = 0
        """What the transports hold of answers that their clients do not take, as `count_unsent_bytes` counts it."""
        self.peak_answer_bytes = 0
        """The most that `answer_bytes` has been since whoever watches it set this back."""
        self.max_answer_bytes: Final = config.waiting_bytes_limit()
        self.answers_shed = 0
        """Connections that were aborted because too much waited for all together."""
        self._waiting_to_parse: dict[HttpConnection, None] = {}
        """Who has more to parse than one turn allows, in the order of their turns."""
        self._is_parsing_scheduled = False
        self._currently_parsing: HttpConnection | None = None
        """Whose turn it is."""
        self._max_connections: Final = config.connection_limit()
        self._opening_count = 0
        self._listeners: list[listening.Listener] = []
        self._open_handler_tasks: set[asyncio.Task[None]] = set()
        self._emptied_future: asyncio.Future[None] | None = None

    # Life. ----------------------------------------------------------------------------------------------------------

    async def listen(self, addresses: Sequence[BindAddress]) -> list[Address]:
        """Binds all addresses and starts to accept.

        Returns:
            what was bound, in the order of `addresses`, with real ports.

        Raises:
            OSError: one of them cannot be bound; its text names the address and says what to do. Nothing stays bound.
        """
        listeners = await listening.bind_addresses(addresses, self.config.unix_mode, self.config.unix_group)
        try:
            for listener in listeners:
                await listener.start_accepting(partial(HttpConnection, self))
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        self._listeners += listeners
        return [address for listener in listeners for address in (listener.address, *listener.more_addresses)]

    def stop_listening(self) -> None:
        """Accepts no more connections. Those that are here go on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def open_descriptors(self) -> list[int]:
        """Returns those of all listeners and of all connections that are not sockets."""
        found = [sock.fileno() for listener in self._listeners for sock in listener.sockets]
        for door in self.http_connections:
            if door.live_transport is not None:
                found.append(door.live_transport.get_extra_info("socket").fileno())
        return found

    async def stop(self, timeout_s: float) -> None:
        """Ends: idle connections at once, requests in flight when they are answered, or `timeout_s` from now."""
        self.stop_listening()
        self.is_stopping = True
        for door in list(self.http_connections):
            self._close_after_response(door)
        grace_s = min(timeout_s, self.config.close_timeout)
        await self._wait_until_empty(grace_s)
        for door in list(
            self.http_connections
        ):  # answers may take longer, but not requests: a client could hold the stop
            if door.incomplete_body is not None and door.live_transport is not None:
                door.live_transport.abort()
        await self._wait_until_empty(timeout_s - grace_s)
        tasks = [
            *self._open_handler_tasks,
            *(door.serving_task for door in self.http_connections if door.serving_task is not None),
        ]
        if self.http_connections:
            log.warning("stopped with unanswered requests connections=%d", len(self.http_connections))
        for door in list(self.http_connections):
            if door.live_transport is not None:
                door.live_transport.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)
        await self._wait_until_empty(CANCEL_WAIT_S)
        for deadlines in (self.head_deadlines, self.write_deadlines, self.linger_deadlines, self.body_deadlines):
            deadlines.clear()

    def _close_after_response(self, door: HttpConnection) -> None:
        door.is_last_request_read = True
        if door.state == SERVING:
            if door.is_idle:
                door.force_close()
            else:
                door.close()  # behind the current answer, also if that was made before `is_stopping`
        elif door.state in (NEW, LINGERING, OVER_LIMIT) and door.live_transport is not None:
            door.live_transport.close()

    async def _wait_until_empty(self, timeout_s: float) -> None:
        if self.http_connections:
            self._emptied_future = self.loop.create_future()
            await asyncio.wait([self._emptied_future], timeout=timeout_s)
            self._emptied_future = None

    # What doors tell. -----------------------------------------------------------------------------------------------

    def on_connection_made(self, door: HttpConnection) -> None:
        """A connection was accepted."""
        doors = self.http_connections
        is_full = len(doors) - self._opening_count + self.connections.connection_count >= self._max_connections
        doors.add(door)
        if is_full or self.is_stopping:
            self.rate_limited_log.warn_or_count(
                "no room for another connection remote=%s limit=%d", door.remote, self._max_connections
            )
            door.state = OVER_LIMIT
            self._start_linger_deadline(door)
        else:
            self.head_deadlines.add(door)

    def on_last_response_written(self, door: HttpConnection) -> None:
        """The last answer of a connection is written."""
        self.head_deadlines.remove(door)
        self._start_linger_deadline(door)

    def on_connection_lost(self, door: HttpConnection) -> None:
        """A connection is gone."""
        self._remove_connection(door)
        connection = self._finish_opening(door)
        if connection is not None:
            self.connections.discard_connection(connection)

    def start_write_deadline(self, door: HttpConnection) -> None:
        """A connection must take what waits for it, or at least some of it in each `write_timeout`."""
        assert door.live_transport is not None
        door.last_unsent_bytes = door.live_transport.get_write_buffer_size()
        self.write_deadlines.add(door)
        self.count_unsent_bytes(door)

    def stop_write_deadline(self, door: HttpConnection) -> None:
        """It has taken nearly everything; the rest counts only when nothing else would notice that it stays."""
        self._uncount_unsent_bytes(door)
        if door.live_transport is None or not door.live_transport.is_closing():
            self.write_deadlines.remove(door)

    def count_unsent_bytes(self, door: HttpConnection) -> None:
        """Counts what the transport of a watched connection holds, and aborts others if all together hold too much.

        What its client takes of it counts until nearly all is taken: a transport frees an answer as a whole.
        """
        assert door.live_transport is not None
        grown = door.live_transport.get_write_buffer_size() - door.answer_bytes
        if grown <= 0:
            return
        door.answer_bytes += grown
        self.answer_bytes += grown
        if self.answer_bytes > self.peak_answer_bytes:
            self.peak_answer_bytes = self.answer_bytes
        if self.answer_bytes > self.max_answer_bytes:
            self._abort_slowest_readers(door)

    def _uncount_unsent_bytes(self, door: HttpConnection) -> None:
        self.answer_bytes -= door.answer_bytes
        door.answer_bytes = 0

    def _abort_slowest_readers(self, newest: HttpConnection) -> None:
        """Aborts the connections for which most waits until a part of the limit is free.

        Not the newest: its client has had no time to take anything. So one answer may go beyond the limit.
        """
        goal = self.max_answer_bytes - self.max_answer_bytes // FREED_LIMIT_DIVISOR
        behind = [door for door in self.http_connections if door.answer_bytes and door is not newest]
        behind.sort(key=lambda door: door.answer_bytes, reverse=True)
        for door in behind:
            if self.answer_bytes <= goal:
                return
            self._uncount_unsent_bytes(door)
            self.write_deadlines.remove(door)
            self.answers_shed += 1
            if door.live_transport is not None:
                door.live_transport.abort()

    def may_parse_chunks(self, door: HttpConnection) -> bool:
        """Whether a connection may have chunks parsed now: it may unless others wait for their turn to."""
        return not self._waiting_to_parse or door is self._currently_parsing

    def schedule_parsing(self, door: HttpConnection) -> None:
        """A connection has more to parse than this turn of the loop allows."""
        self._waiting_to_parse[door] = None
        if not self._is_parsing_scheduled:
            self._is_parsing_scheduled = True
            self.loop.call_soon(self._parse_scheduled)

    def _parse_scheduled(self) -> None:
        """Parses on for one turn of the loop: connections in the order of their turns, as far as the budget goes."""
        behind = self._waiting_to_parse
        budget = PARSE_BUDGETS_PER_LOOP_TURN * self.max_parse_lines
        for _ in range(len(behind)):
            door = self._currently_parsing = next(iter(behind), None)
            if door is None or budget <= 0:
                break
            del behind[door]
            try:
                budget -= 1 + door.parse_pending_data()
            except Exception:
                door.close_after_failure()
        self._currently_parsing = None
        self._is_parsing_scheduled = bool(behind)
        if behind:
            self.loop.call_soon(self._parse_scheduled)

    def _on_body_timeout(self, door: HttpConnection) -> None:
        door.abort_current_body(408)

    def _remove_connection(self, door: HttpConnection) -> None:
        doors = self.http_connections
        doors.discard(door)
        if door.answer_bytes:
            self._uncount_unsent_bytes(door)
        self.head_deadlines.remove(door)
        self.write_deadlines.remove(door)
        self.linger_deadlines.remove(door)
        if door.body_collector is not None:
            self.body_deadlines.remove(door)
        self._waiting_to_parse.pop(door, None)
        if not doors and self._emptied_future is not None and not self._emptied_future.done():
            self._emptied_future.set_result(None)

    def _on_head_timeout(self, door: HttpConnection) -> None:
        if door.live_transport is None:
            return
        log.debug("no request head in time remote=%s", door.remote)
        if door.state != SERVING:
            door.live_transport.close()
        elif door.is_idle:
            door.force_close()
        else:
            self.head_deadlines.add(door)  # the head behind the request that is being answered has time until then

    def _on_write_timeout(self, door: HttpConnection) -> None:
        wire = door.live_transport
        if wire is None:
            return
        unsent = wire.get_write_buffer_size()
        if unsent < door.last_unsent_bytes:
            door.last_unsent_bytes = unsent
            self.write_deadlines.add(door)
        else:
            self.rate_limited_log.warn_or_count("answer not taken remote=%s unsent_bytes=%d", door.remote, unsent)
            wire.abort()

    def _start_linger_deadline(self, door: HttpConnection) -> None:
        if len(self.linger_deadlines) < MAX_LINGERING or door in self.linger_deadlines:
            self.linger_deadlines.add(door)
        else:
            self._on_linger_timeout(door)

    def _on_linger_timeout(self, door: HttpConnection) -> None:
        wire = door.live_transport
        if wire is not None:
            if door.state == OVER_LIMIT:
                wire.write(RAW_CONNECTION_LIMIT)
            wire.close()
            if wire.get_write_buffer_size():
                self.start_write_deadline(door)

    # Upgrades. ------------------------------------------------------------------------------------------------------

    def upgrade_first_request(self, door: HttpConnection, message: RawRequestMessage) -> None:
        """The usual connection: its first request is an upgrade. Without an open handler it is a socket at once."""
        upgrade = self._check_upgrade_request(door, message)
        if isinstance(upgrade, HttpResponse):
            door.refuse_first_request(message, upgrade)
            return
        if door.unparsed_data and not door.has_room_for_early_bytes():
            door.refuse_first_request(message, request_bytes_limit_response())
            return
        lane_index = self.pool.choose_worker_index()
        connection = self.connections.admit_connection(lane_index)
        if connection is None:
            door.refuse_first_request(message, connection_limit_response())
        elif self.pool.has_open_handler:
            self._begin_opening(door, connection)
            task = self.loop.create_task(self._open_then_upgrade_first(door, message, upgrade, connection, lane_index))
            self._open_handler_tasks.add(task)
            task.add_done_callback(self._open_handler_tasks.discard)
        else:
            self._complete_upgrade(door, upgrade, None, connection)

    async def _open_then_upgrade_first(
        self,
        door: HttpConnection,
        message: RawRequestMessage,
        upgrade: Upgrade,
        connection: OpeningConnectionT,
        lane_index: int,
    ) -> None:
        answer = await self._run_open_handler(door, message, connection, lane_index)
        try:
            if not self._is_client_still_connected(door, connection):
                return
            if isinstance(answer, HttpResponse):
                self._finish_opening(door)
                self.connections.discard_connection(connection)
                door.refuse_first_request(message, answer)
            else:
                self._complete_upgrade(door, upgrade, answer, connection)
        except Exception:
            door.close_after_failure()

    async def _upgrade_later_request(self, door: HttpConnection, request: web.BaseRequest) -> web.StreamResponse:
        """An upgrade behind other requests: the same, inside aiohttp's task."""
        message = aiohttp_private.request_head_of(request)
        upgrade = self._check_upgrade_request(door, message)
        if isinstance(upgrade, HttpResponse):
            return door.make_last_response(upgrade)
        if not door.has_upgrade or aiohttp_private.has_body(request.content):
            return door.make_last_response(error_response(400, "a request for a WebSocket has no body"))
        lane_index = self.pool.choose_worker_index()
        connection = self.connections.admit_connection(lane_index)
        if connection is None:
            return door.make_last_response(connection_limit_response())
        self._begin_opening(door, connection)
        accept: Accept | None = None
        if self.pool.has_open_handler:
            answer = await self._run_open_handler(door, message, connection, lane_index)
            if not isinstance(answer, HttpResponse):
                accept = answer
            elif self._is_client_still_connected(door, connection):
                self._finish_opening(door)
                self.connections.discard_connection(connection)
                return door.make_last_response(answer)
        if self._is_client_still_connected(door, connection):
            self._complete_upgrade(door, upgrade, accept, connection)
        return NoResponse()

    def _check_upgrade_request(self, door: HttpConnection, message: RawRequestMessage) -> Upgrade | HttpResponse:
        config = self.config
        version = message.version
        try:
            authority = "" if message.method != hdrs.METH_GET else _authority_of(message)
            return check_upgrade(
                message.method,
                version.major,
                version.minor,
                header_fields_of(message),
                config.subprotocols,
                config.allowed_origins,
                authority,
            )
        except HandshakeError as error:
            self._warn_of_refused_upgrade(door, message, error)
            return handshake_error_response(error)

    def _warn_of_refused_upgrade(self, door: HttpConnection, message: RawRequestMessage, error: HandshakeError) -> None:
        """Logs an upgrade that breaks the rules, with the origin and the host if they are why."""
        if error.status != 403:
            text = "upgrade refused remote=%s status=%d: %s"
            self.rate_limited_log.warn_once_per_kind(error.reason, text, door.remote, error.status, error.reason)
            return
        text = "upgrade refused remote=%s status=%d origin=%s host=%s: %s"
        origin = escape_text(message.headers.get(hdrs.ORIGIN, ""))
        host = escape_text(request_from_head(message, "", b"").host)
        self.rate_limited_log.warn_once_per_kind(
            (origin, host), text, door.remote, error.status, origin, host, error.reason
        )

    def _warn_of_no_subprotocol(self, door: HttpConnection, upgrade: Upgrade) -> None:
        """Logs that none of the subprotocols that a client offers was chosen: browsers close such a connection.

        Not their names: some clients offer a token among them, for a browser lets them set no other header.
        """
        self.rate_limited_log.warn_once_per_kind(
            NO_SUBPROTOCOL_WARNING, NO_SUBPROTOCOL_WARNING, door.remote, len(upgrade.offered_subprotocols)
        )

    async def _run_open_handler(
        self, door: HttpConnection, message: RawRequestMessage, connection: OpeningConnectionT, lane_index: int
    ) -> HttpResponse | Accept | None:
        """Runs the open handler."""
        try:
            answer = await self.pool.run_open_handler(
                connection.id, lane_index, request_from_head(message, door.remote, b"")
            )
            if not isinstance(answer, HttpResponse) and not self._is_client_still_connected(door, connection):
                self.pool.drop_unopened_socket(connection.id, lane_index)
            return answer
        except Exception:
            log.exception("cannot ask the open handler socket=%d remote=%s", connection.id, door.remote)
            return error_response(500)

    def _complete_upgrade(
        self, door: HttpConnection, upgrade: Upgrade, accept: Accept | None, connection: OpeningConnectionT
    ) -> None:
        chosen = upgrade.subprotocol
        if accept is None:
            head = encode_response_head(upgrade)
        else:
            chosen = accept.subprotocol or chosen
            head = encode_response_head(upgrade, chosen, accept.headers.pairs)
        if upgrade.offered_subprotocols and chosen is None:
            self._warn_of_no_subprotocol(door, upgrade)
        self._finish_opening(door)
        self._remove_connection(door)
        transport, tail = door.detach_transport()
        try:
            self.connections.accept_upgrade(connection, transport, head, tail)
        except Exception:
            if transport.get_protocol() is door:
                self.connections.discard_connection(connection)
            transport.abort()
            log.exception("cannot hand over a connection socket=%d", connection.id)

    def _begin_opening(self, door: HttpConnection, connection: OpeningConnectionT) -> None:
        self._opening_count += 1
        door.begin_opening(connection)

    def _finish_opening(self, door: HttpConnection) -> OpeningConnectionT | None:
        if door.opening_connection is None:
            return None
        self._opening_count -= 1
        connection = cast("OpeningConnectionT", door.opening_connection)
        door.opening_connection = None
        return connection

    def _is_client_still_connected(self, door: HttpConnection, connection: OpeningConnectionT) -> bool:
        """Whether the client has waited. One that left has been discarded then, or is now."""
        if door.opening_connection is not connection:
            return False
        if door.live_transport is None or door.live_transport.is_closing():
            self._finish_opening(door)
            self.connections.discard_connection(connection)
            return False
        return True

    # Plain HTTP. ----------------------------------------------------------------------------------------------------

    async def respond_to_request(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request (called by aiohttp, one after the other for each connection)."""
        door = request.protocol
        assert isinstance(door, HttpConnection)
        door.response_count += 1
        if door.response_count % RESPONSES_PER_LOOP_TURN == 0:
            await asyncio.sleep(0)
        try:
            refusal = door.first_request_refusal
            if refusal is not None:
                door.first_request_refusal = None
                return door.make_last_response(refusal)
            message = aiohttp_private.request_head_of(request)
            if hdrs.UPGRADE in message.headers and offers_websocket(header_fields_of(message)):
                return await self._upgrade_later_request(door, request)
            problem = _response_to_bad_request(message)
            if problem is not None:
                aiohttp_private.force_http_1_1_response(request)
                return door.make_last_response(problem, message.method)
            if message.method == hdrs.METH_GET and is_websocket_without_upgrade(message.headers):
                self.rate_limited_log.warn_once_per_kind(NO_UPGRADE_WARNING, NO_UPGRADE_WARNING, door.remote)
            body = b""
            if aiohttp_private.has_body(request.content):
                read = await self._read_body(door, message, request.content)
                if isinstance(read, HttpResponse):
                    return door.make_last_response(read, message.method)
                body = read
            answer = await self.pool.run_http_handler(request_from_head(message, door.remote, body))
            is_last = door.is_last_request_read and not door.queued_request_count or self.is_stopping
            return cast(web.StreamResponse, make_complete_response(answer, message.method, is_last))
        except Exception:
            log.exception("cannot answer remote=%s method=%s", door.remote, request.method)
            return door.make_last_response(error_response(500), request.method)
        finally:
            door.release_oldest_request()

    async def _read_body(
        self, door: HttpConnection, message: RawRequestMessage, content: StreamReader
    ) -> bytes | HttpResponse:
        """Returns the whole body, or the answer to one that cannot be had."""
        limit = self.config.max_body_size
        length = content_length(message)
        if length is not None and length > limit:
            return error_response(413)
        expects = message.headers.get(hdrs.EXPECT)
        if expects is not None and message.version == HttpVersion11:
            if expects.lower() != "100-continue":
                return error_response(417)
            if not content.total_bytes and not content.is_eof() and door.live_transport is not None:
                door.live_transport.write(CONTINUE_RESPONSE)
        body: bytes | int | None = door.read_complete_body(content)
        if body is None:
            body = await door.read_body(content, limit)
        if isinstance(body, int):
            return request_bytes_limit_response() if body == 503 else error_response(body)
        return body if len(body) <= limit else error_response(413)


def _response_to_bad_request(message: RawRequestMessage) -> HttpResponse | None:
    """Returns the answer to what the parser lets through and nobody should handle."""
    version = message.version
    if version != HttpVersion11 and version != HttpVersion10:
        return error_response(505 if version.major >= 2 else 400)
    if message.method == hdrs.METH_CONNECT:
        return error_response(501)
    coding = message.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None:
        if version == HttpVersion10:  # RFC 9112 section 6.1: its framing is faulty
            return error_response(400)
        if [each.strip().lower() for each in coding.split(",")].count("chunked") > 1:
            return error_response(400)  # no client may chunk a body twice; only one of aiohttp's two parsers says so
        if coding.lower() != "chunked":
            return error_response(501)
    if _HOST_PATTERN.fullmatch(message.headers.get(hdrs.HOST, "")) is None:  # RFC 9112 section 3.2
        return error_response(400)
    try:
        split_target(message.method, message.path)
    except ValueError as error:
        return error_response(400, str(error))
    return None


def _authority_of(message: RawRequestMessage) -> str:
    """Returns host and port of a target in absolute form, else ``""``.

    Raises:
        HandshakeError: the target is none that a server answers.
    """
    try:
        return split_target(message.method, message.path)[2]
    except ValueError as error:
        raise HandshakeError(400, str(error)) from None
