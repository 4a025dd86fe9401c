"""What handlers may return, and what is sent for it."""

from http import HTTPStatus
from typing import Any, Final

import pytest

from kits import odd_responses as odd
from wsbroker.errors import HandlerError
from wsbroker.http.handler_returns import to_http_response, to_open_result
from wsbroker.http.headers import Headers
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse


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
