"""Order: one sequential history explains what all sockets, workers and threads saw.

This is the exactness test of the suite (`tests/e2e/test_exact.py`), played for as long as asked: random programs of
subscriptions, publications, tokens, closes and questions, held against a sequential model.
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.soak.report import Report

TEST_FILE = Path(__file__).parents[2] / "tests" / "e2e" / "test_exact.py"


def run(report: Report, kind: str, programs: int, seconds: float) -> None:
    """Plays programs on workers of a kind; a history that no order explains is a failure.

    Args:
        programs: how many each test plays.
        seconds: how long each test plays instead; 0: counts programs.
    """
    environment = {**os.environ, "EXACT_PROGRAMS": str(programs), "EXACT_SECONDS": str(seconds)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "--full",
        str(TEST_FILE),
        "-k",
        kind,
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip(" .\n"):
            report.show_figure("exactness", line.strip())
    report.check_equal("exit code of the exactness test", process.wait(), 0)
