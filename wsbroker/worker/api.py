"""Where the calls of the API go: the current port.

A worker puts its own port into the context variable `context_api`; everybody else gets `default_api`, which the broker sets in
the main interpreter while it runs.
"""

from contextvars import ContextVar
from typing import Final

from wsbroker.errors import CommandError

_NO_BROKER: Final = (
    "no broker is running here: call wsbroker.start(), run() or serve() first, or call this from a handler; "
    "after stop() nobody is there to ask"
)


class BrokerApi:
    """The broker as seen by whoever calls it. Arguments are exact already: `int`, `str`, `bytes`, `tuple`."""

    __slots__ = ()

    def send(self, socket_id: int, data: str | bytes) -> None:
        """Sends to one socket."""
        raise NotImplementedError

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """Sends to the subscribers of a channel."""
        raise NotImplementedError

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        """Subscribes; True if that changed something."""
        raise NotImplementedError

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        """Unsubscribes; True if that changed something."""
        raise NotImplementedError

    def subscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Subscribes, one way."""
        raise NotImplementedError

    def unsubscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Unsubscribes, one way."""
        raise NotImplementedError

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets the token of a socket."""
        raise NotImplementedError

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes) -> None:
        """Subscribes the subscribers of one channel to another one too."""
        raise NotImplementedError

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes a socket with a handshake."""
        raise NotImplementedError

    def subscriber_count(self, channel: bytes) -> int:
        """How many sockets are subscribed to a channel."""
        raise NotImplementedError

    def subscribers(self, channel: bytes) -> list[int]:
        """Their ids in subscription order."""
        raise NotImplementedError

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Returns the channels of a socket, oldest subscription first."""
        raise NotImplementedError

    def channels(self) -> list[bytes]:
        """The channels that have a subscriber."""
        raise NotImplementedError

    def is_open(self, socket_id: int) -> bool:
        """Whether a socket is in the tables."""
        raise NotImplementedError

    def queued_bytes(self, socket_id: int) -> int:
        """Bytes that wait to be sent to a socket."""
        raise NotImplementedError


context_api: Final[ContextVar[BrokerApi | None]] = ContextVar("wsbroker.port", default=None)
"""The port of the worker whose handler is running in this context."""

default_api: BrokerApi | None = None
"""The port of everybody else in this interpreter; set with `set_default_api`."""

is_worker_interpreter = False
"""Whether this whole interpreter belongs to a worker: then there is no server to start here."""

_get_context_api: Final = context_api.get


def set_default_api(port: BrokerApi | None) -> None:
    """Makes `port` the one of all code that runs outside a worker; None: there is no broker any more."""
    global default_api
    default_api = port


def get_default_api() -> BrokerApi | None:
    """Returns what `set_default_api` was last given."""
    return default_api


def get_api() -> BrokerApi:
    """Returns where the calls of this context go. About 60 ns: it is part of every call of the API.

    Raises:
        CommandError: no broker is running.
    """
    port = _get_context_api()
    if port is None:
        port = default_api
        if port is None:
            raise CommandError(_NO_BROKER)
    return port
