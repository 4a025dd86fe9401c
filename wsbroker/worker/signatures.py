"""Checks whether a handler can be called with its documented arguments, and counts how many of them it takes.

A handler takes the first n of its documented arguments, under any names; a documented name in another place would
silently be given the wrong thing, so that is an error.
"""

from collections.abc import Callable

from wsbroker.errors import ConfigError
from wsbroker.worker.base import HANDLER_ARGUMENTS


def count_arguments(name: str, handler: Callable[..., object], source: str) -> int:
    """Returns how many of its documented arguments a handler takes.

    Args:
        name: the handler's name, a key of `HANDLER_ARGUMENTS`.
        handler: the callable that was found under this name.
        source: where the handler was found, for the message.

    Raises:
        ConfigError: the handler cannot be called with the first n documented arguments, for any n.
    """
    import inspect

    documented = HANDLER_ARGUMENTS[name]
    if inspect.ismethod(handler) and inspect.isfunction(inspect.getattr_static(type(handler.__self__), name, None)):
        _check_self_parameter(name, handler.__func__, source)
    call = f"{name}({', '.join(documented)})"
    signature = _get_signature(handler)
    if signature is None:
        return len(documented)

    def make_error(problem: str) -> ConfigError:
        """Returns the ConfigError for the handler: its signature, the problem, and how it is called."""
        shown = _format_parameters(signature)
        expected = f"it is called as {call}, and may take fewer of these: the first ones"
        return ConfigError(f"{name}({shown}) in {source}: {problem}; {expected}")

    taken = required = 0
    takes_rest = False
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            if parameter.name in documented and documented.index(parameter.name) != taken:
                given = documented.index(parameter.name) + 1
                raise make_error(f"{parameter.name!r} stands in place {taken + 1} and is given in place {given}")
            taken += 1
            if parameter.default is inspect.Parameter.empty:
                required += 1
        elif parameter.kind == parameter.VAR_POSITIONAL:
            takes_rest = True
        elif parameter.kind == parameter.KEYWORD_ONLY:
            if parameter.name in documented:
                raise make_error(f"{parameter.name!r} stands behind a '*', and arguments are given by position")
            if parameter.default is inspect.Parameter.empty:
                raise make_error(f"{parameter.name!r} must be given by name, and nobody does")
    if required > len(documented):
        raise make_error(f"it needs {required} arguments and is given {len(documented)}")
    return len(documented) if takes_rest else min(taken, len(documented))


def _check_self_parameter(name: str, function: Callable[..., object], source: str) -> None:
    """Raises ConfigError if a method has no parameter for its object, such as ``def handle_socket_message(data)``.

    Judges by the first parameter's name, so a method made by a decorator is left out.

    Args:
        name: the handler's name.
        function: the function of the method.
        source: where the handler was found, for the message.
    """
    import inspect

    signature = _get_signature(function)
    if signature is None or hasattr(function, "__wrapped__"):
        return
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or (parameters[0].kind in positional and parameters[0].name in HANDLER_ARGUMENTS[name]):
        shown = _format_parameters(signature)
        expected = f"{name}({', '.join(('self', *HANDLER_ARGUMENTS[name]))})"
        raise ConfigError(
            f"{name}({shown}) in {source}: it is a method and lacks 'self'; write {expected}, or fewer of the "
            "arguments after 'self'"
        )


def _format_parameters(signature: "inspect.Signature") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Returns a signature's parameters, separated by commas and without annotations, for an error text."""
    return ", ".join(str(each.replace(annotation=each.empty)) for each in signature.parameters.values())


def _get_signature(handler: Callable[..., object]) -> "inspect.Signature | None":  # type: ignore[name-defined]  # noqa: F821
    """Returns the signature that the arguments of a handler's call must match; None if Python cannot tell.

    For a decorated function that is the wrapper's, unless the wrapper passes ``*args`` on to the function inside.
    """
    import inspect

    try:
        own = inspect.signature(handler, follow_wrapped=False)
        if any(each.kind == each.VAR_POSITIONAL for each in own.parameters.values()):
            return inspect.signature(handler)
        return own
    except ValueError:
        return None


def is_async_handler(name: str, handler: Callable[..., object], source: str) -> bool:
    """Returns whether a handler is an async function, as far as can be seen without calling the handler.

    Args:
        name: the handler's name.
        handler: the callable that was found under this name.
        source: where the handler was found, for the message.

    Raises:
        ConfigError: the handler is a generator function: a call of it runs nothing.
    """
    import functools
    import inspect

    innermost: object = handler
    while True:
        if isinstance(innermost, functools.partial):
            innermost = innermost.func
        elif inspect.ismethod(innermost):
            innermost = innermost.__func__
        elif hasattr(innermost, "__wrapped__"):
            innermost = innermost.__wrapped__
        elif inspect.isfunction(innermost) or isinstance(innermost, type):
            break
        elif inspect.isfunction(type(innermost).__dict__.get("__call__")):
            innermost = type(innermost).__dict__["__call__"]
        else:
            break
    if inspect.isgeneratorfunction(innermost) or inspect.isasyncgenfunction(innermost):
        raise ConfigError(f"{name} in {source} has a 'yield' in it, so calling it runs nothing: use def or async def")
    return inspect.iscoroutinefunction(innermost)
