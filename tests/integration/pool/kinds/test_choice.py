"""The choice of a worker kind on invented platforms, with its reasons; and the kinds that are refused."""

import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from wsbroker.errors import ConfigError
from wsbroker.pool.kinds.choice import KindChoice, PythonPlatform, choose_kind, inspect_platform, is_free_threaded
from wsbroker.pool.kinds.import_names import explain_missing_name, importable_name
from wsbroker.settings.config import Config, Settings, WorkerKind
from wsbroker.settings.machine_limits import cpu_count

OLD = PythonPlatform("3.11", has_interpreters=False, is_free_threaded=False, cpus=4)
OLD_AND_SMALL = PythonPlatform("3.11", has_interpreters=False, is_free_threaded=False, cpus=1)
NEW = PythonPlatform("3.13", has_interpreters=True, is_free_threaded=False, cpus=4)
FREE = PythonPlatform("3.14", has_interpreters=True, is_free_threaded=True, cpus=4)


class Chat:
    """A worker class; its instances are live objects without an importable name."""


def made_by(main: str) -> type:
    """Returns a class whose `__module__` is this name."""
    return type("Chat", (), {"__module__": main})


def chosen(host: PythonPlatform, spec: object = "pkg.mod", **settings: object) -> KindChoice:
    return choose_kind(Config.of(**settings), spec, host)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "settings", "kind", "count"),
    [
        (NEW, {}, "interpreter", 4),
        (NEW, {"workers": 2}, "interpreter", 2),
        (NEW, {"workers": 1}, "interpreter", 1),
        (OLD, {}, "process", 4),
        (OLD, {"workers": 3}, "process", 3),
        (OLD, {"workers": 1}, "thread", 1),
        (OLD_AND_SMALL, {}, "thread", 1),
        (OLD_AND_SMALL, {"workers": 2}, "process", 2),
        (FREE, {}, "thread", 4),
        (FREE, {"workers": 2}, "thread", 2),
    ],
)
def test_auto_takes_what_uses_all_cores(host: PythonPlatform, settings: Settings, kind: str, count: int) -> None:
    choice = chosen(host, **settings)
    assert (choice.kind, choice.worker_count, choice.spec) == (kind, count, "pkg.mod")
    assert choice.reason.startswith(f"auto takes {kind}: ")
    assert choice.fallback_kind == ("process" if kind == "interpreter" else None)
    assert choice.needs_free_threads == host.is_free_threaded


def test_no_interpreters_are_taken_while_tracemalloc_traces() -> None:
    """CPython's `tracemalloc` aborts a process that had subinterpreters."""
    script = """
from wsbroker.settings.config import Config
from wsbroker.pool.kinds.choice import choose_kind, inspect_platform
from dataclasses import replace
host = replace(inspect_platform(), has_interpreters=True, is_free_threaded=False)
print(choose_kind(Config.of(workers=2), "pkg.mod", host).kind, host.interpreter_obstacle)
try:
    choose_kind(Config.of(worker_kind="interpreter"), "pkg.mod", host)
except Exception as error:
    print(error)
"""
    command = [sys.executable, "-X", "tracemalloc", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    chosen_kind, refused = done.stdout.splitlines()
    assert chosen_kind.startswith("process tracemalloc is on (PYTHONTRACEMALLOC, -X tracemalloc)")
    assert refused.startswith("worker kind 'interpreter' cannot run here: tracemalloc is on")


@pytest.mark.parametrize("spec", [Chat(), made_by("__main__"), made_by("__main__")(), "__main__", "__main__:Chat"])
@pytest.mark.parametrize("host", [OLD, NEW])
def test_auto_takes_one_thread_for_what_only_this_interpreter_has_and_says_what_to_do(
    host: PythonPlatform, spec: object
) -> None:
    choice = chosen(host, spec)
    assert (choice.kind, choice.worker_count) == ("thread", 1)
    assert choice.spec is spec
    assert choice.reason.startswith("auto takes thread: ") and choice.reason.endswith(" to use all cores")
    assert chosen(host, spec, workers=3).worker_count == 3


def test_what_to_do_depends_on_what_it_is() -> None:
    assert "a live object exists in this interpreter only; register its name ('pkg.mod:obj')" in explain_missing_name(
        Chat()
    )
    for spec in (made_by("__main__"), made_by("__main__")(), "__main__:Chat", sys.modules["__main__"]):
        assert (
            "what the main script defines exists in this interpreter only; move the handlers"
            in explain_missing_name(spec)
        )
    assert "Chat cannot be imported from elsewhere; define it at the top level" in explain_missing_name(
        made_by("elsewhere")
    )
    assert "module made cannot be imported by its name; put it into a file" in explain_missing_name(ModuleType("made"))


@pytest.mark.parametrize("kind", ["interpreter", "process"])
@pytest.mark.parametrize("spec", [Chat(), made_by("__main__"), "__main__"])
def test_an_explicit_kind_refuses_what_only_this_interpreter_has_with_that_text(kind: str, spec: object) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(NEW, spec, worker_kind=kind)
    assert str(caught.value) == f"worker kind {kind!r} cannot run this worker: {explain_missing_name(spec)}"


@pytest.mark.parametrize("kind", ["inline", "thread"])
@pytest.mark.parametrize("spec", ["pkg.mod", Chat(), Chat])
def test_inline_and_thread_take_anything_as_it_is(kind: WorkerKind, spec: object) -> None:
    choice = chosen(OLD, spec, worker_kind=kind)
    assert (choice.kind, choice.worker_count, choice.reason) == (kind, 1, "as configured")
    assert choice.spec is spec


@pytest.mark.parametrize("kind", ["interpreter", "process"])
def test_the_others_get_one_worker_per_cpu_and_a_name(kind: str) -> None:
    choice = chosen(NEW, Chat, worker_kind=kind)
    assert choice == KindChoice(kind, 4, f"{__name__}:Chat", "as configured")  # type: ignore[arg-type]
    assert choice.fallback_kind is None


def test_interpreters_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="^worker kind 'interpreter' needs CPython 3.13 or later, and this is 3.11: "):
        chosen(OLD, worker_kind="interpreter")


NO_PROCESSES = replace(OLD, process_obstacle="a reason")
NOTHING = replace(NEW, process_obstacle="a reason", interpreter_obstacle="another reason")


def test_auto_takes_threads_where_a_worker_process_would_start_the_program_again() -> None:
    for host in (NO_PROCESSES, NOTHING):
        choice = chosen(host, workers=3)
        assert (choice.kind, choice.worker_count, choice.reason) == ("thread", 3, "auto takes thread: a reason")
        assert chosen(host).worker_count == 1
    moving = chosen(replace(NEW, process_obstacle="a reason"))
    assert (moving.kind, moving.fallback_kind) == ("interpreter", "thread")


def test_an_explicit_kind_that_cannot_run_here_is_refused() -> None:
    for host, kind, reason in (
        (NO_PROCESSES, "process", "a reason"),
        (NOTHING, "process", "a reason"),
        (NOTHING, "interpreter", "another reason"),
    ):
        with pytest.raises(ConfigError) as caught:
            chosen(host, worker_kind=kind)
        assert str(caught.value) == f"worker kind {kind!r} cannot run here: {reason}; or use worker kind 'thread'"


@pytest.mark.parametrize("kind", ["auto", "inline", "thread", "process"])
def test_a_copy_of_the_program_that_was_started_as_a_worker_starts_no_server(kind: str) -> None:
    with pytest.raises(ConfigError, match="^this program was started in place of a worker process, because "):
        chosen(replace(OLD, is_program_copy=True), worker_kind=kind)


def test_names_of_what_can_be_imported() -> None:
    class Inner:
        """A class that is not at the top level of its module."""

    module = sys.modules[__name__]
    assert importable_name("pkg.mod:obj") == "pkg.mod:obj"
    assert importable_name(module) == __name__
    assert importable_name(Chat) == f"{__name__}:Chat"
    assert importable_name(Inner) is None
    assert importable_name(ModuleType("made")) is None
    assert importable_name(sys.modules["__main__"]) is None
    assert importable_name(made_by("elsewhere")) is None


def test_the_facts_about_this_python() -> None:
    host = inspect_platform()
    assert host.python_version == ".".join(map(str, sys.version_info[:2]))
    assert host.has_interpreters == (sys.version_info >= (3, 13))
    assert host.is_free_threaded == is_free_threaded() == (not getattr(sys, "_is_gil_enabled", lambda: True)())
    assert host.cpus == cpu_count()
    assert (host.process_obstacle, host.interpreter_obstacle, host.is_program_copy) == ("", "", False)
