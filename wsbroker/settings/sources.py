"""Where settings of the command line come from: flags, environment variables and a TOML file, strongest first.

Every setting of `wsbroker.settings.config` has one name in three spellings, ``--max-message-size``,
``WSBROKER_MAX_MESSAGE_SIZE`` and ``max_message_size = …``; so have `app`, `bind`, `secret` and the log level. The file
holds its keys at the top, or all of them in a table ``[wsbroker]``: then whatever else is in it belongs to others.

Texts: sizes ``65536``, ``64KiB``, ``1MiB``, ``1MB``; durations ``10``, ``10s``, ``500ms``, ``1m``; permissions in
octal, ``660``; lists separated by commas; switches ``on`` and ``off``. An empty variable counts as not set, except for
the secret.

May import: `config`, `errors`, standard library. Must never: decide what a value means, or print.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, TypeAlias

from wsbroker.errors import ConfigError
from wsbroker.settings.checks import Setting, check_value, did_you_mean
from wsbroker.settings.config import SETTINGS

VARIABLE_PREFIX: Final = "WSBROKER_"
COMMAND_LINE_NAMES: Final = ("app", "bind", "log_level", "secret")
"""What the command line itself takes, beside the settings of `Config`."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

NAME_BY_VARIABLE: Final[dict[str, str]] = {
    VARIABLE_PREFIX + "APP": "app",
    VARIABLE_PREFIX + "BIND": "bind",
    VARIABLE_PREFIX + "LOG": "log_level",
    VARIABLE_PREFIX + "SECRET": "secret",
    **{VARIABLE_PREFIX + name.upper(): name for name in SETTINGS},
}
"""The environment variables that hold settings, and their names."""

OTHER_VARIABLES: Final = (
    VARIABLE_PREFIX + "CONFIG",
    VARIABLE_PREFIX + "PURE",
    VARIABLE_PREFIX + "REQUIRE_COMPILED",
    VARIABLE_PREFIX + "REQUIRE_INTERPRETED",
    VARIABLE_PREFIX + "WORKER_OF",
)
"""Variables of ours that hold something else: they are no reason to warn."""

_HIDDEN_NAMES: Final = frozenset({"secret"} | {each.name for each in SETTINGS.values() if each.hidden})

Source: TypeAlias = Literal["flag", "environment", "file"]


@dataclass(frozen=True, slots=True)
class RawSetting:
    """A value as it was found.

    Args:
        raw: the text or, from a file, what TOML made of it.
        label: how errors call it: the flag, the variable, or the key and the file.
        source: where it comes from.
    """

    raw: object
    label: str
    source: Source

    def __repr__(self) -> str:  # never the value: it may be the secret
        return f"RawSetting({self.label})"


SettingsLayer: TypeAlias = dict[str, RawSetting]


def read_flags(flags: Mapping[str, object]) -> SettingsLayer:
    """Returns the flags that were given; one that was not is None or an empty tuple."""
    given = {name: raw for name, raw in flags.items() if raw is not None and raw != ()}
    return {
        name: RawSetting(raw, "APP" if name == "app" else flag_name_of(name), "flag") for name, raw in given.items()
    }


def flag_name_of(name: str) -> str:
    """Returns the flag of a setting: ``--max-message-size``."""
    return "--" + name.replace("_", "-")


def read_environment(environment: Mapping[str, str]) -> SettingsLayer:
    """Returns the settings among the variables."""
    return {
        name: RawSetting(environment[variable], variable, "environment")
        for variable, name in NAME_BY_VARIABLE.items()
        if variable in environment and (environment[variable].strip() or name == "secret")
    }


def unknown_variable_warnings(environment: Iterable[str]) -> list[str]:
    """Returns a warning for each variable that looks like ours and is not."""
    known = [*NAME_BY_VARIABLE, *OTHER_VARIABLES]  # all alike for their first half, hence the high cutoff
    return [
        f"the environment variable {name} is unknown and ignored{did_you_mean(name, known, 0.78)}"
        for name in sorted(environment)
        if name.startswith(VARIABLE_PREFIX) and name not in known
    ]


def read_config_file(path: str, label: str) -> SettingsLayer:
    """Reads a TOML file.

    Args:
        path: the file.
        label: what named it, for errors: ``"--config"`` or the variable.

    Raises:
        ConfigError: it cannot be read, is not TOML, or holds an unknown key.
    """
    table = _own_table(_load_toml(path, label), path)
    known = [*COMMAND_LINE_NAMES, *SETTINGS]
    for key in table:
        if key not in known:
            raise ConfigError(f"{path} has an unknown key {key!r}{did_you_mean(key.replace('-', '_'), known)}")
    return {key: RawSetting(value, f"{key} in {path}", "file") for key, value in table.items()}


def _load_toml(path: str, label: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{label}: cannot read {path}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: {path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: {path} is not UTF-8, and TOML must be") from error


def _own_table(document: dict[str, object], path: str) -> dict[str, object]:
    if "wsbroker" not in document:
        return document
    table = document["wsbroker"]
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has a key 'wsbroker' that is no table: write [wsbroker] above the settings")
    for key in document:
        if key in SETTINGS or key in COMMAND_LINE_NAMES:
            raise ConfigError(f"{path} has {key!r} outside its table [wsbroker]: move it inside")
    return {str(key): value for key, value in table.items()}


def merge_layers(*layers: SettingsLayer) -> SettingsLayer:
    """Puts layers together; the first one that has a setting wins."""
    merged: SettingsLayer = {}
    for layer in layers:
        merged = {**layer, **merged}
    return merged


def parse_setting(name: str, found: RawSetting) -> object:
    """Reads a found value of a setting of `Config`.

    Raises:
        ConfigError: it cannot be read or is out of bounds; the text names where it was found.
    """
    setting = SETTINGS[name]
    if found.source == "file" and not isinstance(found.raw, str):
        if setting.kind == "mode":
            raise ConfigError(f'{found.label} is a number, and 440 would be mode 670: write it as a text such as "660"')
        value = found.raw
    else:
        value = _parse_setting_text(setting, _raw_texts(found), found.label)
    try:
        return check_value(setting, value, found.label)
    except TypeError:
        raise _unreadable_value_error(setting, found.raw, found.label) from None


def parse_text(name: str, found: RawSetting) -> str:
    """Reads a found value that is one text, such as `app` or the secret."""
    if not isinstance(found.raw, str):
        shown = "not" if name in _HIDDEN_NAMES else f"{_format_raw_value(found.raw)}, but must be"
        raise ConfigError(f"{found.label} is {shown} a text in quotes")
    return found.raw


def parse_text_list(found: RawSetting) -> list[str]:
    """Reads a found value that is one text or several, such as `bind`: a list, or separated by commas."""
    raw = found.raw
    if isinstance(raw, str):
        return _split_commas(raw)
    if isinstance(raw, (list, tuple)) and all(isinstance(text, str) for text in raw):
        return [str(text) for text in raw]
    raise ConfigError(f"{found.label} is {_format_raw_value(raw)}, but must be a text in quotes or a list of them")


def parse_log_level(found: RawSetting) -> str:
    """Reads a log level, in any case."""
    level = parse_text("log_level", found).strip().lower()
    if level not in LOG_LEVELS:
        allowed = f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}"
        raise ConfigError(f"{found.label} is {level!r}, but must be {allowed}{did_you_mean(level, LOG_LEVELS)}")
    return level


def _raw_texts(found: RawSetting) -> list[str]:
    """The text of a flag, a variable or a TOML string; of a flag that may be repeated, all its texts."""
    if isinstance(found.raw, tuple):
        return [str(text) for text in found.raw]
    return [str(found.raw)]


def _parse_setting_text(setting: Setting, texts: list[str], label: str) -> object:
    text = texts[-1].strip()
    if setting.unset is not None and text.lower() == setting.unset:
        return None
    value: object = None
    match setting.kind:
        case "size":
            value = parse_size(text)
        case "seconds":
            value = parse_seconds(text)
        case "count":
            value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        case "mode":
            value = int(text, 8) if re.fullmatch(r"(?:0o?)?[0-7]{1,3}", text) else None
        case "switch":
            value = {"1": True, "true": True, "yes": True, "on": True}.get(text.lower())
            value = {"0": False, "false": False, "no": False, "off": False}.get(text.lower(), value)
        case "names":
            value = tuple(name for each in texts for name in _split_commas(each))
        case "choice":
            value = text
        case "text":
            value = texts[-1]
    if value is None:
        raise _unreadable_value_error(setting, texts[-1], label)
    return value


def _split_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


_EXAMPLE_BY_KIND: Final = {
    "size": "a size such as 65536, 64KiB or 1MiB",
    "seconds": "a duration such as 10, 10s, 500ms or 1m",
    "count": "a whole number",
    "mode": "octal permissions such as 660",
    "switch": "on or off",
    "names": "a list of texts",
    "choice": "a text in quotes",
    "text": "a text in quotes",
}


def _unreadable_value_error(setting: Setting, raw: object, label: str) -> ConfigError:
    unset = f", or {setting.unset}" if setting.unset else ""
    shown = "not" if setting.hidden else f"{_format_raw_value(raw)}, but must be"
    return ConfigError(f"{label} is {shown} {_EXAMPLE_BY_KIND[setting.kind]}{unset}")


def _format_raw_value(raw: object) -> str:
    """A value as it stood in the flag, the variable or the file."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return "a table" if isinstance(raw, dict) else repr(raw)


_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_DURATION_UNITS: Final = {
    "": Fraction(1),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "m": Fraction(60),
    "min": Fraction(60),
    "h": Fraction(3600),
}
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int | None:
    """Returns the bytes of ``"65536"``, ``"64KiB"``, ``"1.5 MiB"`` or ``"1MB"`` (a million), None if it is no size.

    A bare ``K`` or ``M`` is refused: half of the tools mean 1000 by it and half 1024.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in _SIZE_UNITS:
        return None
    size = Fraction(match[1]) * _SIZE_UNITS[match[2].lower()]
    return int(size) if size.denominator == 1 else None


def parse_seconds(text: str) -> float | None:
    """Returns the seconds of ``"10"``, ``"10s"``, ``"500ms"``, ``"1.5m"`` or ``"2h"``, None if it is no duration."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in _DURATION_UNITS:
        return None
    return float(Fraction(match[1]) * _DURATION_UNITS[match[2].lower()])


def find_config_file(flag: object, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Returns the path of the file to read and the label of what named it, or None."""
    variable = VARIABLE_PREFIX + "CONFIG"
    if flag is not None:
        return str(flag), "--config"
    return (environment[variable], variable) if environment.get(variable, "").strip() else None
