"""Header fields."""

import pytest

from wsbroker.http.headers import Headers


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
