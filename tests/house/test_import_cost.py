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
