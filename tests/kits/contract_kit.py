"""The kit of the contract tests: running servers, and clients of foreign libraries behind one blocking interface.

Nothing here waits for a time: it waits for what must come, PATIENCE_S at most.

    running = servers.get("puppet", kind)        the same server for all tests that ask for the same
    ann = clients.connect(running, "aiohttp")    closed when the test ends; then the broker must be empty
    ann.ask("subscribe(me, 'news')")             has the puppet's message handler evaluate this; returns the value

An application of the tests never shows its state but over the wire, so that it may run anywhere.
"""

import ast
import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeVar, cast
from urllib.parse import quote

import aiohttp
import pytest
import websockets
import websockets.sync.client

import wsbroker
from kits.loop_thread import LoopThread
from kits.raw_peer import PATIENCE_S, Answer, Peer
from wsbroker.build import core_kind
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import Settings, WorkerKind

HERE: Final[tuple[WorkerKind, ...]] = ("inline", "thread")
"""The kinds whose handlers run in this program's interpreter: they can be live objects, and reach its variables."""

ELSEWHERE: Final[tuple[WorkerKind, ...]] = ("process", "interpreter") if sys.version_info >= (3, 13) else ("process",)
"""The kinds whose handlers have an interpreter of their own: only what has a name can be imported there."""

KINDS: Final[tuple[WorkerKind, ...]] = (*HERE, *ELSEWHERE) if core_kind() == "compiled" else HERE
"""The kinds of worker that every test here runs with. A worker, and the broker's side of it, are interpreted in every
build: with a core that is interpreted too, the kinds that differ most are enough."""

CLIENTS: Final = ("websockets", "aiohttp")
"""The client libraries that we did not write."""

APPS: Final = "e2e.contract.apps."
ERRORS: Final = ("LookupError('here')", "SystemExit(3)", "KeyboardInterrupt()", "MemoryError()")
"""Errors that handlers raise, also such as would end a program."""
LOST: Final = 1006

PUPPETS: Final = ("puppet", "async_puppet")
"""The applications that evaluate the expressions they receive; with plain handlers and with async ones."""
ONLY_HERE: Final = pytest.mark.parametrize("kind", HERE, indirect=True)
"""This test has handlers that are a live object: one exists in a single interpreter."""
ONLY_WIRED: Final = pytest.mark.parametrize("kind", KINDS[1:], indirect=True)
"""This test needs a worker beside the event loop: of several, or one whose handlers can be interrupted."""
PLAIN: Final = pytest.mark.parametrize("app", PUPPETS[:1], indirect=True)
"""This test is about plain handlers only."""
ASYNC: Final = pytest.mark.parametrize("app", PUPPETS[1:], indirect=True)
"""This test is about handlers that wait: a plain one cannot, or it holds up its whole worker."""

How = Literal["start", "serve"]
_T = TypeVar("_T")


def until(claim: Callable[[], bool], what: str = "") -> None:
    """Waits until `claim()` is true, by asking again and again."""
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < deadline, what or "it did not become true"
        time.sleep(0.001)


def client_for(kind: WorkerKind, app: str) -> str:
    """Returns the client library for this kind and application; over all of them each library is used."""
    return CLIENTS[(KINDS.index(kind) + (app == PUPPETS[0])) % len(CLIENTS)]


_numbers: Final = itertools.count(1)


def fresh(what: str) -> str:
    """Returns a name that no test has used before."""
    return f"{what} {next(_numbers)}"


# Servers. -------------------------------------------------------------------------------------------------------------


class Running:
    """A running server.

    Args:
        worker: as for `wsbroker.start`.
        kind: the kind of its workers.
        how: ``"start"``, or ``"serve"`` in an event loop of the test's.
        settings: the other settings.
    """

    def __init__(self, worker: object, kind: WorkerKind, how: How, settings: Settings) -> None:
        defaults: Settings = {"workers": 1, "shutdown_timeout": 10.0, "handler_timeout": PATIENCE_S}
        settings = {"worker_kind": kind, **defaults, **settings}
        if kind == "inline":
            settings.pop("workers", None)  # there is one
        self.kind = kind
        self.has_puppet = worker in [APPS + name for name in PUPPETS]
        self.thread: LoopThread | None = None
        self._serving: contextlib.AbstractAsyncContextManager[wsbroker.Server] | None = None
        if how == "start":
            self.server = wsbroker.start("127.0.0.1:0", worker=worker, handle_signals=False, **settings)
        else:
            self.thread = LoopThread("serving")
            try:
                self._serving = wsbroker.serve("127.0.0.1:0", worker=worker, **settings)
                self.server = self.thread.run(_entered(self._serving))
            except BaseException:
                self.thread.end()
                raise
        address = self.server.addresses[0]
        assert isinstance(address, TcpAddress)
        self.port = address.port
        self.kept: dict[str, Client] = {}
        """Clients that stay for the next test; see `Clients.borrow`."""

    @property
    def authority(self) -> str:
        """``127.0.0.1:PORT``"""
        return f"127.0.0.1:{self.port}"

    def count(self, name: str) -> int:
        """Returns one of the server's statistics."""
        return cast(int, self.server.statistics()[name])

    def count_of_workers(self, name: str) -> int:
        """Returns the sum of a count over all workers, such as ``"handler_errors"``."""
        workers = self.server.statistics()["workers"]
        assert isinstance(workers, list)
        return sum(worker["counts"].get(name, 0) for worker in workers)

    def stop(self) -> None:
        """Stops the server and waits for its end."""
        for client in self.kept.values():
            client.end()
        if self.thread is not None and self._serving is not None:
            self.thread.run(_left(self._serving))
            self.thread.end()
        else:
            self.server.stop()


async def _entered(context: contextlib.AbstractAsyncContextManager[_T]) -> _T:
    return await context.__aenter__()


async def _left(context: contextlib.AbstractAsyncContextManager[object]) -> None:
    await context.__aexit__(None, None, None)


class Servers:
    """Runs one server at a time; keeps it from test to test until a test asks for another one."""

    def __init__(self) -> None:
        self._current: Running | None = None
        self._wanted: object = None

    def get(self, app: str, kind: WorkerKind, how: How = "start", **settings: object) -> Running:
        """Returns a server for one of the applications in `contract/apps`, with these settings and no others."""
        wanted = (app, kind, how, sorted(settings.items()))
        if self._current is None or self._wanted != wanted or not self._current.server.is_running:
            self.stop()
            self._current = Running(APPS + app, kind, how, cast(Settings, settings))
            self._wanted = wanted
        return self._current

    def of(self, worker: object, kind: WorkerKind, **settings: object) -> Running:
        """Returns a new server for this test only, for any worker."""
        self.stop()
        self._current = Running(worker, kind, "start", cast(Settings, settings))
        self._wanted = object()
        return self._current

    @property
    def current(self) -> Running | None:
        """The running server, or None."""
        return self._current

    def stop(self) -> None:
        """Stops the running server, if there is one."""
        current, self._current = self._current, None
        if current is not None:
            current.stop()


# Clients. -------------------------------------------------------------------------------------------------------------


class Closed(Exception):
    """Raised when the server has closed the connection.

    Args:
        code: the close code that the client received; LOST if there was no Close frame.
        reason: the reason that the client received.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    """Raised when the server has answered an upgrade with another status than 101."""

    def __init__(self, status: int, headers: dict[str, str], body: str | None) -> None:
        super().__init__(f"{status}")
        self.status = status
        self.headers = headers
        self.body = body


class Link(Protocol):
    """The operations that differ between client libraries."""

    @property
    def subprotocol(self) -> str | None: ...

    def send(self, data: str | bytes) -> None: ...

    def receive(self) -> str | bytes:
        """Returns the next message; raises Closed at the end."""

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None:
        """Ends the connection without a Close frame."""

    def end(self) -> None:
        """Releases the connection."""


class Client:
    """A WebSocket client, blocking."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._id = 0

    @property
    def id(self) -> int:
        """The id of the client's socket on the server; asked from the puppet application when it is first read."""
        if not self._id:
            found = self.ask("me")
            assert isinstance(found, int)
            self._id = found
        return self._id

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has chosen."""
        return self._link.subprotocol

    def send(self, data: str | bytes) -> None:
        """Sends a message."""
        self._link.send(data)

    def receive(self) -> str | bytes:
        """Returns the next message; raises Closed when there is none any more."""
        return self._link.receive()

    def receives(self, *messages: str | bytes) -> None:
        """Asserts that the next messages are these."""
        for message in messages:
            heard = self.receive()
            assert heard == message, (heard, message)

    def ask(self, expression: str, where: str = "here") -> object:
        """Has the puppet evaluate an expression in the message handler of this socket; returns the answer's value."""
        self.send(f"{where} {expression}")
        return self.answer()

    def answer(self) -> object:
        """Returns the value of the next message, which is the puppet's answer; a text with ``!`` for an exception."""
        heard = self.receive()
        assert isinstance(heard, str), heard
        return value_of(heard)

    def tell(self, expression: str) -> None:
        """Has the puppet evaluate an expression without an answer."""
        self.send(f"tell {expression}")

    def hears_nothing_else(self) -> None:
        """Asserts that no other message was sent to the client: it would arrive before the answer to a question."""
        assert self.ask("'fence'") == "fence"

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes with a handshake."""
        self._link.close(code, reason)

    def abort(self) -> None:
        """Ends the connection without a Close frame."""
        self._link.abort()

    def closed_with(self) -> tuple[int, str]:
        """Waits for the server's Close, with nothing before it; returns code and reason."""
        try:
            heard = self.receive()
        except Closed as closed:
            return closed.code, closed.reason
        raise AssertionError(f"it is not closed: {heard!r}")

    def is_closed_after(self) -> tuple[list[str | bytes], int, str]:
        """Returns the messages until the server closes, and the code and reason."""
        heard: list[str | bytes] = []
        while True:
            try:
                heard.append(self.receive())
            except Closed as closed:
                return heard, closed.code, closed.reason

    def end(self) -> None:
        """Releases the connection."""
        self._link.end()


def value_of(text: str) -> object:
    """Returns the value of an answer of the puppet; a text that begins with ``!`` for an exception."""
    return text if text.startswith("!") else ast.literal_eval(text)


class _WebsocketsLink:
    def __init__(self, url: str, headers: dict[str, str], subprotocols: list[str] | None) -> None:
        try:
            self._context = websockets.sync.client.connect(
                url,
                additional_headers=headers,
                subprotocols=[websockets.Subprotocol(name) for name in subprotocols] if subprotocols else None,
                compression=None,
                proxy=None,
                max_size=None,
                ping_interval=None,
                open_timeout=PATIENCE_S,
                close_timeout=PATIENCE_S,
            )
            self._connection = self._context.__enter__()
        except websockets.InvalidStatus as refusal:
            answer = refusal.response
            body = bytes(answer.body or b"").decode()
            raise Refused(answer.status_code, dict(answer.headers.raw_items()), body) from None

    @property
    def subprotocol(self) -> str | None:
        return self._connection.subprotocol

    def send(self, data: str | bytes) -> None:
        self._connection.send(data)

    def receive(self) -> str | bytes:
        try:
            return self._connection.recv(PATIENCE_S)
        except websockets.ConnectionClosed as closed:
            if closed.rcvd is None:
                raise Closed(LOST, "") from None
            raise Closed(closed.rcvd.code, closed.rcvd.reason) from None

    def close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)

    def abort(self) -> None:
        self._connection.close_socket()

    def end(self) -> None:
        self._connection.close()


class _AiohttpLink:
    def __init__(
        self,
        thread: LoopThread,
        session: aiohttp.ClientSession,
        url: str,
        headers: dict[str, str],
        subprotocols: list[str] | None,
    ) -> None:
        self._thread = thread
        try:
            self._connection = thread.run(self._connect(session, url, headers, subprotocols))
        except aiohttp.WSServerHandshakeError as refusal:
            raise Refused(refusal.status, dict(refusal.headers or {}), None) from None

    @staticmethod
    async def _connect(
        session: aiohttp.ClientSession, url: str, headers: dict[str, str], subprotocols: list[str] | None
    ) -> aiohttp.ClientWebSocketResponse:
        return await session.ws_connect(url, headers=headers, protocols=subprotocols or (), max_msg_size=0)

    @property
    def subprotocol(self) -> str | None:
        return self._connection.protocol

    def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self._thread.run(self._connection.send_str(data))
        else:
            self._thread.run(self._connection.send_bytes(data))

    def receive(self) -> str | bytes:
        message = self._thread.run(self._connection.receive())
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return cast("str | bytes", message.data)
        if message.type is aiohttp.WSMsgType.CLOSE:
            raise Closed(message.data, message.extra or "")
        raise Closed(LOST, "")

    def close(self, code: int, reason: str) -> None:
        self._thread.run(self._connection.close(code=code, message=reason.encode()))

    def abort(self) -> None:
        self._thread.run(self._abort())

    async def _abort(self) -> None:
        transport = self._connection.get_extra_info("socket")
        transport.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self._thread.run(self._connection.close())


class Clients:
    """Makes the clients of one test."""

    def __init__(self, thread: LoopThread, session: aiohttp.ClientSession, default: str) -> None:
        self.default = default
        self._thread = thread
        self._session = session
        self._made: list[Client | Peer] = []
        self._borrowed: list[tuple[Running, str]] = []

    def connect(
        self,
        running: Running,
        client: str = "",
        path: str = "/",
        *,
        headers: dict[str, str] | None = None,
        subprotocols: list[str] | None = None,
    ) -> Client:
        """Opens a WebSocket; raises Refused for another answer than 101."""
        url = f"ws://{running.authority}{path}"
        link: Link
        if (client or self.default) == "websockets":
            link = _WebsocketsLink(url, headers or {}, subprotocols)
        else:
            link = _AiohttpLink(self._thread, self._session, url, headers or {}, subprotocols)
        made = self._keep(Client(link))
        if running.has_puppet and "?" not in path:
            assert made.id
        return made

    def borrow(self, running: Running, name: str, client: str = "") -> Client:
        """Returns an open WebSocket that other tests have used, without subscriptions and token."""
        if name not in running.kept:
            running.kept[name] = self.connect(running, client)
            self._made.remove(running.kept[name])
        self._borrowed.append((running, name))
        return running.kept[name]

    def _give_back(self, running: Running, name: str) -> None:
        client = running.kept[name]
        if running.server.is_running and wsbroker.is_open(client.id):
            for channel in wsbroker.subscriptions(client.id):
                wsbroker.unsubscribe_nowait(client.id, channel)
            wsbroker.set_token(client.id, None)
        else:
            running.kept.pop(name).end()

    def opens(self, running: Running, expression: str, client: str = "", **headers: str) -> Client:
        """Opens a WebSocket with an expression that the puppet's open handler evaluates and returns."""
        return self.connect(running, client, doing(expression), headers=headers)

    def peer(self, running: Running | tuple[str, int] | str) -> "Peer":
        """Returns a bare connection to a server, to an address, or to a Unix socket's path."""
        return self._keep(Peer(("127.0.0.1", running.port) if isinstance(running, Running) else running))

    def http(self, running: Running, method: str = "GET", path: str = "/", **arguments: object) -> Answer:
        """Makes a plain HTTP request with aiohttp's client."""
        return self._thread.run(self._http(method, f"http://{running.authority}{path}", arguments))

    async def _http(self, method: str, url: str, arguments: dict[str, object]) -> Answer:
        arguments.setdefault("allow_redirects", False)
        async with self._session.request(method, url, **arguments) as answer:  # type: ignore[arg-type]
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, headers, await answer.read())

    def _keep(self, made: "_Made") -> "_Made":
        self._made.append(made)
        return made

    def end(self) -> None:
        """Closes all clients of the test and returns the borrowed ones."""
        for running, name in self._borrowed:
            self._give_back(running, name)
        for made in self._made:
            with contextlib.suppress(Exception):
                made.end()


_Made = TypeVar("_Made", Client, Peer)


def doing(expression: str) -> str:
    """Returns the path with which the puppet's open and HTTP handlers evaluate an expression and return the value."""
    return f"/?do={quote(expression, safe='')}"
