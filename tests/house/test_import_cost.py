"""`import wsbroker` is paid by every worker of every kind: it is light and quick."""

import subprocess
import sys
import time
from typing import Final

RUNS: Final = 8
BOUND: Final = 4.0
"""How many times as long as a process that does nothing: the budget is 60 ms, and a bare start takes some 12 ms."""


def _run_s(program: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start_s


def test_importing_wsbroker_is_quick_beside_starting_python() -> None:
    pairs = [(_run_s("pass"), _run_s("import wsbroker")) for _ in range(RUNS)]
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
