"""What the front is given: the sockets and the workers, as far as it sees them."""

import asyncio
from typing import Protocol, TypeVar

from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse


class OpeningConnection(Protocol):
    """A socket that exists but whose connection still speaks HTTP."""

    @property
    def id(self) -> int:
        """The socket's id."""
        ...


OpeningConnectionT = TypeVar("OpeningConnectionT", bound=OpeningConnection)


class ConnectionsLike(Protocol[OpeningConnectionT]):
    """Who takes the connections over."""

    @property
    def connection_count(self) -> int:
        """Sockets from `admit_connection` until their connection is lost or discarded."""
        ...

    def admit_connection(self, lane_index: int) -> OpeningConnectionT | None:
        """A new socket of that worker, or None when there are too many."""
        ...

    def accept_upgrade(
        self, connection: OpeningConnectionT, transport: asyncio.Transport, head: bytes, tail: bytes
    ) -> None:
        """Writes the 101 response `head`, sets the transport's protocol and feeds it `tail`."""
        ...

    def discard_connection(self, connection: OpeningConnectionT) -> None:
        """The socket was refused, or its client was gone before the 101."""
        ...


class PoolLike(Protocol):
    """Who runs the handlers."""

    @property
    def has_open_handler(self) -> bool:
        """Whether `run_open_handler` is to be asked before a 101."""
        ...

    def choose_worker_index(self) -> int:
        """The worker a new socket belongs to."""
        ...

    async def run_open_handler(
        self, socket_id: int, lane_index: int, request: HttpRequest
    ) -> HttpResponse | Accept | None:
        """Runs the open handler; None and an `Accept` accept, a response refuses."""
        ...

    def drop_unopened_socket(self, socket_id: int, lane_index: int) -> None:
        """A socket that `run_open_handler` accepted was gone before its 101: what its handler left with the worker is dropped."""
        ...

    async def run_http_handler(self, request: HttpRequest) -> HttpResponse:
        """Runs the handler of plain HTTP requests."""
        ...
