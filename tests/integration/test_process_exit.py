"""The exit status of a process that ends by `os._exit`: the one that Python's own end would have had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import wsbroker
from wsbroker.process_exit import exit_status_after

ENDS: list[tuple[str, int]] = [
    ("SystemExit()", 0),
    ("SystemExit(None)", 0),
    ("SystemExit(0)", 0),
    ("SystemExit(3)", 3),
    ("SystemExit(259)", 3),
    ("SystemExit(-1)", 255),
    ("SystemExit('no database')", 1),
    ("SystemExit((1, 2))", 1),
    ("LookupError()", 1),
]


@pytest.mark.parametrize(("error", "status"), ENDS)
def test_the_status_after_an_exception_is_that_of_python(error: str, status: int) -> None:
    assert exit_status_after(eval(error)) == status


def test_it_is_indeed() -> None:
    """All in one process that forks, as a start of Python takes long."""
    each = "pid = os.fork()\nif not pid: raise {}\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)"
    program = "\n".join(["import os", *(each.format(error) for error, _ in ENDS)])
    if not hasattr(os, "fork"):
        pytest.skip("nothing forks there")
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert list(map(int, ran.stdout.split())) == [status for _, status in ENDS]


def test_a_process_is_ended_in_one_place_only() -> None:
    """But for the examples and what they show, if they did."""
    package = Path(wsbroker.__file__).parent
    ending = [path.name for path in package.rglob("*.py") if "os._exit(" in path.read_text(encoding="utf-8")]
    assert ending == ["process_exit.py"]
