"""Close codes: RFC 6455 section 7.4, code by code."""

import pytest

from wsbroker.websocket import closing

ALLOWED = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)}


def test_an_application_may_send_what_the_rfc_and_the_registry_allow_and_nothing_else() -> None:
    assert {code for code in range(-1, 70000) if closing.is_sendable(code)} == ALLOWED


def test_a_client_may_send_what_the_rfc_and_the_registry_allow_and_nothing_else() -> None:
    assert {code for code in range(65536) if closing.is_receivable(code)} == ALLOWED


@pytest.mark.parametrize("code", [1004, 1005, 1006, 1015])
def test_codes_that_describe_a_missing_close_are_never_sendable(code: int) -> None:
    assert not closing.is_sendable(code)
    assert not closing.is_receivable(code)


def test_every_code_that_the_server_uses_is_sendable_and_says_why() -> None:
    assert set(closing.USED_CODES) == {1000, 1001, 1002, 1007, 1008, 1009, 1011, 1012, 1013}
    for code, (why, _) in closing.USED_CODES.items():
        assert closing.is_sendable(code)
        assert why


@pytest.mark.parametrize(
    ("code", "should"),
    [
        *[(1000, False), (1001, True), (1002, False), (1006, True), (1007, False), (1008, False), (1009, False)],
        *[(1011, True), (1012, True), (1013, True), (1003, False), (3000, False), (4999, False), (0, False)],
    ],
)
def test_a_client_should_reconnect_only_where_it_can_help(code: int, should: bool) -> None:
    assert closing.should_reconnect(code) is should
