"""Decides between a new definition of the same worker and another worker."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from wsbroker.server.redefinition import current_definitions, is_redefined

CELL = """
class Chat:
    def handle_socket_message(self, data): pass
class Other(Chat): pass
class Outer:
    class Inner(Chat): pass
def handle(data): pass
def another(data): pass
def make():
    class Local(Chat): pass
    return Local
nothing = lambda data: None
"""


def cell() -> SimpleNamespace:
    """Runs the code of a notebook's cell and returns what it defines."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(CELL, names)
    return SimpleNamespace(**names)


SAME: dict[str, Callable[[SimpleNamespace], object]] = {
    "class": lambda cell: cell.Chat,
    "nested class": lambda cell: cell.Outer.Inner,
    "function": lambda cell: cell.handle,
    "object": lambda cell: cell.Chat(),
    "namespace": lambda cell: SimpleNamespace(handle_socket_message=cell.handle),
    "two handlers": lambda cell: SimpleNamespace(handle_socket_message=cell.handle, handle_http_request=cell.another),
}


@pytest.mark.parametrize("name", SAME)
def test_what_a_cell_defines_is_defined_anew_when_it_is_run_again(name: str) -> None:
    made = SAME[name]
    assert is_redefined(made(cell()), made(cell()))


def test_one_and_the_same_is_not_defined_anew() -> None:
    run = cell()
    chat = run.Chat()
    for worker in (run.Chat, run.handle, chat, sys, "app"):
        assert not is_redefined(worker, worker)


def test_another_worker_is_another_worker() -> None:
    one, two = cell(), cell()
    pairs: list[tuple[object, object]] = [
        (one.Chat, two.Other),
        (one.Chat, two.Chat()),
        (one.Chat(), one.Chat()),
        (one.make(), two.make()),
        (one.make()(), two.make()()),
        (one.handle, two.another),
        ("app", "app2"),
        ("app", two.Chat),
        (sys, importlib),
        (SimpleNamespace(handle_socket_message=one.handle), SimpleNamespace(handle_socket_message=two.another)),
        (SimpleNamespace(handle_socket_message=one.handle), SimpleNamespace(handle_socket_message=one.handle)),
        (SimpleNamespace(handle_socket_message=one.nothing), SimpleNamespace(handle_socket_message=two.nothing)),
        (SimpleNamespace(handle_socket_message=one.handle), SimpleNamespace(handle_http_request=two.handle)),
    ]
    for before, now in pairs:
        assert not is_redefined(before, now), (before, now)


def test_a_handler_more_is_part_of_the_new_definition() -> None:
    one, two = cell(), cell()
    before = SimpleNamespace(handle_socket_message=one.handle)
    assert is_redefined(before, SimpleNamespace(handle_socket_message=two.handle, handle_http_request=two.another))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that can be imported and reloaded."""
    (tmp_path / "redefined_app.py").write_text("def handle_socket_message(data): pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("redefined_app")
    sys.modules.pop("redefined_app", None)


def test_a_module_that_is_imported_anew_is_defined_anew(module: ModuleType) -> None:
    del sys.modules["redefined_app"]
    assert is_redefined(module, importlib.import_module("redefined_app"))


def test_a_module_that_is_reloaded_consists_of_other_parts(module: ModuleType) -> None:
    before = current_definitions(module)
    assert before == current_definitions(module)
    importlib.reload(module)
    assert before != current_definitions(module)


def test_what_a_name_in_the_main_program_means_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for worker in ("__main__", "__main__:chat", "__main__:chat.x"):
        for _ in range(2):
            before = current_definitions(worker)
            run = cell()
            vars(main).update(chat=SimpleNamespace(x=run.Chat), handle_socket_message=run.handle)
            assert current_definitions(worker) == current_definitions(worker) != before
    assert current_definitions("app") == current_definitions("app:obj") == current_definitions(main.chat) == []
