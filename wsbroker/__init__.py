"""WSBroker: a WebSocket broker for Python.

Clients connect; the application's handlers decide who subscribes to which channel; the broker delivers.

```python
import wsbroker

def handle_socket_open(request, socket_id):
    wsbroker.subscribe(socket_id, "news")

def handle_socket_message(data, socket_id, token):
    wsbroker.send_to_channel("news", data)
```

The functions here work everywhere: in handlers of every kind of worker, in threads they start, in the main program and
its threads while a broker runs there. A call that asks for nothing back never waits for a client; one that returns
something asks the broker and is exact. All of them check their arguments at once: a wrong type is a `TypeError`, a bad
value a `ValueError`; without a broker they raise `CommandError`, which is a `RuntimeError`.

This module may import: `worker`, `http`, `types`, `errors`, light standard library; it is loaded into every worker, so
names that need more are loaded when they are first used. Must never: load a compiled module, asyncio, anyio or aiohttp.
"""

import atexit as _atexit
import sys as _sys
from collections.abc import Iterable as _Iterable
from typing import TYPE_CHECKING
from typing import Final as _Final
from typing import cast as _cast

from wsbroker.errors import (
    CommandError,
    ConfigError,
    EngineError,
    HandlerError,
    HandshakeError,
    ProtocolError,
    WorkerError,
    WSBrokerError,
)
from wsbroker.http.headers import Headers
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.types import ChannelName, CloseCode, Data, SocketId
from wsbroker.worker import api as _worker_api
from wsbroker.worker.api import context_api as _context_api
from wsbroker.worker.api import get_api as _get_api
from wsbroker.worker.arguments import MAX_SOCKET_ID as _MAX_SOCKET_ID
from wsbroker.worker.arguments import validate_channel as _validate_channel
from wsbroker.worker.arguments import validate_close_code as _validate_close_code
from wsbroker.worker.arguments import validate_copied_channel as _validate_copied_channel
from wsbroker.worker.arguments import validate_data as _validate_data
from wsbroker.worker.arguments import validate_excluded_ids as _validate_excluded_ids
from wsbroker.worker.arguments import validate_reason as _validate_reason
from wsbroker.worker.arguments import validate_socket_id as _validate_socket_id
from wsbroker.worker.arguments import validate_text as _validate_text
from wsbroker.worker.arguments import validate_token as _validate_token
from wsbroker.worker.base import Worker

if TYPE_CHECKING:
    from wsbroker.build import VERSION as __version__
    from wsbroker.server.api import Server, WorkerHandle, register_worker, run, serve, start
    from wsbroker.settings.config import Config, Settings
else:
    # Not for type checkers: to them every name would exist, and a typo in an import would pass.

    def __getattr__(name: str) -> object:
        """Loads a name that only the program that runs a broker needs, when the name is first used."""
        try:
            module_name, real_name = _LAZY[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        from importlib import import_module

        if _worker_api.is_worker_interpreter and module_name == "wsbroker.server.api":
            module_name = "wsbroker.worker.server_stubs"
        value = getattr(import_module(module_name), real_name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Returns the names of this module, with those that are not loaded yet."""
        return sorted({*globals(), *__all__})


def _ignore_late_signals() -> None:
    """Has a duplicate of the stop signal ignored during Python's last steps, if this process has run a server.

    Called by `atexit`, which calls the functions that were registered last first: registered here, this one runs behind
    those of a program that imports `wsbroker` before them, so that these can still be interrupted.
    """
    signals = _sys.modules.get("wsbroker.server.signals")
    if signals is not None:
        signals.ignore_duplicates()


_atexit.register(_ignore_late_signals)

_LAZY: _Final = {
    "Config": ("wsbroker.settings.config", "Config"),
    "Server": ("wsbroker.server.api", "Server"),
    "Settings": ("wsbroker.settings.config", "Settings"),
    "WorkerHandle": ("wsbroker.server.api", "WorkerHandle"),
    "__version__": ("wsbroker.build", "VERSION"),
    "register_worker": ("wsbroker.server.api", "register_worker"),
    "run": ("wsbroker.server.api", "run"),
    "serve": ("wsbroker.server.api", "serve"),
    "start": ("wsbroker.server.api", "start"),
}

__all__ = [
    "Accept",
    "ChannelName",
    "CloseCode",
    "CommandError",
    "Config",
    "ConfigError",
    "Data",
    "EngineError",
    "HandlerError",
    "HandshakeError",
    "Headers",
    "HttpRequest",
    "HttpResponse",
    "ProtocolError",
    "Server",
    "Settings",
    "SocketId",
    "WSBrokerError",
    "Worker",
    "WorkerError",
    "WorkerHandle",
    "__version__",
    "channels",
    "close",
    "copy_subscriptions",
    "has_subscribers",
    "is_open",
    "queued_bytes",
    "register_worker",
    "run",
    "send",
    "send_to_channel",
    "serve",
    "set_token",
    "start",
    "subscribe",
    "subscribe_nowait",
    "subscriber_count",
    "subscribers",
    "subscriptions",
    "unsubscribe",
    "unsubscribe_nowait",
]


_NO_IDS: _Final = ()
_get_context_api: _Final = _context_api.get

# In the two calls that are made per message, the checks of the usual case and `get_api` stand in line: a function that
# makes them costs as much as all the rest.


def send(socket_id: int, data: Data) -> None:
    """Sends a message to one socket.

    One way: returns at once, never waits for the client. An unknown or closed socket is ignored and counted (a message
    that races with a close is normal).

    Args:
        socket_id: the socket that gets the message.
        data: ``str`` is sent as a text message, any object with the buffer protocol (``bytes``, ``bytearray``,
            ``memoryview``, ``array.array``, ``mmap.mmap``, …) as a binary one: its bytes as they are at this call.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the text has a lone surrogate.
        CommandError: no broker is running.
    """
    if type(socket_id) is not int or not 0 < socket_id <= _MAX_SOCKET_ID:
        socket_id = _validate_socket_id(socket_id)
    if type(data) is str:
        if not data.isascii():
            _validate_text(data, "data")
    elif type(data) is not bytes:
        data = _validate_data(data)
    (_get_context_api() or _worker_api.default_api or _get_api()).send(socket_id, data)


def send_to_channel(channel: ChannelName, data: Data, *, exclude: _Iterable[int] = ()) -> None:
    """Sends a message to every socket that is subscribed to a channel.

    One way. Each subscriber gets the message at most once, in the order in which they subscribed; the sender of a
    message gets its own message if it is subscribed. A channel without subscribers is no error.

    Args:
        channel: the channel's name, 1 to 255 bytes.
        data: ``str`` is sent as a text message, any object with the buffer protocol (``bytes``, ``bytearray``,
            ``memoryview``, ``array.array``, ``mmap.mmap``, …) as a binary one: its bytes as they are at this call.
        exclude: ids of subscribers that do not get the message.

    Raises:
        TypeError: an argument has the wrong type (`exclude` is an iterable: ``exclude=(socket_id,)``).
        ValueError: the name is empty or too long, or the text has a lone surrogate.
        CommandError: no broker is running.
    """
    if type(channel) is str and channel.isascii():
        name = channel.encode()
    elif type(channel) is bytes:
        name = channel
    else:
        name = _validate_channel(channel)
    if not 0 < len(name) < 256:
        _validate_channel(name)  # raises
    if type(data) is str:
        if not data.isascii():
            _validate_text(data, "data")
    elif type(data) is not bytes:
        data = _validate_data(data)
    excluded = _NO_IDS if exclude is _NO_IDS else _validate_excluded_ids(exclude)
    (_get_context_api() or _worker_api.default_api or _get_api()).send_to_channel(name, data, excluded)


def subscribe(socket_id: int, channel: ChannelName) -> bool:
    """Subscribes a socket to a channel, and returns whether that changed something.

    Asks the broker; O(1) there. `subscribe_nowait` is for when the answer does not matter.

    Args:
        socket_id: the socket.
        channel: the channel's name, 1 to 255 bytes; ``"abc"`` and ``b"abc"`` are the same.

    Returns:
        True if the socket is subscribed now and was not before. False if it was, if it is unknown or closed, or if it
        has `max_channels_per_socket` subscriptions already.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    return _get_api().subscribe(_validate_socket_id(socket_id), _validate_channel(channel))


def unsubscribe(socket_id: int, channel: ChannelName) -> bool:
    """Unsubscribes a socket from a channel, and returns whether that changed something.

    Asks the broker; O(1) there. `unsubscribe_nowait` is for when the answer does not matter.

    Args:
        socket_id: the socket.
        channel: the channel's name.

    Returns:
        True if the socket was subscribed and is not any more.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    return _get_api().unsubscribe(_validate_socket_id(socket_id), _validate_channel(channel))


def subscribe_nowait(socket_id: int, channel: ChannelName) -> None:
    """Subscribes a socket to a channel, one way: like `subscribe`, without asking whether it changed something.

    Args:
        socket_id: the socket.
        channel: the channel's name, 1 to 255 bytes.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    _get_api().subscribe_nowait(_validate_socket_id(socket_id), _validate_channel(channel))


def unsubscribe_nowait(socket_id: int, channel: ChannelName) -> None:
    """Unsubscribes a socket from a channel, one way: like `unsubscribe`, without asking whether it changed something.

    Args:
        socket_id: the socket.
        channel: the channel's name.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    _get_api().unsubscribe_nowait(_validate_socket_id(socket_id), _validate_channel(channel))


def set_token(socket_id: int, token: Data | None) -> None:
    """Attaches up to 4096 bytes to a socket: its later handlers are given them as ``token``.

    One way. If a handler of the socket itself calls this, the handler of the socket's next message gets the new token,
    and so does its close handler, even if the socket has closed meanwhile. Any other closed socket is ignored, and an
    unknown one.

    Args:
        socket_id: the socket.
        token: ``str`` is kept as UTF-8, any object with the buffer protocol as its bytes; None takes the token away.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the token is too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    _get_api().set_token(_validate_socket_id(socket_id), _validate_token(token))


def copy_subscriptions(from_channel: ChannelName, to_channel: ChannelName) -> None:
    """Subscribes every socket that is subscribed to one channel now to another channel too.

    One way, and once: the subscribers of `from_channel` keep that subscription, and later changes are not followed. No
    publication falls between: all of them get what is published to `to_channel` after this call, and nothing that was
    published there before. They join in the order in which they subscribed to `from_channel`; a socket that is
    subscribed to both already stays so. A channel without subscribers, or the same channel twice, changes nothing. A
    socket that has `max_channels_per_socket` subscriptions already is left out and counted.

    Args:
        from_channel: the name of the channel whose subscribers are taken, 1 to 255 bytes.
        to_channel: the name of the channel that gets them, 1 to 255 bytes.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.

    Cost:
        O(subscribers of `from_channel`).
    """
    _get_api().copy_subscriptions(
        _validate_copied_channel(from_channel, "from_channel"), _validate_copied_channel(to_channel, "to_channel")
    )


def close(socket_id: int, code: CloseCode = 1000, reason: str = "") -> None:
    """Closes a socket with a closing handshake, after everything that was sent to it before.

    One way. Messages of the socket that have not been handled yet are dropped; its close handler runs.

    Args:
        socket_id: the socket; an unknown or closed one is ignored.
        code: the close code: 1000 to 1003, 1007 to 1014, or your own from 3000 to 4999.
        reason: at most 123 bytes of UTF-8.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the code may not be sent, or the reason is too long.
        CommandError: no broker is running.
    """
    _get_api().close(_validate_socket_id(socket_id), _validate_close_code(code), _validate_reason(reason))


def subscriber_count(channel: ChannelName) -> int:
    """Returns how many sockets are subscribed to a channel. Asks the broker; O(1) there.

    Args:
        channel: the channel's name.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    return _get_api().subscriber_count(_validate_channel(channel))


def has_subscribers(channel: ChannelName) -> bool:
    """Returns whether a channel has a subscriber. Asks the broker; O(1) there.

    Args:
        channel: the channel's name.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.
    """
    return _get_api().subscriber_count(_validate_channel(channel)) > 0


def subscribers(channel: ChannelName) -> list[SocketId]:
    """Returns the ids of a channel's subscribers, in the order in which they subscribed. Asks the broker.

    Args:
        channel: the channel's name.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the name is empty or too long, or has a lone surrogate.
        CommandError: no broker is running.

    Cost:
        O(subscribers).
    """
    return _cast("list[SocketId]", _get_api().subscribers(_validate_channel(channel)))


def subscriptions(socket_id: int) -> list[bytes]:
    """Returns the names of the channels a socket is subscribed to; [] for an unknown socket. Asks the broker.

    The names stand in the order in which the socket was subscribed.

    Args:
        socket_id: the socket.

    Raises:
        TypeError: an argument has the wrong type.
        CommandError: no broker is running.

    Cost:
        O(subscriptions of the socket).
    """
    return _get_api().subscriptions(_validate_socket_id(socket_id))


def channels() -> list[bytes]:
    """Returns the names of all channels that have a subscriber. Asks the broker.

    Raises:
        CommandError: no broker is running.

    Cost:
        O(channels).
    """
    return _get_api().channels()


def is_open(socket_id: int) -> bool:
    """Returns whether a socket exists: from before its open handler runs until it begins to close. Asks the broker.

    Args:
        socket_id: the socket.

    Raises:
        TypeError: an argument has the wrong type.
        CommandError: no broker is running.
    """
    return _get_api().is_open(_validate_socket_id(socket_id))


def queued_bytes(socket_id: int) -> int:
    """Returns how many bytes wait to be sent to a socket; 0 for an unknown socket. Asks the broker.

    Args:
        socket_id: the socket.

    Raises:
        TypeError: an argument has the wrong type.
        CommandError: no broker is running.
    """
    return _get_api().queued_bytes(_validate_socket_id(socket_id))
