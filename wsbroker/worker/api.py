"""Every call of the API, as a method of `BrokerApi`; which API object a caller gets: its worker's or the default.

A worker puts its own object into the context variable `context_api`; all other code gets `default_api`, which the
broker sets in the main interpreter while it runs.

To add a call: its constant in `wire.commands`, its effect in `broker.broker` (or the layers below), its method here,
its function in `wsbroker/__init__`, and its method in `testing.TestBroker`. The house test `test_api_spelling` holds
that. A one-way call whose data may be long is named in two more files, which that test lists too: `_measure_data`
of `pool.local_api` must count the data, and `send_command` of `worker.wire_api` must hand the data's size to
`append_command`, which checks `MAX_DATA` (on other threads the third field is checked).
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

from wsbroker.errors import CommandError
from wsbroker.wire import commands

if TYPE_CHECKING:
    from wsbroker.wire.commands import Command

_NO_BROKER: Final = (
    "no broker is running here: call wsbroker.start(), run() or serve() first, or call this from a handler; "
    "after stop() nobody is there to ask"
)


class BrokerApi:
    """The broker as its callers see it. Arguments are exact already: `int`, `str`, `bytes`, `tuple`.

    A subclass implements `send_command` and `ask_core`, and overrides `send` and `send_to_channel` to be faster. The
    arguments of the calls are positional: `LocalApi` has methods without their names.
    """

    __slots__ = ()

    def send_command(self, command: "Command") -> None:
        """Sends a one-way command (see `wire.commands`) to the core."""
        raise NotImplementedError

    def ask_core(self, question: int, *arguments: object) -> object:
        """Asks the core a question (see `wire.commands`), waits for the answer and returns the answer."""
        raise NotImplementedError

    def send(self, socket_id: int, data: str | bytes, /) -> None:
        """Sends data to one socket."""
        self.send_command((commands.SEND, socket_id, data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...], /) -> None:
        """Sends data to the subscribers of a channel but those in `exclude`."""
        self.send_command((commands.PUBLISH, channel, data, exclude))

    def subscribe(self, socket_id: int, channel: bytes, /) -> bool:
        """Subscribes a socket to a channel; returns whether that changed something."""
        return cast(bool, self.ask_core(commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe(self, socket_id: int, channel: bytes, /) -> bool:
        """Unsubscribes a socket from a channel; returns whether that changed something."""
        return cast(bool, self.ask_core(commands.UNSUBSCRIBE, socket_id, channel))

    def subscribe_nowait(self, socket_id: int, channel: bytes, /) -> None:
        """Subscribes a socket to a channel, without waiting for an answer."""
        self.send_command((commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe_nowait(self, socket_id: int, channel: bytes, /) -> None:
        """Unsubscribes a socket from a channel, without waiting for an answer."""
        self.send_command((commands.UNSUBSCRIBE, socket_id, channel))

    def set_token(self, socket_id: int, token: bytes | None, /) -> None:
        """Sets the token of a socket; None: removes the token."""
        self.send_command((commands.SET_TOKEN, socket_id, token, commands.NOT_CACHED))

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes, /) -> None:
        """Subscribes the subscribers of one channel to another channel too."""
        self.send_command((commands.COPY_SUBSCRIPTIONS, from_channel, to_channel))

    def close(self, socket_id: int, code: int, reason: str, /) -> None:
        """Closes a socket with a closing handshake."""
        self.send_command((commands.CLOSE, socket_id, code, reason))

    def subscriber_count(self, channel: bytes, /) -> int:
        """Returns how many sockets are subscribed to a channel."""
        return cast(int, self.ask_core(commands.SUBSCRIBER_COUNT, channel))

    def subscribers(self, channel: bytes, /) -> list[int]:
        """Returns the ids of a channel's subscribers, in the order in which they subscribed."""
        return cast("list[int]", self.ask_core(commands.SUBSCRIBERS, channel))

    def subscriptions(self, socket_id: int, /) -> list[bytes]:
        """Returns the channels of a socket, oldest subscription first."""
        return cast("list[bytes]", self.ask_core(commands.SUBSCRIPTIONS, socket_id))

    def channels(self) -> list[bytes]:
        """Returns the channels that have a subscriber."""
        return cast("list[bytes]", self.ask_core(commands.CHANNELS))

    def is_open(self, socket_id: int, /) -> bool:
        """Returns whether a socket is in the core's tables."""
        return cast(bool, self.ask_core(commands.IS_OPEN, socket_id))

    def queued_bytes(self, socket_id: int, /) -> int:
        """Returns how many bytes wait to be sent to a socket."""
        return cast(int, self.ask_core(commands.QUEUED_BYTES, socket_id))


context_api: Final[ContextVar[BrokerApi | None]] = ContextVar("wsbroker.api", default=None)
"""The API object of the worker whose handler is running in this context; None: no worker's code is running."""

default_api: BrokerApi | None = None
"""The API object of all code of this interpreter that runs outside a worker; set with `set_default_api`."""

is_worker_interpreter = False
"""Whether this whole interpreter belongs to a worker: then there is no server to start here."""

_get_context_api: Final = context_api.get


def set_default_api(api: BrokerApi | None) -> None:
    """Sets the API object of all code that runs outside a worker; None: there is no broker any more."""
    global default_api
    default_api = api


def get_default_api() -> BrokerApi | None:
    """Returns the API object that `set_default_api` was last given."""
    return default_api


def get_api() -> BrokerApi:
    """Returns the API object for the calls of this context. About 60 ns: it is part of every call of an application.

    Raises:
        CommandError: no broker is running.
    """
    api = _get_context_api()
    if api is None:
        api = default_api
        if api is None:
            raise CommandError(_NO_BROKER)
    return api
