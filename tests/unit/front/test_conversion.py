"""Conversion of aiohttp's heads into requests, and of responses into bytes; the error responses."""

import time
from email.utils import parsedate_to_datetime

import pytest
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion, HttpVersion10, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from wsbroker.errors import HandshakeError
from wsbroker.front.conversion import (
    CompleteResponse,
    current_date_field,
    header_fields_of,
    make_complete_response,
    request_from_head,
)
from wsbroker.front.error_responses import encode_last_response, handshake_error_response, make_error_response
from wsbroker.http.headers import Headers
from wsbroker.http.response import HttpResponse


def message(path: str = "/", *fields: tuple[str, str], method: str = "GET") -> RawRequestMessage:
    headers = CIMultiDictProxy(CIMultiDict(fields))
    return RawRequestMessage(method, path, HttpVersion11, headers, (), False, None, False, False, URL("/"))


def lines_of(answer: CompleteResponse, version: HttpVersion = HttpVersion11) -> list[bytes]:
    """Returns the lines of a response's head without the Date line that the server adds."""
    lines = answer.encode_head(version).split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    return [line for line in lines[:-2] if not line.startswith(b"Date")]


def test_a_request_keeps_target_fields_and_body() -> None:
    request = request_from_head(
        message("/a%20b?c=d", ("Host", "h:1"), ("X", "1"), ("x", "2"), method="POST"), "::1", b"body"
    )
    assert (request.method, request.url, request.path, request.query) == ("POST", "/a%20b?c=d", "/a%20b", "c=d")
    assert (request.remote, request.scheme, request.body) == ("::1", "http", b"body")
    assert request.absolute_url == "http://h:1/a%20b?c=d"
    assert request.headers.get_all("x") == ["1", "2"]


def test_an_absolute_target_says_the_host() -> None:
    request = request_from_head(message("http://other/x?y", ("Host", "h")), "", b"")
    assert (request.absolute_url, request.host, request.url) == ("http://other/x?y", "other", "/x?y")


def test_a_value_that_is_not_utf_8_is_read_as_latin_1() -> None:
    fields = header_fields_of(message("/", ("A", b"\xe4".decode("utf-8", "surrogateescape")), ("B", "ä"), ("C", "c")))
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
    response = make_complete_response(answer, "GET")
    assert response.fields[:-1] == [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Type", "text/x"),
        ("Server", "wsbroker"),
    ]
    assert response.fields[-1][0] == "Date"
    assert response.keep_alive
    assert (response.unsent_body, response.content_length) == (b"ok", 2)


@pytest.mark.parametrize("value", ["close", "Keep-Alive, CLOSE"])
def test_a_handler_may_end_the_connection(value: str) -> None:
    assert not make_complete_response(HttpResponse(200, {"Connection": value}), "GET").keep_alive


def test_a_handler_may_say_what_server_it_is_and_when_it_answered() -> None:
    lines = lines_of(make_complete_response(HttpResponse(200, {"server": "mine", "date": "today"}), "GET"))
    assert lines == [b"HTTP/1.1 200 OK", b"server: mine", b"date: today", b"Content-Length: 0"]


def test_a_head_says_what_is_needed_to_read_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsbroker.front.conversion.current_date_field", lambda: "now")
    assert make_complete_response(HttpResponse(200, (), b"12345"), "GET").encode_head(HttpVersion11) == (
        b"HTTP/1.1 200 OK\r\nServer: wsbroker\r\nDate: now\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: 5\r\n\r\n"
    )


def test_a_status_that_nobody_knows_has_no_phrase() -> None:
    assert lines_of(make_complete_response(HttpResponse(599), "GET"))[0] == b"HTTP/1.1 599 "


@pytest.mark.parametrize(
    "version, is_last, expected",
    [
        (HttpVersion11, False, []),
        (HttpVersion11, True, [b"Connection: close"]),
        (HttpVersion10, False, [b"Connection: keep-alive"]),
        (HttpVersion10, True, []),
    ],
)
def test_connection_says_only_what_the_version_does_not(
    version: HttpVersion, is_last: bool, expected: list[bytes]
) -> None:
    lines = lines_of(make_complete_response(HttpResponse(), "GET", is_last), version)
    assert [line for line in lines if line.startswith(b"Connection")] == expected


def test_a_date_is_made_once_a_second_and_is_the_time() -> None:
    assert parsedate_to_datetime(current_date_field()).timestamp() == pytest.approx(time.time(), abs=2)
    assert current_date_field().endswith(" GMT")


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b"])
def test_a_line_break_that_got_past_the_checks_is_not_sent(value: str) -> None:
    answer = HttpResponse()
    answer.headers = Headers([("X", value)])
    with pytest.raises(ValueError, match="line break"):
        make_complete_response(answer, "GET").encode_head(HttpVersion11)


def test_an_answer_to_head_has_the_length_and_not_the_body() -> None:
    response = make_complete_response(HttpResponse(200, (), "12345"), "HEAD")
    assert (response.content_length, response.unsent_body) == (5, b"")
    assert make_complete_response(HttpResponse(), "HEAD").content_length is None


@pytest.mark.parametrize("status, length", [(204, None), (205, 0), (304, None)])
def test_an_answer_without_content_has_no_body(status: int, length: int | None) -> None:
    response = make_complete_response(HttpResponse(status, (), "x" if status == 205 else ""), "GET")
    assert (response.unsent_body, response.content_length) == (b"", length)


def test_426_keeps_upgrade_and_says_so_in_connection() -> None:
    error = HandshakeError(426, "13 <please>", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))
    response = make_complete_response(handshake_error_response(error), "GET", is_last=True)
    lines = lines_of(response)
    assert b"Upgrade: websocket" in lines
    assert b"Connection: upgrade, close" in lines
    assert b"Sec-WebSocket-Version: 13" in lines
    assert response.unsent_body == b"13 &lt;please&gt;\n"


def test_a_raw_answer_is_whole() -> None:
    assert encode_last_response(make_error_response(503, "full", [("Retry-After", "5")])) == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Retry-After: 5\r\n"
        b"Content-Length: 5\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b"full\n"
    )
