"""Decides whether a registered worker is a new definition of a known one: a notebook cell run again, a reloaded module.

May import: `worker` (the handlers' names), standard library.
"""

import sys
from types import FunctionType, ModuleType
from typing import Final

from wsbroker.worker.base import HANDLER_ARGUMENTS

MAIN_MODULE: Final = "__main__"
LOCAL_NAME_MARK: Final = "<"
"""Part of the names of lambdas, and of definitions inside a function (``make.<locals>.Chat``). Two definitions with
such a name may be unrelated."""


def is_redefined(old_worker: object, new_worker: object) -> bool:
    """Returns whether `new_worker` is another definition of the worker `old_worker`.

    That is a class, function or module of the same name, or a live object whose class, or whose own handlers, were
    defined anew. Two live objects of one class are two workers.

    Args:
        old_worker: the worker given to `register_worker` or `start`.
        new_worker: the worker given to a later call of them.
    """
    name = _identify_definition(old_worker)
    if old_worker is new_worker or name is None or name != _identify_definition(new_worker):
        return False
    if isinstance(old_worker, ModuleType | type | FunctionType) or type(old_worker) is not type(new_worker):
        return True
    pairs = [(_unbound_handler(old_worker, name), _unbound_handler(new_worker, name)) for name in HANDLER_ARGUMENTS]
    changed = [(old, new) for old, new in pairs if old is not new and None not in (old, new)]
    return bool(changed) and all(
        isinstance(old, FunctionType) and _identify_definition(old) == _identify_definition(new) is not None
        for old, new in changed
    )


def current_definitions(worker: object) -> list[object]:
    """Returns the objects that a worker's names mean now, to be compared by identity with those of a later call.

    For a module: its handlers, which ``importlib.reload`` replaces. For a name in ``__main__``: the object of that
    name. For every other worker: an empty list.
    """
    target = worker
    if isinstance(worker, str):
        module, _, path = worker.partition(":")
        if module != MAIN_MODULE:
            return []
        target = sys.modules.get(MAIN_MODULE)
        for name in path.split(".") if path else ():
            target = getattr(target, name, None)
        if path:
            return [target]
    return [getattr(target, name, None) for name in HANDLER_ARGUMENTS] if isinstance(target, ModuleType) else []


def _identify_definition(value: object) -> tuple[str, ...] | None:
    """Returns kind, module and name that identify a definition, or an object's class; None if no name identifies it.

    Two workers with the same identity are an older and a newer definition: see `is_redefined`.

    Args:
        value: a worker: a module, class or function, a live object, or the name of one.

    Returns:
        None: a text, or a definition whose name holds `LOCAL_NAME_MARK`, which several definitions may have.
    """
    if isinstance(value, str):
        return None
    if isinstance(value, ModuleType):
        return ("module", value.__name__)
    if isinstance(value, type | FunctionType):
        return None if LOCAL_NAME_MARK in value.__qualname__ else ("definition", value.__module__, value.__qualname__)
    owner = type(value)
    return None if LOCAL_NAME_MARK in owner.__qualname__ else ("object", owner.__module__, owner.__qualname__)


def _unbound_handler(worker: object, name: str) -> object:
    """Returns a worker's handler of this name, as a plain function if the handler is a method; None if it has none."""
    handler: object = getattr(worker, name, None)
    return getattr(handler, "__func__", handler)
