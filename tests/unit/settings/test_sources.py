"""Flags, environment and file: how texts are read, which wins, and what errors name."""

from pathlib import Path

import pytest

from wsbroker.errors import ConfigError
from wsbroker.settings import sources
from wsbroker.settings.checks import Setting
from wsbroker.settings.config import SETTINGS
from wsbroker.settings.sources import RawSetting


def flag(name: str, *texts: str) -> object:
    return sources.parse_setting(name, RawSetting(texts, sources.flag_name_of(name), "flag"))


def refusal_of_flag(name: str, *texts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        flag(name, *texts)
    return str(caught.value)


# --- texts ---


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("65536B", 65536),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("1MiB", 1 << 20),
        ("1.5MiB", 3 << 19),
        ("1GiB", 1 << 30),
        ("1TiB", 1 << 40),
        ("2 tib", 2 << 40),
        ("1TB", 10**12),
        ("1KB", 1000),
        ("1MB", 1_000_000),
        ("0.5GB", 500_000_000),
    ],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert sources.parse_size(text) == size


@pytest.mark.parametrize(
    "setting", [each for each in SETTINGS.values() if each.kind == "size"], ids=lambda each: each.name
)
def test_each_size_that_the_documentation_shows_is_read(setting: Setting) -> None:
    for value in (setting.default, setting.minimum, setting.maximum):
        assert flag(setting.name, setting.format_value(value)) == value


@pytest.mark.parametrize("text", ["", "KiB", "64K", "1M", "-1", "+1", "1e3", "0.3B", "1,5MiB", "1_000", "٣", "1 2"])
def test_what_is_no_size_is_refused_and_so_is_an_ambiguous_unit(text: str) -> None:
    assert sources.parse_size(text) is None
    assert refusal_of_flag("max_message_size", text) == (
        f"--max-message-size is {text!r}, but must be a size such as 65536, 64KiB or 1MiB"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("10s", 10), ("0.5", 0.5), ("500ms", 0.5), ("500 MS", 0.5), ("1m", 60), ("1.5min", 90), ("2h", 7200)],
)
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    assert sources.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1d", "1e3", "nan", "inf", "1:30", "1m30s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert sources.parse_seconds(text) is None
    assert refusal_of_flag("ping_interval", text) == (
        f"--ping-interval is {text!r}, but must be a duration such as 10, 10s, 500ms or 1m"
    )


def test_other_kinds_are_read_from_texts() -> None:
    assert flag("workers", "4") == 4
    assert flag("max_connections", " 100 ") == 100
    assert flag("compression", "No") is False
    assert flag("slow_consumer", "drop_old") == "drop_old"
    assert flag("unix_mode", "660") == flag("unix_mode", "0660") == flag("unix_mode", "0o660") == 0o660
    assert flag("worker_arg", " as it is ") == " as it is "
    assert flag("subprotocols", "b, a", "c") == ("b", "a", "c")
    assert flag("subprotocols", "") == ()


def test_a_word_stands_for_the_value_that_is_found_out() -> None:
    assert flag("workers", "auto") is None
    assert flag("max_connections", "AUTO") is None
    assert flag("allowed_origins", "same-host") is None
    assert flag("unix_mode", "umask") is None


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("workers", "four", "--workers is 'four', but must be a whole number, or auto"),
        ("workers", "1.5", "--workers is '1.5', but must be a whole number, or auto"),
        ("workers", "-1", "--workers is -1, but must be from 1 to 1024"),
        ("max_connections", "9" * 30, f"--max-connections is '{'9' * 30}', but must be a whole number, or auto"),
        ("unix_mode", "rw", "--unix-mode is 'rw', but must be octal permissions such as 660, or umask"),
        ("unix_mode", "1777", "--unix-mode is '1777', but must be octal permissions such as 660, or umask"),
        ("unix_mode", "680", "--unix-mode is '680', but must be octal permissions such as 660, or umask"),
        ("unix_group", "", "--unix-group is empty: write the name or number of a group, or leave it out"),
        ("compression", "maybe", "--compression is 'maybe', but must be on or off"),
        ("max_message_size", "2GiB", "--max-message-size is 2GiB, but must be from 1B to 1GiB"),
        ("pong_timeout", "0", "--pong-timeout is 0s, but must be from 0.01s to 86400s"),
        ("on_handler_error", "logs", "--on-handler-error is 'logs', but must be close or log; did you mean 'log'?"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_by_the_name_of_its_flag(name: str, text: str, error: str) -> None:
    assert refusal_of_flag(name, text) == error


# --- spellings and precedence ---


def test_every_setting_has_a_flag_a_variable_and_a_key() -> None:
    for name in SETTINGS:
        assert sources.flag_name_of(name) == "--" + name.replace("_", "-")
        assert sources.NAME_BY_VARIABLE["WSBROKER_" + name.upper()] == name
    assert set(sources.NAME_BY_VARIABLE.values()) == set(SETTINGS) | set(sources.COMMAND_LINE_NAMES)


def test_the_first_source_that_has_a_setting_wins() -> None:
    flags = sources.read_flags({"workers": "1", "balance": None, "bind": ()})
    environment = sources.read_environment({"WSBROKER_WORKERS": "2", "WSBROKER_BALANCE": "2", "PATH": "/"})
    file = {
        "workers": RawSetting(3, "f", "file"),
        "balance": RawSetting(3, "f", "file"),
        "bind": RawSetting(3, "f", "file"),
    }
    merged = sources.merge_layers(flags, environment, file)
    assert {name: found.raw for name, found in merged.items()} == {"workers": "1", "balance": "2", "bind": 3}


def test_an_empty_variable_counts_as_not_set_except_for_the_secret() -> None:
    found = sources.read_environment({"WSBROKER_WORKERS": " ", "WSBROKER_BIND": "", "WSBROKER_SECRET": ""})
    assert list(found) == ["secret"]


def test_unknown_variables_are_told_with_a_suggestion() -> None:
    assert sources.unknown_variable_warnings(["WSBROKER_LOG_LEVEL", "WSBROKER_ZZZZ", "PATH"]) == [
        "the environment variable WSBROKER_LOG_LEVEL is unknown and ignored; did you mean 'WSBROKER_LOG'?",
        "the environment variable WSBROKER_ZZZZ is unknown and ignored",
    ]


def test_known_variables_are_not_warned_of() -> None:
    assert (
        sources.unknown_variable_warnings([*sources.NAME_BY_VARIABLE, *sources.OTHER_VARIABLES, "_WSBROKER_COMPLETE"])
        == []
    )
    assert {"WSBROKER_LOG", "WSBROKER_SECRET", "WSBROKER_PURE", "WSBROKER_REQUIRE_COMPILED"} <= {
        *sources.NAME_BY_VARIABLE,
        *sources.OTHER_VARIABLES,
    }


def test_what_was_found_is_never_shown_by_accident() -> None:
    assert repr(RawSetting("hunter2", "WSBROKER_SECRET", "environment")) == "RawSetting(WSBROKER_SECRET)"


# --- the file ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ws.toml"


def read(file: Path, text: str) -> sources.SettingsLayer:
    file.write_text(text, encoding="utf-8")
    return sources.read_config_file(str(file), "--config")


def refusal_of_file(file: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        for name, found in read(file, text).items():
            if name in SETTINGS:
                sources.parse_setting(name, found)
            elif name == "bind":
                sources.parse_text_list(found)
            elif name == "log_level":
                sources.parse_log_level(found)
            else:
                sources.parse_text(name, found)
    return str(caught.value).replace(str(file), "FILE")


def test_a_file_holds_texts_and_plain_values(file: Path) -> None:
    found = read(
        file,
        """
        app = "chat"
        bind = ["127.0.0.1:1", "unix:/a,b"]
        max_message_size = "1MiB"
        mailbox_bytes = 8388608
        ping_interval = 20
        pong_timeout = "500ms"
        compression = false
        workers = "auto"
        subprotocols = ["a", "b"]
        allowed_origins = "https://a"
        """,
    )
    values = {name: sources.parse_setting(name, each) for name, each in found.items() if name in SETTINGS}
    assert values == {
        "max_message_size": 1 << 20,
        "mailbox_bytes": 8388608,
        "ping_interval": 20.0,
        "pong_timeout": 0.5,
        "compression": False,
        "workers": None,
        "subprotocols": ("a", "b"),
        "allowed_origins": ("https://a",),
    }
    assert sources.parse_text("app", found["app"]) == "chat"
    assert sources.parse_text_list(found["bind"]) == ["127.0.0.1:1", "unix:/a,b"]
    assert found["workers"].label == f"workers in {file}"


def test_a_table_named_wsbroker_holds_all_of_it_and_the_rest_belongs_to_others(file: Path) -> None:
    found = read(file, 'title = "mine"\n[wsbroker]\nworkers = 2\n[database]\nurl = "x"\n')
    assert {name: each.raw for name, each in found.items()} == {"workers": 2}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_mesage_size = 1", "FILE has an unknown key 'max_mesage_size'; did you mean 'max_message_size'?"),
        ("max-message-size = 1", "FILE has an unknown key 'max-message-size'; did you mean 'max_message_size'?"),
        ("[wsbroker]\nworker = 1", "FILE has an unknown key 'worker'; did you mean 'workers'?"),
        ("[database]\nurl = 'x'", "FILE has an unknown key 'database'"),
        ("workers = 1\n[wsbroker]", "FILE has 'workers' outside its table [wsbroker]: move it inside"),
        ("wsbroker = 1", "FILE has a key 'wsbroker' that is no table: write [wsbroker] above the settings"),
        ("inbox_bytes = true", "inbox_bytes in FILE is true, but must be a size such as 65536, 64KiB or 1MiB"),
        ("max_message_size = 1.5", "max_message_size in FILE is 1.5, but must be a size such as 65536, 64KiB or 1MiB"),
        ("max_message_size = 0", "max_message_size in FILE is 0B, but must be from 1B to 1GiB"),
        ("ping_interval = []", "ping_interval in FILE is [], but must be a duration such as 10, 10s, 500ms or 1m"),
        ("workers = 1.0", "workers in FILE is 1.0, but must be a whole number, or auto"),
        ("compression = 1", "compression in FILE is 1, but must be on or off"),
        ("slow_consumer = 1", "slow_consumer in FILE is 1, but must be a text in quotes"),
        ("[balance]\nx = 1", "balance in FILE is a table, but must be a text in quotes"),
        ("subprotocols = [1]", "subprotocols in FILE is [1], but must be a list of texts"),
        ("worker_arg = 12345", "worker_arg in FILE is not a text in quotes"),
        ("secret = 12345", "secret in FILE is not a text in quotes"),
        ("app = 1", "app in FILE is 1, but must be a text in quotes"),
        ("bind = 3000", "bind in FILE is 3000, but must be a text in quotes or a list of them"),
        ("bind = [3000]", "bind in FILE is [3000], but must be a text in quotes or a list of them"),
        ("log_level = 10", "log_level in FILE is 10, but must be a text in quotes"),
        ("log_level = 'all'", "log_level in FILE is 'all', but must be debug, info, warning, error or critical"),
        ("workers =", "--config: FILE is not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_an_error_in_a_file_names_the_file_and_the_key(file: Path, text: str, error: str) -> None:
    assert refusal_of_file(file, text) == error


def test_a_file_that_cannot_be_read_is_told_with_what_named_it(tmp_path: Path) -> None:
    path = tmp_path / "no.toml"
    with pytest.raises(ConfigError) as caught:
        sources.read_config_file(str(path), "WSBROKER_CONFIG")
    assert str(caught.value) == f"WSBROKER_CONFIG: cannot read {path}: No such file or directory"
    path.write_bytes(b"app = '\xff'")
    with pytest.raises(ConfigError) as caught:
        sources.read_config_file(str(path), "--config")
    assert str(caught.value) == f"--config: {path} is not UTF-8, and TOML must be"


def test_the_file_is_named_by_the_flag_before_the_variable() -> None:
    assert sources.find_config_file("a.toml", {"WSBROKER_CONFIG": "b.toml"}) == ("a.toml", "--config")
    assert sources.find_config_file(None, {"WSBROKER_CONFIG": "b.toml"}) == ("b.toml", "WSBROKER_CONFIG")
    assert sources.find_config_file(None, {"WSBROKER_CONFIG": ""}) is None


@pytest.mark.parametrize("number", ["440", "0o660"])
def test_a_mode_in_a_file_is_a_text_because_a_number_would_be_decimal(file: Path, number: str) -> None:
    with pytest.raises(ConfigError, match="a number, and 440 would be mode 670: write it as a text"):
        sources.parse_setting("unix_mode", read(file, f"unix_mode = {number}")["unix_mode"])
    assert sources.parse_setting("unix_mode", read(file, 'unix_mode = "660"')["unix_mode"]) == 0o660
