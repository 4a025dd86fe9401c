"""Requests, responses, headers, and what handlers may return."""

import array
import json
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

import pytest

from kits import odd_responses as odd
from wsbroker.errors import HandlerError
from wsbroker.http.handler_returns import to_http_response, to_open_result
from wsbroker.http.headers import Headers
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.wire.framing import BatchUnpacker, pack_batch


class Name(StrEnum):
    HOST = "Host"
    VALUE = "example.org"


# Headers. -------------------------------------------------------------------------------------------------------------


def test_headers_compare_names_without_case_and_keep_order_and_repetitions() -> None:
    headers = Headers([("Set-Cookie", "a=1"), ("X-One", "1"), ("set-cookie", "b=2")])
    assert headers["SET-COOKIE"] == "a=1"
    assert headers.get_all("set-Cookie") == ["a=1", "b=2"] and headers.get_all("none") == []
    assert "x-one" in headers and "x-two" not in headers
    assert list(headers) == ["Set-Cookie", "X-One"] and len(headers) == 2
    assert headers.pairs == (("Set-Cookie", "a=1"), ("X-One", "1"), ("set-cookie", "b=2"))
    assert headers.get("nothing") is None
    with pytest.raises(KeyError):
        headers["nothing"]


def test_headers_are_equal_when_their_names_and_values_are() -> None:
    assert Headers({"A": "1", "B": "2"}) == Headers([("b", "2"), ("a", "1")]) == {"a": "1", "B": "2"}
    assert Headers({"A": "1"}) != Headers([("A", "1"), ("A", "1")])
    assert Headers({"A": "1"}) != {"A": 1} and Headers() != {3: 4} and Headers() != 3
    assert repr(Headers({"A": "1"})) == "Headers([('A', '1')])"


# Requests. ------------------------------------------------------------------------------------------------------------


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


# Responses. -----------------------------------------------------------------------------------------------------------


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


# What handlers return. ------------------------------------------------------------------------------------------------


def test_what_an_http_handler_may_return() -> None:
    ready = HttpResponse(404)
    assert to_http_response(ready) == ready
    assert to_http_response(None) == HttpResponse(200, {"Content-Type": "text/plain; charset=utf-8"}, b"OK")
    assert to_http_response("é").body == "é".encode()
    assert to_http_response(b"\0") == HttpResponse(200, {}, b"\0")
    assert to_http_response({"a": 1}) == HttpResponse(200, {"Content-Type": "application/json"}, b'{"a":1}')


@pytest.mark.parametrize(
    ("returned", "response"),
    [
        ({"status": 404}, HttpResponse(404)),
        ({"status": 201, "body": "é"}, HttpResponse(201, {}, "é")),
        ({"body": b"\0", "headers": {"A": "b"}, "status": 299}, HttpResponse(299, {"A": "b"}, b"\0")),
        ({"status": HTTPStatus.FOUND, "headers": [("Set-Cookie", "a"), ("Set-Cookie", "b")]}, None),
        ({"status": 200, "body": bytearray(b"x"), "headers": Headers({"Content-Type": "x/y"})}, None),
    ],
)
def test_a_dict_with_a_status_and_nothing_but_what_a_response_has_is_that_response(
    returned: dict[str, Any], response: HttpResponse | None
) -> None:
    assert to_http_response(returned) == (response or HttpResponse(**returned))


@pytest.mark.parametrize(
    "returned",
    [
        {},
        {"body": "x"},
        {"headers": {}, "body": "x"},
        {"status": 404, "detail": 1},
        {"Status": 404},
        {"status": 1, 2: 3},
    ],
)
def test_any_other_dict_is_json(returned: dict[object, object]) -> None:
    assert to_http_response(returned) == HttpResponse.json(returned)


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ({"status": "ok"}, "the status of a response is an int, not str"),
        ({"status": None}, "the status of a response is an int, not NoneType"),
        ({"status": True}, "the status of a response is an int, not bool"),
        ({"status": 101}, "the status of a response is 200 to 599, not 101"),
        ({"status": 200, "body": {"a": 1}}, "the body of a response is str or bytes, not dict"),
        ({"status": 200, "body": None}, "the body of a response is str or bytes, not NoneType"),
        ({"status": 200, "headers": None}, "headers are a mapping or"),
        ({"status": 200, "headers": {"A": 1}}, "a header's name and value are str"),
        ({"status": 204, "body": "x"}, "has no body"),
    ],
)
def test_a_dict_that_spells_a_wrong_response_is_answered_with_the_list_of_what_it_may_return(
    returned: object, problem: str
) -> None:
    with pytest.raises(HandlerError) as caught:
        to_http_response(returned)
    assert str(caught.value).startswith("handle_http_request returned a dict that cannot be sent (")
    assert problem in str(caught.value) and "any other dict (sent as JSON, as HttpResponse.json sends" in str(
        caught.value
    )


@pytest.mark.parametrize("returned", [[1], 3, True, object(), ("a", 1), bytearray(b"x")])
def test_anything_else_is_answered_with_the_list_of_what_it_may_return(returned: object) -> None:
    legal = r"it may return HttpResponse, str, bytes, a dict with status, .*, any other dict \(sent as JSON"
    with pytest.raises(HandlerError, match=legal):
        to_http_response(returned)


@pytest.mark.parametrize("way", odd.WRONG)
def test_a_response_that_was_made_wrong_afterwards_is_the_handlers_error_and_the_list_of_what_it_may_return(
    way: str,
) -> None:
    for read, legal in ((to_http_response, "HttpResponse, str, bytes, a dict"), (verdict, "True or None")):
        with pytest.raises(HandlerError, match=f"handle_.* returned an? .* that cannot be sent .*may return {legal}"):
            read(odd.WRONG[way]())


@pytest.mark.parametrize("way", odd.FINE)
def test_what_was_set_afterwards_is_checked_and_sent_like_what_was_given(way: str) -> None:
    make, sent = odd.FINE[way]
    for response in (to_http_response(make()), verdict(make())):
        assert type(response) is HttpResponse and type(response.headers) is Headers
        assert (type(response.status), type(response.body)) == (int, bytes)
        assert (response.status, response.body, response.headers["a"].encode()) == sent


def test_what_changes_a_response_after_it_was_returned_changes_nothing_that_is_sent() -> None:
    returned = HttpResponse(200, {"A": "b"}, "hi")
    response = to_http_response(returned)
    returned.status, returned.body = 1000, b""
    returned.headers.pairs = ()
    assert (response.status, response.body, response.headers["a"]) == (200, b"hi", "b")


@pytest.mark.parametrize("returned", ["\ud800", {"a": object()}, {"a": float("nan")}])
def test_a_value_that_cannot_be_sent_is_the_handlers_error(returned: object) -> None:
    with pytest.raises(HandlerError, match="handle_http_request returned"):
        to_http_response(returned)


OFFERING: Final = HttpRequest("GET", "/", [("Sec-WebSocket-Protocol", "one, two"), ("sec-websocket-protocol", "v3,")])


def verdict(returned: object, request: HttpRequest = OFFERING) -> HttpResponse | Accept | None:
    """What an open handler's return value means."""
    return to_open_result(returned, request)


def test_what_an_open_handler_may_return() -> None:
    ready = HttpResponse(200)
    assert verdict(None) is None and verdict(True) is None
    assert verdict(ready) == ready
    refused = verdict(False)
    assert isinstance(refused, HttpResponse) and (refused.status, refused.body) == (403, b"Forbidden")
    wrong: list[object] = [1, 0, "yes", {}, {"status": 200}, Accept]
    for returned in wrong:
        with pytest.raises(
            HandlerError, match=r"True or None \(accept\), False \(403\), an HttpResponse .* or an Accept"
        ):
            verdict(returned)


def test_an_accept_has_header_fields_and_a_subprotocol_that_was_offered() -> None:
    for subprotocol in (None, "one", "two", "v3"):
        accept = Accept([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], subprotocol)
        found = verdict(accept)
        assert isinstance(found, Accept) and found == accept and found is not accept
        assert found.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert verdict(Accept()) == Accept({}) != Accept({"A": "b"}) != Accept((), "one")
    assert Accept() != 3 and repr(Accept({"A": "b"}, "x")) == "<Accept, 1 fields, subprotocol 'x'>"


@pytest.mark.parametrize("subprotocol", ["three", "ONE", "one, two", "", " one", "x\r\nSet-Cookie: a", "x" * 10_000])
def test_a_subprotocol_that_was_not_offered_is_the_handlers_error(subprotocol: str) -> None:
    for request in (OFFERING, HttpRequest("GET", "/")):
        with pytest.raises(
            HandlerError, match="has not offered the subprotocol .* it may return True or None"
        ) as caught:
            verdict(Accept((), subprotocol), request)
        assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *["Upgrade", "connection", "Content-Length", "Transfer-Encoding", "Sec-WebSocket-Accept"],
        *["SEC-WEBSOCKET-PROTOCOL", "Sec-WebSocket-Extensions", "sec-websocket-anything"],
    ],
)
def test_a_field_that_is_the_servers_is_the_handlers_error(name: str) -> None:
    with pytest.raises(
        HandlerError, match=rf"the header '{name}' of a 101 is the server's.*it may return True or None"
    ):
        verdict(Accept({name: "x"}))


def test_an_accept_that_was_made_wrong_afterwards_is_the_handlers_error() -> None:
    changed, replaced, emptied = Accept({"A": "b"}), Accept(), Accept()
    changed.headers.pairs = (("A", "b\r\nC: d"),)
    replaced.headers = 3  # type: ignore[assignment]
    del emptied.subprotocol
    for accept in (changed, replaced, emptied):
        with pytest.raises(HandlerError, match="returned an Accept that cannot be sent .* it may return"):
            verdict(accept)
    make: Any = Accept
    for arguments in ((3,), ("A: b",), ((), 3), ((), b"one")):
        with pytest.raises(TypeError):
            make(*arguments)
