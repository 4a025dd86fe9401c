"""Programs that start quickly: forked from a process that has everything imported (`apps/forks.py`)."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from kits.raw_peer import PATIENCE_S
from kits.server_process import ServerProcess

TESTS = Path(__file__).parents[1]
"""The folder from which the tests' applications are imported."""


def environment_of(more: Mapping[str, str]) -> dict[str, str]:
    """Returns environment variables with which a program can import the tests' applications, and `more`."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(TESTS))))
    return {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class Forks:
    """A process that starts programs by forking itself. Warnings are errors in it and in the programs."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            script = TESTS / "e2e" / "contract" / "apps" / "forks.py"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-X", "utf8", "-W", "error", script, str(theirs.fileno())],
                env={**os.environ, **environment_of({})},
                stdin=subprocess.DEVNULL,
                close_fds=False,
            )
        self._ours.settimeout(PATIENCE_S)
        self._lock = threading.Lock()

    def ask(self, request: object, descriptor: int | None = None) -> int | None:
        """Sends a request to the forking process and returns the answer: a process id, an exit code or None."""
        with self._lock:
            socket.send_fds(self._ours, [json.dumps(request).encode()], [] if descriptor is None else [descriptor])
            return cast("int | None", json.loads(self._ours.recv(100)))

    def end(self) -> None:
        """Ends the forking process; programs that it has started go on."""
        self._ours.close()
        self._process.wait(PATIENCE_S)


class Child:
    """A forked program, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, forks: Forks, request: object) -> None:
        reading, writing = os.pipe()
        self.stdout: IO[str] = os.fdopen(reading, encoding="utf-8", errors="backslashreplace")
        self._forks = forks
        pid = forks.ask(request, writing)
        os.close(writing)
        assert pid is not None
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the program's exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self._forks.ask({"wait": self.pid})
        return self.returncode

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Waits for the program's end; returns the exit code."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal to the program, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the program by SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Program(ServerProcess):
    """A forked program whose output is read continuously."""

    def __init__(
        self,
        forks: Forks,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        folder: Path | None,
        script: Path | None,
    ) -> None:
        self.command = [str(script or "-m wsbroker"), *arguments]
        request = {
            "arguments": arguments,
            "script": None if script is None else str(script),
            "environment": environment_of(environment),
            "folder": None if folder is None else str(folder),
        }
        self.process = cast("subprocess.Popen[str]", Child(forks, request))
        self._begin_reading()

    def ended(self) -> int:
        """Waits for the program's end; returns the exit code."""
        code = self.process.wait(PATIENCE_S)
        self.end()
        return code


@contextmanager
def program(
    forks: Forks,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    script: Path | None = None,
) -> Iterator[Program]:
    """Runs ``python -m wsbroker``, or a script, until the block ends."""
    started = Program(forks, arguments, environment or {}, folder, script)
    try:
        yield started
    except BaseException:
        started.end()
        print(f"--- {' '.join(started.command)}\n{started.log}--- end of its log", file=sys.stderr)
        raise
    finally:
        started.end()
