"""Tests in `unit/` have no sockets, no processes, no sleeps and no threads that wait; and they mirror the package.

What has them stands in `integration/<room>/`. The laws stand in the tables at the top; the tests walk syntax trees.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
PACKAGE: Final = TESTS.parent / "wsbroker"

FORBIDDEN_MODULES: Final = {
    *("http.client", "multiprocessing", "queue", "select", "selectors", "socketserver", "ssl"),
    *("subprocess", "urllib.request", "websockets"),
}
FORBIDDEN_NAMES: Final = {
    **dict.fromkeys(("os.fork", "os.mkfifo", "os.pipe", "os.popen", "os.spawnv", "os.system"), "a process or a pipe"),
    **dict.fromkeys(("socket.create_connection", "socket.create_server", "socket.socket"), "a socket"),
    **dict.fromkeys(("socket.fromfd", "socket.socketpair"), "a socket"),
    **dict.fromkeys(("asyncio.open_connection", "asyncio.start_server", "asyncio.start_unix_server"), "a socket"),
    **dict.fromkeys(("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"), "a process"),
    **dict.fromkeys(("asyncio.to_thread", "threading.Barrier", "threading.Condition", "threading.Event"), "a wait"),
    **dict.fromkeys(("threading.Semaphore", "threading.Timer", "time.sleep"), "a wait"),
    **dict.fromkeys(("kits.scripted_broker.ScriptedBroker", "kits.front_kit.fronting"), "a kit with sockets"),
    **dict.fromkeys((f"kits.pool_fakes.{name}" for name in ("FakeHost", "FakeWorkerEnd", "PoolKit")), "real streams"),
    "kits.pool_fakes.ScriptedHosts": "real streams",
}
"""What a unit test must not use, and what it would bring. A thread that is started and joined at once may stand."""
FORBIDDEN_KITS: Final = {
    *("contract_kit", "exact_kit", "forked_programs", "loop_thread", "pool_kit", "raw_peer", "server_process"),
    "websocket_clients",
}
SLEEPS: Final = {"anyio.sleep", "asyncio.sleep"}
"""These may stand with a literal 0 only: one turn of the loop."""
LAST_NAMES: Final = {name.rpartition(".")[2] for name in FORBIDDEN_NAMES}
"""Only what ends so is looked at more closely: most of a second of the walk."""


def _full_names(tree: ast.AST) -> dict[str, str]:
    """Returns the dotted name of everything that a file imports, by its name in that file."""
    names: dict[str, str | None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name.partition(".")[0]: each.asname and each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return {name: full or name for name, full in names.items()}


def _imported_modules(node: ast.AST) -> list[str]:
    """Returns the modules that an import statement loads or may load."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [str(node.module), *(f"{node.module}.{name.name}" for name in node.names)]
    return []


def _last_name(node: ast.AST) -> str:
    """Returns `c` of `a.b.c` and of `c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _find_offences(source: str) -> Iterator[str]:
    """Yields what a unit test must not have, as "line: name"."""
    tree = ast.parse(source)
    names = _full_names(tree)

    def full_name(node: ast.AST) -> str:
        first, _, rest = ast.unparse(node).partition(".")
        return ".".join(filter(None, (names.get(first, first), rest)))

    forbidden = FORBIDDEN_MODULES | {f"kits.{kit}" for kit in FORBIDDEN_KITS}
    sleeps = {name for name, full in names.items() if full in SLEEPS}
    for node in ast.walk(tree):
        for module in _imported_modules(node):
            if module in forbidden or module in FORBIDDEN_NAMES:
                yield f"{node.lineno}: {module}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Attribute) and node.attr in LAST_NAMES and full_name(node) in FORBIDDEN_NAMES:
            yield f"{node.lineno}: {full_name(node)}"
        if (
            isinstance(node, ast.Call)
            and _last_name(node.func) in {"sleep", *sleeps}
            and full_name(node.func) in SLEEPS
        ):
            if [ast.unparse(argument) for argument in node.args] != ["0"]:
                yield f"{node.lineno}: {ast.unparse(node)}"


def test_unit_tests_have_no_sockets_processes_sleeps_or_waiting_threads() -> None:
    offences = [
        f"{path.relative_to(TESTS)}:{offence}"
        for path in sorted((TESTS / "unit").rglob("*.py"))
        for offence in _find_offences(path.read_text(encoding="utf-8"))
    ]
    assert offences == [], "move the test to tests/integration/<room>/"


def test_the_law_sees_what_breaks_it() -> None:
    source = """
import ssl, asyncio, socket, threading, time as clock
from asyncio import sleep
from kits.pool_fakes import FakeCore, PoolKit
from kits import pool_kit
def test() -> None:
    import subprocess
    clock.sleep(1)
    threading.Event().wait()
    raise socket.gaierror
    threading.Thread(target=print).start()
async def turns() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0.5)
    await sleep(delay)
"""
    assert sorted(_find_offences(source)) == [
        "14: asyncio.sleep(0.5)",
        "15: sleep(delay)",
        "2: ssl",
        "4: kits.pool_fakes.PoolKit",
        "5: kits.pool_kit",
        "7: subprocess",
        "8: time.sleep",
        "9: threading.Event",
    ]
