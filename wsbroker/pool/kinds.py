"""Which kind of worker runs a spec, and why. All that differs between the kinds that have a wire is their carrier."""

from collections.abc import Callable
from typing import Final

from wsbroker.config import WorkerKind
from wsbroker.errors import ConfigError
from wsbroker.pool.carrier import Carrier, Work
from wsbroker.pool.thread_worker import ThreadCarrier

CARRIERS: Final[dict[WorkerKind, Callable[[str, Work], Carrier]]] = {"thread": ThreadCarrier}
"""The kinds that speak over a wire; `inline` has none."""


def choose_kind(kind: WorkerKind, spec: object) -> tuple[WorkerKind, str]:
    """Resolves `auto` and refuses what cannot work.

    Returns:
        the kind, and the reason for the log.

    Raises:
        ConfigError: this kind is not available.
    """
    if kind == "auto":
        if isinstance(spec, str):
            return "thread", "auto takes thread"
        return "thread", (
            "auto takes thread: a live object exists in this interpreter only; "
            "register its name ('pkg.mod:obj') instead to use all cores"
        )
    if kind == "inline" or kind in CARRIERS:
        return kind, "as configured"
    raise ConfigError(f"worker kind {kind!r} is not available in this version; use thread or inline")
