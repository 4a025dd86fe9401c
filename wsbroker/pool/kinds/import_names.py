"""Whether the registered handlers have a name by which another interpreter can import them."""

import sys
from types import ModuleType

MAIN_MODULE = "__main__"


def importable_name(spec: object) -> str | None:
    """Returns the name by which a new interpreter can import the same handlers; None if there is no such name.

    Args:
        spec: the argument of `register_worker`.
    """
    if isinstance(spec, str):
        return None if spec.partition(":")[0] == MAIN_MODULE else spec
    if isinstance(spec, ModuleType):
        is_importable = spec.__name__ != MAIN_MODULE and spec.__spec__ is not None
        return spec.__name__ if is_importable and sys.modules.get(spec.__name__) is spec else None
    if isinstance(spec, type):
        found: object = sys.modules.get(spec.__module__)
        if spec.__module__ == MAIN_MODULE or getattr(found, "__spec__", None) is None:
            return None
        for part in spec.__qualname__.split("."):
            found = getattr(found, part, None)
        return f"{spec.__module__}:{spec.__qualname__}" if found is spec else None
    return None


def explain_missing_name(spec: object) -> str:
    """Returns why handlers have no importable name, and what the user can do to use all cores: a text for the log."""
    owner = spec if isinstance(spec, str | type) else type(spec)
    module = owner.partition(":")[0] if isinstance(owner, str) else owner.__module__
    if isinstance(spec, ModuleType):
        module = spec.__name__
    if module == MAIN_MODULE:
        return (
            "what the main script defines exists in this interpreter only; move the handlers into a module of their "
            "own and register its name ('chat') to use all cores"
        )
    if isinstance(spec, type):
        return (
            f"{spec.__qualname__} cannot be imported from {module}; define it at the top level of a module to use all "
            "cores"
        )
    if isinstance(spec, ModuleType):
        return f"module {module} cannot be imported by its name; put it into a file to use all cores"
    return "a live object exists in this interpreter only; register its name ('pkg.mod:obj') instead to use all cores"
