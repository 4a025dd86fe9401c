"""The forms of a request target, and the signs of a WebSocket that was meant."""

import pytest

from wsbroker.http.targets import escape_text, is_websocket_without_upgrade, split_comma_list, split_target


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/", ("/", "", "")),
        ("/a?b://c/d", ("/a?b://c/d", "", "")),
        ("//a@b", ("//a@b", "", "")),
        ("http://h/", ("/", "http", "h")),
        ("http://h:81/x?y", ("/x?y", "http", "h:81")),
        ("http://h:/x", ("/x", "http", "h:")),
        ("http://h?y/z", ("/?y/z", "http", "h")),
        ("http://h/x@y", ("/x@y", "http", "h")),
        ("ws://h/x", ("/x", "http", "h")),
        ("WSS://h/x", ("/x", "https", "h")),
        ("https://[fe80::1]/x", ("/x", "https", "[fe80::1]")),
        ("https://[::1]:3000/x", ("/x", "https", "[::1]:3000")),
        ("http://xn--bcher-kva.example/", ("/", "http", "xn--bcher-kva.example")),
    ],
)
def test_a_target_is_a_path_or_a_url(method: str, target: str, parts: tuple[str, str, str]) -> None:
    assert split_target(method, target) == parts


def test_an_empty_path_is_the_root_or_for_options_the_whole_server() -> None:
    assert split_target("GET", "http://h") == ("/", "http", "h")
    assert split_target("OPTIONS", "http://h") == ("*", "http", "h")
    assert split_target("OPTIONS", "*") == ("*", "", "")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("/a#b", "fragment"),
        ("/#", "fragment"),
        ("http://h/x#y", "fragment"),
        ("*", "OPTIONS only"),
        ("", "neither"),
        ("foo", "neither"),
        ("?a", "neither"),
        ("h:80", "neither"),
        ("http:/h", "neither"),
        ("ftp://h/x", "scheme"),
        ("://h", "scheme"),
        ("javascript://h", "scheme"),
        ("http://", "name a host"),
        ("http:///x", "name a host"),
        ("http://:80/x", "name a host"),
        ("http://user@h/x", "name a host"),
        ("http://user:secret@h/x", "name a host"),
        ("http://h:80:80/", "name a host"),
        ("http://h:x/", "name a host"),
        ("http://[::1/", "name a host"),
        ("http://::1/", "name a host"),
        ("http://a b/", "name a host"),
        ("http://a\\b/", "name a host"),
        ("http://ä/", "name a host"),
    ],
)
def test_a_target_that_no_server_answers_is_refused_without_repeating_it(target: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        split_target("GET", target)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "is_meant"),
    [
        ({"host": "a", "accept": "*/*", "connection": "keep-alive"}, False),
        ({"sec-websocket-key": "x"}, True),
        ({"sec-websocket-version": "13"}, True),
        ({"connection": "keep-alive, Upgrade"}, True),
        ({"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c"}, False),
        ({"connection": "upgraded"}, False),
        ({}, False),
    ],
)
def test_what_a_proxy_leaves_of_a_handshake_tells_that_a_websocket_was_meant(
    headers: dict[str, str], is_meant: bool
) -> None:
    assert is_websocket_without_upgrade(headers) is is_meant


def test_a_list_may_stand_on_several_lines_and_has_empty_items() -> None:
    assert split_comma_list(["a, b\t,", "c"]) == ["a", "b", "", "c"]
    assert split_comma_list([]) == []


def test_text_of_a_peer_is_escaped_and_cut() -> None:
    assert escape_text("a\r\n\x1b[31m\u2028é") == "'a\\r\\n\\x1b[31m\\u2028\\xe9'"
    assert len(escape_text("\U0001f600" * 100_000)) < 1100
    assert escape_text("ab", 1) == "'a'…"
