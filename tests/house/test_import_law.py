"""Who may import whom. The law stands in the tables at the top; the tests walk every module's syntax tree."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import wsbroker

PACKAGE: Final = Path(wsbroker.__file__).parent

LAW: Final[dict[str, set[str]]] = {
    "types": set(),
    "errors": set(),
    "guarded_log": set(),
    "process_exit": {"errors"},
    "build": {"errors"},
    "http": {"types", "errors"},
    "wire": {"types", "errors"},
    "worker": {"http", "wire", "types", "errors", "guarded_log", "process_exit"},
    "wsbroker": {"worker", "http", "types", "errors", "build", "server", "settings"},
    "websocket": {"types", "errors"},
    "broker": {"websocket", "wire", "types", "errors"},
    "connections": {"broker", "websocket", "wire", "types", "errors"},
    "settings": {"types", "errors"},
    "front": {"websocket", "http", "settings", "types", "errors", "guarded_log"},
    "pool": {"worker", "wire", "http", "settings", "types", "errors", "guarded_log", "process_exit"},
    "server": {
        *("front", "pool", "connections", "broker", "worker", "wire", "http", "settings"),
        *("types", "errors", "guarded_log", "process_exit"),
    },
    "bench": {"websocket", "settings", "errors"},
    "cli": {"server", "settings", "bench", "build", "types", "errors", "guarded_log", "process_exit"},
    "__main__": {"cli"},
    "testing": {"wsbroker", "worker", "http", "wire", "types"},
    "apps": {"wsbroker"},
    "examples": {"wsbroker"},
}
"""Room or top-level file -> what it may import beside itself, wherever the import stands.

``wsbroker`` is the package's `__init__`, the public API.
"""

LAZILY: Final[dict[str, set[str]]] = {"wsbroker": {"build", "server", "settings"}, "cli": {"bench", "build"}}
"""What may be imported inside a function only, so that loading the room stays cheap."""

LIGHT: Final = {"wsbroker", "types", "errors", "guarded_log", "process_exit", "build", "http", "wire", "worker"}
"""What every interpreter loads."""

SANS_IO: Final = {"websocket", "broker"}
OUTSIDE_WORLD: Final = {
    *("aiohttp", "anyio", "asyncio", "concurrent", "datetime", "logging", "multiprocessing", "os", "select"),
    *("selectors", "signal", "socket", "ssl", "subprocess", "threading", "time", "uvloop", "winloop"),
}
"""What a sans-I/O room must not know: time comes in as an argument, facts go out as values."""

HEAVY: Final = {"asyncio", "anyio", "aiohttp", "uvloop", "winloop", "dataclasses", "inspect", "librt"}
"""What must not be loaded with what every interpreter loads; beside the compiled core."""


class Import(NamedTuple):
    where: str
    room: str
    target: str
    is_deferred: bool


def _room(module: str) -> str:
    """`wsbroker.broker.channel` -> `broker`; the package itself and what is not ours keep their first name."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "wsbroker" and rest else first


def _imports_of(path: Path, root: Path) -> Iterator[Import]:
    module = ".".join(("wsbroker", *path.relative_to(root).with_suffix("").parts))
    package = module.rpartition(".")[0]
    module = module.removesuffix(".__init__")

    def walk(node: ast.AST, is_deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for target in _targets(child, package):
                yield Import(f"{path.relative_to(root)}:{child.lineno}", _room(module), target, is_deferred)  # type: ignore[attr-defined]
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                # `if not TYPE_CHECKING` runs; `if TYPE_CHECKING` does not, its `else` does.
                runs = ast.unparse(child.test).startswith("not ")
                for part, deferred in ((child.body, not runs), (child.orelse, runs)):
                    yield from walk(ast.Module(part, []), is_deferred or deferred)
            else:
                yield from walk(child, is_deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def _targets(node: ast.AST, package: str) -> list[str]:
    """The modules that an import statement loads, by their absolute names."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = package.rsplit(".", node.level - 1)[0] if node.level else ""
    source = ".".join(filter(None, (base, node.module)))
    if source == "wsbroker":
        modules = {path.stem for path in PACKAGE.iterdir()}
        return [f"wsbroker.{name.name}" if name.name in modules else "wsbroker" for name in node.names]
    return [source]


def _broken(root: Path = PACKAGE) -> list[str]:
    """Every import that breaks the law, as lines for a person."""
    lines = []
    for path in sorted(root.rglob("*.py")):
        for found in _imports_of(path, root):
            room, target = found.room, _room(found.target)
            is_ours = found.target.split(".")[0] == "wsbroker"
            if is_ours and target != room and target not in LAW.get(room, set()):
                lines.append(f"{found.where}: {room} may import {sorted(LAW.get(room, set()))}, not {found.target}")
            if is_ours and not found.is_deferred and target in LAZILY.get(room, ()):
                lines.append(f"{found.where}: {room} may load {found.target} inside a function only")
            if not is_ours and room in SANS_IO and target in OUTSIDE_WORLD:
                lines.append(f"{found.where}: {room} is sans-I/O and must not know {found.target}")
            if not is_ours and not found.is_deferred and room in LIGHT and target in HEAVY:
                lines.append(f"{found.where}: {room} must not load {found.target}")
    return lines


def test_every_module_keeps_the_import_law() -> None:
    assert _broken() == []


def test_the_law_names_every_room_and_no_other() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(LAW) == rooms - {"__init__"} | {"wsbroker"}


def test_the_law_sees_what_breaks_it(tmp_path: Path) -> None:
    files = {
        "types.py": "from wsbroker.errors import ConfigError",
        "websocket/frames.py": "def f() -> None:\n    import time",
        "broker/broker.py": "from ..pool import x",
        "worker/loader.py": "import inspect\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio",
        "worker/port.py": "def f() -> None:\n    import inspect",
        "pool/pool.py": "if True:\n    from wsbroker.connections import connection",
        "wire/__init__.py": "from wsbroker import cli",
        "cli.py": "from wsbroker.bench import command\ndef f() -> None:\n    import wsbroker.bench",
        "apps/pubsub.py": "import wsbroker\nfrom wsbroker.broker.broker import Broker",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [line.split(": ")[0] for line in _broken(tmp_path)] == [
        "apps/pubsub.py:2",
        "broker/broker.py:1",
        "cli.py:1",
        "pool/pool.py:2",
        "types.py:1",
        "websocket/frames.py:2",
        "wire/__init__.py:1",
        "worker/loader.py:1",
    ]


def test_what_every_interpreter_loads_is_light() -> None:
    """Each module of the light rooms, with all that it imports in turn, in a fresh interpreter."""
    light = ["wsbroker", *(f"wsbroker.{name}" for name in LIGHT - {"wsbroker"})]
    for room in ("http", "wire", "worker"):
        light += [f"wsbroker.{room}.{path.stem}" for path in (PACKAGE / room).glob("*.py") if path.stem[0] != "_"]
    program = (
        # Workers log, and what the standard library's `logging` loads is its own affair (3.14: `dataclasses`).
        "import importlib, logging, sys\nbefore = set(sys.modules)\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert set(light) <= set(loaded)
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []
    assert [
        name for name in loaded if _room(name) in ("websocket", "broker", "connections", "server", "_core__mypyc")
    ] == []
