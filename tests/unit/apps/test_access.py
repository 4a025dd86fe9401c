"""The secret of the built-in application, and the forms of the worker's argument."""

import json

import pytest

from wsbroker.apps.access import AUTH_TIMEOUT_S, Access


@pytest.mark.parametrize("arg", [None, "", "{}"[:0], json.dumps({"secret": None}), json.dumps({"secret": ""})])
def test_without_a_secret_everybody_is_admitted(arg: str | None) -> None:
    access = Access(arg)
    assert access.has_no_secret
    assert access.accepts_secret("anything")
    assert access.accepts_secret(None)
    assert access.auth_timeout_s == AUTH_TIMEOUT_S


@pytest.mark.parametrize("arg", ["s3cret", "{}", '{"other": 1}', "[1]", "7", "null", '{"broken', "[" * 100_000])
def test_an_argument_that_is_not_our_json_is_the_secret(arg: str) -> None:
    access = Access(arg)
    assert not access.has_no_secret
    assert access.accepts_secret(arg)
    assert not access.accepts_secret(arg + " ")


def test_json_carries_any_secret_and_the_time() -> None:
    access = Access(json.dumps({"secret": '{"secret":"x"}', "auth_timeout_s": 2.5}))
    assert access.accepts_secret('{"secret":"x"}')
    assert not access.accepts_secret("x")
    assert access.auth_timeout_s == 2.5


def test_the_time_alone_leaves_the_door_open() -> None:
    access = Access(json.dumps({"auth_timeout_s": 3}))
    assert (access.has_no_secret, access.auth_timeout_s) == (True, 3.0)


@pytest.mark.parametrize(
    "options", [{"secret": 7}, {"secret": "x", "auth_timeout_s": 0}, {"auth_timeout_s": True}, {"auth_timeout_s": "1"}]
)
def test_json_of_the_wrong_types_is_an_error(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="the worker argument's"):
        Access(json.dumps(options))


@pytest.mark.parametrize("secret", [None, 7, True, ["s3cret"], "", "s3cre", "s3cret\0", "S3CRET", "\ud800"])
def test_anything_else_than_the_secret_is_not_admitted(secret: object) -> None:
    assert not Access("s3cret").accepts_secret(secret)


def test_a_secret_may_be_any_unicode_and_any_bytes_of_the_environment() -> None:
    assert Access("pä🔑").accepts_secret("pä🔑")
    assert Access("\udcff").accepts_secret("\udcff")  # byte 0xff, as os.environ and headers give it


@pytest.mark.parametrize(
    ("header", "verdict"),
    [
        (None, None),
        ("", None),
        ("Basic s3cret", None),
        ("s3cret", None),
        ("Bearer", False),
        ("Bearer s3cre", False),
        ("Bearer s3cret", True),
        ("bearer   s3cret ", True),
    ],
)
def test_a_header_admits_refuses_or_says_nothing(header: str | None, verdict: bool | None) -> None:
    assert Access("s3cret").accepts_header(header) is verdict
