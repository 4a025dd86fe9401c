"""A process that has run `run` or the command line exits, even if a thread of `asyncio.to_thread` is stuck."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kits.server_process import SERVING_ON, START_S, serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")

APP = """
import asyncio, atexit, logging, os, sys, time
import wsbroker

def wait():
    while not os.path.exists("end"):
        time.sleep(0.005)
    print("ended by itself", flush=True)

class Left:
    async def handle_http_request(self, request):
        asyncio.get_running_loop().run_in_executor(None, wait)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    atexit.register(print, "at exit", flush=True)
    wsbroker.run("127.0.0.1:0", worker=Left(), worker_kind="inline", shutdown_timeout=float(sys.argv[1]))
    print("after run", flush=True)
    if sys.argv[2] == "raise":
        raise LookupError("as told")
    if sys.argv[2] == "exit":
        sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the application."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("kind", ["inline", "thread"])  # the others have interpreters of their own, which are left
def test_a_thread_of_to_thread_that_is_stuck_is_left_by_the_command_line(kind: str, folder: Path) -> None:
    arguments = ("app:Left", "--worker-kind", kind, "--shutdown-timeout", "500ms")
    with serving(*arguments, folder=folder) as server:
        urllib.request.urlopen(server.url, timeout=START_S).close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(START_S) == 0
    assert "stopped" in server.log and "ended by itself" not in server.log


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs the application as a program; yields the process and its URL."""
    process = subprocess.Popen(
        [sys.executable, "app.py", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stderr is not None
        url = next(found[1] for line in process.stderr if (found := SERVING_ON.search(line)))
        yield process, url
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "how, status",
    [
        pytest.param("return", 0, marks=pytest.mark.full),  # so ends the program of the last test, too
        ("raise", 1),
        pytest.param("exit", 3, marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="nothing tells of it")),
    ],
)
def test_so_it_is_by_a_program_that_has_called_run(how: str, status: int, folder: Path) -> None:
    with running(folder, "0.5", how) as (process, url):
        urllib.request.urlopen(url, timeout=START_S).close()
        process.send_signal(signal.SIGTERM)
        said, log = process.communicate(timeout=START_S)
        assert process.returncode == status
    assert said.splitlines() == ["after run", "at exit"]
    assert log.endswith("wsbroker: the process exits without waiting for asyncio.to_thread, busy in 1 threads\n")
    assert ("LookupError: as told" in log) == (how == "raise")


def test_one_that_ends_in_time_is_waited_for(folder: Path) -> None:
    with running(folder, "30", "return") as (process, url):
        urllib.request.urlopen(url, timeout=START_S).close()
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None and process.stdout.readline() == "after run\n"
        (folder / "end").touch()
        said, log = process.communicate(timeout=START_S)
        assert process.returncode == 0
    assert said.splitlines() == ["ended by itself", "at exit"]
    assert "without waiting" not in log


SIGNALLED = """
import logging, os, signal, sys, time
import wsbroker, wsbroker.cli, wsbroker.server.signals

NUMBER = int(os.environ["NUMBER"])

class App:
    def handle_http_request(self, request): ...

class Last:
    def __del__(self, write=os.write, kill=os.kill, process=os.getpid(), number=NUMBER, sleep=time.sleep):
        write(1, b"ending\\n")
        kill(process, number)
        sleep(0.1)
        write(1, b"ended\\n")

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    wsbroker.server.signals.DUPLICATE_SIGNAL_S = 60
    last = Last()
    if sys.argv[1] == "run":
        wsbroker.run("127.0.0.1:0", worker=App(), worker_kind="inline")
    elif sys.argv[1] == "start":
        wsbroker.start("127.0.0.1:0", worker=App(), worker_kind="inline").wait()
    else:
        sys.argv[1:] = ["app:App", "--bind=127.0.0.1:0", "--worker-kind=inline"]
        sys.exit(wsbroker.cli.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["run", "start", "command line"])
def test_a_duplicate_of_the_stop_signal_while_python_ends_is_not_the_exit_status(
    how: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python restores the signals' default actions before it clears the modules, where a finalizer runs here."""
    (tmp_path / "app.py").write_text(SIGNALLED)
    monkeypatch.setenv("NUMBER", str(int(number)))
    with running(tmp_path, how) as (process, _):
        time.sleep(0.2)  # start() installs its handlers behind the line in the log
        process.send_signal(number)
        said, log = process.communicate(timeout=START_S)
    assert process.returncode == 0, log
    assert said == "ending\nended\n" or how == "start"  # a daemon thread that ends meanwhile may keep the object


SLOW_AT_EXIT = """
import atexit, logging, sys, time
import wsbroker

class App:
    def handle_http_request(self, request): ...

def wait():
    print("at exit", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    atexit.register(wait)
    wsbroker.run("127.0.0.1:0", worker=App(), worker_kind="inline")
"""


def test_a_later_signal_interrupts_a_function_of_the_application_that_hangs_at_the_exit(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SLOW_AT_EXIT)
    with running(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None and process.stdout.readline() == "at exit\n"
        time.sleep(0.6)  # DUPLICATE_SIGNAL_S, and a little
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_S)
    assert process.returncode == -signal.SIGTERM
