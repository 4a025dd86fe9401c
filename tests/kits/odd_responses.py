"""Handlers' return values that look like a response and cannot be sent, and odd ones that can be sent."""

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

from wsbroker.http.headers import Headers
from wsbroker.http.response import HttpResponse


class Raises(HttpResponse):
    """Has a property that raises something."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        super().__init__(200)
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name: str) -> Any:
        if name == "headers":
            raise object.__getattribute__(self, "error")
        return object.__getattribute__(self, name)


class Mute(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise LookupError


class Liar:
    """Says that it is a response."""

    def __getattribute__(self, name: str) -> object:
        return HttpResponse if name == "__class__" else object.__getattribute__(self, name)


class Broken(dict[str, object]):
    """A mapping that cannot be walked."""

    def __bool__(self) -> bool:
        return True

    def items(self) -> Any:
        raise OSError

    def __iter__(self) -> Iterator[str]:
        raise OSError


class Thousand(int):
    """Says that it is a fine status."""

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True


class Text(str):
    """Has its own idea of UTF-8."""

    def encode(self, *args: object) -> Any:
        return 3


class Cold(IntEnum):
    """A status of the application's."""

    TEAPOT = 418


def _with(**attributes: object) -> Callable[[], object]:
    """Returns a function that makes a response and then sets these attributes, past its checks."""

    def make() -> object:
        response = HttpResponse(200, {"A": "b"}, "hi")
        for name, value in attributes.items():
            setattr(response, name, value)
        return response

    return make


def _without(name: str) -> Callable[[], object]:
    """Returns a function that makes a response and then deletes the attribute `name`."""

    def make() -> object:
        response = HttpResponse()
        delattr(response, name)
        return response

    return make


def _pairs(pairs: object) -> Callable[[], object]:
    """Returns a function that makes a response whose headers have `pairs` for their pairs, past its checks."""

    def make() -> object:
        headers = Headers()
        headers.pairs = pairs  # type: ignore[assignment]
        return _with(headers=headers)()

    return make


WRONG: dict[str, Callable[[], object]] = {
    **{f"status {status!r}": _with(status=status) for status in (1000, 0, 101, True, 200.0, "200", None, 1 << 70)},
    "a status that lies": _with(status=Thousand(1000)),
    "a status that has no body": _with(status=204),
    "headers that are no headers": _with(headers=3),
    "headers that are text": _with(headers="A: b"),
    "headers that are no text": _with(headers={"A": 1}),
    "headers that cannot be walked": _with(headers=Broken()),
    "a line break set afterwards": _pairs((("A", "b\r\nSet-Cookie: c"),)),
    "a line break in a name": _pairs((("A\n", "b"),)),
    "a lone surrogate": _pairs((("A", "\ud800"),)),
    "no pairs": _pairs((1, 2)),
    "None for pairs": _pairs(None),
    "a length that is none of its": _with(headers={"Content-Length": "7"}),
    "a dict for a body": _with(body={"a": 1}),
    "None for a body": _with(body=None),
    "a list for a body": _with(body=[b"a"]),
    "a body of surrogates": _with(body="\ud800"),
    "no status": _without("status"),
    "no headers": _without("headers"),
    "no body": _without("body"),
    "a property that raises": lambda: Raises(RuntimeError("oh")),
    "one that runs out of stack": lambda: Raises(RecursionError()),
    "one that runs out of memory": lambda: Raises(MemoryError()),
    "a liar": Liar,
}
"""What is logged as something that a handler may not return, with the list of what it may."""

RAISING: dict[str, Callable[[], object]] = {
    "a property that exits": lambda: Raises(SystemExit(3)),
    "a property that interrupts": lambda: Raises(KeyboardInterrupt()),
    "an error that cannot be shown": lambda: Raises(Mute()),
}
"""What is logged like an exception of the handler."""

FINE: dict[str, tuple[Callable[[], object], tuple[int, bytes, bytes]]] = {
    "a memoryview": (_with(body=memoryview(b"a-b-")[::2]), (200, b"ab", b"b")),
    "a bytearray": (_with(body=bytearray(b"ab")), (200, b"ab", b"b")),
    "text": (_with(body="é"), (200, "é".encode(), b"b")),
    "text of its own": (_with(body=Text("x")), (200, b"x", b"b")),
    "an enum": (_with(status=Cold.TEAPOT), (418, b"hi", b"b")),
    "a dict of headers": (_with(headers={"A": "c"}), (200, b"hi", b"c")),
    "pairs of headers": (_with(headers=[("A", "d")]), (200, b"hi", b"d")),
}
"""What a handler may also set, with the status, the body, and the header ``A`` that are sent."""
