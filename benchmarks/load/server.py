"""Starts the servers that are measured: a process each, pinned to a core, stopped in the end."""

import os
import resource
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

START_S: Final = 30.0
STOP_S: Final = 10.0
LOG_TAIL_BYTES: Final = 2000
APP: Final = Path(__file__).with_name("app.py")
CHECKOUT: Final = Path(__file__).parents[2]


class ServerError(Exception):
    """Says that a server did not start, or ended, and what it wrote."""


class Cores(NamedTuple):
    """The cores of server and load; None: wherever the system puts them."""

    server: int | None
    load: int | None

    @classmethod
    def choose(cls, is_pinned: bool = True) -> "Cores":
        """Returns the first and the last core, if there are two and the system lets processes choose."""
        if not is_pinned or not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1]) if len(cores) > 1 else cls(None, None)


class Command(NamedTuple):
    """How a server is started; ``{port}`` in an argument is the port to listen on, on 127.0.0.1."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = {}

    def __str__(self) -> str:
        return shlex.join(self.arguments)


def build_our_command(python: str, settings: Sequence[str]) -> Command:
    """Returns the command that starts WSBroker with `app`: as it is installed there, else this checkout's sources."""
    environment = {} if is_installed(python) else {"PYTHONPATH": str(CHECKOUT)}
    arguments = [python, "-P", "-m", "wsbroker", str(APP), "--bind", "127.0.0.1:{port}", "--log-level", "warning"]
    return Command([*arguments, *settings], environment)


@cache
def is_installed(python: str) -> bool:
    """Whether this Python finds wsbroker without the working directory on its path."""
    test = "import importlib.util, sys; sys.exit(importlib.util.find_spec('wsbroker') is None)"
    return subprocess.run([python, "-P", "-c", test], capture_output=True).returncode == 0


def read_our_version(python: str) -> list[str]:
    """Returns the lines of ``wsbroker --version``: the version, whether the core is compiled, which Python."""
    environment = {**os.environ, **build_our_command(python, []).environment}
    command = [python, "-P", "-m", "wsbroker", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"{python} cannot run wsbroker: {done.stderr.strip()[-500:]}")
    return done.stdout.splitlines()


def find_free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def raise_fd_limit() -> int:
    """Raises the limit of open files, for child processes too, as far as it goes; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_000_000 if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        wanted = soft
    return int(wanted)


class RunningServer(NamedTuple):
    """A server that listens on 127.0.0.1."""

    pid: int
    port: int


@contextmanager
def serve_command(command: Command, core: int | None) -> Iterator[RunningServer]:
    """Runs a server, pinned to a core unless that is None, while the block runs.

    Raises:
        ServerError: the server did not start, or ended too early.
    """
    port = find_free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WSBROKER_")}
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in command.arguments],
                env={**environment, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise ServerError(f"cannot run {command}: {error.strerror}") from error
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            _wait_until_it_listens(process, port)
            yield RunningServer(process.pid, port)
            if process.poll() is not None:
                raise ServerError("ended while it was measured")
        except ServerError as error:
            log.seek(max(log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES, 0))
            said = log.read().decode(errors="replace").strip()
            raise ServerError(f"{command}: {error}: {said or 'it wrote nothing'}") from error
        finally:
            _stop_process(process)


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Waits until the port takes connections; raises ServerError if the process ends or START_S passes."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise ServerError(f"ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            time.sleep(0.3)  # what it does after it began to listen, such as freezing its memory
            return
    raise ServerError(f"does not listen after {START_S:g} s")


def _stop_process(process: "subprocess.Popen[bytes]") -> None:
    """Sends SIGTERM and waits STOP_S for the process to end, then kills the process."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
