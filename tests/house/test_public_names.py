"""`wsbroker.__all__` is the promise: all of it exists, and nothing else looks like a part of it."""

from types import ModuleType

import wsbroker


def test_every_promised_name_exists_and_is_promised_once() -> None:
    assert [name for name in wsbroker.__all__ if not hasattr(wsbroker, name)] == []
    assert len(set(wsbroker.__all__)) == len(wsbroker.__all__)


def test_no_other_name_looks_public() -> None:
    kept = {"TYPE_CHECKING", *wsbroker.__all__}
    others = {name: value for name, value in vars(wsbroker).items() if name[0] != "_" and name not in kept}
    assert [name for name, value in others.items() if not isinstance(value, ModuleType)] == []
    assert [name for name, value in others.items() if value.__name__ != f"wsbroker.{name}"] == []


def test_dir_lists_the_promised_names() -> None:
    assert set(wsbroker.__all__) <= set(dir(wsbroker))
