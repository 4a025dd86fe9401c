"""Every setting: its unit, default, bounds, effect and reason.

`Config` holds the values of all settings; `Settings` is the same list for keyword arguments, ``start(bind,
**settings)``; `SETTINGS` is the same list as data, for the command line and the documentation. `sources` reads values
from flags, the environment and a file; `checks` checks them.

May import: `checks`, `descriptors`, `machine_limits`, standard library. Must never: read the environment or files, or
change the process.

Units: sizes are bytes (int), durations are seconds (int or float). A batch on the wire has less than 2 GiB, hence 1 GiB
as the upper bound of everything that crosses to a worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal, TypeAlias, TypedDict, TypeVar, Unpack, get_args

from wsbroker.settings.checks import GIB, KIB, MIB, TIB, Setting, SettingKind, check_all_values, refuse_unknown_names
from wsbroker.settings.descriptors import default_max_connections
from wsbroker.settings.machine_limits import memory_limit

WorkerKind: TypeAlias = Literal["auto", "inline", "thread", "interpreter", "process"]
Balance: TypeAlias = Literal["round-robin", "least-connections"]
SlowConsumer: TypeAlias = Literal["disconnect", "drop_new", "drop_old"]
OnHandlerError: TypeAlias = Literal["close", "log"]
DAY_S: Final = 86_400.0
MIN_DURATION_S: Final = 0.01

GROUPS: Final = ("Workers", "Messages", "Connections", "HTTP", "Time")
_UNIT_NAMES: Final[dict[SettingKind, str]] = {"size": "bytes", "seconds": "seconds"}
_T = TypeVar("_T")


def _setting_field(
    default: _T,
    kind: SettingKind,
    group: str,
    *,
    help: str,
    reason: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    unset: str | None = None,
    hidden: bool = False,
) -> _T:
    """Returns a field of the dataclass `Config` with a setting's description; the arguments are those of `Setting`."""
    metadata = {
        "kind": kind,
        "group": group,
        "unit": _UNIT_NAMES.get(kind, ""),
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "unset": unset,
        "hidden": hidden,
        "help": help,
        "reason": reason,
    }
    return field(default=default, repr=not hidden, metadata=metadata)


def _size_field(default: int, group: str, *, help: str, reason: str) -> int:
    """Returns a field of `Config` for a size of 1 byte to 1 GiB; the arguments are those of `Setting`."""
    return _setting_field(default, "size", group, help=help, reason=reason, minimum=1, maximum=GIB)


def _total_size_field(group: str, *, help: str, reason: str) -> int | None:
    """Returns a field of `Config` for a limit on all connections' bytes together; the arguments are those of `Setting`.

    Its default, None, means a part of the memory that this process may use.
    """
    return _setting_field(None, "size", group, help=help, reason=reason, minimum=KIB, maximum=TIB, unset="auto")


def _seconds_field(default: float, group: str, *, help: str, reason: str, minimum: float = MIN_DURATION_S) -> float:
    """Returns a field of `Config` for a duration in seconds, from `minimum` to a day; for arguments see `Setting`."""
    return _setting_field(default, "seconds", group, help=help, reason=reason, minimum=minimum, maximum=DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a server, checked.

    Raises:
        TypeError: a value of the wrong type.
        ConfigError: a value out of its bounds, or two that cannot work together; the text says what to do.
    """

    workers: int | None = _setting_field(
        None,
        "count",
        "Workers",
        minimum=1,
        maximum=1024,
        unset="auto",
        help="workers that run handlers; auto: 1 for inline and thread, else one per CPU",
        reason="Threads of one interpreter share its lock, so more of them only help handlers that block.",
    )
    worker_kind: WorkerKind = _setting_field(
        "auto",
        "choice",
        "Workers",
        choices=get_args(WorkerKind),
        help="where handlers run",
        reason="auto takes the kind that uses all CPUs with the code at hand.",
    )
    balance: Balance = _setting_field(
        "round-robin",
        "choice",
        "Workers",
        choices=get_args(Balance),
        help="which worker gets a new socket",
        reason="Round robin is even when connections come and go evenly; the other one also after a worker restarts.",
    )
    worker_arg: str | None = _setting_field(
        None,
        "text",
        "Workers",
        hidden=True,
        help="handed to handle_worker_start(arg) of every worker",
        reason="The one way to parametrise an application from outside; never logged, it may be a secret.",
    )
    handler_timeout: float = _seconds_field(
        5.0,
        "Workers",
        help="a handler may run this long; then it is interrupted, its socket closed with 1011",
        reason="A client waits a few seconds for an answer, and the next messages of the socket wait behind it.",
    )
    worker_hang_timeout: float = _seconds_field(
        3.0,
        "Workers",
        help="a worker that answers nothing this long is given up and replaced",
        reason="Longer than any pause of the garbage collector or of a busy machine, short enough to reconnect.",
    )
    on_handler_error: OnHandlerError = _setting_field(
        "close",
        "choice",
        "Workers",
        choices=get_args(OnHandlerError),
        help="when a message handler raises, close its socket (1011) or only log",
        reason="After an exception nobody knows what state the application left behind for this client.",
    )

    max_message_size: int = _size_field(
        64 * KIB,
        "Messages",
        help="largest message a client may send; a larger one closes it with 1009",
        reason="Messages are for events; files go over HTTP. Every connection may make the server hold this much.",
    )
    max_queue_bytes: int = _size_field(
        MIB,
        "Messages",
        help="what may wait for one socket; an empty outbox takes any one message",
        reason="A client that keeps up never has that much waiting; what all may have together is max_waiting_bytes.",
    )
    max_waiting_bytes: int | None = _total_size_field(
        "Messages",
        help="waiting for all sockets; then the largest are closed; auto: 1/4 of memory",
        reason="A thousand slow clients must not fill the memory. HTTP answers have as much of their own.",
    )
    slow_consumer: SlowConsumer = _setting_field(
        "disconnect",
        "choice",
        "Messages",
        choices=get_args(SlowConsumer),
        help="what happens at max_queue_bytes",
        reason="A client that reconnects knows that it has missed something; with dropped messages it does not.",
    )
    inbox_bytes: int = _size_field(
        256 * KIB,
        "Messages",
        help="read from one socket and not yet handled; then its reading pauses",
        reason="Enough to keep a worker busy over a round trip; TCP tells the client to wait.",
    )
    max_inbox_bytes_total: int | None = _total_size_field(
        "Messages",
        help="not yet handled of all sockets; then 16 KiB each; auto: 1/4 of memory",
        reason="While handlers are stuck, a thousand clients that go on sending must not fill the memory.",
    )
    mailbox_bytes: int = _size_field(
        4 * MIB,
        "Messages",
        help="on its way to one worker and not yet handled; more waits with its socket",
        reason="A worker that falls behind costs memory only up to here, however many sockets it serves.",
    )
    command_bytes: int = _size_field(
        16 * MIB,
        "Messages",
        help="asked for by one worker and not yet applied; then its calls block",
        reason="A handler that publishes in a loop is slowed down instead of filling the memory.",
    )
    max_channels_per_socket: int = _setting_field(
        128,
        "count",
        "Messages",
        minimum=1,
        maximum=2**31 - 1,
        help="subscriptions one socket may hold; a further one is refused",
        reason="One client must not be able to fill the channel table.",
    )
    compression: bool = _setting_field(
        False,
        "switch",
        "Messages",
        help="compress messages (permessage-deflate); not available yet",
        reason="Costs up to 300 KB per connection and more CPU than all the rest, so it is a choice.",
    )
    read_budget_bytes: int = _size_field(
        256 * KIB,
        "Messages",
        help="read from one socket before the others have their turn",
        reason="One greedy client must not hold the event loop; as much as a transport reads at once.",
    )
    read_budget_frames: int = _setting_field(
        256,
        "count",
        "Messages",
        minimum=1,
        maximum=2**31 - 1,
        help="the same in frames",
        reason="Tiny frames cost time rather than bytes: a read of 256 KiB can hold 43,000 of them.",
    )

    flush_interval: float = _setting_field(
        0.0,
        "seconds",
        "Messages",
        minimum=0.0,
        maximum=60.0,
        help="gather messages this long before writing; 0: write once per turn",
        reason="Busy channels cost less CPU per message the more of them leave in one write; each waits that long.",
    )

    max_connections: int | None = _setting_field(
        None,
        "count",
        "Connections",
        minimum=1,
        maximum=2**31 - 1,
        unset="auto",
        help="further connections are answered 503; auto: from the limit of open files",
        reason="An answer beats a connection that hangs because no file descriptor is left.",
    )
    allowed_origins: tuple[str, ...] | None = _setting_field(
        None,
        "names",
        "Connections",
        unset="same-host",
        help="origins that may connect: https://example.com, file://, null; * is any",
        reason="Without it any web page could connect in the name of its visitor (RFC 6455 section 10.2).",
    )
    subprotocols: tuple[str, ...] = _setting_field(
        (),
        "names",
        "Connections",
        help="subprotocols spoken; of several, the one that the client prefers is chosen",
        reason="Only a name that both sides list may be answered (RFC 6455 section 4.2.2).",
    )
    unix_mode: int | None = _setting_field(
        None,
        "mode",
        "Connections",
        minimum=0,
        maximum=0o777,
        unset="umask",
        help="permissions of a Unix socket's file, such as 660; who may write may connect",
        reason="Without it they follow the umask of the process, so that often only the same user's proxy can connect.",
    )
    unix_group: str | None = _setting_field(
        None,
        "text",
        "Connections",
        help="group of a Unix socket's file, a name or number; unix_mode is 660 then",
        reason="A proxy runs as another user: give the file to a group that both are in. An explicit unix_mode wins.",
    )

    max_body_size: int = _size_field(
        MIB,
        "HTTP",
        help="largest body of a plain HTTP request; a larger one is answered 413",
        reason="The body is held in memory and crosses to a worker as a whole; 1 MiB is nginx's default too.",
    )
    max_head_size: int = _setting_field(
        32 * KIB,
        "size",
        "HTTP",
        minimum=KIB,
        maximum=MIB,
        help="largest request head; a larger one is answered 431",
        reason="Room for large cookies; nginx takes 32 KiB too. Under 1 KiB browsers could not connect.",
    )
    max_request_bytes_total: int | None = _total_size_field(
        "HTTP",
        help="unfinished heads and bodies; then 503; auto: 1/4 of memory, up to 1GiB",
        reason="A thousand uploads that never end hold a thousand bodies; a container's memory limit counts.",
    )
    http_timeout: float = _seconds_field(
        30.0,
        "HTTP",
        help="a plain HTTP request is answered 504 after this long",
        reason="Proxies in front give up after 30 to 60 s; the answer should come before.",
    )
    keepalive_timeout: float = _seconds_field(
        75.0,
        "HTTP",
        help="an idle HTTP connection is kept this long for the next request",
        reason="nginx's and aiohttp's value; longer than the 60 s of common load balancers, so that they close first.",
    )

    ping_interval: float = _seconds_field(
        25.0,
        "Time",
        help="each socket is pinged this often",
        reason="Proxies cut connections that are silent for 30 to 60 s.",
    )
    pong_timeout: float = _seconds_field(
        10.0,
        "Time",
        help="a ping without an answer for this long closes the connection",
        reason="Mobile networks need several seconds to wake up; a dead peer is found within 35 s.",
    )
    handshake_timeout: float = _seconds_field(
        10.0,
        "Time",
        help="from the accepted connection to the open socket: request head and open handler",
        reason="Who opens connections and sends nothing must not hold descriptors.",
    )
    write_timeout: float = _seconds_field(
        10.0,
        "Time",
        help="a connection that takes no byte of what waits for this long is cut",
        reason="A peer that has vanished is not noticed by TCP for minutes.",
    )
    close_timeout: float = _seconds_field(
        5.0,
        "Time",
        help="how long a closing handshake may take before the connection is cut",
        reason="One slow round trip and a retransmission.",
    )
    shutdown_timeout: float = _seconds_field(
        30.0,
        "Time",
        minimum=0.0,
        help="how long a clean stop may take; 0 stops at once",
        reason="Kubernetes kills after 30 s; the closes are paced, so that not all clients reconnect in one second. "
        "The last quarter, 5 s at most, is the workers' alone.",
    )

    def __post_init__(self) -> None:
        """Checks all values and stores them in their exact types. Called by the dataclass's constructor."""
        values = {setting.name: getattr(self, setting.name) for setting in SETTINGS.values()}
        for name, value in check_settings(values).items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, **settings: "Unpack[Settings]") -> "Config":
        """Returns a Config with these settings and the defaults for the others.

        Raises:
            TypeError: a value of the wrong type.
            ConfigError: an unknown name, a value out of its bounds, or a contradiction.
        """
        refuse_unknown_names(SETTINGS, settings)
        return cls(**settings)

    def connection_limit(self) -> int:
        """Returns `max_connections`, or what the limit of open files allows now."""
        return default_max_connections() if self.max_connections is None else self.max_connections

    def waiting_bytes_limit(self) -> int:
        """Returns `max_waiting_bytes`, or a quarter of the memory this process may use."""
        return _default_memory_limit() if self.max_waiting_bytes is None else self.max_waiting_bytes

    def inbox_bytes_limit(self) -> int:
        """Returns `max_inbox_bytes_total`, or a quarter of the memory this process may use."""
        return _default_memory_limit() if self.max_inbox_bytes_total is None else self.max_inbox_bytes_total

    def request_bytes_limit(self) -> int:
        """Returns `max_request_bytes_total`, or a quarter of the memory this process may use, at most 1 GiB."""
        return (
            min(_default_memory_limit(), GIB) if self.max_request_bytes_total is None else self.max_request_bytes_total
        )


def _default_memory_limit() -> int:
    """Returns a quarter of the memory this process may use, in bytes: the limit where a setting gives none."""
    return memory_limit() // 4


class Settings(TypedDict, total=False):
    """The fields of `Config`, all optional, as keyword arguments."""

    workers: int | None
    worker_kind: WorkerKind
    balance: Balance
    worker_arg: str | None
    handler_timeout: float
    worker_hang_timeout: float
    on_handler_error: OnHandlerError
    max_message_size: int
    max_queue_bytes: int
    max_waiting_bytes: int | None
    slow_consumer: SlowConsumer
    inbox_bytes: int
    max_inbox_bytes_total: int | None
    mailbox_bytes: int
    command_bytes: int
    max_channels_per_socket: int
    compression: bool
    read_budget_bytes: int
    read_budget_frames: int
    flush_interval: float
    max_connections: int | None
    allowed_origins: tuple[str, ...] | None
    subprotocols: tuple[str, ...]
    unix_mode: int | None
    unix_group: str | None
    max_body_size: int
    max_head_size: int
    max_request_bytes_total: int | None
    http_timeout: float
    keepalive_timeout: float
    ping_interval: float
    pong_timeout: float
    handshake_timeout: float
    write_timeout: float
    close_timeout: float
    shutdown_timeout: float


SETTINGS: Final[dict[str, Setting]] = {
    each.name: Setting(name=each.name, default=each.default, **each.metadata) for each in fields(Config)
}
"""Every setting by name, in the order of `Config`."""


def check_settings(values: Mapping[str, object], labels: Mapping[str, str] | None = None) -> dict[str, object]:
    """Checks values of settings, each and all together, and returns the values in their exact types.

    Args:
        values: by name; a setting without a value has its default.
        labels: by name, how errors call a setting, such as ``"--max-message-size"``; its name if missing.

    Raises:
        TypeError: a value of the wrong type.
        ConfigError: a value out of its bounds, or a contradiction.
    """
    return check_all_values(SETTINGS, values, labels or {})
