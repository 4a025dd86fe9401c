"""The WebSocket connections and the pool of workers as the front sees them: interfaces, so that it imports neither."""

import asyncio
from typing import Protocol, TypeVar

from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse


class OpeningConnection(Protocol):
    """The WebSocket connection of a socket that exists already while its client still speaks HTTP."""

    @property
    def id(self) -> int:
        """The socket's id."""
        ...


OpeningConnectionT = TypeVar("OpeningConnectionT", bound=OpeningConnection)


class ConnectionsLike(Protocol[OpeningConnectionT]):
    """The table of WebSocket connections, which takes over upgraded connections."""

    @property
    def connection_count(self) -> int:
        """How many sockets exist, from `admit_connection` until their connection is lost or discarded."""
        ...

    def admit_connection(self, worker_index: int) -> OpeningConnectionT | None:
        """Creates a socket whose handlers run in the given worker; returns None if there are too many sockets."""
        ...

    def accept_upgrade(
        self, connection: OpeningConnectionT, transport: asyncio.Transport, response_head: bytes, early_bytes: bytes
    ) -> None:
        """Opens the WebSocket connection on the transport of an HTTP connection.

        Writes `response_head` (the 101), sets the transport's protocol and decodes `early_bytes`, which the client has
        sent behind its request.
        """
        ...

    def discard_connection(self, connection: OpeningConnectionT) -> None:
        """Removes a socket that was refused, or whose client left before the 101."""
        ...


class PoolLike(Protocol):
    """The pool of workers, which runs the handlers."""

    @property
    def has_open_handler(self) -> bool:
        """Whether `run_open_handler` has to be called before a 101."""
        ...

    def choose_worker_index(self) -> int:
        """Returns the index of the worker for a new socket."""
        ...

    async def run_open_handler(
        self, socket_id: int, worker_index: int, request: HttpRequest
    ) -> HttpResponse | Accept | None:
        """Runs the open handler for a socket.

        Returns:
            None or an `Accept` to accept the socket, or the response that refuses it; checked already.
        """
        ...

    def drop_unopened_socket(self, socket_id: int, worker_index: int) -> None:
        """Drops what a worker keeps of a socket that its open handler accepted but whose client left before the 101."""
        ...

    async def run_http_handler(self, request: HttpRequest) -> HttpResponse:
        """Runs the handler of plain HTTP requests; returns the response, which is checked already."""
        ...
