"""The build hook: what it asks for, when it does not compile, and what it makes of modules that cannot be imported."""

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("hatchling", reason="only builders have hatchling")

ROOT = Path(__file__).parents[2]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def build_core(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_core", ROOT / "tools" / "build_core.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "missing_toolchain", lambda: "")
    return module


def _hook(build_core: ModuleType) -> Any:
    hook = build_core.CoreBuildHook.__new__(build_core.CoreBuildHook)
    hook._BuildHookInterface__root = str(ROOT)
    hook._BuildHookInterface__app = None
    hook.__class__ = type("Hook", (build_core.CoreBuildHook,), {"app": _Display()})
    return hook


class _Display:
    def display_warning(self, text: str) -> None:
        """Shows nothing."""


def test_a_build_that_compiles_needs_the_compiler_and_a_pure_one_nothing(
    build_core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_core.sysconfig, "get_config_var", lambda name: None)
    assert [text.split("[")[0].split(">")[0] for text in _hook(build_core).dependencies()] == [
        "mypy",
        "setuptools",
        "librt",
        "mypy_extensions",
    ]
    monkeypatch.setenv("WSBROKER_PURE", "1")
    assert _hook(build_core).dependencies() == []


@pytest.mark.parametrize(("version", "reason"), [((3, 13), "from 3.14 on"), ((3, 14), "")])
def test_free_threaded_pythons_are_compiled_for_from_3_14_on(
    build_core: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], reason: str
) -> None:
    monkeypatch.setattr(build_core.sysconfig, "get_config_var", lambda name: int(name == "Py_GIL_DISABLED"))
    monkeypatch.setattr(build_core.sys, "version_info", version)
    assert build_core.why_not_to_compile().endswith(reason)
    assert bool(build_core.why_not_to_compile()) == bool(reason)


def test_modules_that_cannot_be_imported_are_a_failed_compile(build_core: ModuleType, tmp_path: Path) -> None:
    for source in build_core.core_sources(ROOT):
        file = tmp_path / source.replace(".py", SUFFIX)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not a library")
    assert _hook(build_core)._check_import(tmp_path).startswith("what its compile made cannot be imported (")


def test_modules_that_were_not_made_are_a_failed_compile(build_core: ModuleType, tmp_path: Path) -> None:
    found = _hook(build_core)._check_import(tmp_path)
    assert found.startswith("what its compile made cannot be imported (ImportError: wsbroker.broker.")
    assert "was loaded from" in found


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("cc") is None, reason="there is no C compiler")
def test_a_compiler_that_is_there_is_found() -> None:
    spec = importlib.util.spec_from_file_location("build_core_again", ROOT / "tools" / "build_core.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "no C compiler" not in module.missing_toolchain()
