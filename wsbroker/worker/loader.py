"""Finds an application's handlers: imports its module, class or object; explains failed imports, misspelled names.

Everything that can be wrong with handlers is found here, before the server's port opens, and said in one sentence.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from wsbroker.errors import ConfigError
from wsbroker.guarded_log import GuardedLog, format_error, format_type_name
from wsbroker.worker.base import HANDLER_ARGUMENTS, is_absent
from wsbroker.worker.signatures import count_arguments, is_async_handler

if TYPE_CHECKING:
    from types import ModuleType

logger = GuardedLog(__name__)

Handler = Callable[..., object]
"""A function or method of the application that the broker calls."""

_REFUSAL_TEXTS: Final = (
    "does not support loading in subinterpreters",
    "do not yet support subinterpreters",
    "can only be loaded into one interpreter per process",
)
"""Words in the ImportErrors of extension modules that refuse a subinterpreter: CPython's check, PyO3's, Cython's."""

_MISSPELLING_RATIO: Final = 0.72
"""The difflib ratio from which a name counts as a misspelling of another: "handle_message" passes."""


class Handlers:
    """The handlers of an application, each callable with all its documented arguments; None: there is no such handler.

    Args:
        handlers: the handlers by name, as the application wrote them.
        source: the module or object that has them, for messages.

    Raises:
        ConfigError: a handler cannot be called as documented.
    """

    __slots__ = (
        "close",
        "http",
        "is_async",
        "message",
        "message_arity",
        "raw_message_handler",
        "names",
        "open",
        "source",
        "worker_start",
        "worker_stop",
    )

    def __init__(self, handlers: dict[str, Handler], source: str) -> None:
        arities = {name: count_arguments(name, handler, source) for name, handler in handlers.items()}
        asyncs = [name for name, handler in handlers.items() if is_async_handler(name, handler, source)]
        self.source = source
        """The module or object that has the handlers: ``"app:Chat"``."""
        self.names: tuple[str, ...] = tuple(name for name in HANDLER_ARGUMENTS if name in handlers)
        """The names of the handlers that the application has."""
        self.is_async: bool = bool(asyncs)
        """Whether a handler is an async function. A plain function may still return something to await."""
        self.raw_message_handler: Handler | None = handlers.get("handle_socket_message")
        """The message handler itself, to be called with the first `message_arity` of (data, socket_id, token)."""
        self.message_arity: int = arities.get("handle_socket_message", 0)
        """How many of its arguments the message handler takes: 0 to 3."""

        def adapt_handler(name: str) -> Handler | None:
            """Returns the handler of this name, wrapped to ignore arguments it does not take; None: there is none."""
            handler = handlers.get(name)
            return (
                None if handler is None else _drop_extra_arguments(handler, arities[name], len(HANDLER_ARGUMENTS[name]))
            )

        self.worker_start = adapt_handler("handle_worker_start")
        """``(arg)``"""
        self.worker_stop = adapt_handler("handle_worker_stop")
        """``()``"""
        self.open = adapt_handler("handle_socket_open")
        """``(request, socket_id)``"""
        self.message = adapt_handler("handle_socket_message")
        """``(data, socket_id, token)``"""
        self.close = adapt_handler("handle_socket_close")
        """``(socket_id, token, code, reason)``"""
        self.http = adapt_handler("handle_http_request")
        """``(request)``"""


def _drop_extra_arguments(handler: Handler, arity: int, given_count: int) -> Handler:
    """Returns a callable that takes `given_count` arguments and passes the first `arity` of them to the handler."""
    if arity == given_count:
        return handler
    return lambda *args: handler(*args[:arity])


def load_handlers(spec: object) -> Handlers:
    """Finds the handlers of an application; imports its module and instantiates its class where needed.

    Args:
        spec: ``"pkg.mod"``, ``"pkg.mod:obj"``, a module, a class (it is instantiated here) or any object.

    Raises:
        ConfigError: the application cannot be imported, has no handlers, or has a handler that cannot be called; the
            message says what was found and what to do. What the application itself raised is the ``__cause__``.
    """
    target, source = _resolve_spec(spec)
    if isinstance(target, type):
        target = _instantiate_worker(target, source)
    handlers: dict[str, Handler] = {}
    for name in HANDLER_ARGUMENTS:
        handler = getattr(target, name, None)
        if handler is None or is_absent(handler):
            continue
        if not callable(handler):
            kind = _type_with_article(handler)
            raise ConfigError(f"{name} in {source} is no function but {kind}: make it a def or async def")
        handlers[name] = handler
    misspelled = _find_misspelled(target, handlers)
    if not handlers:
        raise ConfigError(_no_handlers_text(target, source, misspelled))
    for name, meant in misspelled.items():
        text = "handler is never called, its name is unknown name=%s in=%s meant=%s"
        logger.warning(text, name, source, meant)
    return Handlers(handlers, source)


def _resolve_spec(spec: object) -> tuple[object, str]:
    """Returns the module, class or object that was registered, imported if named by text, and its name for messages.

    Args:
        spec: the argument of `register_worker`, as for `load_handlers`.

    Returns:
        the module, class or object, and its name for messages.

    Raises:
        ConfigError: the text is no name, or what it names cannot be imported or found.
    """
    if isinstance(spec, str):
        module_name, colon, path = spec.partition(":")
        is_no_name = not module_name or module_name.startswith(".") or module_name.endswith(".py") or "/" in module_name
        if is_no_name or (colon and not path):
            raise ConfigError(f"not a worker: {spec!r}; give 'package.module' or 'package.module:object'")
        target: object = _import_module(module_name)
        resolved_name = module_name
        for name in path.split(".") if path else ():
            target = _get_attribute(target, name, resolved_name, spec)
            resolved_name += ("." if ":" in resolved_name else ":") + name
        return target, spec
    if isinstance(spec, type):
        return spec, f"{spec.__module__}:{spec.__qualname__}"
    own_name = getattr(spec, "__name__", None)
    if isinstance(own_name, str):
        return spec, own_name
    return spec, f"{type(spec).__module__}:{type(spec).__qualname__} (a live object)"


def _get_attribute(target: object, name: str, resolved_name: str, spec: str) -> object:
    """Returns the attribute of an object that the text of a worker, such as ``"app:Chat"``, names behind the colon.

    Args:
        target: the object.
        name: the attribute's name.
        resolved_name: the part of the text that names `target`, for the message.
        spec: the whole text, for the message.

    Raises:
        ConfigError: there is no such attribute; the message has the nearest names.
    """
    missing = object()
    value = getattr(target, name, missing)
    if value is not missing:
        return value
    from difflib import get_close_matches

    names = [each for each in dir(target) if not each.startswith("_")]
    near = get_close_matches(name, names, 3, 0.6)
    advice = (
        f"did you mean {_join_with_or(near)}?"
        if near
        else f"it has {_join_with_commas(names[:12]) or 'nothing public'}"
    )
    raise ConfigError(f"{resolved_name} has no {name!r} (worker {spec!r}): {advice}")


def _instantiate_worker(cls: type, source: str) -> object:
    """Returns an instance of the application's class, made without arguments.

    Args:
        cls: the class.
        source: its name, for the error.

    Raises:
        ConfigError: the class raised.
    """
    try:
        return cls()
    except Exception as error:
        raise ConfigError(
            f"{source} cannot be instantiated: {format_error(error)} "
            "(a worker class is called without arguments, in each worker; give an object to share one)"
        ) from error


def _find_misspelled(target: object, handlers: dict[str, Handler]) -> dict[str, str]:
    """Returns the names in an application that look like misspelled handlers, each with the handler's name meant.

    Args:
        target: the application's module or object.
        handlers: the handlers that were found in it by their right names.
    """
    from difflib import get_close_matches

    missing = [name for name in HANDLER_ARGUMENTS if name not in handlers]
    misspelled: dict[str, str] = {}
    for name in dir(target):
        if name.startswith("handle") and name not in HANDLER_ARGUMENTS:
            near = get_close_matches(name, missing, 1, _MISSPELLING_RATIO)
            if near and callable(getattr(target, name, None)):
                misspelled[name] = near[0]
    return misspelled


def _no_handlers_text(target: object, source: str, misspelled: dict[str, str]) -> str:
    """Returns the text of the ConfigError for an application without handlers: what was found, what is expected.

    Args:
        target: the application's module or object.
        source: its name.
        misspelled: from `_find_misspelled`.
    """
    from types import BuiltinFunctionType, FunctionType, MethodType

    if isinstance(target, FunctionType | MethodType | BuiltinFunctionType):
        owner = source.rpartition(".")[0] if "." in source.partition(":")[2] else getattr(target, "__module__", None)
        found = f"it is one function; name the module or object that has it: {owner!r}"
    elif misspelled:
        found = f"found {_join_with_commas([f'{name} (did you mean {meant}?)' for name, meant in misspelled.items()])}"
    else:
        names = [name for name in dir(target) if not name.startswith("_") and _is_own_function(target, name)]
        found = (
            f"found {_join_with_commas(names[:12])}"
            if names
            else f"it is {_type_with_article(target)} without functions"
        )
    return f"no handlers in {source}: {found}; expected at least one of {_join_with_commas(list(HANDLER_ARGUMENTS))}"


def _is_own_function(target: object, name: str) -> bool:
    """Returns whether an attribute of the application is a function that its module defines, not an imported one."""
    value = getattr(target, name, None)
    owner = getattr(target, "__name__", None) or type(target).__module__
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == owner


# Importing. -----------------------------------------------------------------------------------------------------------


def _import_module(name: str) -> "ModuleType":
    """Imports and returns the application's module.

    Raises:
        ConfigError: there is no such module, or its import raised.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            folders = _join_with_commas(_searched_places(error.name))
            raise ConfigError(
                f"cannot import {name!r}: there is no module named {error.name!r}; looked in {folders}"
            ) from error
        raise ConfigError(_import_failed_text(name, error)) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_import_failed_text(name, error)) from error


def _searched_places(missing: str) -> list[str]:
    """Returns where Python has looked for a missing module, for an error text: a package, or folders of `sys.path`.

    The interpreter's own folders are left out.
    """
    import sys

    parent = missing.rpartition(".")[0]
    if parent:
        return [f"package {parent!r}"]
    own = (sys.prefix, sys.base_prefix)
    return [repr(folder or ".") for folder in sys.path if not folder.startswith(own)] or ["the standard places"]


def _import_failed_text(name: str, error: BaseException) -> str:
    """Returns the text of the ConfigError for an import that raised: the error and the chain of imports."""
    chain = " → ".join(_import_chain(error))
    refusal = find_subinterpreter_refusal(error)
    if refusal:
        origin = f" (imported by {chain})" if chain else ""
        return f"cannot import {name!r}: {refusal}{origin}"
    origin = f" (imported by {chain}{_innermost_app_line(error)})" if chain else ""
    return f"cannot import {name!r}: {format_error(error)}{origin}{_package_advice(name, error)}"


def _package_advice(name: str, error: BaseException) -> str:
    """Returns the advice to name a module with its package, if its relative import failed without that; or ""."""
    import os

    if "no known parent package" not in str(error) or "." in name:
        return ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == name:
            package = os.path.basename(os.path.dirname(trace.tb_frame.f_code.co_filename))
            return (
                f"; relative imports need the package: write {package}.{name}, in the folder above" if package else ""
            )
        trace = trace.tb_next
    return ""


def find_subinterpreter_refusal(error: BaseException | None) -> str:
    """Returns the refusal of an extension module to be loaded in a subinterpreter; "" if that was not the cause.

    A package may have raised a wordy error of its own because of it (numpy does), so the innermost refusal is returned.
    """
    refusal = ""
    while error is not None:
        if isinstance(error, ImportError):
            text = format_error(error).removeprefix(f"{format_type_name(error)}: ")
            if is_subinterpreter_refusal(text):
                refusal = text
        error = error.__cause__ or error.__context__
    return refusal


def is_subinterpreter_refusal(text: str) -> bool:
    """Returns whether an error's text is the refusal of an extension module to be loaded in a subinterpreter."""
    return any(words in text for words in _REFUSAL_TEXTS)


def _innermost_app_line(error: BaseException) -> str:
    """Returns ``", at app.py line 12"``: the innermost line of the application in an error's traceback, or ""."""
    import os

    library = os.path.dirname(os.__file__)
    position = ""
    trace = error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        is_ours = trace.tb_frame.f_globals.get("__package__") == __package__
        is_installed = path.startswith((library, "<")) or "-packages" in path
        if not is_ours and not is_installed:
            position = f", at {os.path.basename(path)} line {trace.tb_lineno}"
        trace = trace.tb_next
    return position


def _import_chain(error: BaseException) -> list[str]:
    """Returns the names of the modules that were being imported when an import failed, the outermost first."""
    chain: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "<module>":
            chain.append(str(frame.f_globals.get("__name__", "?")))
        trace = trace.tb_next
    return chain


# Words. ---------------------------------------------------------------------------------------------------------------


def _type_with_article(value: object) -> str:
    """Returns the name of a value's type with its article: ``"an int"``."""
    name = format_type_name(value)
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def _join_with_commas(words: list[str]) -> str:
    """Returns the words as one text, separated by commas and spaces."""
    return ", ".join(words)


def _join_with_or(words: list[str]) -> str:
    """Returns the words as one text, each in quotes, separated by "or"."""
    return " or ".join(repr(word) for word in words)
