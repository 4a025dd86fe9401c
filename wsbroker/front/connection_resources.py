"""What the HTTP connections of one front share: limits, byte counts; aborts clients with the most unread responses."""

import asyncio
from collections.abc import Collection
from typing import Final, Protocol

from aiohttp import web

from wsbroker.front.deadlines import DeadlineQueue
from wsbroker.front.parse_scheduler import ParseScheduler
from wsbroker.front.rate_limited_log import RateLimitedLog
from wsbroker.settings.config import Config

LINGER_S: Final = 2.0
"""How long a connection may go on sending after its last response, so that the client gets to read that response; and
how long a connection over the limit may take to send its request, so that the response comes behind the request (some
clients mishandle an earlier one)."""

MAX_LINGERING: Final = 256
"""How many connections may linger at a time; others are closed at once."""

FREED_LIMIT_DIVISOR: Final = 16
"""When too many unsent bytes wait, so many connections are aborted that one part in this many of the limit is free
again, because the search for the largest ones is not to be repeated for each response."""


class ReadingConnection(Protocol):
    """The reading half of an HTTP connection as the shared deadlines use it."""

    def on_head_timeout(self) -> None:
        """Ends the wait for a request head. Called when `handshake_timeout` is over."""
        ...

    def on_body_timeout(self) -> None:
        """Ends the wait for the rest of a body. Called when `http_timeout` is over."""
        ...


class WritingConnection(Protocol):
    """The writing half of an HTTP connection as the shared deadlines and the count of unsent bytes use it."""

    @property
    def answer_bytes(self) -> int:
        """The connection's part of `ConnectionResources.answer_bytes`."""
        ...

    def on_write_timeout(self) -> None:
        """Checks whether the client has read anything. Called when `write_timeout` is over."""
        ...

    def on_linger_timeout(self) -> None:
        """Closes the connection. Called LINGER_S after its last response."""
        ...

    def abort_unread_responses(self) -> None:
        """Aborts the connection because its client reads too slowly."""
        ...


class ConnectionResources:
    """Limits, deadlines, byte counts, turns to parse and the log that all HTTP connections of a front share.

    Loop thread only.

    Args:
        config: limits and times.
        loop: the running loop.
        aiohttp_server: aiohttp's server, to which all connections belong.
        log: the log for warnings about clients.
        connections: all HTTP connections of the front; the front keeps this collection.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        aiohttp_server: web.Server,
        log: RateLimitedLog,
        connections: "Collection[WritingConnection]",
    ) -> None:
        self.loop: Final = loop
        self.aiohttp_server: Final = aiohttp_server
        self.log: Final = log
        self.keepalive_timeout_s: Final = config.keepalive_timeout
        self.max_head_bytes: Final = config.max_head_size
        self.parse_scheduler: Final = ParseScheduler(loop, config.read_budget_frames)
        self.is_stopping = False
        """Whether the front is stopping, so that each response is the last one of its connection."""
        self.head_deadlines: Final = DeadlineQueue[ReadingConnection](
            loop, config.handshake_timeout, lambda connection: connection.on_head_timeout()
        )
        """Connections that have to send a request head."""
        self.body_deadlines: Final = DeadlineQueue[ReadingConnection](
            loop, config.http_timeout, lambda connection: connection.on_body_timeout()
        )
        """Connections that have to send the rest of a body."""
        self.write_deadlines: Final = DeadlineQueue[WritingConnection](
            loop, config.write_timeout, lambda connection: connection.on_write_timeout()
        )
        """Connections that have to read what was written."""
        self.linger_deadlines: Final = DeadlineQueue[WritingConnection](
            loop, LINGER_S, lambda connection: connection.on_linger_timeout()
        )
        """Connections whose last response is written, and connections over the limit."""
        self.request_bytes = 0
        """Bytes that all connections hold of unanswered requests: memory for heads, bytes of bodies."""
        self.peak_request_bytes = 0
        """The maximum of `request_bytes` since its reader set this value back."""
        self.max_request_bytes: Final = config.request_bytes_limit()
        self.requests_shed = 0
        """How many requests were refused because `max_request_bytes` was passed."""
        self.answer_bytes = 0
        """Bytes of responses in the transports' buffers of clients that read too slowly."""
        self.peak_answer_bytes = 0
        """The maximum of `answer_bytes` since its reader set this value back."""
        self.max_answer_bytes: Final = config.waiting_bytes_limit()
        self.answers_shed = 0
        """How many connections were aborted because `max_answer_bytes` was passed."""
        self._connections: Final = connections

    def start_linger_deadline(self, connection: WritingConnection) -> None:
        """Starts the linger deadline of a connection, or ends the wait at once if MAX_LINGERING connections linger."""
        if len(self.linger_deadlines) < MAX_LINGERING or connection in self.linger_deadlines:
            self.linger_deadlines.add(connection)
        else:
            connection.on_linger_timeout()

    def clear_deadlines(self) -> None:
        """Removes all deadlines and stops their timers."""
        for deadlines in (self.head_deadlines, self.write_deadlines, self.linger_deadlines, self.body_deadlines):
            deadlines.clear()

    def add_answer_bytes(self, byte_count: int, connection: WritingConnection) -> None:
        """Counts further unsent bytes of a connection; aborts other connections if the sum passes its limit."""
        self.answer_bytes += byte_count
        if self.answer_bytes > self.peak_answer_bytes:
            self.peak_answer_bytes = self.answer_bytes
        if self.answer_bytes > self.max_answer_bytes:
            self._abort_slowest_readers(connection)

    def _abort_slowest_readers(self, newest: WritingConnection) -> None:
        """Aborts the connections with the most unsent bytes until a sixteenth of the limit of their sum is free.

        Called when the unsent bytes of all connections together are more than that limit, `max_answer_bytes`.

        Args:
            newest: the connection whose bytes passed the limit. It is spared, because its client has had no time to
                read; so one response may go beyond the limit.
        """
        goal = self.max_answer_bytes - self.max_answer_bytes // FREED_LIMIT_DIVISOR
        slow = [each for each in self._connections if each.answer_bytes and each is not newest]
        slow.sort(key=lambda each: each.answer_bytes, reverse=True)
        for connection in slow:
            if self.answer_bytes <= goal:
                return
            self.answers_shed += 1
            connection.abort_unread_responses()
