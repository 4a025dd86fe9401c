"""The sources of the command line's settings: flags, environment variables and a TOML file, strongest first.

Every setting of `wsbroker.settings.config` has one name in three spellings, ``--max-message-size``,
``WSBROKER_MAX_MESSAGE_SIZE`` and ``max_message_size = …``; so have `app`, `bind`, `secret` and the log level. The file
holds its keys at the top, or all of them in a table ``[wsbroker]``: then other tables belong to other programs.

Texts: sizes ``65536``, ``64KiB``, ``1MiB``, ``1MB``; durations ``10``, ``10s``, ``500ms``, ``1m``; permissions in
octal, ``660``; lists separated by commas; switches ``on`` and ``off``. An empty variable counts as not set, except for
the secret.

May import: `config`, `checks`, `errors`, standard library. Must never: act on a value, or print.
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
"""The command line's own settings, beside those of `Config`."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

NAME_BY_VARIABLE: Final[dict[str, str]] = {
    VARIABLE_PREFIX + "APP": "app",
    VARIABLE_PREFIX + "BIND": "bind",
    VARIABLE_PREFIX + "LOG": "log_level",
    VARIABLE_PREFIX + "SECRET": "secret",
    **{VARIABLE_PREFIX + name.upper(): name for name in SETTINGS},
}
"""The environment variables that hold settings, each with the setting's name."""

OTHER_VARIABLES: Final = (
    VARIABLE_PREFIX + "CONFIG",
    VARIABLE_PREFIX + "PURE",
    VARIABLE_PREFIX + "REQUIRE_COMPILED",
    VARIABLE_PREFIX + "REQUIRE_INTERPRETED",
    VARIABLE_PREFIX + "WORKER_OF",
)
"""Variables of this package that hold no setting, and about which no warning is due."""

_HIDDEN_NAMES: Final = frozenset({"secret"} | {each.name for each in SETTINGS.values() if each.hidden})

Source: TypeAlias = Literal["flag", "environment", "file"]


@dataclass(frozen=True, slots=True)
class RawSetting:
    """The value of one setting as its source has it, not read yet.

    Args:
        raw: the text; from a file, the value as TOML reads it; of a repeated flag, a tuple of texts.
        label: the name of the value in errors: the flag, the variable, or the key and the file.
        source: the kind of source.
    """

    raw: object
    label: str
    source: Source

    def __repr__(self) -> str:  # never the value: it may be the secret
        return f"RawSetting({self.label})"


SettingsLayer: TypeAlias = dict[str, RawSetting]
"""The settings of one source, or of several after merging, by name."""


def read_flags(flags: Mapping[str, object]) -> SettingsLayer:
    """Returns the settings that were given as flags.

    Args:
        flags: the values of all flags, by setting; None or an empty tuple: not given.
    """
    given = {name: raw for name, raw in flags.items() if raw is not None and raw != ()}
    return {
        name: RawSetting(raw, "APP" if name == "app" else flag_name_of(name), "flag") for name, raw in given.items()
    }


def flag_name_of(name: str) -> str:
    """Returns the flag of a setting, such as ``--max-message-size`` for ``max_message_size``."""
    return "--" + name.replace("_", "-")


def read_environment(environment: Mapping[str, str]) -> SettingsLayer:
    """Returns the settings that environment variables hold; an empty variable counts only for the secret."""
    return {
        name: RawSetting(environment[variable], variable, "environment")
        for variable, name in NAME_BY_VARIABLE.items()
        if variable in environment and (environment[variable].strip() or name == "secret")
    }


def unknown_variable_warnings(environment: Iterable[str]) -> list[str]:
    """Returns a warning for each environment variable that begins with ``WSBROKER_`` and is unknown."""
    known = [*NAME_BY_VARIABLE, *OTHER_VARIABLES]  # all alike for their first half, hence the high cutoff
    return [
        f"the environment variable {name} is unknown and ignored{did_you_mean(name, known, 0.78)}"
        for name in sorted(environment)
        if name.startswith(VARIABLE_PREFIX) and name not in known
    ]


def read_config_file(path: str, label: str) -> SettingsLayer:
    """Reads the settings of a TOML file.

    Args:
        path: the file.
        label: the flag or variable that named the file, for errors: ``"--config"`` or ``"WSBROKER_CONFIG"``.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds an unknown key.
    """
    table = _select_settings_table(_load_toml(path, label), path)
    known = [*COMMAND_LINE_NAMES, *SETTINGS]
    for key in table:
        if key not in known:
            raise ConfigError(f"{path} has an unknown key {key!r}{did_you_mean(key.replace('-', '_'), known)}")
    return {key: RawSetting(value, f"{key} in {path}", "file") for key, value in table.items()}


def _load_toml(path: str, label: str) -> dict[str, object]:
    """Returns the content of a TOML file; raises ConfigError, which names the file, if it cannot be read.

    Args:
        path: the file.
        label: the flag or variable that named the file, for the error.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{label}: cannot read {path}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: {path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: {path} is not UTF-8, and TOML must be") from error


def _select_settings_table(document: dict[str, object], path: str) -> dict[str, object]:
    """Returns the settings of a TOML file: its table ``[wsbroker]``, or the whole file if it has no such table.

    Args:
        document: the content of the file.
        path: the file, for errors.

    Raises:
        ConfigError: ``wsbroker`` is no table, or settings stand outside the table too.
    """
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
    """Returns the settings of all layers together; for each setting the first layer that has it counts."""
    merged: SettingsLayer = {}
    for layer in layers:
        merged = {**layer, **merged}
    return merged


def parse_setting(name: str, raw_setting: RawSetting) -> object:
    """Reads the raw value of a setting of `Config` and checks it.

    Raises:
        ConfigError: the value cannot be read or is out of bounds; the text names its source.
    """
    setting = SETTINGS[name]
    if raw_setting.source == "file" and not isinstance(raw_setting.raw, str):
        if setting.kind == "mode":
            raise ConfigError(
                f'{raw_setting.label} is a number, and 440 would be mode 670: write it as a text such as "660"'
            )
        value = raw_setting.raw
    else:
        value = _parse_setting_text(setting, _list_raw_texts(raw_setting), raw_setting.label)
    try:
        return check_value(setting, value, raw_setting.label)
    except TypeError:
        raise _unreadable_value_error(setting, raw_setting.raw, raw_setting.label) from None


def parse_text(name: str, raw_setting: RawSetting) -> str:
    """Reads the raw value of a setting that is one text, such as `app`; raises ConfigError if it is no text."""
    if not isinstance(raw_setting.raw, str):
        shown = "not" if name in _HIDDEN_NAMES else f"{_format_raw_value(raw_setting.raw)}, but must be"
        raise ConfigError(f"{raw_setting.label} is {shown} a text in quotes")
    return raw_setting.raw


def parse_text_list(raw_setting: RawSetting) -> list[str]:
    """Reads the raw value of a setting that is a list of texts, such as `bind`; in one text, commas separate them.

    Raises:
        ConfigError: the value is neither a text nor a list of texts.
    """
    raw = raw_setting.raw
    if isinstance(raw, str):
        return _split_commas(raw)
    if isinstance(raw, (list, tuple)) and all(isinstance(text, str) for text in raw):
        return [str(text) for text in raw]
    raise ConfigError(
        f"{raw_setting.label} is {_format_raw_value(raw)}, but must be a text in quotes or a list of them"
    )


def parse_log_level(raw_setting: RawSetting) -> str:
    """Reads the raw value of the log level, in upper or lower case; raises ConfigError if it is no level."""
    level = parse_text("log_level", raw_setting).strip().lower()
    if level not in LOG_LEVELS:
        allowed = f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}"
        raise ConfigError(f"{raw_setting.label} is {level!r}, but must be {allowed}{did_you_mean(level, LOG_LEVELS)}")
    return level


def _list_raw_texts(raw_setting: RawSetting) -> list[str]:
    """Returns a setting's raw value as a list of texts: all texts of a repeated flag, else one text."""
    if isinstance(raw_setting.raw, tuple):
        return [str(text) for text in raw_setting.raw]
    return [str(raw_setting.raw)]


def _parse_setting_text(setting: Setting, texts: list[str], label: str) -> object:
    """Returns the value that a setting's text stands for; of several texts the last one counts, of a list all do.

    Args:
        setting: the setting.
        texts: its texts, at least one.
        label: the name of the value in errors.

    Raises:
        ConfigError: the text is no value of this kind.
    """
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
    """Returns the items of a text that are separated by commas, stripped, without empty items."""
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
    """Returns the error for a raw value that is not of the setting's kind, with an example; hides secret values.

    Args:
        setting: the setting.
        raw: the value as its source has it.
        label: the name of the value in the error.
    """
    unset = f", or {setting.unset}" if setting.unset else ""
    shown = "not" if setting.hidden else f"{_format_raw_value(raw)}, but must be"
    return ConfigError(f"{label} is {shown} {_EXAMPLE_BY_KIND[setting.kind]}{unset}")


def _format_raw_value(raw: object) -> str:
    """Returns a raw value as an error text shows it: a text in quotes, a bool as in TOML, a dict as "a table"."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return "a table" if isinstance(raw, dict) else repr(raw)


_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
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
    """Returns the path of the configuration file and the flag or variable that named it; None if there is none.

    Args:
        flag: the value of ``--config``; None: not given.
        environment: the environment variables.
    """
    variable = VARIABLE_PREFIX + "CONFIG"
    if flag is not None:
        return str(flag), "--config"
    return (environment[variable], variable) if environment.get(variable, "").strip() else None
