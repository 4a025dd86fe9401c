"""Settings: their table, their bounds, what cannot work together, and what the machine allows."""

import typing
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from enum import IntEnum
from ipaddress import IPv6Address

import pytest

from wsbroker.errors import ConfigError
from wsbroker.settings import config
from wsbroker.settings.checks import format_size
from wsbroker.settings.config import SETTINGS, Config, Settings, check_settings


def make(settings: Mapping[str, object]) -> Config:
    return Config.of(**typing.cast("Settings", settings))


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        make(settings)
    return str(caught.value)


def type_error(**settings: object) -> str:
    with pytest.raises(TypeError) as caught:
        make(settings)
    return str(caught.value)


# --- the table ---


def test_the_keyword_arguments_are_the_fields_of_config_with_the_same_types() -> None:
    assert typing.get_type_hints(Settings) == typing.get_type_hints(Config)
    assert list(typing.get_type_hints(Settings)) == [each.name for each in fields(Config)]
    assert Settings.__required_keys__ == frozenset()


def test_the_defaults_are_the_documented_ones() -> None:
    shown = {name: setting.format_value(setting.default) for name, setting in SETTINGS.items()}
    assert shown == {
        "workers": "auto",
        "worker_kind": "auto",
        "balance": "round-robin",
        "worker_arg": "none",
        "handler_timeout": "5s",
        "worker_hang_timeout": "3s",
        "on_handler_error": "close",
        "max_message_size": "64KiB",
        "max_queue_bytes": "1MiB",
        "max_waiting_bytes": "auto",
        "max_inbox_bytes_total": "auto",
        "slow_consumer": "disconnect",
        "inbox_bytes": "256KiB",
        "mailbox_bytes": "4MiB",
        "command_bytes": "16MiB",
        "max_channels_per_socket": "128",
        "compression": "off",
        "read_budget_bytes": "256KiB",
        "read_budget_frames": "256",
        "flush_interval": "0s",
        "max_connections": "auto",
        "allowed_origins": "same-host",
        "subprotocols": "none",
        "unix_mode": "umask",
        "unix_group": "none",
        "max_body_size": "1MiB",
        "max_head_size": "32KiB",
        "max_request_bytes_total": "auto",
        "http_timeout": "30s",
        "keepalive_timeout": "75s",
        "ping_interval": "25s",
        "pong_timeout": "10s",
        "handshake_timeout": "10s",
        "write_timeout": "10s",
        "close_timeout": "5s",
        "shutdown_timeout": "30s",
    }


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_setting_is_described(name: str) -> None:
    setting = SETTINGS[name]
    assert setting.group in config.GROUPS
    assert setting.help and setting.help[-1] != "." and "\n" not in setting.help
    assert setting.reason.endswith(".")
    assert (setting.unit != "") == (setting.kind in ("size", "seconds"))
    assert (setting.minimum is not None) == (setting.maximum is not None)
    assert (setting.minimum is not None) == (setting.kind in ("size", "seconds", "count", "mode"))
    assert (setting.choices != ()) == (setting.kind == "choice")


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_default_passes_its_own_check(name: str) -> None:
    default = SETTINGS[name].default
    assert getattr(make({name: default}), name) == default


def test_permissions_are_shown_in_octal_and_a_decimal_number_is_told_from_them() -> None:
    assert SETTINGS["unix_mode"].format_value(Config(unix_mode=0o60).unix_mode) == "060"
    text = "but must be permission bits from 0o000 to 0o777: write it in octal, such as 0o660"
    assert refusal(unix_mode=660) == f"unix_mode is 660, {text}"
    assert refusal(unix_mode=-1) == f"unix_mode is -1, {text}"
    assert type_error(unix_mode="660") == "unix_mode must be an int such as 0o660 or None, not str"


def test_a_config_cannot_be_changed_and_a_copy_is_checked() -> None:
    settings = Config(ping_interval=1)
    with pytest.raises(FrozenInstanceError):
        settings.ping_interval = 2  # type: ignore[misc]
    assert not hasattr(settings, "__dict__")
    with pytest.raises(ConfigError):
        replace(settings, ping_interval=0)


def test_what_is_handed_to_the_workers_is_never_shown() -> None:
    settings = Config(worker_arg="hunter2")
    assert "hunter2" not in repr(settings)
    assert SETTINGS["worker_arg"].format_value("hunter2") == "(hidden)"


# --- names and types ---


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    assert refusal(max_mesage_size=1) == "there is no setting 'max_mesage_size'; did you mean 'max_message_size'?"
    assert refusal(zzz=1) == "there is no setting 'zzz'"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_message_size": "64KiB"}, "max_message_size must be an int (bytes), not str"),
        ({"max_message_size": 1.5}, "max_message_size must be an int (bytes), not float"),
        ({"max_message_size": None}, "max_message_size must be an int (bytes), not NoneType"),
        ({"max_message_size": True}, "max_message_size must be an int (bytes), not bool"),
        ({"ping_interval": "10s"}, "ping_interval must be a number (seconds), not str"),
        ({"ping_interval": True}, "ping_interval must be a number (seconds), not bool"),
        ({"workers": "4"}, "workers must be an int or None, not str"),
        ({"compression": 0}, "compression must be a bool, not int"),
        ({"slow_consumer": 1}, "slow_consumer must be a str, not int"),
        ({"worker_arg": b"x"}, "worker_arg must be a str or None, not bytes"),
        ({"subprotocols": "chat"}, "subprotocols must be a tuple of str, not str"),
        ({"subprotocols": (1,)}, "subprotocols must be a tuple of str, not tuple"),
        ({"allowed_origins": "*"}, "allowed_origins must be a tuple of str or None, not str"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error(settings: dict[str, object], text: str) -> None:
    assert type_error(**settings) == text


def test_values_are_stored_in_their_exact_types() -> None:
    class Size(IntEnum):
        SMALL = 1024

    class Text(str):
        pass

    settings = make(
        {"max_message_size": Size.SMALL, "ping_interval": 3, "worker_arg": Text("x"), "subprotocols": [Text("a")]}
    )
    assert type(settings.max_message_size) is int
    assert type(settings.ping_interval) is float
    assert type(settings.worker_arg) is str
    assert settings.subprotocols == ("a",) and type(settings.subprotocols[0]) is str


# --- bounds ---


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_message_size": 0}, "max_message_size is 0B, but must be from 1B to 1GiB"),
        ({"max_message_size": -65536}, "max_message_size is -64KiB, but must be from 1B to 1GiB"),
        ({"mailbox_bytes": 2 << 30}, "mailbox_bytes is 2GiB, but must be from 1B to 1GiB"),
        ({"max_head_size": 1000}, "max_head_size is 1000B, but must be from 1KiB to 1MiB"),
        ({"workers": 0}, "workers is 0, but must be from 1 to 1024"),
        ({"max_connections": 0}, "max_connections is 0, but must be from 1 to 2147483647"),
        ({"max_channels_per_socket": 0}, "max_channels_per_socket is 0, but must be from 1 to 2147483647"),
        ({"pong_timeout": 0}, "pong_timeout is 0s, but must be from 0.01s to 86400s"),
        ({"ping_interval": -1.5}, "ping_interval is -1.5s, but must be from 0.01s to 86400s"),
        ({"ping_interval": float("nan")}, "ping_interval is nan, but must be from 0.01s to 86400s"),
        ({"ping_interval": float("inf")}, "ping_interval is inf, but must be from 0.01s to 86400s"),
        ({"shutdown_timeout": -1}, "shutdown_timeout is -1s, but must be from 0s to 86400s"),
        (
            {"worker_kind": "treads"},
            "worker_kind is 'treads', but must be auto, inline, thread, interpreter or process; did you mean 'thread'?",
        ),
        (
            {"slow_consumer": "drop-new"},
            "slow_consumer is 'drop-new', but must be disconnect, drop_new or drop_old; did you mean 'drop_new'?",
        ),
        ({"balance": "zzz"}, "balance is 'zzz', but must be round-robin or least-connections"),
        ({"on_handler_error": ""}, "on_handler_error is '', but must be close or log"),
        (
            {"compression": True},
            "compression is on, but this version cannot compress messages yet: leave it off",
        ),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(settings: dict[str, object], text: str) -> None:
    assert refusal(**settings) == text


def test_the_bounds_themselves_are_allowed() -> None:
    assert Config(shutdown_timeout=0).shutdown_timeout == 0
    assert Config(max_message_size=1, max_queue_bytes=1, inbox_bytes=1).inbox_bytes == 1
    assert Config(ping_interval=86400).ping_interval == 86400


def test_an_error_calls_a_setting_by_its_label() -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings({"workers": 0}, {"workers": "WSBROKER_WORKERS"})
    assert str(caught.value) == "WSBROKER_WORKERS is 0, but must be from 1 to 1024"


# --- origins and subprotocols ---


def test_origins_are_stored_as_browsers_send_them() -> None:
    origins = ("HTTPS://Example.COM", "https://a:443", "http://a:80", "http://a:8080", "http://[::1]:3000", "null")
    assert Config(allowed_origins=origins).allowed_origins == (
        "https://example.com",
        "https://a",
        "http://a",
        "http://a:8080",
        "http://[::1]:3000",
        "null",
    )
    assert Config(allowed_origins=("*",)).allowed_origins == ("*",)
    assert Config(allowed_origins=()).allowed_origins == ()


def test_origins_of_files_apps_and_sandboxes_can_be_listed() -> None:
    origins = ("FILE://", "null", "capacitor://localhost", "chrome-extension://abcd", "app://.", "http://[0:0::1]:80")
    assert Config(allowed_origins=origins).allowed_origins == (
        "file://",
        "null",
        "capacitor://localhost",
        "chrome-extension://abcd",
        "app://.",
        "http://[::1]",
    )


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("::ffff:1.2.3.4", "::ffff:102:304"),
        ("::FFFF:0102:0304", "::ffff:102:304"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:1:0:0:0:0", "2001:db8:0:1::"),
        ("1:0:3:4:5:6:7:8", "1:0:3:4:5:6:7:8"),
        ("10:0:0:20:0:0:0:30", "10:0:0:20::30"),
        ("0:0:0:0:0:0:0:0", "::"),
    ],
)
def test_an_ipv6_host_is_stored_in_groups_of_hex_digits_as_browsers_send_it_with_every_python(
    monkeypatch: pytest.MonkeyPatch, written: str, sent: str
) -> None:
    own_text = IPv6Address.__str__

    def write_as_python_3_13(address: IPv6Address) -> str:
        return own_text(address) if address.ipv4_mapped is None else f"::ffff:{address.ipv4_mapped}"

    monkeypatch.setattr(IPv6Address, "__str__", write_as_python_3_13)
    assert Config(allowed_origins=(f"http://[{written}]:8080",)).allowed_origins == (f"http://[{sent}]:8080",)


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ("", ""),
        ("example.com", " (https://example.com?)"),
        ("localhost:3000", " (https://localhost:3000?)"),
        ("file", ""),
        ("https://a/", " (without a path)"),
        ("https://a/b", " (without a path)"),
        ("file:///", " (without a path)"),
        ("https://u@a", ""),
        ("https://a:x", ""),
        ("://a", ""),
        ("https://a?b", " (without a path)"),
        ("https://bücher.example", " (a host in its xn-- form)"),
        ("https://a\n", ""),
    ],
)
def test_what_is_no_origin_is_refused(origin: str, hint: str) -> None:
    assert refusal(allowed_origins=(origin,)) == (
        f"allowed_origins holds {origin!r}, but an origin is scheme and host as a browser sends them{hint}, "
        "such as https://example.com, http://localhost:8080, capacitor://localhost, file:// or null, or *"
    )


@pytest.mark.parametrize(
    ("origin", "problem"),
    [
        ("https://", "in which no host stands behind https://"),
        ("http://:80", "in which no host stands behind http://"),
        ("app://:80", "in which no host stands behind app://"),
        ("https://a:0", "but a port is a number from 1 to 65535"),
        ("https://a:70000", "but a port is a number from 1 to 65535"),
        ("http://[:::]", "whose host is no IPv6 address: At most one '::' permitted in ':::'"),
        *[
            (origin, "but patterns are not supported: list each origin, or write * alone")
            for origin in ("https://*.a", "*.a.example", "chrome-extension://*", "file://*", "*://a")
        ],
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str, problem: str) -> None:
    assert refusal(allowed_origins=(origin,)) == f"allowed_origins holds {origin!r}, {problem}"


def test_origins_that_contradict_each_other_are_refused() -> None:
    assert refusal(allowed_origins=("*", "https://a")) == (
        "allowed_origins holds '*', which is any origin, and others too: write '*' alone, or the others"
    )
    assert refusal(allowed_origins=("https://a", "https://A:443")) == (
        "allowed_origins names 'https://a' twice: once is enough"
    )


def test_a_subprotocol_must_be_a_token() -> None:
    assert Config(subprotocols=("graphql-ws", "v2.chat")).subprotocols == ("graphql-ws", "v2.chat")
    for wrong in ("", "a b", "a,b", "ä"):
        assert refusal(subprotocols=(wrong,)) == (
            f"subprotocols holds {wrong!r}, but a subprotocol is letters, digits and !#$%&'*+-.^_`|~ without spaces"
        )


# --- contradictions ---


def test_more_than_one_inline_worker_is_refused() -> None:
    assert refusal(workers=2, worker_kind="inline") == (
        "workers is 2, but worker_kind is inline, and handlers in the event loop have one worker: "
        "leave the number out, or choose another kind"
    )
    assert Config(workers=1, worker_kind="inline").workers == 1


@pytest.mark.parametrize("deadline", ["pong_timeout", "close_timeout"])
def test_a_flush_interval_that_no_answer_could_beat_is_refused(deadline: str) -> None:
    assert refusal(flush_interval=2, **{deadline: 2}) == (
        f"flush_interval is 2s, but {deadline} is 2s: pings and closes wait in the flush interval too, so no peer "
        "could answer in time; some milliseconds are usual"
    )
    assert make({"flush_interval": 2, deadline: 3}).flush_interval == 2


def test_what_is_odd_but_works_is_allowed() -> None:
    Config(inbox_bytes=1, max_queue_bytes=1, mailbox_bytes=1, max_message_size=1 << 20)
    Config(pong_timeout=60, ping_interval=1)
    Config(shutdown_timeout=1, close_timeout=5)
    Config(max_body_size=64 << 20)


# --- what the machine allows ---


@pytest.mark.parametrize(
    ("memory", "waiting", "requests"), [(512 << 20, 128 << 20, 128 << 20), (64 << 30, 16 << 30, 1 << 30)]
)
def test_the_totals_follow_the_memory_there_is(
    monkeypatch: pytest.MonkeyPatch, memory: int, waiting: int, requests: int
) -> None:
    monkeypatch.setattr(config, "memory_limit", lambda: memory)
    auto = Config()
    assert (auto.waiting_bytes_limit(), auto.inbox_bytes_limit(), auto.request_bytes_limit()) == (
        waiting,
        waiting,
        requests,
    )
    given = Config(max_waiting_bytes=5000, max_inbox_bytes_total=5500, max_request_bytes_total=6000)
    assert (given.waiting_bytes_limit(), given.inbox_bytes_limit(), given.request_bytes_limit()) == (5000, 5500, 6000)


# --- showing ---


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0B"), (1, "1B"), (1023, "1023B"), (1024, "1KiB"), (1025, "1025B"), (3 << 20, "3MiB"), (2 << 30, "2GiB")],
)
def test_a_size_is_shown_in_the_largest_exact_unit(size: int, shown: str) -> None:
    assert format_size(size) == shown


def test_values_are_shown_as_a_person_writes_them() -> None:
    assert SETTINGS["compression"].format_value(True) == "on"
    assert SETTINGS["ping_interval"].format_value(0.25) == "0.25s"
    assert SETTINGS["allowed_origins"].format_value(("https://a", "https://b")) == "https://a,https://b"
    assert SETTINGS["workers"].format_value(None) == "auto"
