"""The opening handshake: what is let in, what is refused and with which status."""

import pytest

from wsbroker.errors import HandshakeError
from wsbroker.websocket.handshake import (
    ORIGIN_NOT_LISTED,
    ORIGIN_OF_OTHER_HOST,
    Upgrade,
    check_upgrade,
    compute_accept_key,
    encode_response_head,
    offers_websocket,
)

Fields = list[tuple[str, str]]

# The example of RFC 6455 section 1.2.
REQUEST: Fields = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Origin", "http://server.example.com"),
    ("Sec-WebSocket-Protocol", "chat, superchat"),
    ("Sec-WebSocket-Version", "13"),
]


def request(*fields: tuple[str, str], without: tuple[str, ...] = ()) -> Fields:
    """The example with these fields in place of those of the same name."""
    left_out = {name.lower() for name, _ in fields} | {name.lower() for name in without}
    return [field for field in REQUEST if field[0].lower() not in left_out] + list(fields)


def check(
    headers: Fields,
    *,
    method: str = "GET",
    version: tuple[int, int] = (1, 1),
    subprotocols: tuple[str, ...] = (),
    allowed_origins: tuple[str, ...] | None = None,
    authority: str = "",
) -> Upgrade:
    return check_upgrade(method, *version, headers, subprotocols, allowed_origins, authority)


def refusal(
    headers: Fields,
    *,
    method: str = "GET",
    version: tuple[int, int] = (1, 1),
    allowed_origins: tuple[str, ...] | None = None,
) -> tuple[int, str]:
    with pytest.raises(HandshakeError) as caught:
        check(headers, method=method, version=version, allowed_origins=allowed_origins)
    return caught.value.status, caught.value.reason


def test_the_example_of_the_rfc_is_accepted_and_answered_as_it_says() -> None:
    upgrade = check(REQUEST, subprotocols=("superchat", "chat"))
    assert upgrade.accept_key == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert upgrade.subprotocol == "chat"
    assert encode_response_head(upgrade) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


def test_without_a_subprotocol_the_answer_names_none() -> None:
    head = encode_response_head(check(REQUEST))
    assert b"Protocol:" not in head
    assert head.endswith(b"=\r\n\r\n")


def test_offers_of_extensions_are_declined_by_silence() -> None:
    upgrade = check(request(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")))
    assert b"Extensions" not in encode_response_head(upgrade)


def test_the_accept_key_of_the_rfc() -> None:
    assert compute_accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "fields",
    [
        [("upgrade", "WebSocket"), ("CONNECTION", "keep-alive, Upgrade")],
        [("Upgrade", "h2c , websocket"), ("Connection", "upgrade,close")],
        [("Upgrade", "h2c"), ("Upgrade", "WEBSOCKET"), ("Connection", "keep-alive"), ("Connection", "\tUpgrade ")],
        [("Upgrade", ",websocket,,"), ("Connection", ", upgrade")],
    ],
)
def test_lists_are_read_in_any_case_on_any_line(fields: Fields) -> None:
    assert check(request(*fields)).accept_key
    assert offers_websocket(request(*fields))


def test_field_names_are_read_in_any_case() -> None:
    assert check([(name.upper(), value) for name, value in REQUEST]).accept_key
    assert check([(name.lower(), f" {value}\t") for name, value in REQUEST]).accept_key


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "CONNECT", ""])
def test_another_method_is_refused_with_405_and_the_one_that_is_allowed(method: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check(REQUEST, method=method)
    assert caught.value.status == 405
    assert caught.value.headers == (("Allow", "GET"),)


@pytest.mark.parametrize("version", [(0, 9), (1, 0)])
def test_an_older_http_is_refused(version: tuple[int, int]) -> None:
    assert refusal(REQUEST, version=version) == (400, "a WebSocket needs HTTP/1.1")


@pytest.mark.parametrize("version", [(1, 1), (1, 2), (2, 0)])
def test_a_newer_http_is_let_in(version: tuple[int, int]) -> None:
    assert check(REQUEST, version=version).accept_key


@pytest.mark.parametrize("name", ["Host", "Sec-WebSocket-Key"])
def test_a_field_that_must_be_there_once_is_refused_when_missing_or_doubled(name: str) -> None:
    value = dict(REQUEST)[name]
    assert refusal(request(without=(name,))) == (400, f"the {name} field is missing")
    assert refusal(request((name, value), (name.lower(), value))) == (400, f"the {name} field is doubled")


@pytest.mark.parametrize("host", ["", " ", ":80", "a b", "user@host", "host/path", "a,b", "a\\b", "a#b"])
def test_a_host_field_that_names_no_host_is_refused(host: str) -> None:
    headers = request(("Host", host), without=("Origin",))
    assert refusal(headers) == (400, "the Host field does not name a host")


@pytest.mark.parametrize("host", ["localhost", "localhost:3000", "[::1]", "[::1]:3000", "127.0.0.1:1", "EXAMPLE.com."])
def test_a_host_field_that_names_a_host_is_let_in(host: str) -> None:
    assert check(request(("Host", host), without=("Origin",))).accept_key


@pytest.mark.parametrize("values", [(), ("h2c",), ("websocket2",), ("web socket",), ("websocket/13",), ("",)])
def test_a_request_that_does_not_ask_for_websocket_is_refused(values: tuple[str, ...]) -> None:
    headers = request(*[("Upgrade", value) for value in values], without=("Upgrade",))
    assert refusal(headers) == (400, "the Upgrade field does not name websocket")
    assert not offers_websocket(headers)


@pytest.mark.parametrize("values", [(), ("keep-alive",), ("upgraded",), ("close", "keep-alive")])
def test_a_connection_field_without_upgrade_is_refused(values: tuple[str, ...]) -> None:
    headers = request(*[("Connection", value) for value in values], without=("Connection",))
    assert refusal(headers) == (400, "the Connection field does not name upgrade")


@pytest.mark.parametrize("values", [(), ("8",), ("7", "8"), ("13", "13"), ("13, 8",), ("013",), ("+13",), ("",)])
def test_another_version_is_answered_with_426_and_the_one_we_speak(values: tuple[str, ...]) -> None:
    headers = request(*[("Sec-WebSocket-Version", value) for value in values], without=("Sec-WebSocket-Version",))
    with pytest.raises(HandshakeError) as caught:
        check(headers)
    assert caught.value.status == 426
    assert caught.value.headers == (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))


@pytest.mark.parametrize(
    "key",
    [
        *["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ==\n"],
        *[
            "dGhlIHNhbXBsZSBub25jZSE=",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25j!Q==",
            "dGhlIHNhbXBsZSBub25jé==",
            "=" * 24,
        ],
        *["dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNh bXBsZSBub25jZQ=="],
    ],
)
def test_a_key_that_is_not_16_bytes_in_base64_is_refused(key: str) -> None:
    assert refusal(request(("Sec-WebSocket-Key", key))) == (
        400,
        "the Sec-WebSocket-Key field is not 16 bytes in base64",
    )


@pytest.mark.parametrize(
    "fields",
    [
        [("Content-Length", "1")],
        [("Content-Length", "0"), ("Content-Length", "5")],
        [("Content-Length", "-1")],
        [("Content-Length", "")],
        [("content-length", "0, 1")],
        [("Transfer-Encoding", "chunked")],
        [("transfer-encoding", "identity")],
    ],
)
def test_a_request_that_announces_a_body_is_refused(fields: Fields) -> None:
    assert refusal(request(*fields)) == (400, "a request for a WebSocket has no body")


def test_a_body_of_no_bytes_is_no_body() -> None:
    assert check(request(("Content-Length", "0"))).accept_key


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.com", "http://example.com"),
        ("example.com", "https://example.com"),
        ("EXAMPLE.com", "HTTPS://example.COM"),
        ("example.com:443", "https://example.com"),
        ("example.com", "https://example.com:443"),
        ("example.com:80", "http://example.com"),
        ("example.com:3000", "http://example.com:3000"),
        ("example.com:3000", "https://example.com:3000"),
        ("[::1]:3000", "http://[::1]:3000"),
        ("[::1]", "http://[::1]:80"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_a_page_of_the_same_host_and_port_is_let_in(host: str, origin: str) -> None:
    assert check(request(("Host", host), ("Origin", origin))).accept_key


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.com", "null"),
        ("null", "null"),
        ("example.com", ""),
        ("example.com", "http://evil.com"),
        ("example.com", "http://sub.example.com"),
        ("sub.example.com", "http://example.com"),
        ("example.com", "http://example.com.evil.com"),
        ("example.com", "http://evilexample.com"),
        ("example.com:3000", "http://example.com"),
        ("example.com:3000", "http://example.com:3001"),
        ("example.com", "http://example.com:8080"),
        ("example.com", "example.com"),
        ("example.com", "http://user@example.com"),
        ("example.com", "http://evil.com/http://example.com"),
        ("example.com", "http://example.com/"),
        ("localhost", "app://localhost"),
        ("localhost", "file://"),
        ("example.com", "http://example.com http://evil.com"),
        ("example.com", "http://"),
        ("example.com", "http://:80"),
    ],
)
def test_any_other_page_is_refused_with_403(host: str, origin: str) -> None:
    assert refusal(request(("Host", host), ("Origin", origin))) == (403, ORIGIN_OF_OTHER_HOST)


def test_a_target_in_absolute_form_names_the_host_that_a_page_must_come_from() -> None:
    headers = request(("Host", "proxy.example"), ("Origin", "http://a.example:3000"))
    assert check(headers, authority="a.example:3000").accept_key
    for authority in ("", "b.example:3000", "a.example"):
        with pytest.raises(HandshakeError, match="403"):
            check(headers, authority=authority)
    with pytest.raises(HandshakeError, match="403"):
        check(request(("Host", "a.example"), ("Origin", "http://a.example")), authority="b.example")


@pytest.mark.parametrize("allowed", [None, (), ("https://a.example",)])
def test_a_request_without_an_origin_is_not_a_browsers_and_is_let_in(allowed: tuple[str, ...] | None) -> None:
    assert check(request(without=("Origin",)), allowed_origins=allowed).accept_key


def test_a_doubled_origin_is_refused() -> None:
    headers = request(("Origin", "http://server.example.com"), ("Origin", "http://server.example.com"))
    assert refusal(headers) == (400, "the Origin field is doubled")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.example", ("https://b.example", "https://a.example")),
        ("https://a.example", ("HTTPS://A.example/",)),
        ("https://a.example", ("https://a.example:443",)),
        ("http://a.example:80", ("http://a.example",)),
        ("https://a.example:8443", ("https://a.example:8443",)),
        ("app://localhost", ("app://localhost",)),
        ("file://", ("file://",)),
        ("FILE:///", ("file://",)),
        ("capacitor://localhost", ("file://", "capacitor://localhost")),
        ("chrome-extension://abcdefghijklmnop", ("chrome-extension://abcdefghijklmnop",)),
        ("null", ("null",)),
        ("null", ("*",)),
        ("https://anything.example", ("*",)),
    ],
)
def test_a_listed_origin_is_let_in(origin: str, allowed: tuple[str, ...]) -> None:
    assert check(request(("Origin", origin)), allowed_origins=allowed).accept_key


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://server.example.com", ()),
        ("http://server.example.com", ("https://server.example.com",)),
        ("https://a.example:80", ("https://a.example",)),
        ("https://a.example:8443", ("https://a.example",)),
        ("https://sub.a.example", ("https://a.example",)),
        ("https://a.example", ("a.example",)),
        ("null", ("https://a.example",)),
        ("null", ("file://",)),
        ("file://evil.example", ("file://",)),
        ("file://", ("null",)),
        ("file:", ("file://",)),
        ("capacitor://evil.example", ("capacitor://localhost",)),
        ("http://localhost", ("capacitor://localhost",)),
        ("app://localhost:80", ("app://localhost",)),
        ("", ("https://a.example",)),
    ],
)
def test_an_origin_that_is_not_listed_is_refused_even_on_the_same_host(origin: str, allowed: tuple[str, ...]) -> None:
    headers = request(("Origin", origin))
    assert refusal(headers, allowed_origins=allowed) == (403, ORIGIN_NOT_LISTED)


@pytest.mark.parametrize(
    ("offers", "known", "chosen"),
    [
        ((), ("chat",), None),
        (("chat",), (), None),
        (("chat",), ("chat",), "chat"),
        (("a, b, c",), ("c", "b"), "b"),
        (("a", "b ,c"), ("c",), "c"),
        (("Chat",), ("chat",), None),
        ((", ,",), ("chat",), None),
    ],
)
def test_the_first_offered_subprotocol_that_the_server_knows_is_chosen(
    offers: tuple[str, ...], known: tuple[str, ...], chosen: str | None
) -> None:
    headers = request(*[("Sec-WebSocket-Protocol", offer) for offer in offers], without=("Sec-WebSocket-Protocol",))
    upgrade = check(headers, subprotocols=known)
    assert upgrade.subprotocol == chosen
    assert upgrade.offered_subprotocols == [offer.strip() for offer in ",".join(offers).split(",") if offer.strip()]


def test_an_application_may_choose_the_subprotocol_and_add_fields() -> None:
    upgrade = check(REQUEST, subprotocols=("chat",))
    head = encode_response_head(upgrade, "superchat", (("Set-Cookie", "a=1"), ("Set-Cookie", "b=ü")))
    assert head.endswith(b"Sec-WebSocket-Protocol: superchat\r\nSet-Cookie: a=1\r\nSet-Cookie: b=\xc3\xbc\r\n\r\n")
    assert b"Sec-WebSocket-Protocol: chat\r\n" in encode_response_head(upgrade, None, (("A", "b"),))
