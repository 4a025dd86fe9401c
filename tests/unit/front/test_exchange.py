"""Requests and answers between aiohttp's types and ours."""

import pytest
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from wsbroker.errors import HandshakeError
from wsbroker.front.exchange import error_answer, fields_of, raw, refusal_of, request_of, response_of
from wsbroker.wire.http import HttpResponse


def message(path: str = "/", *fields: tuple[str, str], method: str = "GET") -> RawRequestMessage:
    headers = CIMultiDictProxy(CIMultiDict(fields))
    return RawRequestMessage(method, path, HttpVersion11, headers, (), False, None, False, False, URL("/"))


def test_a_request_keeps_target_fields_and_body() -> None:
    request = request_of(message("/a%20b?c=d", ("Host", "h:1"), ("X", "1"), ("x", "2"), method="POST"), "::1", b"body")
    assert (request.method, request.path, request.pathname, request.query) == ("POST", "/a%20b?c=d", "/a%20b", "c=d")
    assert (request.remote, request.scheme, request.body) == ("::1", "http", b"body")
    assert request.url == "http://h:1/a%20b?c=d"
    assert request.headers.get_all("x") == ["1", "2"]


def test_an_absolute_target_is_the_url() -> None:
    request = request_of(message("http://other/x?y", ("Host", "h")), "", b"")
    assert (request.url, request.pathname) == ("http://other/x?y", "/x")


def test_a_value_that_is_not_utf_8_is_read_as_latin_1() -> None:
    fields = fields_of(message("/", ("A", b"\xe4".decode("utf-8", "surrogateescape")), ("B", "ä"), ("C", "c")))
    assert fields == [("A", "ä"), ("B", "ä"), ("C", "c")]
    for _, value in fields:
        value.encode()


def test_the_fields_about_the_connection_are_not_a_handlers_to_say() -> None:
    answer = HttpResponse(
        200,
        [
            ("Connection", "upgrade, x-secret"),
            ("Keep-Alive", "timeout=5"),
            ("Upgrade", "h2c"),
            ("Trailer", "X"),
            ("Content-Length", "2"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Content-Type", "text/x"),
        ],
        b"ok",
    )
    response = response_of(answer, "GET")
    assert sorted(response.headers.items()) == [
        ("Content-Type", "text/x"),
        ("Server", "wsbroker"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]
    assert response.keep_alive is None
    assert response.body == b"ok"


@pytest.mark.parametrize("value", ["close", "Keep-Alive, CLOSE"])
def test_a_handler_may_end_the_connection(value: str) -> None:
    assert response_of(HttpResponse(200, {"Connection": value}), "GET").keep_alive is False


def test_a_handler_may_say_what_server_it_is() -> None:
    assert response_of(HttpResponse(200, {"server": "mine"}), "GET").headers.getall("Server") == ["mine"]


def test_an_answer_to_head_has_the_length_and_not_the_body() -> None:
    response = response_of(HttpResponse(200, (), "12345"), "HEAD")
    assert (response.headers["Content-Length"], response.body) == ("5", b"")


@pytest.mark.parametrize("status", [205])
def test_an_answer_without_content_has_no_body(status: int) -> None:
    assert response_of(HttpResponse(status, (), "x"), "GET").body == b""


def test_426_keeps_upgrade_and_says_so_in_connection() -> None:
    error = HandshakeError(426, "13 <please>", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))
    response = response_of(refusal_of(error), "GET", is_last=True)
    assert response.headers["Upgrade"] == "websocket"
    assert response.headers["Connection"] == "upgrade, close"
    assert response.headers["Sec-WebSocket-Version"] == "13"
    assert response.body == b"13 &lt;please&gt;\n"


def test_a_raw_answer_is_whole() -> None:
    assert raw(error_answer(503, "full", [("Retry-After", "5")])) == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Retry-After: 5\r\n"
        b"Content-Length: 5\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b"full\n"
    )
