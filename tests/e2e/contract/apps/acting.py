"""Evaluates the expressions that tests send to applications. Imports little, so that any interpreter can load it."""

import enum
from collections.abc import Mapping
from typing import NoReturn

import wsbroker


class Colour(enum.StrEnum):
    """A str enum, which is not exactly `str`."""

    RED = "red"


class Text(str):
    """A str that is not exactly `str`."""


class Blob(bytes):
    """Bytes that are not exactly `bytes`."""


class One(enum.IntEnum):
    """Numbers that are not exactly `int`."""

    ONE = 1
    GOING_AWAY = 1001
    OWN = 4000


def raised(error: BaseException | None = None) -> NoReturn:
    """Raises an error, from within an expression."""
    raise error or LookupError("as told")


_NAMES = {
    "raised": raised,
    "enum": enum,
    "wsbroker": wsbroker,
    "Colour": Colour,
    "Text": Text,
    "Blob": Blob,
    "One": One,
    **{name: getattr(wsbroker, name) for name in wsbroker.__all__ if name in vars(wsbroker)},
}


def verdict(expression: str, around: Mapping[str, object], **names: object) -> object:
    """Returns the value of an expression in which the API, the module `around` and `names` are known."""
    return eval(expression, {**around, **_NAMES, **names})


def evaluated(expression: str, around: Mapping[str, object], **names: object) -> str:
    """Returns the value as text that `ast.literal_eval` reads; of an exception its type and text behind a ``!``."""
    try:
        return repr(verdict(expression, {**around, "evaluated": evaluated}, **names))
    except Exception as error:
        return f"!{type(error).__name__}: {error}"
