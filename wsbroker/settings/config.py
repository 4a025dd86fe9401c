"""Every setting once: its unit, default, bounds, what it does and why it is as it is.

`Config` is what the parts are given; `Settings` is the same list for keyword arguments, ``start(bind, **settings)``;
`SETTINGS` is the same list as data, for the command line and the documentation. Where values may come from
(flags, environment, files) is the business of `wsbroker.settings.sources`.

May import: `types`, `errors`, `machine_limits`, standard library. Must never: read the environment or files, or change
the process (but for `raise_fd_limit`, which only `run()` and the command line may call).

Units: sizes are bytes (int), durations are seconds (int or float). A batch on the wire has less than 2 GiB, hence 1 GiB
as the upper bound of everything that crosses to a worker. This file is long because half of it is that one table.
"""

import difflib
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal, TypeAlias, TypedDict, TypeVar, Unpack, get_args

from wsbroker.errors import ConfigError
from wsbroker.settings.machine_limits import cpu_quota, memory_limit

WorkerKind: TypeAlias = Literal["auto", "inline", "thread", "interpreter", "process"]
Balance: TypeAlias = Literal["round-robin", "least-connections"]
SlowConsumer: TypeAlias = Literal["disconnect", "drop_new", "drop_old"]
OnHandlerError: TypeAlias = Literal["close", "log"]
SettingKind: TypeAlias = Literal["size", "seconds", "count", "mode", "choice", "switch", "text", "names"]
"""size: bytes (int) · seconds (float) · count (int) · mode: permission bits (int) · choice (one of `choices`) ·
switch (bool) · text (str) · names (tuple of str)"""

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB
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
    """A field of Config with its description; see `Setting` for the arguments."""
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
    return _setting_field(default, "size", group, help=help, reason=reason, minimum=1, maximum=GIB)


def _total_size_field(group: str, *, help: str, reason: str) -> int | None:
    """Makes a setting for a size of all connections together, which follows the memory there is."""
    return _setting_field(None, "size", group, help=help, reason=reason, minimum=KIB, maximum=TIB, unset="auto")


def _seconds_field(default: float, group: str, *, help: str, reason: str, minimum: float = MIN_DURATION_S) -> float:
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
        reason="Kubernetes kills after 30 s; the closes are paced, so that not all clients reconnect in one second.",
    )

    def __post_init__(self) -> None:
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
        refuse_unknown_names(settings)
        return cls(**settings)

    def workers_for(self, kind: WorkerKind) -> int:
        """Returns how many workers to start of this kind, which is the one `auto` was resolved to."""
        return default_worker_count(kind) if self.workers is None else self.workers

    def connection_limit(self) -> int:
        """Returns `max_connections`, or what the limit of open files allows now."""
        return default_max_connections() if self.max_connections is None else self.max_connections

    def waiting_bytes_limit(self) -> int:
        """Returns `max_waiting_bytes`, or a quarter of the memory this process may use."""
        return _memory_share() if self.max_waiting_bytes is None else self.max_waiting_bytes

    def inbox_bytes_limit(self) -> int:
        """Returns `max_inbox_bytes_total`, or a quarter of the memory this process may use."""
        return _memory_share() if self.max_inbox_bytes_total is None else self.max_inbox_bytes_total

    def request_bytes_limit(self) -> int:
        """Returns `max_request_bytes_total`, or a quarter of the memory this process may use, at most 1 GiB."""
        return min(_memory_share(), GIB) if self.max_request_bytes_total is None else self.max_request_bytes_total


def _memory_share() -> int:
    """Returns a quarter of the memory this process may use, in bytes."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting, described.

    Args:
        name: its field in `Config`.
        kind: what its values are.
        group: one of GROUPS.
        unit: ``"bytes"``, ``"seconds"`` or ``""``.
        default: what it is if nobody says.
        minimum, maximum: the bounds, both included; None if there are none.
        choices: the legal values of a choice.
        unset: the word that stands for None in texts, or None if it has no such word.
        hidden: whether its value must never be shown.
        help: what it does, in one line.
        reason: why the default and the bounds are what they are.
    """

    name: str
    kind: SettingKind
    group: str
    unit: str
    default: object
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    unset: str | None
    hidden: bool
    help: str
    reason: str

    def format_value(self, value: object) -> str:
        """Returns a value of this setting as a person writes it: ``64KiB``, ``25s``, ``auto``."""
        if value is None:
            return self.unset or "none"
        if self.hidden:
            return "(hidden)"
        if isinstance(value, bool):
            return "on" if value else "off"
        if self.kind == "size" and isinstance(value, int):
            return format_size(value)
        if self.kind == "mode" and isinstance(value, int):
            return f"{value:03o}"
        if self.kind == "seconds" and isinstance(value, (int, float)) and math.isfinite(value):
            return f"{value:g}s"
        if isinstance(value, tuple):
            return ",".join(value) or "none"
        return str(value)


SETTINGS: Final[dict[str, Setting]] = {
    each.name: Setting(name=each.name, default=each.default, **each.metadata) for each in fields(Config)
}
"""Every setting by name, in the order of `Config`."""


def format_size(size: int) -> str:
    """Returns ``64KiB`` for 65536: the largest unit that says it exactly."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns ``"; did you mean 'x'?"`` if something known is close to `word` (1.0: the same), else ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def refuse_unknown_names(names: Iterable[str]) -> None:
    """Raises ConfigError if one of the names is not a setting's."""
    for name in names:
        if name not in SETTINGS:
            raise ConfigError(f"there is no setting {name!r}{did_you_mean(name, SETTINGS)}")


def check_settings(values: Mapping[str, object], labels: Mapping[str, str] | None = None) -> dict[str, object]:
    """Returns the values in their exact types, after checking each and all together.

    Args:
        values: by name; what is missing has its default.
        labels: how to call a setting in errors, such as ``"--max-message-size"``; its name if missing.

    Raises:
        TypeError: a value of the wrong type.
        ConfigError: a value out of its bounds, or a contradiction.
    """
    named = {name: (labels or {}).get(name, name) for name in SETTINGS}
    checked = {name: check_value(SETTINGS[name], value, named[name]) for name, value in values.items()}
    _refuse_contradictions(checked, named)
    return checked


def check_value(setting: Setting, value: object, label: str) -> object:
    """Returns one value in its exact type; raises as `check_settings`, calling the setting `label`."""
    if value is None and setting.default is None:
        return None
    if setting.kind == "switch":
        if not isinstance(value, bool):
            raise _wrong_type_error(setting, value, label)
        return _check_switch(setting, value, label)
    if setting.kind == "text":
        if not isinstance(value, str):
            raise _wrong_type_error(setting, value, label)
        if setting.name == "unix_group" and not value.strip():
            raise ConfigError(f"{label} is empty: write the name or number of a group, or leave it out")
        return str(value)
    if setting.kind == "choice":
        return _check_choice(setting, value, label)
    if setting.kind == "names":
        return _check_names(setting, value, label)
    return _check_number(setting, value, label)


_TYPE_NAMES: Final[dict[SettingKind, str]] = {
    "size": "an int (bytes)",
    "seconds": "a number (seconds)",
    "count": "an int",
    "mode": "an int such as 0o660",
    "choice": "a str",
    "switch": "a bool",
    "text": "a str",
    "names": "a tuple of str",
}


def _wrong_type_error(setting: Setting, value: object, label: str) -> TypeError:
    expected = _TYPE_NAMES[setting.kind] + (" or None" if setting.default is None else "")
    return TypeError(f"{label} must be {expected}, not {type(value).__name__}")


def _check_number(setting: Setting, value: object, label: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type_error(setting, value, label)
    if isinstance(value, float) and setting.kind != "seconds":
        raise _wrong_type_error(setting, value, label)
    assert setting.minimum is not None and setting.maximum is not None
    if not setting.minimum <= value <= setting.maximum:  # so written, it refuses NaN too
        if setting.kind == "mode":
            raise ConfigError(
                f"{label} is {value}, but must be permission bits from 0o000 to 0o777: write it in octal, such as 0o660"
            )
        low, high = _format_bound(setting, setting.minimum), _format_bound(setting, setting.maximum)
        raise ConfigError(f"{label} is {setting.format_value(value)}, but must be from {low} to {high}")
    return float(value) if setting.kind == "seconds" else int(value)


def _format_bound(setting: Setting, bound: float) -> str:
    return setting.format_value(bound if setting.kind == "seconds" else int(bound))


def _check_choice(setting: Setting, value: object, label: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type_error(setting, value, label)
    if value not in setting.choices:
        allowed = f"{', '.join(setting.choices[:-1])} or {setting.choices[-1]}"
        raise ConfigError(f"{label} is {value!r}, but must be {allowed}{did_you_mean(value, setting.choices)}")
    return str(value)


def _check_switch(setting: Setting, value: bool, label: str) -> bool:
    if setting.name == "compression" and value:
        raise ConfigError(f"{label} is on, but this version cannot compress messages yet: leave it off")
    return value


def _check_names(setting: Setting, value: object, label: str) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(name, str) for name in value):
        raise _wrong_type_error(setting, value, label)
    names = tuple(str(name) for name in value)
    if setting.name == "allowed_origins":
        names = _normalize_origins(names, label)
    else:
        _check_subprotocols(names, label)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{label} names {double!r} twice: once is enough")
    return names


_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]*)(?::([0-9]{1,5}))?")


def _normalize_origins(names: tuple[str, ...], label: str) -> tuple[str, ...]:
    if "*" in names and len(names) > 1:
        raise ConfigError(f"{label} holds '*', which is any origin, and others too: write '*' alone, or the others")
    return tuple(name if name == "*" else _normalize_origin(name, label) for name in names)


def _normalize_origin(name: str, label: str) -> str:
    """Returns an origin as browsers send it: lower case, no default port (RFC 6454 section 6.2)."""
    origin = name.lower()
    if origin == "null":  # a sandboxed frame, a page opened as a file
        return origin
    if "*" in origin:
        raise ConfigError(f"{label} holds {name!r}, but patterns are not supported: list each origin, or write * alone")
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ConfigError(
            f"{label} holds {name!r}, but an origin is scheme and host as a browser sends them{_origin_hint(origin)}, "
            "such as https://example.com, http://localhost:8080, capacitor://localhost, file:// or null, or *"
        )
    scheme, host, digits = match.groups()
    if not host and (digits or scheme in _DEFAULT_PORTS):
        raise ConfigError(f"{label} holds {name!r}, in which no host stands behind {scheme}://")
    port = int(digits) if digits else None
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"{label} holds {name!r}, but a port is a number from 1 to 65535")
    if host.startswith("["):
        host = _normalize_ipv6(host, name, label)
    is_default = port is None or port == _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}" if is_default else f"{scheme}://{host}:{port}"


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _origin_hint(origin: str) -> str:
    """Returns what is wrong with an origin, in brackets, where that can be told; else ``""``."""
    scheme, separator, rest = origin.partition("://")
    if not separator:
        is_host = _ORIGIN.fullmatch(f"https://{origin}") is not None and ("." in origin or ":" in origin)
        return f" (https://{origin}?)" if is_host else ""
    if _ORIGIN.fullmatch(f"{scheme}://{re.split('[/?#]', rest)[0]}"):
        return " (without a path)"
    if not rest.isascii():
        return " (a host in its xn-- form)"
    return ""


def _normalize_ipv6(host: str, name: str, label: str) -> str:
    """Returns an IPv6 address in the form in which browsers send it."""
    from ipaddress import IPv6Address

    try:
        return f"[{IPv6Address(host[1:-1])}]"
    except ValueError as error:
        raise ConfigError(f"{label} holds {name!r}, whose host is no IPv6 address: {error}") from None


def _check_subprotocols(names: tuple[str, ...], label: str) -> None:
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # a token, RFC 9110 section 5.6.2
            raise ConfigError(
                f"{label} holds {name!r}, but a subprotocol is letters, digits and !#$%&'*+-.^_`|~ without spaces"
            )


def _refuse_contradictions(values: Mapping[str, object], named: Mapping[str, str]) -> None:
    """Refuses only what cannot work.

    What is merely odd has a defined outcome and passes: a message larger than an inbox, a mailbox or an outbox (an
    empty one takes any one message), a shutdown shorter than a close, a pong later than the next ping.
    """
    workers = values.get("workers")
    if values.get("worker_kind") == "inline" and workers not in (None, 1):
        raise ConfigError(
            f"{named['workers']} is {workers}, but {named['worker_kind']} is inline, and handlers in the event loop "
            "have one worker: leave the number out, or choose another kind"
        )
    interval = _seconds_value(values, "flush_interval")
    for deadline in ("pong_timeout", "close_timeout"):
        if interval and interval >= _seconds_value(values, deadline):
            shown = SETTINGS[deadline].format_value(_seconds_value(values, deadline))
            raise ConfigError(
                f"{named['flush_interval']} is {SETTINGS['flush_interval'].format_value(interval)}, but {named[deadline]} is "
                f"{shown}: pings and closes wait in the flush interval too, so no peer could answer in time; "
                "some milliseconds are usual"
            )


def _seconds_value(values: Mapping[str, object], name: str) -> float:
    value = values.get(name, SETTINGS[name].default)
    assert isinstance(value, (int, float))
    return float(value)


def default_worker_count(kind: WorkerKind) -> int:
    """Returns how many workers of this kind there are if nobody says: 1 for inline and thread, else the CPU count."""
    return 1 if kind in ("inline", "thread") else cpu_count()


def cpu_count() -> int:
    """Returns how many CPUs this process may use: not how many the machine has, and no more than a cgroup's quota."""
    quota = cpu_quota()
    return _assigned_cpus() if quota is None else min(quota, _assigned_cpus())


def _assigned_cpus() -> int:
    """How many CPUs this process may run on, where the system tells."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    elif sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:
        return os.cpu_count() or 1


UNLIMITED_CONNECTIONS: Final = 1_000_000
"""What stands in for no limit of open files; the tables for more would not fit most machines anyway."""

WINDOWS_CONNECTIONS: Final = 10_000
"""Windows has no limit of open files that a process could ask for."""

MAX_FD_LIMIT: Final = 1 << 20
"""As far as `raise_fd_limit` goes: Linux's own default for the hard limit of a service."""


def default_max_connections() -> int:
    """Returns how many connections the soft limit of open files leaves room for.

    The reserve (an eighth, 32 to 1024) is for listeners, workers' wires, log files and what the handlers open, and for
    taking a connection at all to answer it with 503.
    """
    soft = _soft_fd_limit()
    if soft is None:
        return WINDOWS_CONNECTIONS
    reserve = min(max(soft // 8, 32), 1024)
    return min(max(soft - reserve, 1), UNLIMITED_CONNECTIONS)


def fd_warning(config: Config) -> str | None:
    """Returns what to warn of if the limit of open files is too low for an explicit `max_connections`, else None."""
    soft = _soft_fd_limit()
    room = default_max_connections()
    if config.max_connections is None or soft is None or config.max_connections <= room:
        return None
    return (
        f"max_connections is {config.max_connections}, but this process may open only {soft} files, so about {room} "
        "connections fit: raise the limit (ulimit -n, LimitNOFILE) or lower max_connections"
    )


def raise_fd_limit() -> None:
    """Raises the soft limit of open files to the hard one, as far as it goes; only for `run()` and the command line."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_FD_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_FD_LIMIT)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # macOS names an infinite hard limit and takes less: what there is has to do
        return


def _soft_fd_limit() -> int | None:
    """The soft limit of open files; None where the system has none to ask for."""
    if sys.platform == "win32":
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * UNLIMITED_CONNECTIONS if soft == resource.RLIM_INFINITY else soft
