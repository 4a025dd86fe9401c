"""Chooses the kind and number of workers for an application; refuses a kind that cannot run here."""

import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wsbroker.errors import ConfigError
from wsbroker.pool.kinds import subinterpreters
from wsbroker.pool.kinds.executable import find_interpreter_obstacle, find_process_obstacle, is_program_copy
from wsbroker.pool.kinds.host import StartArguments, WorkerHost
from wsbroker.pool.kinds.import_names import explain_missing_name, importable_name
from wsbroker.pool.kinds.interpreter import InterpreterHost
from wsbroker.pool.kinds.process import ProcessHost
from wsbroker.pool.kinds.thread import ThreadHost
from wsbroker.settings.config import Config, WorkerKind
from wsbroker.settings.machine_limits import cpu_count

HOST_CLASSES: Final[dict[WorkerKind, Callable[[str, StartArguments], WorkerHost]]] = {
    "thread": ThreadHost,
    "interpreter": InterpreterHost,
    "process": ProcessHost,
}
"""The host class of each kind; `inline` has no host."""

IMPORTING_KINDS: Final = ("interpreter", "process")
"""The kinds whose workers import the handlers by name."""


@dataclass(frozen=True, slots=True)
class PythonPlatform:
    """The facts about this Python and machine on which the choice of a kind depends; tests make their own."""

    python_version: str
    """``"3.13"``"""
    has_interpreters: bool
    """Whether this Python has subinterpreters with a lock of their own."""
    is_free_threaded: bool
    """Whether threads run Python code in parallel now."""
    cpus: int
    process_obstacle: str = ""
    """Why there can be no worker processes; empty if they are possible."""
    interpreter_obstacle: str = ""
    """Why handlers cannot run in the subinterpreters of this Python; empty if they can."""
    is_program_copy: bool = False
    """Whether this process is a copy of the program that was started in place of a worker process."""


def inspect_platform() -> PythonPlatform:
    """Returns the facts about the running interpreter and machine."""
    return PythonPlatform(
        "{}.{}".format(*sys.version_info[:2]),
        subinterpreters.are_available(),
        is_free_threaded(),
        cpu_count(),
        find_process_obstacle(),
        find_interpreter_obstacle() or subinterpreters.find_safety_obstacle(),
        is_program_copy(),
    )


def is_free_threaded() -> bool:
    """Returns whether this Python runs without the interpreter lock now; an import may switch the lock on."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and is_gil_enabled is not None and not is_gil_enabled()


@dataclass(frozen=True, slots=True)
class KindChoice:
    """The chosen kind of worker, with the number of workers and the reason."""

    kind: WorkerKind
    worker_count: int
    spec: object
    """The application as the workers get it: a name for kinds that import the handlers themselves."""
    reason: str
    """Why this kind was chosen, for the log."""
    fallback_kind: WorkerKind | None = None
    """The kind of all workers after a module has refused to be loaded; None: the refusal is an error."""
    needs_free_threads: bool = False
    """Whether the choice is wrong if the handlers' modules switch the interpreter lock on."""


def choose_kind(config: Config, spec: object, platform: PythonPlatform) -> KindChoice:
    """Chooses the kind and the number of workers for a spec, and refuses a configured kind that cannot run it.

    Args:
        config: all settings; `worker_kind` and `workers` are used.
        spec: the argument of `register_worker`.
        platform: the facts about this machine.

    Raises:
        ConfigError: the kind cannot run this spec, or cannot run on this platform.
    """
    kind = config.worker_kind
    name = importable_name(spec)
    if platform.is_program_copy:
        raise ConfigError(
            f"this program was started in place of a worker process, because {sys.executable!r} (sys.executable) is no "
            "Python interpreter: use worker kind 'thread', or set sys.executable to one before the start"
        )
    if kind != "auto":
        _check_kind_is_possible(kind, spec, platform)
        return KindChoice(
            kind, _worker_count(config, kind, platform), name if kind in IMPORTING_KINDS else spec, "as configured"
        )
    if platform.is_free_threaded:
        count = _worker_count(config, "process", platform)  # threads are as good as processes there
        reason = "auto takes thread: this Python has no lock that keeps threads apart"
        return KindChoice("thread", count, spec, reason, needs_free_threads=True)
    if name is None:
        return KindChoice(
            "thread",
            _worker_count(config, "thread", platform),
            spec,
            f"auto takes thread: {explain_missing_name(spec)}",
        )
    if platform.has_interpreters and not platform.interpreter_obstacle:
        reason = f"auto takes interpreter: Python {platform.python_version} has them, and they use all cores"
        moves_to: WorkerKind = "thread" if platform.process_obstacle else "process"
        return KindChoice("interpreter", _worker_count(config, "interpreter", platform), name, reason, moves_to)
    if platform.process_obstacle:
        return KindChoice(
            "thread", _worker_count(config, "thread", platform), spec, f"auto takes thread: {platform.process_obstacle}"
        )
    count = _worker_count(config, "process", platform)
    if count > 1:
        without = (
            platform.interpreter_obstacle
            or f"Python {platform.python_version} has no subinterpreters with a lock of their own"
        )
        return KindChoice("process", count, name, f"auto takes process: {without}")
    return KindChoice("thread", 1, spec, "auto takes thread: one worker needs no other interpreter")


def _check_kind_is_possible(kind: WorkerKind, spec: object, platform: PythonPlatform) -> None:
    """Raises ConfigError if workers of this kind cannot run this application, or cannot run on this platform.

    Args:
        kind: the configured kind.
        spec: the argument of `register_worker`.
        platform: the facts about this Python and machine.
    """
    if kind in IMPORTING_KINDS and importable_name(spec) is None:
        raise ConfigError(f"worker kind {kind!r} cannot run this worker: {explain_missing_name(spec)}")
    if kind == "interpreter" and not platform.has_interpreters:
        instead = "thread" if platform.process_obstacle else "process"
        raise ConfigError(
            "worker kind 'interpreter' needs CPython 3.13 or later, and this is "
            f"{platform.python_version}: use {instead!r}"
        )
    obstacle = {"process": platform.process_obstacle, "interpreter": platform.interpreter_obstacle}.get(kind)
    if obstacle:
        raise ConfigError(f"worker kind {kind!r} cannot run here: {obstacle}; or use worker kind 'thread'")


def _worker_count(config: Config, kind: WorkerKind, platform: PythonPlatform) -> int:
    """Returns the configured number of workers; by default one per CPU for interpreters and processes, else one."""
    if config.workers is not None:
        return config.workers
    return platform.cpus if kind in IMPORTING_KINDS else 1
