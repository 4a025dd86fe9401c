"""Whether a worker is a new definition of one that is known: a notebook's cell that was run again, a reloaded module.

May import: `worker` (the handlers' names), standard library.
"""

import sys
from types import FunctionType, ModuleType
from typing import Final

from wsbroker.worker.base import HANDLER_ARGUMENTS

MAIN_MODULE: Final = "__main__"
LOCAL_NAME_MARK: Final = "<"
"""Stands in the names of what a function defines (``make.<locals>.Chat``) and of lambdas: they tell nothing apart."""


def is_redefined(before: object, now: object) -> bool:
    """Returns whether `now` is another definition of the same worker.

    That is a class, function or module of the same name, or a live object whose class, or whose own handlers, were
    defined anew. Two live objects of one class are two workers.

    Args:
        before: what was given to `register_worker` or `start`.
        now: likewise, later.
    """
    name = _definition_name(before)
    if before is now or name is None or name != _definition_name(now):
        return False
    if isinstance(before, ModuleType | type | FunctionType) or type(before) is not type(now):
        return True
    pairs = [(_unbound_handler(before, name), _unbound_handler(now, name)) for name in HANDLER_ARGUMENTS]
    renewed = [(one, other) for one, other in pairs if one is not other and None not in (one, other)]
    return bool(renewed) and all(
        isinstance(one, FunctionType) and _definition_name(one) == _definition_name(other) is not None
        for one, other in renewed
    )


def current_definitions(worker: object) -> list[object]:
    """Returns what a worker consists of right now, to be compared by identity: it changes where a name is bound anew.

    Of a module those are its handlers, which ``importlib.reload`` replaces; of a name in ``__main__`` what it means.
    For every other worker the list is empty.
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


def _definition_name(value: object) -> tuple[str, ...] | None:
    """Returns module and qualified name of a class or function, or of an object's class; None: they tell nothing."""
    if isinstance(value, str):
        return None
    if isinstance(value, ModuleType):
        return ("module", value.__name__)
    if isinstance(value, type | FunctionType):
        return None if LOCAL_NAME_MARK in value.__qualname__ else ("definition", value.__module__, value.__qualname__)
    owner = type(value)
    return None if LOCAL_NAME_MARK in owner.__qualname__ else ("object", owner.__module__, owner.__qualname__)


def _unbound_handler(worker: object, name: str) -> object:
    """A handler, without the object that it is bound to."""
    handler: object = getattr(worker, name, None)
    return getattr(handler, "__func__", handler)
