"""Which kind of worker runs a spec, and why. All that differs between the kinds that have a wire is their carrier."""

import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wsbroker.errors import ConfigError
from wsbroker.pool.kinds import subinterpreters
from wsbroker.pool.kinds.executable import is_copy, why_no_interpreters, why_no_processes
from wsbroker.pool.kinds.host import Work, WorkerHost
from wsbroker.pool.kinds.import_names import name_of, why_unnamed
from wsbroker.pool.kinds.interpreter import InterpreterCarrier
from wsbroker.pool.kinds.process import ProcessCarrier
from wsbroker.pool.kinds.thread import ThreadCarrier
from wsbroker.settings.config import Config, WorkerKind, cpu_count

CARRIERS: Final[dict[WorkerKind, Callable[[str, Work], WorkerHost]]] = {
    "thread": ThreadCarrier,
    "interpreter": InterpreterCarrier,
    "process": ProcessCarrier,
}
"""The kinds that speak over a wire; `inline` has none."""

ELSEWHERE: Final = ("interpreter", "process")
"""The kinds whose workers import the handlers themselves, so that they need a name for them."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the choice depends on beside the settings: tests make their own."""

    python: str
    """``"3.13"``"""
    has_interpreters: bool
    """Whether there are subinterpreters with a lock of their own."""
    is_free_threaded: bool
    """Whether threads run Python code at the same time, now."""
    cpus: int
    no_processes: str = ""
    """Why there can be no worker processes; empty if there can."""
    no_interpreters: str = ""
    """Why handlers cannot run in subinterpreters, if there are any; empty if they can."""
    is_copy: bool = False
    """Whether this very program was started in place of a worker process."""


def this_host() -> Host:
    """Returns the facts about the running interpreter."""
    return Host(
        "{}.{}".format(*sys.version_info[:2]),
        subinterpreters.are_available(),
        is_free_threaded(),
        cpu_count(),
        why_no_processes(),
        why_no_interpreters() or subinterpreters.why_unsafe(),
        is_copy(),
    )


def is_free_threaded() -> bool:
    """Whether the interpreter lock is off: the import of an extension module may have switched it on."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and is_gil_enabled is not None and not is_gil_enabled()


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind of worker, and what follows from it."""

    kind: WorkerKind
    count: int
    spec: object
    """As the workers get it: a name where they import it themselves."""
    reason: str
    """For the log."""
    moves_to: WorkerKind | None = None
    """The kind that all of them become if a module refuses to be loaded; None: that is an error."""
    needs_free_threads: bool = False
    """The choice was wrong if the handlers' modules switch the interpreter lock on."""


def choose(config: Config, spec: object, host: Host) -> Choice:
    """Resolves `auto` and the number of workers, and refuses what cannot work.

    Raises:
        ConfigError: this kind cannot run this spec, or not here.
    """
    kind = config.worker_kind
    name = name_of(spec)
    if host.is_copy:
        raise ConfigError(
            f"this program was started in place of a worker process, because {sys.executable!r} (sys.executable) is no "
            "Python interpreter: use worker kind 'thread', or set sys.executable to one before the start"
        )
    if kind != "auto":
        _refuse_impossible(kind, spec, host)
        return Choice(kind, _count(config, kind, host), name if kind in ELSEWHERE else spec, "as configured")
    if host.is_free_threaded:
        count = _count(config, "process", host)  # threads are as good as processes there
        reason = "auto takes thread: this Python has no lock that keeps threads apart"
        return Choice("thread", count, spec, reason, needs_free_threads=True)
    if name is None:
        return Choice("thread", _count(config, "thread", host), spec, f"auto takes thread: {why_unnamed(spec)}")
    if host.has_interpreters and not host.no_interpreters:
        reason = f"auto takes interpreter: Python {host.python} has them, and they use all cores"
        moves_to: WorkerKind = "thread" if host.no_processes else "process"
        return Choice("interpreter", _count(config, "interpreter", host), name, reason, moves_to)
    if host.no_processes:
        return Choice("thread", _count(config, "thread", host), spec, f"auto takes thread: {host.no_processes}")
    count = _count(config, "process", host)
    if count > 1:
        without = host.no_interpreters or f"Python {host.python} has no subinterpreters with a lock of their own"
        return Choice("process", count, name, f"auto takes process: {without}")
    return Choice("thread", 1, spec, "auto takes thread: one worker needs no other interpreter")


def _refuse_impossible(kind: WorkerKind, spec: object, host: Host) -> None:
    """Raises ConfigError if workers of this kind cannot run this spec, or not here."""
    if kind in ELSEWHERE and name_of(spec) is None:
        raise ConfigError(f"worker kind {kind!r} cannot run this worker: {why_unnamed(spec)}")
    if kind == "interpreter" and not host.has_interpreters:
        instead = "thread" if host.no_processes else "process"
        raise ConfigError(
            f"worker kind 'interpreter' needs CPython 3.13 or later, and this is {host.python}: use {instead!r}"
        )
    obstacle = {"process": host.no_processes, "interpreter": host.no_interpreters}.get(kind)
    if obstacle:
        raise ConfigError(f"worker kind {kind!r} cannot run here: {obstacle}; or use worker kind 'thread'")


def _count(config: Config, kind: WorkerKind, host: Host) -> int:
    if config.workers is not None:
        return config.workers
    return host.cpus if kind in ELSEWHERE else 1
