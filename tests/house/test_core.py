"""The core is compiled as a whole or not at all, and what is compiled is native."""

import ast
import importlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import wsbroker
from wsbroker.build import COMPILED_PACKAGES, core_kind, core_modules, why_interpreted
from wsbroker.errors import WSBrokerError

PACKAGE = Path(wsbroker.__file__).parent


def test_every_module_of_the_core_is_loaded_from_the_kind_of_file_that_the_build_says() -> None:
    suffixes = tuple(EXTENSION_SUFFIXES) if core_kind() == "compiled" else (".py",)
    files = {name: importlib.import_module(name).__file__ or "" for name in core_modules()}
    assert {name: file for name, file in files.items() if not file.endswith(suffixes)} == {}


def test_every_source_of_the_core_is_a_module_of_the_core() -> None:
    sources = {
        f"{package}.{path.stem}"
        for package in COMPILED_PACKAGES
        for path in (PACKAGE / package.removeprefix("wsbroker.")).glob("*.py")
        if path.name != "__init__.py"
    }
    assert sources == set(core_modules())
    assert all(package.split(".")[1] in {name.split(".")[1] for name in sources} for package in COMPILED_PACKAGES)


def test_the_compiled_packages_have_no_packages_inside_and_no_code_in_their_init() -> None:
    for package in COMPILED_PACKAGES:
        folder = PACKAGE / package.removeprefix("wsbroker.")
        assert [path.parent for path in folder.rglob("*.py") if path.parent != folder] == []
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert [ast.unparse(node) for node in body[1:]] == [], f"{package} has an __init__ with code"


def test_classes_of_the_compiled_core_are_native_and_have_no_dict() -> None:
    if core_kind() == "interpreted":
        pytest.skip("native classes exist only in a compiled core")
    modules = [importlib.import_module(name) for name in core_modules()]
    classes = {
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and not issubclass(found, BaseException)
    }
    assert {found.__qualname__ for found in classes if found.__dictoffset__ != 0} == set()
    assert {found.__qualname__ for found in classes if not hasattr(found, "__mypyc_attrs__")} == set()


def test_a_half_compiled_core_is_called_a_stale_build(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"wsbroker.broker.broker": f"broker{EXTENSION_SUFFIXES[0]}", "wsbroker.broker.channel": "channel.py"}
    monkeypatch.setattr("wsbroker.build.core_modules", lambda: files)
    with pytest.raises(WSBrokerError, match=r"a stale build: 1 of the 2 modules of the core are compiled"):
        core_kind()


def test_only_an_interpreted_build_has_a_reason_for_it() -> None:
    if core_kind() == "compiled":
        assert why_interpreted() == ""
