"""What the front is given: the sockets and the workers, as far as it sees them."""

import asyncio
from typing import Protocol, TypeVar

from wsbroker.http.messages import Accept, HttpRequest, HttpResponse


class Admitted(Protocol):
    """A socket that exists but whose connection still speaks HTTP."""

    @property
    def id(self) -> int:
        """The socket's id."""
        ...


AdmittedT = TypeVar("AdmittedT", bound=Admitted)


class ConnectionsLike(Protocol[AdmittedT]):
    """Who takes the connections over."""

    @property
    def count(self) -> int:
        """Sockets from `admit` until their connection is lost or discarded."""
        ...

    def admit(self, lane_index: int) -> AdmittedT | None:
        """A new socket of that worker, or None when there are too many."""
        ...

    def accept(self, connection: AdmittedT, transport: asyncio.Transport, head: bytes, tail: bytes) -> None:
        """Writes the 101 response `head`, sets the transport's protocol and feeds it `tail`."""
        ...

    def discard(self, connection: AdmittedT) -> None:
        """The socket was refused, or its client was gone before the 101."""
        ...


class PoolLike(Protocol):
    """Who runs the handlers."""

    @property
    def has_open_handler(self) -> bool:
        """Whether `open` is to be asked before a 101."""
        ...

    def choose_worker_index(self) -> int:
        """The worker a new socket belongs to."""
        ...

    async def open(self, socket_id: int, lane_index: int, request: HttpRequest) -> HttpResponse | Accept | None:
        """Runs the open handler; None and an `Accept` accept, a response refuses."""
        ...

    def forget(self, socket_id: int, lane_index: int) -> None:
        """A socket that `open` accepted was gone before its 101: what its handler left with the worker is dropped."""
        ...

    async def http(self, request: HttpRequest) -> HttpResponse:
        """Runs the handler of plain HTTP requests."""
        ...
