"""The package logs through `GuardedLog` only: any other logging call may raise what the application has attached."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import wsbroker

PACKAGE: Final = Path(wsbroker.__file__).parent
MAY: Final = {
    "guarded_log.py": "the guard itself",
    "cli.py": "sets up logging before anything runs",
    "worker/logs.py": "is a handler of logging, and copies levels",
    "pool/log_replay.py": "hands records of workers on, guarded",
    "examples/auth.py": "an application",
}
"""Who may look up a logger, or call one of `logging`'s functions that log, and why."""
LOGGING: Final = {"getLogger", "getLoggerClass", "debug", "info", "warning", "error", "exception", "critical", "log"}


def _calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "logging":
            if node.attr in LOGGING:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}: logging.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "logging":
            for name in node.names:
                if name.name in LOGGING:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}: from logging import {name.name}"


def test_nothing_logs_past_the_guard() -> None:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if str(path.relative_to(PACKAGE)) not in MAY]
    assert [line for path in paths for line in _calls(path)] == []


def test_who_may_does() -> None:
    for name in MAY:
        assert list(_calls(PACKAGE / name)), f"{name} needs no exception"
