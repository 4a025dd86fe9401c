"""A kit for testing handlers: a broker in memory, with the same meaning and without sockets, ports or workers.

```python
from wsbroker.testing import TestBroker

def test_everybody_in_the_room_gets_the_message():
    with TestBroker("chat") as broker:
        ann, bob = broker.connect(), broker.connect()
        ann.send('{"type": "join", "room": "tea"}')
        bob.send('{"type": "join", "room": "tea"}')
        ann.send('{"type": "message", "text": "hi"}')
        assert bob.received[-1] == '{"type": "message", "text": "hi"}'
        assert broker.http("GET", "/").status == 200
```

Each call runs the handler to its end, `async def` ones too, and what the handler asked of the broker has happened when
the call returns. What a handler raises reaches the test. API calls of the test itself go to this broker too. Needs no
compiled module.

May import: `worker`, `http`, `wire`, `types`, `errors`, standard library.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from wsbroker.http.handler_returns import to_http_response, to_open_result
from wsbroker.http.headers import HeaderItems, Headers
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.types import Data, SocketId
from wsbroker.wire import commands
from wsbroker.wire.commands import Command as WireCommand
from wsbroker.worker import api as worker_api
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.arguments import validate_close_code, validate_data, validate_reason
from wsbroker.worker.async_calls import is_awaitable
from wsbroker.worker.loader import Handler, load_handlers
from wsbroker.worker.outcomes import no_handler_response

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from threading import Thread
    from types import TracebackType

__all__ = ["Command", "TestBroker", "TestSocket"]

Command: TypeAlias = tuple[object, ...]
"""A call of the API: its name and its arguments, as the broker got them (channels and tokens are ``bytes``)."""

NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
INTERNAL_ERROR: Final = 1011

_HANDLER_ERRORS: Final = (Exception, SystemExit)
"""The exceptions of handlers that `raise_errors` is about. A KeyboardInterrupt is always raised: it may be meant to end
the test."""


class TestSocket:
    """The client's end of a socket; made by `TestBroker.connect`."""

    __test__ = False  # the name is no reason for pytest to collect it

    def __init__(self, broker: "TestBroker", socket_id: int) -> None:
        self.id: Final = SocketId(socket_id)
        """The socket's id."""
        self.received: list[str | bytes] = []
        """The messages that were sent to the socket, oldest first. A test may clear the list."""
        self.token: bytes | None = None
        """The socket's token; None: it has no token."""
        self.subscriptions: list[bytes] = []
        """The channels of the socket, in the order in which it was subscribed to them."""
        self.response: HttpResponse | None = None
        """The response that the socket was refused with; None if it was accepted."""
        self.headers: Headers = Headers()
        """The header fields that the open handler added to the 101, with `Accept`."""
        self.subprotocol: str | None = None
        """The subprotocol that the open handler chose, with `Accept`."""
        self.is_open = True
        """Whether the socket is open."""
        self.close_code: int | None = None
        """The code that the socket was closed with; None while it is open."""
        self.close_reason = ""
        """The reason that the socket was closed with."""
        self._broker = broker

    def send(self, data: Data) -> None:
        """Sends a message and runs the message handler; raises what that handler raises. Does nothing once closed."""
        self._broker._handle_message(self, validate_data(data))

    def take(self) -> list[str | bytes]:
        """Returns the messages in `received`, and empties that list."""
        taken, self.received = self.received, []
        return taken

    def close(self, code: int = NO_STATUS, reason: str = "") -> None:
        """Closes the socket from the client's side and runs the close handler.

        Args:
            code: the code that the client sends; 1005: a Close frame without a code; 1006: no Close frame, the
                connection is lost.
            reason: the reason that the client sends with the code.

        Raises:
            ValueError: no client can send this code, or a reason with it.
        """
        if code not in (NO_STATUS, ABNORMAL):
            validate_close_code(code)
        elif reason:
            raise ValueError(f"a close with code {code} has no reason: no Close frame carries them")
        self._broker._close_socket(self, code, validate_reason(reason))
        self._broker._run_close_handlers()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "refused" if self.response else f"closed {self.close_code}"
        return f"<TestSocket {self.id}, {state}>"


class TestBroker(BrokerApi):
    """A broker in memory.

    As a context manager it also runs `handle_worker_start` and `handle_worker_stop`, and API calls of the test itself
    (and of threads) go to it. Without, only calls of handlers do.

    Args:
        spec: the handlers, as for `register_worker`. A test usually gives a module, a class or an object.
        worker_arg: the argument of `handle_worker_start`.
        raise_errors: whether a test gets what a handler raises. If not, the handler's socket is closed with 1011 as by
            the real broker, or the answer is 500.
        timeout_s: seconds an async handler may take.
        max_channels_per_socket: the setting of the same name: a subscription beyond it is refused.

    Raises:
        ConfigError: the spec has no handlers, or wrong ones.
    """

    __test__ = False

    def __init__(
        self,
        spec: object,
        *,
        worker_arg: str | None = None,
        raise_errors: bool = True,
        timeout_s: float = 5.0,
        max_channels_per_socket: int = 128,
    ) -> None:
        self.commands: list[Command] = []
        """Every call of the API that changes something, in order."""
        self.sockets: dict[int, TestSocket] = {}
        """The open sockets by their ids."""
        self._handlers = load_handlers(spec)
        self._worker_arg = worker_arg
        self._raise_errors = raise_errors
        self._timeout_s = timeout_s
        self._max_channels = max_channels_per_socket
        self._channels: dict[bytes, dict[int, TestSocket]] = {}
        """For each channel with subscribers: its subscribers by their ids, in the order in which they subscribed."""
        self._last_id = 0
        self._pending_closes: list[TestSocket] = []
        """The sockets that are closed and whose close handler has not run yet."""
        self._handled_socket: TestSocket | None = None
        """The socket whose message handler is running; None: no message handler is."""
        self._previous_api: BrokerApi | None = None
        self._loop: AbstractEventLoop | None = None
        """The loop that runs async handlers, in a thread; made when the first one is called."""
        self._thread: Thread | None = None

    # What a test does. ------------------------------------------------------------------------------------------

    def __enter__(self) -> "TestBroker":
        self._previous_api = worker_api.get_default_api()
        worker_api.set_default_api(self)
        try:
            if self._handlers.worker_start is not None:
                self._run_handler(self._handlers.worker_start, self._worker_arg)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        try:
            if self._handlers.worker_stop is not None:
                self._run_handler(self._handlers.worker_stop)
        finally:
            worker_api.set_default_api(self._previous_api)
            self._stop_loop()

    def connect(self, url: str = "/", headers: HeaderItems = (), *, remote: str = "127.0.0.1") -> TestSocket:
        """Opens a socket and runs the open handler.

        Args:
            url: path and query of the upgrade request.
            headers: header fields of the request, beside those of the upgrade itself: the subprotocols that the client
                offers, for example, as ``{"Sec-WebSocket-Protocol": "chat.v2, chat.v1"}``.
            remote: the client's address.

        Returns:
            the socket; if the handler refused it, it is not open and has a `response`.
        """
        self._last_id += 1
        socket = TestSocket(self, self._last_id)
        self.sockets[socket.id] = socket
        request = HttpRequest("GET", url, _add_upgrade_headers(headers), remote=remote)
        if self._handlers.open is not None:
            verdict: HttpResponse | Accept | None = HttpResponse(500, (), "Internal Server Error")
            try:
                with self._filter_handler_errors():
                    verdict = to_open_result(self._run_handler(self._handlers.open, request, socket.id), request)
            finally:  # also when the handler has raised: the socket is discarded as if it had never existed
                if isinstance(verdict, Accept):
                    socket.headers, socket.subprotocol = verdict.headers, verdict.subprotocol
                elif verdict is not None:
                    self._remove_socket(socket)
                    socket.response = verdict
                    self._pending_closes = [each for each in self._pending_closes if each is not socket]
                self._run_close_handlers()
        return socket

    def http(
        self,
        method: str,
        url: str = "/",
        headers: HeaderItems = (),
        body: str | bytes = b"",
        *,
        remote: str = "127.0.0.1",
    ) -> HttpResponse:
        """Sends an HTTP request and runs the HTTP handler.

        Args:
            method: ``"GET"``, ``"POST"``, …
            url: path and query.
            headers: header fields of the request.
            body: ``str`` is sent as UTF-8.
            remote: the client's address.
        """
        content = body.encode() if isinstance(body, str) else body
        request = HttpRequest(method, url, Headers(headers), content, remote=remote)
        if self._handlers.http is None:
            return no_handler_response(request.headers)
        response = HttpResponse(500, (), "Internal Server Error")
        try:
            with self._filter_handler_errors():
                response = to_http_response(self._run_handler(self._handlers.http, request))
        finally:
            self._run_close_handlers()
        return response

    # What sockets do. -------------------------------------------------------------------------------------------

    def _handle_message(self, socket: TestSocket, data: str | bytes) -> None:
        """Runs the message handler for an open socket; closes the socket with 1011 if that handler raises.

        Called by `TestSocket.send`. Then runs the close handlers of the sockets that the handler has closed.

        Raises:
            BaseException: the handler's, if `raise_errors` is set or the exception is none of `_HANDLER_ERRORS`.
        """
        if socket.is_open and self._handlers.message is not None:
            self._handled_socket = socket
            try:
                self._run_handler(self._handlers.message, data, socket.id, socket.token)
            except BaseException as error:
                self._close_socket(socket, INTERNAL_ERROR, "handler error")
                self._run_close_handlers()
                if self._raise_errors or not isinstance(error, _HANDLER_ERRORS):
                    raise
            finally:
                self._handled_socket = None
        self._run_close_handlers()

    def _close_socket(self, socket: TestSocket, code: int, reason: str) -> None:
        """Closes an open socket with code and reason; `_run_close_handlers` runs the socket's close handler later."""
        if socket.is_open:
            self._remove_socket(socket)
            socket.close_code = code
            socket.close_reason = reason
            self._pending_closes.append(socket)

    def _remove_socket(self, socket: TestSocket) -> None:
        """Marks an open socket as closed and removes the socket and its subscriptions from the broker's tables."""
        if not socket.is_open:
            return
        socket.is_open = False
        del self.sockets[socket.id]
        for name in list(socket.subscriptions):
            self._remove_subscription(socket, name)

    def _run_close_handlers(self) -> None:
        """Runs the close handlers of all closed sockets whose close handler has not run yet, in the order of closing.

        Called at the end of a handler, and when the test itself closes a socket. An exception that
        `_filter_handler_errors` does not drop is raised when all have run.
        """
        while self._pending_closes:
            socket = self._pending_closes.pop(0)
            if self._handlers.close is not None:
                try:
                    with self._filter_handler_errors():
                        self._run_handler(
                            self._handlers.close, socket.id, socket.token, socket.close_code, socket.close_reason
                        )
                except BaseException:
                    self._run_close_handlers()  # the close handlers of the other sockets run all the same
                    raise

    @contextmanager
    def _filter_handler_errors(self) -> Iterator[None]:
        """A context manager: drops an exception of `_HANDLER_ERRORS` from its block, unless `raise_errors` is set."""
        try:
            yield
        except _HANDLER_ERRORS:
            if self._raise_errors:
                raise

    # Running handlers. ------------------------------------------------------------------------------------------

    def _run_handler(self, handler: Handler, *arguments: object) -> object:
        """Calls a handler, runs it to its end if async, and returns its value; API calls in it go to this broker."""
        token = worker_api.context_api.set(self)
        try:
            returned = handler(*arguments)
            return self._await_result(returned) if is_awaitable(returned) else returned
        finally:
            worker_api.context_api.reset(token)

    def _await_result(self, awaitable: object) -> object:
        """Runs the awaitable of an async handler to its end and returns its value; raises what the handler raises.

        One loop in a thread runs all of them, so that a test may have a loop of its own.

        Raises:
            TimeoutError: the handler has not ended within `timeout_s`.
        """
        import asyncio

        async def await_with_timeout() -> tuple[object, BaseException | None]:
            """Awaits the handler for `timeout_s`; returns its value and None, or None and the exception raised."""
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await cast("asyncio.Future[object]", awaitable), None
            except BaseException as error:  # as a value: a SystemExit would end the loop of all the others
                return None, error

        loop = self._loop
        if loop is None:
            from threading import Thread

            loop = self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=loop.run_forever, name="TestBroker", daemon=True)
            self._thread.start()
        returned, error = asyncio.run_coroutine_threadsafe(await_with_timeout(), loop).result()
        if error is None:
            return returned
        try:
            raise error
        finally:
            del error  # which holds this frame

    def _stop_loop(self) -> None:
        """Stops the loop of async handlers and its thread, if there are any; called when the `with` block ends."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()

    # What handlers ask (see `BrokerApi`). -----------------------------------------------------------------------

    def send_command(self, command: WireCommand) -> None:
        """Applies a one-way command of a thread that has outlived its worker."""
        kind, *arguments = command
        if kind == commands.SET_TOKEN:
            arguments.pop()  # its number
        getattr(self, commands.ONE_WAY_METHODS[cast(int, kind)])(*arguments)

    def ask_core(self, question: int, *arguments: object) -> object:
        """Answers a question of a thread that has outlived its worker."""
        return getattr(self, commands.QUESTION_METHODS[question])(*arguments)

    def send(self, socket_id: int, data: str | bytes) -> None:
        """Appends data to the messages that one socket has received."""
        self.commands.append(("send", socket_id, data))
        socket = self.sockets.get(socket_id)
        if socket is not None:
            socket.received.append(data)

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """Appends data to the messages that a channel's subscribers have received, but for those in `exclude`."""
        self.commands.append(("send_to_channel", channel, data, exclude))
        for socket_id, socket in self._channels.get(channel, {}).items():
            if socket_id not in exclude:
                socket.received.append(data)

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        """Subscribes a socket to a channel; returns whether that changed something."""
        self.commands.append(("subscribe", socket_id, channel))
        return self._add_subscription(socket_id, channel)

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        """Unsubscribes a socket from a channel; returns whether that changed something."""
        self.commands.append(("unsubscribe", socket_id, channel))
        socket = self.sockets.get(socket_id)
        if socket is None or channel not in socket.subscriptions:
            return False
        self._remove_subscription(socket, channel)
        return True

    def subscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Subscribes a socket to a channel."""
        self.subscribe(socket_id, channel)

    def unsubscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Unsubscribes a socket from a channel."""
        self.unsubscribe(socket_id, channel)

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets the token of a socket."""
        self.commands.append(("set_token", socket_id, token))
        socket = self.sockets.get(socket_id)
        if socket is None and self._handled_socket is not None and self._handled_socket.id == socket_id:
            socket = self._handled_socket  # closed while its handler runs: its close handler is to come
        if socket is not None:
            socket.token = token

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes) -> None:
        """Subscribes the subscribers of one channel to another channel too."""
        self.commands.append(("copy_subscriptions", from_channel, to_channel))
        if from_channel != to_channel:
            for socket_id in self._channels.get(from_channel, {}):
                self._add_subscription(socket_id, to_channel)

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes a socket; its close handler runs once the handler that calls this has ended."""
        code, reason = validate_close_code(code), validate_reason(reason)
        self.commands.append(("close", socket_id, code, reason))
        socket = self.sockets.get(socket_id)
        if socket is not None:
            self._close_socket(socket, code, reason)
            if worker_api.context_api.get() is not self:  # the test itself has called: no handler's end runs them
                self._run_close_handlers()

    def subscriber_count(self, channel: bytes) -> int:
        """Returns how many sockets are subscribed to a channel."""
        return len(self._channels.get(channel, ()))

    def subscribers(self, channel: bytes) -> list[int]:
        """Returns the ids of a channel's subscribers, in the order in which they subscribed."""
        return list(self._channels.get(channel, ()))

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Returns the channels of a socket, oldest subscription first."""
        socket = self.sockets.get(socket_id)
        return [] if socket is None else list(socket.subscriptions)

    def channels(self) -> list[bytes]:
        """Returns the channels that have a subscriber."""
        return list(self._channels)

    def is_open(self, socket_id: int) -> bool:
        """Returns whether a socket is open."""
        return socket_id in self.sockets

    def queued_bytes(self, socket_id: int) -> int:
        """Returns 0: a test's socket has received everything at once."""
        return 0

    def _add_subscription(self, socket_id: int, channel: bytes) -> bool:
        """Subscribes a socket to a channel, unless the socket is unknown, subscribed already or at its limit.

        Returns:
            whether the socket was subscribed.
        """
        socket = self.sockets.get(socket_id)
        if socket is None or channel in socket.subscriptions or len(socket.subscriptions) >= self._max_channels:
            return False
        socket.subscriptions.append(channel)
        self._channels.setdefault(channel, {})[socket_id] = socket
        return True

    def _remove_subscription(self, socket: TestSocket, channel: bytes) -> None:
        """Removes a socket from a channel, and the channel from the table if that was its last subscriber."""
        socket.subscriptions.remove(channel)
        members = self._channels[channel]
        del members[socket.id]
        if not members:
            del self._channels[channel]


def _add_upgrade_headers(headers: HeaderItems) -> Headers:
    """Returns a test's header fields, with those fields of an upgrade request added that are missing."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    for name, value in (
        ("Host", "localhost"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ):
        if name.lower() not in names:
            pairs.append((name, value))
    return Headers(pairs)
