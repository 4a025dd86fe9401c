"""Responses."""

import array
from http import HTTPStatus
from typing import Any

import pytest

from wsbroker.errors import HandlerError
from wsbroker.http.handler_returns import to_http_response
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse


def test_a_response_encodes_text_and_says_so_unless_it_is_told() -> None:
    response = HttpResponse(200, {}, "é")
    assert response.body == "é".encode()
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert HttpResponse(200, {"content-type": "text/html"}, "x").headers.pairs == (("content-type", "text/html"),)
    assert HttpResponse(body=b"x").headers.pairs == () == HttpResponse().headers.pairs
    assert HttpResponse(body=bytearray(b"x")).body == b"x"
    assert HttpResponse(body=array.array("B", b"x")).body == b"x"
    assert HttpResponse(HTTPStatus.NOT_FOUND).status == 404
    assert type(HttpResponse(HTTPStatus.NOT_FOUND).status) is int
    cookies = HttpResponse(200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert cookies.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert repr(HttpResponse(404, {}, "no")) == "<HttpResponse 404, 2 bytes>"


def test_a_body_of_endless_brackets_is_a_value_error_like_any_other_json_that_is_none() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        HttpRequest("POST", "/", body=b"[" * 100_000).json()


def test_a_json_response() -> None:
    response = HttpResponse.json({"a": "é", "b": [1, None]}, status=201)
    assert response.status == 201 and response.body == '{"a":"é","b":[1,null]}'.encode()
    assert response.headers.pairs == (("Content-Type", "application/json"),)
    problem = HttpResponse.json([], 400, {"Content-Type": "application/problem+json"})
    assert problem.headers.pairs == (("Content-Type", "application/problem+json"),)
    with pytest.raises(TypeError):
        HttpResponse.json({"a": object()})
    with pytest.raises(ValueError):
        HttpResponse.json(float("nan"))


@pytest.mark.parametrize("status", [101, 199, 600, 0, -1])
def test_a_status_out_of_range_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match=f"200 to 599, not {status}"):
        HttpResponse(status)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("ä", "x"),
        ("a\r\nb", "x"),
        ("A", "x\r\nSet-Cookie: y"),
        ("A", "x\ny"),
        ("A", "x\0"),
        *[("A", f"x{chr(code)}y") for code in (*range(32), *range(127, 160)) if code != 9],
        ("A", "\x1b[31m"),
        ("A", "x\udcff"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "3"),
    ],
)
def test_headers_that_would_break_the_response_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError):
        HttpResponse(200, {name: value})
    with pytest.raises(ValueError):
        HttpResponse.json({}, 200, [(name, value)])
    with pytest.raises(HandlerError):
        to_http_response({"status": 200, "headers": {name: value}})
    if name == "A":
        with pytest.raises(ValueError):
            Accept([(name, value)])


def test_a_tab_and_what_is_not_printable_but_no_control_character_may_be_in_a_header() -> None:
    for value in ("a\tb", "a\u00a0b", "a\u2028b", "\U0001f600", ""):
        assert HttpResponse(200, {"A": value}).headers["a"] == value


def test_what_else_is_refused() -> None:
    make: Any = HttpResponse
    for status in ("200", True, None, 200.0):
        with pytest.raises(TypeError, match="status of a response is an int"):
            make(status)
    for headers in ("A: b", [("a",)], [3], {"a": 1}, {1: "a"}, 3):
        with pytest.raises(TypeError, match="header"):
            make(200, headers)
    with pytest.raises(TypeError, match="body of a response is str or bytes, not int"):
        make(200, {}, 3)
    with pytest.raises(ValueError, match="has no body"):
        HttpResponse(204, {}, "x")
    assert HttpResponse(204).body == b"" and HttpResponse(200, {"Content-Length": "1"}, "x").status == 200


def test_responses_are_equal_when_all_of_them_is() -> None:
    assert HttpResponse(200, {"A": "1"}, "x") == HttpResponse(200, {"a": "1"}, "x")
    assert HttpResponse(200) != HttpResponse(201) and HttpResponse(200) != 200
