"""The README's generated parts are what the sources say now."""

import subprocess
import sys
from pathlib import Path

import pytest

GENERATOR = Path(__file__).parents[2] / "tools" / "api_reference.py"


def test_the_api_reference_is_fresh() -> None:
    pytest.importorskip("griffe")
    done = subprocess.run([sys.executable, GENERATOR, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
