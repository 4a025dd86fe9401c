"""The front: its listeners, the table of its HTTP connections, and its start and stop."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Generic

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from wsbroker.front import listening
from wsbroker.front.connection_resources import ConnectionResources
from wsbroker.front.http_connection import HttpConnection
from wsbroker.front.interfaces import ConnectionsLike, OpeningConnectionT, PoolLike
from wsbroker.front.plain_http import RequestResponder
from wsbroker.front.rate_limited_log import RateLimitedLog
from wsbroker.front.upgrade import Upgrader
from wsbroker.guarded_log import GuardedLog
from wsbroker.settings.addresses import Address, BindAddress
from wsbroker.settings.config import Config

log: Final = GuardedLog(__name__)

CANCEL_WAIT_S: Final = 1.0
"""How long `stop` waits for cancelled tasks."""


class Front(Generic[OpeningConnectionT]):
    """Accepts connections, answers plain HTTP, and hands upgraded connections over to the WebSocket connections.

    Created in the running loop. Loop thread only.

    Args:
        config: limits and times.
        connections: the table of WebSocket connections, which takes over upgraded connections.
        pool: the pool of workers, which runs the handlers.
    """

    def __init__(self, config: Config, connections: ConnectionsLike[OpeningConnectionT], pool: PoolLike) -> None:
        self.config: Final = config
        self.loop: Final = asyncio.get_running_loop()
        self.http_connections: Final[set[HttpConnection]] = set()
        """Every accepted connection that is not a WebSocket connection."""
        rate_limited_log = RateLimitedLog(log, self.loop.time)
        self.upgrader: Final = Upgrader(config, connections, pool, rate_limited_log)
        responder = RequestResponder(config.max_body_size, pool, self.upgrader, rate_limited_log)
        self.aiohttp_server: Final = web.Server(responder.respond_to_request, loop=self.loop)
        self.resources: Final = ConnectionResources(
            config, self.loop, self.aiohttp_server, rate_limited_log, self.http_connections
        )
        self._connections: Final = connections
        self._max_connections: Final = config.connection_limit()
        self._listeners: list[listening.Listener] = []
        self._emptied_future: asyncio.Future[None] | None = None

    # Start and stop. ------------------------------------------------------------------------------------------------

    async def listen(self, addresses: Sequence[BindAddress]) -> list[Address]:
        """Binds all addresses and starts to accept connections.

        Returns:
            the bound addresses with their real ports, in the order of `addresses`.

        Raises:
            OSError: an address cannot be bound; the text names the address and the remedy. Nothing stays bound.
        """
        listeners = await listening.bind_addresses(addresses, self.config.unix_mode, self.config.unix_group)
        try:
            for listener in listeners:
                await listener.start_accepting(partial(HttpConnection, self.resources, self))
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        self._listeners += listeners
        return [address for listener in listeners for address in (listener.address, *listener.more_addresses)]

    def stop_listening(self) -> None:
        """Stops accepting connections; accepted connections stay."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def open_descriptors(self) -> list[int]:
        """Returns the file descriptors of all listeners and all HTTP connections."""
        descriptors = [sock.fileno() for listener in self._listeners for sock in listener.sockets]
        for http_connection in self.http_connections:
            if http_connection.live_transport is not None:
                descriptors.append(http_connection.live_transport.get_extra_info("socket").fileno())
        return descriptors

    async def stop(self, timeout_s: float) -> None:
        """Ends all HTTP connections: idle ones at once, others when they are answered or `timeout_s` is over."""
        self.stop_listening()
        self.resources.is_stopping = True
        for http_connection in list(self.http_connections):
            http_connection.close_after_response()
        grace_s = min(timeout_s, self.config.close_timeout)
        await self._wait_until_empty(grace_s)
        for http_connection in list(self.http_connections):  # responses may take longer, but not requests
            http_connection.abort_incomplete_request()
        await self._wait_until_empty(timeout_s - grace_s)
        tasks = [
            *self.upgrader.open_handler_tasks,
            *(each.serving_task for each in self.http_connections if each.serving_task is not None),
        ]
        if self.http_connections:
            log.warning("stopped with unanswered requests connections=%d", len(self.http_connections))
        for http_connection in list(self.http_connections):
            http_connection.abort_transport()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)
        await self._wait_until_empty(CANCEL_WAIT_S)
        self.resources.clear_deadlines()

    async def _wait_until_empty(self, timeout_s: float) -> None:
        """Waits until the front has no HTTP connection any more, at most `timeout_s` seconds. Called by `stop`."""
        if self.http_connections:
            self._emptied_future = self.loop.create_future()
            await asyncio.wait([self._emptied_future], timeout=timeout_s)
            self._emptied_future = None

    # Called by the HTTP connections. --------------------------------------------------------------------------------

    def admit_http_connection(self, connection: HttpConnection) -> bool:
        """Adds an accepted connection to the table; returns whether it is under the limit of connections."""
        http_connections = self.http_connections
        open_count = len(http_connections) - self.upgrader.opening_count + self._connections.connection_count
        http_connections.add(connection)
        if open_count < self._max_connections and not self.resources.is_stopping:
            return True
        self.resources.log.warn_or_count(
            "no room for another connection remote=%s limit=%d", connection.remote, self._max_connections
        )
        return False

    def remove_http_connection(self, connection: HttpConnection) -> None:
        """Removes from the table a connection that is lost or detached, and wakes `stop` if the table is empty."""
        self.http_connections.discard(connection)
        if not self.http_connections and self._emptied_future is not None and not self._emptied_future.done():
            self._emptied_future.set_result(None)

    def discard_opening_socket(self, connection: HttpConnection) -> None:
        """Discards the socket whose open handler runs for a lost connection, if there is one."""
        self.upgrader.discard_opening_socket(connection)

    def upgrade_first_request(self, connection: HttpConnection, head: RawRequestMessage) -> None:
        """Answers the first request of a connection, an upgrade without a body."""
        self.upgrader.upgrade_first_request(connection, head)

    # Statistics. ----------------------------------------------------------------------------------------------------

    @property
    def request_bytes(self) -> int:
        """Bytes that all connections hold of unanswered requests: memory for heads, bytes of bodies."""
        return self.resources.request_bytes

    @property
    def max_request_bytes(self) -> int:
        """The limit of `request_bytes`."""
        return self.resources.max_request_bytes

    @property
    def requests_shed(self) -> int:
        """How many requests were refused because `request_bytes` passed its limit."""
        return self.resources.requests_shed

    @property
    def answer_bytes(self) -> int:
        """Bytes of responses in the transports' buffers of clients that read too slowly."""
        return self.resources.answer_bytes

    @property
    def max_answer_bytes(self) -> int:
        """The limit of `answer_bytes`."""
        return self.resources.max_answer_bytes

    @property
    def answers_shed(self) -> int:
        """How many connections were aborted because `answer_bytes` passed its limit."""
        return self.resources.answers_shed

    @property
    def held_bytes(self) -> int:
        """Bytes that all connections hold of requests and of responses together."""
        return self.resources.request_bytes + self.resources.answer_bytes

    def reset_peak_held_bytes(self) -> int:
        """Returns the sum of the maxima of request and response bytes since the last call, and starts new maxima."""
        resources = self.resources
        peak_bytes = resources.peak_request_bytes + resources.peak_answer_bytes
        resources.peak_request_bytes = resources.request_bytes
        resources.peak_answer_bytes = resources.answer_bytes
        return peak_bytes
