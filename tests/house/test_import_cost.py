"""`import wsbroker` is paid by every worker of every kind: it is light and quick."""

import subprocess
import sys
from typing import Final

import pytest

RUNS: Final = 8
BOUND: Final = 4.0
"""How many times the CPU of a process that does nothing: the budget is 60 ms, and a bare start takes some 12 ms."""


def _measure_cpu_s(program: str) -> float:
    """Runs a Python program in a process of its own; returns the seconds of CPU that the process took.

    Not the time on the clock: beside other processes that grows for the two programs unequally.
    """
    resource = pytest.importorskip("resource", reason="there is no CPU time of child processes on this system")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_importing_wsbroker_is_quick_beside_starting_python() -> None:
    pairs = [(_measure_cpu_s("pass"), _measure_cpu_s("import wsbroker")) for _ in range(RUNS)]
    bare_s, importing_s = (min(times) for times in zip(*pairs, strict=True))
    assert importing_s < bare_s * BOUND, f"bare {bare_s * 1000:.1f} ms, with wsbroker {importing_s * 1000:.1f} ms"


def test_importing_wsbroker_loads_nothing_heavy() -> None:
    program = (
        "import sys; before = set(sys.modules); import wsbroker, wsbroker.worker.main, wsbroker.testing\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio", "anyio", "aiohttp", "uvloop", "dataclasses", "inspect", "ctypes", "logging", "socket", "re"}
    typing_needs = {"re"} if sys.version_info < (3, 13) else set()
    assert heavy & set(loaded) <= typing_needs
    compiled = ("wsbroker.websocket", "wsbroker.broker", "wsbroker.connections")
    assert not [name for name in loaded if name.startswith(compiled)]
