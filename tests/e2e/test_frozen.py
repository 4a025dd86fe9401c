"""Programs that are their own `sys.executable`: as a worker process each would be the whole program once more."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 30.0
MOST_STARTS: Final = 5
"""The program stops itself then, for a server that starts it again and again must not take the machine."""

PROGRAM: Final = f"""
import os, sys
with open("starts", "a+") as starts:
    starts.write("started\\n")
    starts.seek(0)
    if len(starts.readlines()) > {MOST_STARTS}:
        os._exit(99)
import logging, wsbroker
logging.basicConfig(level="INFO")
kind = os.environ["KIND"]
if kind.startswith("frozen "):
    sys.frozen = True
    kind = kind.removeprefix("frozen ")
sys.executable = os.environ["EXECUTABLE"]
try:
    with wsbroker.start("127.0.0.1:0", worker="app", worker_kind=kind, workers=1) as server:
        print("serves")
except wsbroker.WSBrokerError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def outcome(folder: Path, kind: str) -> tuple[int, str, int]:
    """Runs the program; returns its exit code, what it wrote, and how often it was started."""
    (folder / "app.py").write_text("def handle_http_request(): return 'served'\n")
    (folder / "program.py").write_text(PROGRAM)
    python_like = folder / "pyshop"  # a program whose name does not give it away
    python_like.write_text(f'#!/bin/sh\nexec "{sys.executable}" program.py\n')
    python_like.chmod(0o700)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [str(python_like)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "KIND": kind, "EXECUTABLE": str(python_like)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout, len((folder / "starts").read_text().splitlines())


def test_a_frozen_program_is_not_started_again_as_a_worker(tmp_path: Path) -> None:
    code, text, starts = outcome(tmp_path, "frozen process")
    assert (code, starts) == (1, 1), text
    assert text.splitlines()[-1] == (
        "ConfigError: worker kind 'process' cannot run here: this program is frozen (PyInstaller, Nuitka, cx_Freeze), "
        "and a worker process would start all of it once more; or use worker kind 'thread'"
    )


def test_a_program_that_hides_what_it_is_starts_no_further_copies_from_a_copy(tmp_path: Path) -> None:
    code, text, starts = outcome(tmp_path, "process")
    assert (code, starts) == (1, 2), text
    assert "ConfigError: this program was started in place of a worker process, because " in text
    assert "its process exited with code 1" in text.splitlines()[-1]
