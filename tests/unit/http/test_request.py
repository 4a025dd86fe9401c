"""Requests."""

import json
from enum import StrEnum

import pytest

from wsbroker.http.request import HttpRequest
from wsbroker.wire.framing import BatchUnpacker, pack_batch


class Name(StrEnum):
    HOST = "Host"
    VALUE = "example.org"


@pytest.mark.parametrize(
    ("target", "url", "path", "search", "query", "absolute_url"),
    [
        ("/", "/", "/", "", "", "http://example.org:80/"),
        ("/a%20b?c=d&e", "/a%20b?c=d&e", "/a%20b", "?c=d&e", "c=d&e", "http://example.org:80/a%20b?c=d&e"),
        ("/a?", "/a?", "/a", "", "", "http://example.org:80/a?"),
        ("/a?b?c", "/a?b?c", "/a", "?b?c", "b?c", "http://example.org:80/a?b?c"),
        (
            "/?x=http://y/z",
            "/?x=http://y/z",
            "/",
            "?x=http://y/z",
            "x=http://y/z",
            "http://example.org:80/?x=http://y/z",
        ),
        ("//a", "//a", "//a", "", "", "http://example.org:80//a"),
        ("http://else.org/a?b", "/a?b", "/a", "?b", "b", "http://else.org/a?b"),
        ("HTTPS://else.org:1", "/", "/", "", "", "https://else.org:1/"),
        ("http://else.org?b", "/?b", "/", "?b", "b", "http://else.org/?b"),
        ("wss://[::1]:3000/a?/b", "/a?/b", "/a", "?/b", "/b", "https://[::1]:3000/a?/b"),
    ],
)
def test_a_request_says_its_url_in_parts(
    target: str, url: str, path: str, search: str, query: str, absolute_url: str
) -> None:
    request = HttpRequest("GET", target, {"Host": "example.org:80"})
    assert (request.url, request.path, request.pathname) == (url, path, path)
    assert (request.search, request.query, request.absolute_url) == (search, query, absolute_url)


def test_a_request_for_the_whole_server_has_a_star_for_its_path() -> None:
    for target, host in (("*", "a:1"), ("http://b", "b")):
        request = HttpRequest("OPTIONS", target, {"Host": "a:1"})
        assert (request.url, request.path, request.search, request.host) == ("*", "*", "", host)
        assert request.absolute_url == f"http://{host}"


def test_the_host_is_that_of_an_absolute_target_then_that_of_the_header_then_localhost() -> None:
    assert HttpRequest("GET", "/").absolute_url == "http://localhost/"
    assert HttpRequest("GET", "/", {"Host": "a"}, scheme="https", host="b").absolute_url == "https://b/"
    request = HttpRequest("GET", "http://c:1/", {"Host": "a"}, scheme="https", host="b")
    assert (request.host, request.scheme, request.headers["host"]) == ("c:1", "http", "a")


def test_the_body_is_read_as_text_in_its_charset_and_as_json() -> None:
    assert HttpRequest("POST", "/", body="é".encode()).text() == "é"
    latin = HttpRequest("POST", "/", {"Content-Type": 'text/plain; Charset="latin-1"'}, b"\xe9")
    assert latin.text() == "é"
    assert HttpRequest("POST", "/", body=b'{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ValueError):
        HttpRequest("POST", "/", body=b"\xff").text()
    with pytest.raises(json.JSONDecodeError):
        HttpRequest("POST", "/", body=b"{").json()


def test_a_request_crosses_the_wire_even_with_subclasses_of_str_in_it() -> None:
    request = HttpRequest("GET", "/x?y", [(Name.HOST, Name.VALUE), ("A", "1"), ("a", "2")], b"b", remote="::1")
    [batch] = BatchUnpacker().feed(pack_batch([(1, request.fields())]))
    fields = batch[0][1]
    assert isinstance(fields, tuple)
    copy = HttpRequest.from_fields(fields)
    assert copy.headers.pairs == (("Host", "example.org"), ("A", "1"), ("a", "2"))
    assert (copy.method, copy.url, copy.body, copy.remote, copy.scheme) == ("GET", "/x?y", b"b", "::1", "http")
    assert copy.absolute_url == request.absolute_url == "http://example.org/x?y"
    assert copy.fields() == request.fields()
    for target in ("https://else.org?z", "*"):
        request = HttpRequest("OPTIONS", target, {"Host": "example.org"})
        again = HttpRequest.from_fields(request.fields())
        assert (again.absolute_url, again.url) == (request.absolute_url, request.url)
    assert repr(copy) == "<HttpRequest GET /x>"
