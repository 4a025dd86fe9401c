"""Whether `sys.executable` can run a worker, judged by the attributes that frozen and embedded programs set."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsbroker.errors import ConfigError
from wsbroker.pool.kinds.choice import choose_kind, inspect_platform
from wsbroker.pool.kinds.executable import (
    PARENT_VARIABLE,
    find_interpreter_obstacle,
    find_process_obstacle,
    is_frozen,
    is_program_copy,
)
from wsbroker.server.reload import check_reload_available
from wsbroker.settings.config import Config


@pytest.fixture(params=["sys.frozen", "__compiled__"])
def frozen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes that PyInstaller and cx_Freeze set, and those of Nuitka."""
    if request.param == "sys.frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        main = SimpleNamespace(__compiled__=SimpleNamespace(standalone=True))
        monkeypatch.setitem(sys.modules, "__main__", main)


def test_a_frozen_program_has_no_worker_processes(frozen: None) -> None:
    assert is_frozen()
    text = (
        "this program is frozen (PyInstaller, Nuitka, cx_Freeze), and a worker process would start all of it once more"
    )
    assert find_process_obstacle() == text
    with pytest.raises(ConfigError) as caught:
        choose_kind(Config(worker_kind="process"), "pkg.mod", inspect_platform())
    assert str(caught.value) == f"worker kind 'process' cannot run here: {text}; or use worker kind 'thread'"
    with pytest.raises(ConfigError, match="^--reload is for code in files: this program is frozen "):
        check_reload_available()


def test_a_frozen_program_has_interpreters_if_its_modules_are_on_the_path(
    frozen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_interpreter_obstacle() == ""
    for spec in (None, SimpleNamespace(loader=object())):
        monkeypatch.setattr(PathFinder, "find_spec", lambda *_, found=spec: found)
        assert find_interpreter_obstacle().endswith("its modules can be imported in the main interpreter only")
    host = inspect_platform()
    monkeypatch.undo()
    if not host.is_free_threaded:
        choice = choose_kind(Config(workers=2), "pkg.mod", host)
        assert (choice.kind, choice.worker_count, choice.fallback_kind) == ("thread", 2, None)


def test_what_nuitka_has_compiled_without_its_python_is_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    main = SimpleNamespace(__compiled__=SimpleNamespace(standalone=False))
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert not is_frozen() and find_process_obstacle() == ""


@pytest.mark.parametrize("python", [None, ""])
def test_a_program_may_not_know_its_python(python: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", python)
    assert find_process_obstacle() == (
        f"this program does not know its Python interpreter (sys.executable is {python!r}); "
        "set sys.executable to a Python interpreter before the start"
    )
    with pytest.raises(ConfigError, match="^--reload restarts the program by its Python interpreter"):
        check_reload_available()


def test_an_embedding_program_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "uwsgi"
    monkeypatch.setattr(sys, "executable", str(server))
    assert find_process_obstacle().startswith(
        f"there is no program {str(server)!r} (sys.executable); set sys.executable"
    )
    server.write_text("#!/bin/sh\n")
    server.chmod(0o700)
    assert find_process_obstacle().startswith(
        f"{str(server)!r} (sys.executable) does not look like a Python interpreter; "
    )


def test_a_python_may_be_called_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "shop"))
    assert find_process_obstacle() == ""


def test_a_copy_knows_itself_by_its_parent() -> None:
    assert is_program_copy({PARENT_VARIABLE: str(os.getppid())})
    assert not is_program_copy({PARENT_VARIABLE: str(os.getpid())})  # of a worker's child, long after
    assert not is_program_copy({})
