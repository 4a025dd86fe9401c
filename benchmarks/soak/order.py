"""Order: one sequential history explains what all sockets, workers and threads saw.

This is the exactness test of the suite (`tests/e2e/test_exact.py`), played for as long as asked: random programs of
subscriptions, publications, tokens, closes and questions, held against a sequential model.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.soak.run import KINDS, Option, Soak

TEST_FILE: Final = Path(__file__).parents[2] / "tests" / "e2e" / "test_exact.py"
PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--full", str(TEST_FILE), "-k")


class Order(Soak):
    """Plays random programs on workers of a kind; a history that no order explains is a failure."""

    options = (
        Option("kind", "inline", "of worker", KINDS),
        Option("count", 6, "random programs of each test"),
        Option("seconds", 0.0, "how long each test plays programs, instead of --count"),
    )

    def run(self) -> None:
        """Runs the exactness test and shows its output."""
        programs = {"EXACT_PROGRAMS": str(self.chosen.count), "EXACT_SECONDS": str(self.chosen.seconds)}
        process = subprocess.Popen(
            [*PYTEST, self.chosen.kind],
            env={**os.environ, **programs},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip(" .\n"):
                self.report.show_figure("exactness", line.strip())
        self.report.check_equal("exit code of the exactness test", process.wait(), 0)
