"""Each call of the API is spelled in the core and four files, so that a new call is made there and nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import wsbroker
from wsbroker.wire import commands
from wsbroker.worker.api import BrokerApi

PACKAGE: Final = Path(wsbroker.__file__).parent

SPELLED_IN: Final = {
    "wire/commands.py",  # the constant and its tuple
    "worker/api.py",  # `BrokerApi`: the typed method
    "__init__.py",  # the function that an application calls
    "testing.py",  # `TestBroker`
}

COMMANDS: Final = "wsbroker.wire.commands"

CORE: Final = "broker/"
"""The room in which the core's dispatch and its effects are spelled."""

FAST_PATHS: Final = {
    "worker/wire_api.py": {"SEND", "PUBLISH", "SET_TOKEN", "CLOSE"},
    "pool/local_api.py": {"SEND", "PUBLISH", "SET_TOKEN"},
}
"""The only other files that name a call's constant, and which: the two calls that are made per message; a token, whose
cache and size are the worker's and the queue's business; a close, after which a worker handles no further message."""

PRIMITIVES: Final = {"send_command", "ask_core"}
FAST_METHODS: Final = {"send", "send_to_channel"}

CALLS: Final = {
    name
    for name, value in vars(commands).items()
    if name.isupper()
    and type(value) is int
    and (value in commands.ONE_WAY_METHODS or value in commands.QUESTION_METHODS)
}
"""The names of the constants of all calls."""

API_ONLY_NAMES: Final = {
    *("copy_subscriptions", "send_to_channel", "set_token", "subscribe_nowait", "subscriber_count", "subscribers"),
    *("queued_bytes", "unsubscribe", "unsubscribe_nowait"),
}
"""Methods whose names mean a call of the API wherever a function of that name is defined. The others (`send`, `close`,
`subscribe`, `channels`, `is_open`, `subscriptions`) are also what clients, sockets and dialects have."""


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Every product file but applications and benchmarks, by its path within the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.partition("/")[0] not in ("apps", "bench", "examples"):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def _constants_named(tree: ast.Module) -> set[str]:
    """The names that a module imports from `wire.commands`, or reads from it under whatever name it has imported it."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            imported.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    paths = set(imported.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            paths.add(imported.get(first, first) + dot + rest)
    return {path.removeprefix(f"{COMMANDS}.") for path in paths if path.startswith(f"{COMMANDS}.")}


def _classes_of(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Each class with the names of the methods that its body defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, {each.name for each in node.body if isinstance(each, ast.FunctionDef)}


def _functions_of(tree: ast.Module) -> set[str]:
    """The names of all functions and methods that a module defines."""
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _is_elsewhere(name: str) -> bool:
    """Returns whether a file is none of those in which a call is spelled."""
    return name not in SPELLED_IN and not name.startswith(CORE)


def test_a_constant_is_seen_under_each_name_that_its_module_may_be_imported_by() -> None:
    for text in (
        "from wsbroker.wire import commands\ncommands.SEND",
        "from wsbroker.wire import commands as c\nc.SEND",
        "import wsbroker.wire.commands\nwsbroker.wire.commands.SEND",
        "import wsbroker.wire.commands as c\nc.SEND",
        "from wsbroker.wire.commands import SEND",
        "from wsbroker.wire.commands import SEND as S",
        "from wsbroker import wire as w\nw.commands.SEND",
        "import wsbroker.wire as w\nw.commands.SEND",
        "def f():\n    from wsbroker import wire\n    return wire.commands.SEND",
    ):
        assert "SEND" in _constants_named(ast.parse(text)), text


def test_a_calls_constant_is_named_where_it_is_spelled_and_nowhere_else() -> None:
    assert len(CALLS) == 13, CALLS
    for name, tree in _modules():
        if _is_elsewhere(name):
            assert _constants_named(tree) & CALLS == FAST_PATHS.get(name, set()), name


def test_a_calls_method_is_defined_where_it_is_spelled_and_nowhere_else() -> None:
    for name, tree in _modules():
        if _is_elsewhere(name) and name not in FAST_PATHS:
            extra = _functions_of(tree) & API_ONLY_NAMES
            assert not extra, f"{name} spells {extra}"


def test_an_implementation_overrides_the_primitives_and_the_two_calls_made_per_message() -> None:
    api_methods = {name for name in vars(BrokerApi) if not name.startswith("_")}
    implementations = []
    for name, tree in _modules():
        for class_name, methods in _classes_of(tree):
            if name in FAST_PATHS and class_name.endswith("Api"):
                assert methods & api_methods == PRIMITIVES | FAST_METHODS, class_name
                implementations.append(class_name)
    assert sorted(implementations) == ["LocalApi", "WireApi"], "the test has not met the classes that it is about"


def test_every_call_has_its_method_in_all_places_that_have_one() -> None:
    methods = {*commands.ONE_WAY_METHODS.values(), *commands.QUESTION_METHODS.values()}
    assert methods == {name for name in vars(BrokerApi) if not name.startswith("_")} - PRIMITIVES
    core_functions: set[str] = set()
    core_constants: set[str] = set()
    for name, tree in _modules():
        if name in ("__init__.py", "testing.py"):
            assert methods <= _functions_of(tree), name
        if name.startswith(CORE):
            core_functions |= _functions_of(tree)
            core_constants |= _constants_named(tree)
    assert methods - {"send_to_channel"} | {"publish"} <= core_functions
    assert CALLS <= core_constants


def test_no_call_is_found_by_a_name_in_a_text() -> None:
    """Names in strings would be spellings that the tests above do not see."""
    for name, tree in _modules():
        if _is_elsewhere(name):
            texts = {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str
            }
            assert not {text for text in texts if re.fullmatch("|".join(API_ONLY_NAMES), text)}, name
