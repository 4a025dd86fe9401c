"""`Worker`: the base class with every handler; a module or any object with functions of these names works as well."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.types import SocketId

HANDLER_ARGUMENTS: Final[dict[str, tuple[str, ...]]] = {
    "handle_worker_start": ("arg",),
    "handle_worker_stop": (),
    "handle_socket_open": ("request", "socket_id"),
    "handle_socket_message": ("data", "socket_id", "token"),
    "handle_socket_close": ("socket_id", "token", "code", "reason"),
    "handle_http_request": ("request",),
}
"""The names of all handlers, each with the names of its arguments in their order."""

OpenReturn: TypeAlias = bool | HttpResponse | Accept | None
"""The types of value that an open handler may return."""

HttpReturn: TypeAlias = HttpResponse | str | bytes | dict[str, object] | None
"""The types of value that an HTTP handler may return."""

_Function = TypeVar("_Function", bound=Callable[..., object])


def _mark_absent(function: _Function) -> _Function:
    """Marks a method of `Worker` as a handler that does nothing, which the loader treats as missing. A decorator."""
    function.is_absent = True  # type: ignore[attr-defined]
    return function


def is_absent(handler: object) -> bool:
    """Returns whether a handler is one of `Worker`'s own, which the application has not overridden."""
    return getattr(handler, "is_absent", False) is True


class Worker:
    """Base class for an application's handlers: override what you need, as ``def`` or as ``async def``.

    Handlers of one socket run strictly one after the other; an ``async def`` one lets other sockets run while it
    awaits. What a handler asks for is applied in the order in which it asked. A handler that raises, or takes longer
    than `handler_timeout`, is logged and its socket closed with 1011.

    A handler that is not overridden counts as absent. Handlers of modules and of other objects may take fewer
    arguments: the first ones.

    Example:
        ```python
        import wsbroker
        from wsbroker import SocketId

        class Echo(wsbroker.Worker):
            def handle_socket_message(self, data: str | bytes, socket_id: SocketId, token: bytes | None, /) -> None:
                wsbroker.send(socket_id, data)

        wsbroker.register_worker(Echo)
        wsbroker.run(":3000")
        ```
    """

    @_mark_absent
    def handle_worker_start(self, arg: str | None, /) -> Awaitable[None] | None:
        """Runs once in each worker before the server's port opens: the place to connect to a database.

        Args:
            arg: the setting `worker_arg`, None if there is none.
        """
        return None

    @_mark_absent
    def handle_worker_stop(self) -> Awaitable[None] | None:
        """Runs once in each worker when it ends, after all its other handlers have ended."""
        return None

    @_mark_absent
    def handle_socket_open(self, request: HttpRequest, socket_id: SocketId, /) -> Awaitable[OpenReturn] | OpenReturn:
        """Decides about a socket, before the answer to its upgrade request is sent.

        The socket exists already: calls about it work, and what is sent to it arrives once it is open.

        Args:
            request: the upgrade request.
            socket_id: the id of the new socket.

        Returns:
            True or None accepts it, and so does an `Accept`, which adds header fields to the 101 and may choose the
            subprotocol. False refuses it with 403, an `HttpResponse` is sent instead (a 401, a redirect). The client
            gets 500 if the handler raises, 504 if it takes too long, and 503 if its worker is lost meanwhile, also
            because this handler cannot be interrupted.
        """
        return None

    @_mark_absent
    def handle_socket_message(
        self, data: str | bytes, socket_id: SocketId, token: bytes | None, /
    ) -> Awaitable[None] | None:
        """Runs for each message of a socket.

        Args:
            data: ``str`` of a text message, ``bytes`` of a binary one.
            socket_id: the socket that sent the message.
            token: the token that `set_token` was last given for this socket.
        """
        return None

    @_mark_absent
    def handle_socket_close(
        self, socket_id: SocketId, token: bytes | None, code: int, reason: str, /
    ) -> Awaitable[None] | None:
        """Runs exactly once for each socket that was accepted, after it has left all channels.

        Args:
            socket_id: the socket that is gone.
            token: its last token.
            code: the close code: 1005 for a Close frame without one, 1006 if the connection was lost without.
            reason: the reason in the Close frame, ``""`` if there was none.
        """
        return None

    @_mark_absent
    def handle_http_request(self, request: HttpRequest, /) -> Awaitable[HttpReturn] | HttpReturn:
        """Answers a plain HTTP request.

        Args:
            request: the request with its whole body.

        Returns:
            an `HttpResponse`; ``str`` (sent as text) or ``bytes``; a ``dict`` that spells a response with ``status``
            and perhaps ``headers`` and ``body`` and no other key; any other ``dict`` (sent as JSON); None for
            ``200 OK``. The client gets 500 if the handler raises or its worker is lost meanwhile, and 504 if it takes
            too long.
        """
        return None


Worker.__module__ = "wsbroker"
