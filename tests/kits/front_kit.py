"""Fakes of the WebSocket connections and of the pool, and a front on a free port for tests that need the network."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from wsbroker.front.front import Front
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse
from wsbroker.settings.addresses import Address, TcpAddress
from wsbroker.settings.config import Config

LONG_S = 20.0
"""Longer than any step of these tests takes; a test that waits so long has failed."""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The Sec-WebSocket-Accept for KEY (RFC 6455 section 1.3)."""


def upgrade(
    path: str = "/", *more: str, drop: tuple[str, ...] = (), method: str = "GET", version: str = "1.1"
) -> bytes:
    """Returns an upgrade request; `more` are further header lines, `drop` names fields to leave out."""
    lines = [
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    kept = [line for line in lines if line.split(":")[0] not in drop]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *kept, *more, "", ""]).encode("latin-1")


def get(path: str = "/", *more: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Returns a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *more, "", ""]).encode("latin-1")


def post(body: bytes, path: str = "/", *more: str) -> bytes:
    """Returns a request with a body and its length."""
    return get(path, f"Content-Length: {len(body)}", *more, method="POST") + body


class FakeConnection(asyncio.Protocol):
    """A WebSocket connection that records the bytes that it receives."""

    def __init__(self, sockets: "FakeConnections", socket_id: int) -> None:
        self.sockets = sockets
        self.id = socket_id
        self.received = bytearray()
        self.transport: asyncio.Transport | None = None
        self.is_lost = asyncio.Event()
        self._news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.sockets.connection_count -= 1
        self.is_lost.set()

    async def has_received(self, size: int) -> bytes:
        """Waits until `size` bytes have been received; returns all received bytes."""
        async with asyncio.timeout(LONG_S):
            while len(self.received) < size:
                self._news.clear()
                await self._news.wait()
        return bytes(self.received)


class FakeConnections:
    """A table of WebSocket connections that admits up to `limit` sockets and records each call."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.connection_count = 0
        self.worker_indices: list[int] = []
        self.accepted: list[FakeConnection] = []
        self.discarded: list[FakeConnection] = []
        self.failure: Exception | None = None
        self.news = asyncio.Event()

    def admit_connection(self, worker_index: int) -> FakeConnection | None:
        if self.connection_count >= self.limit:
            return None
        self.connection_count += 1
        self.worker_indices.append(worker_index)
        return FakeConnection(self, len(self.worker_indices))

    def accept_upgrade(
        self, connection: FakeConnection, transport: asyncio.Transport, head: bytes, tail: bytes
    ) -> None:
        if self.failure is not None:
            raise self.failure
        connection.transport = transport
        transport.set_protocol(connection)
        transport.write(head)
        if tail:
            connection.data_received(tail)
        self.accepted.append(connection)
        self.news.set()

    def discard_connection(self, connection: FakeConnection) -> None:
        self.connection_count -= 1
        self.discarded.append(connection)
        self.news.set()

    async def until(self, claim: Callable[[], bool]) -> None:
        """Waits until `claim()` is true; checks after each `accept_upgrade` and `discard_connection`."""
        async with asyncio.timeout(LONG_S):
            while not claim():
                self.news.clear()
                await self.news.wait()


class FakePool:
    """A pool whose HTTP handler is `describe`, and which has no open handler, unless the test sets handlers."""

    def __init__(self) -> None:
        self.opener: Callable[[HttpRequest], Awaitable[HttpResponse | None]] | None = None
        self.handler: Callable[[HttpRequest], Awaitable[HttpResponse]] = describe
        self.requests: list[HttpRequest] = []
        self.opened: list[tuple[int, int]] = []
        self.forgotten: list[tuple[int, int]] = []

    @property
    def has_open_handler(self) -> bool:
        return self.opener is not None

    def choose_worker_index(self) -> int:
        return 3

    async def run_open_handler(self, socket_id: int, worker_index: int, request: HttpRequest) -> HttpResponse | None:
        assert self.opener is not None
        self.opened.append((socket_id, worker_index))
        self.requests.append(request)
        is_accepted = False
        try:
            answer = await self.opener(request)
            is_accepted = answer is None
            return answer
        finally:
            if not is_accepted:  # as the pool does
                self.drop_unopened_socket(socket_id, worker_index)

    def drop_unopened_socket(self, socket_id: int, worker_index: int) -> None:
        self.forgotten.append((socket_id, worker_index))

    async def run_http_handler(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return await self.handler(request)


async def describe(request: HttpRequest) -> HttpResponse:
    """Returns a response with the method, the target and the length of the body of a request."""
    return HttpResponse(200, (), f"{request.method} {request.url} {len(request.body)}")


class Fronting:
    """A front that listens on a port, with its fakes."""

    def __init__(self, front: "Front[FakeConnection]", sockets: FakeConnections, pool: FakePool, port: int) -> None:
        self.front = front
        self.sockets = sockets
        self.pool = pool
        self.port = port
        self.peers: list[Peer] = []

    async def connect(self) -> "Peer":
        """Opens a TCP connection to the front."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        return peer

    async def ask(self, data: bytes) -> bytes:
        """Sends bytes on a new connection; returns all bytes that come back until the server closes."""
        peer = await self.connect()
        await peer.send(data)
        answer = await peer.rest()
        peer.close()
        return answer

    async def until_empty(self) -> None:
        """Waits until the front has no connection left."""
        async with asyncio.timeout(LONG_S):
            while self.front.http_connections:
                await asyncio.sleep(0.001)


class Peer:
    """A client's end of a TCP connection, which sends only the bytes that the test passes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Sends bytes and waits until the kernel has taken nearly all."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """Returns the next response head."""
        async with asyncio.timeout(LONG_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[bytes, bytes]:
        """Returns head and body of the next response, whose length its Content-Length tells."""
        head = await self.head()
        async with asyncio.timeout(LONG_S):
            return head, await self.reader.readexactly(int(field(head, "Content-Length") or "0"))

    async def rest(self) -> bytes:
        """Returns everything until the server closes; a reset counts as closing."""
        data = bytearray()
        async with asyncio.timeout(LONG_S):
            while True:
                try:
                    part = await self.reader.read(65536)
                except ConnectionError:
                    return bytes(data)
                if not part:
                    return bytes(data)
                data += part

    def close(self) -> None:
        """Closes the connection."""
        self.writer.close()


def field(head: bytes, name: str) -> str | None:
    """Returns the value of a field of a response head, None if it has none."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return None


def status(head: bytes) -> int:
    """Returns the status in a response head."""
    return int(head.split(b" ", 2)[1])


@contextlib.asynccontextmanager
async def fronting(
    limit: int = 1000, addresses: tuple[Address, ...] = (TcpAddress("127.0.0.1", 0),), **settings: Any
) -> AsyncIterator[Fronting]:
    """Runs a front on a free port until the block ends, and checks that no callback of the loop has failed."""
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    sockets, pool = FakeConnections(limit), FakePool()
    front: Front[FakeConnection] = Front(Config.of(**settings), sockets, pool)
    bound = await front.listen(addresses)
    first = bound[0]
    running = Fronting(front, sockets, pool, first.port if isinstance(first, TcpAddress) else 0)
    try:
        yield running
    finally:
        for peer in running.peers:
            peer.close()
        for connection in sockets.accepted:
            if connection.transport is not None:
                connection.transport.abort()
        await front.stop(0)
        await asyncio.sleep(0)
        assert not front.http_connections
        assert not failures, failures
