"""Descriptors 0, 1 and 2 that are closed at the start, in every combination."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

CLOSED: Final = [some for count in (1, 2, 3) for some in itertools.combinations(range(3), count)]

PROGRAM: Final = """
import os, sys
sys.path[:] = {path!r}
from wsbroker.server.standard_streams import open_standard_streams
open_standard_streams()
print("printed")
print("printed", file=sys.stderr, flush=True)
null = os.stat(os.devnull).st_rdev
is_null = [os.fstat(number).st_rdev == null for number in range(3)]
lowest = os.open(os.devnull, os.O_RDONLY)
inherited = os.get_inheritable(0) and os.get_inheritable(1) and os.get_inheritable(2)
with open({answer!r}, "w") as file:
    file.write(repr((is_null, sys.stdin.read(), lowest, inherited)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes descriptors")
@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_the_null_device_is_opened_as_what_is_closed_and_nothing_else_changes(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    answer = tmp_path / "answer"
    program = PROGRAM.format(path=sys.path, answer=str(answer))
    shell = 'exec "$@" ' + " ".join(f"{number}<&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-S", "-c", program], input=b"", capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    is_null = [number in closed for number in range(3)]
    assert answer.read_text() == repr((is_null, "", 3, True))
    assert done.stdout == (b"" if 1 in closed else b"printed\n")
    assert done.stderr == (b"" if 2 in closed else b"printed\n")
