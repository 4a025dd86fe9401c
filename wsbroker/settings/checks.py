"""The description of one setting, and the checks of values against descriptions: type, bounds, contradictions.

The table of all settings, `config.SETTINGS`, comes in as an argument. Values are only checked here, never read from
text: see `sources` for that.

May import: `errors`, standard library.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from wsbroker.errors import ConfigError

SettingKind: TypeAlias = Literal["size", "seconds", "count", "mode", "choice", "switch", "text", "names"]
"""size: bytes (int) · seconds (float) · count (int) · mode: permission bits (int) · choice (one of `choices`) ·
switch (bool) · text (str) · names (tuple of str)"""

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The description of one setting.

    Args:
        name: its field in `Config`.
        kind: the kind of its values.
        group: one of `config.GROUPS`.
        unit: ``"bytes"``, ``"seconds"`` or ``""``.
        default: the value of a setting that is not given.
        minimum, maximum: the bounds, both included; None if there are none.
        choices: the legal values of a choice.
        unset: the word that stands for None in texts, or None if it has no such word.
        hidden: whether its value must never be shown.
        help: the effect of the setting, in one line.
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


def format_size(size: int) -> str:
    """Returns a number of bytes in the largest unit that divides it: ``64KiB`` for 65536."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns ``"; did you mean 'x'?"`` with the known word closest to `word`, ``""`` if none is close.

    Args:
        word: the word as it was written.
        known: the words that are right.
        cutoff: how similar a known word must be, 0.0 to 1.0 (the same).
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def refuse_unknown_names(settings: Mapping[str, Setting], names: Iterable[str]) -> None:
    """Raises ConfigError for the first name that is not in `settings`."""
    for name in names:
        if name not in settings:
            raise ConfigError(f"there is no setting {name!r}{did_you_mean(name, settings)}")


def check_all_values(
    settings: Mapping[str, Setting], values: Mapping[str, object], labels: Mapping[str, str]
) -> dict[str, object]:
    """Checks each value and all values together, and returns the values in their exact types.

    Args:
        settings: the descriptions of all settings, by name.
        values: by name; a setting without a value has its default.
        labels: by name, how errors call a setting, such as ``"--max-message-size"``; its name if missing.

    Raises:
        TypeError: a value of the wrong type.
        ConfigError: a value out of its bounds, or a contradiction.
    """
    all_labels = {name: labels.get(name, name) for name in settings}
    checked = {name: check_value(settings[name], value, all_labels[name]) for name, value in values.items()}
    _refuse_contradictions(settings, checked, all_labels)
    return checked


def check_value(setting: Setting, value: object, label: str) -> object:
    """Checks one value and returns it in its exact type; raises as `check_all_values`, with `label` as the name."""
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
    """Returns the error for a setting's value of the wrong type: the type it has, and the type that it must have.

    Args:
        setting: the setting.
        value: the value.
        label: the name of the setting in the error, such as ``--max-message-size``.
    """
    expected = _TYPE_NAMES[setting.kind] + (" or None" if setting.default is None else "")
    return TypeError(f"{label} must be {expected}, not {type(value).__name__}")


def _check_number(setting: Setting, value: object, label: str) -> int | float:
    """Returns the number of a size, duration, count or mode after checking its type and bounds.

    Raises as `check_value`, whose arguments it has.
    """
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
    """Returns the smallest or largest value of a setting as an error text shows it, such as ``1GiB``."""
    return setting.format_value(bound if setting.kind == "seconds" else int(bound))


def _check_choice(setting: Setting, value: object, label: str) -> str:
    """Returns a setting's value after checking that it is one of the setting's `choices`; raises as `check_value`."""
    if not isinstance(value, str):
        raise _wrong_type_error(setting, value, label)
    if value not in setting.choices:
        allowed = f"{', '.join(setting.choices[:-1])} or {setting.choices[-1]}"
        raise ConfigError(f"{label} is {value!r}, but must be {allowed}{did_you_mean(value, setting.choices)}")
    return str(value)


def _check_switch(setting: Setting, value: bool, label: str) -> bool:
    """Returns the value of a switch; raises ConfigError for a switch that this version cannot turn on."""
    if setting.name == "compression" and value:
        raise ConfigError(f"{label} is on, but this version cannot compress messages yet: leave it off")
    return value


def _check_names(setting: Setting, value: object, label: str) -> tuple[str, ...]:
    """Returns a list of origins or subprotocols as a tuple after checking it; origins in the form browsers send them.

    Raises as `check_value`, whose arguments it has; also ConfigError for a name that is listed twice.
    """
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
    """Returns allowed origins as browsers send them, ``*`` unchanged; raises ConfigError for a name that is no origin.

    Args:
        names: the origins as they were written.
        label: the name of the setting in errors.
    """
    if "*" in names and len(names) > 1:
        raise ConfigError(f"{label} holds '*', which is any origin, and others too: write '*' alone, or the others")
    return tuple(name if name == "*" else _normalize_origin(name, label) for name in names)


def _normalize_origin(name: str, label: str) -> str:
    """Returns an origin as browsers send it (RFC 6454 section 6.2); raises ConfigError if the text is no origin.

    Browsers send lower case, and no port that is the default of the scheme.

    Args:
        name: the origin as it was written.
        label: the name of the setting in errors.
    """
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
    """Returns the probable mistake in a text that is no origin, in brackets for the error; "" if there is no guess."""
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
    """Returns an origin's IPv6 host in the form in which browsers send it; raises ConfigError if it is no IPv6 address.

    Args:
        host: the host in its brackets, in lower case.
        name: the whole origin as it was written, for the error.
        label: the name of the setting in the error.

    Returns:
        the address in brackets: groups of hex digits, also for an IPv4 address inside (``[::ffff:102:304]``), with
        ``::`` in place of the first longest run of zero groups. Source: URL Standard, the IPv6 serializer.
    """
    from ipaddress import IPv6Address

    try:
        address = IPv6Address(host[1:-1])
    except ValueError as error:
        raise ConfigError(f"{label} holds {name!r}, whose host is no IPv6 address: {error}") from None
    # Not str(address): since Python 3.13 that ends in dotted digits for an IPv4 address inside, as no browser sends it.
    text = ":".join(f"{int(group, 16):x}" for group in address.packed.hex(":", 2).split(":"))
    runs = list(re.finditer(r"\b0(?::0\b)+", text))
    if runs:
        run = max(runs, key=lambda each: len(each[0]))
        text = f"{text[: run.start()].removesuffix(':')}::{text[run.end() :].removeprefix(':')}"
    return f"[{text}]"


def _check_subprotocols(names: tuple[str, ...], label: str) -> None:
    """Raises ConfigError for the first subprotocol that cannot stand in the header ``Sec-WebSocket-Protocol``.

    Args:
        names: the subprotocols.
        label: the name of the setting in the error.
    """
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # a token, RFC 9110 section 5.6.2
            raise ConfigError(
                f"{label} holds {name!r}, but a subprotocol is letters, digits and !#$%&'*+-.^_`|~ without spaces"
            )


def _refuse_contradictions(
    settings: Mapping[str, Setting], values: Mapping[str, object], labels: Mapping[str, str]
) -> None:
    """Raises ConfigError for settings whose values cannot work together.

    Odd values with a defined outcome pass: a message larger than an inbox, a mailbox or an outbox (an empty one takes
    any one message), a shutdown shorter than a close, a pong later than the next ping.

    Args:
        settings: the descriptions of all settings, by name.
        values: the given values by name, each checked; a setting without a value has its default.
        labels: by name, how errors call a setting; each setting has a label.
    """
    workers = values.get("workers")
    if values.get("worker_kind") == "inline" and workers not in (None, 1):
        raise ConfigError(
            f"{labels['workers']} is {workers}, but {labels['worker_kind']} is inline, and handlers in the event loop "
            "have one worker: leave the number out, or choose another kind"
        )
    interval = _seconds_value(settings, values, "flush_interval")
    for deadline in ("pong_timeout", "close_timeout"):
        if interval and interval >= _seconds_value(settings, values, deadline):
            shown = settings[deadline].format_value(_seconds_value(settings, values, deadline))
            raise ConfigError(
                f"{labels['flush_interval']} is {settings['flush_interval'].format_value(interval)}, but "
                f"{labels[deadline]} is {shown}: pings and closes wait in the flush interval too, so no peer could "
                "answer in time; some milliseconds are usual"
            )


def _seconds_value(settings: Mapping[str, Setting], values: Mapping[str, object], name: str) -> float:
    """Returns the duration in seconds that `values` has for a setting, or the setting's default."""
    value = values.get(name, settings[name].default)
    assert isinstance(value, (int, float))
    return float(value)
