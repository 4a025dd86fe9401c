"""Starts ``python -m wsbroker …`` for a test, and stops it again; everything is bounded in time.

    with serving("wsbroker.examples.basic") as server:
        ...  # server.url, server.websocket_url

A test that fails prints the server's log, and so does a server that does not stop by itself. Tests that share a
server take it through `shared`.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

START_S: Final = 30.0
STOP_S: Final = 20.0
SERVING_ON: Final = re.compile(r"serving on (http://\S+)")


class ServerProcess:
    """A running ``python -m wsbroker``. Its log, stdout and stderr together, is read all the time by a thread.

    Args:
        arguments: what stands behind ``python -m wsbroker``.
        environment: added to the environment of the test.
        folder: the working directory; the test's own if None.
    """

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path | None) -> None:
        # -P: the package under test is the installed one, whatever lies in the working directory.
        self.command = [sys.executable, "-P", "-m", "wsbroker", *arguments]
        self.process = subprocess.Popen(
            self.command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._begin_reading()

    def _begin_reading(self) -> None:
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """All that the server has written so far."""
        with self._news:
            return "".join(self._lines)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``: the first address that the server printed."""
        return self.wait_for_line(SERVING_ON, START_S)[1].rstrip("/")

    @property
    def websocket_url(self) -> str:
        """``ws://127.0.0.1:PORT/``"""
        return f"ws{self.url.removeprefix('http')}/"

    @property
    def port(self) -> int:
        """The port of `url`."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def wait_for_line(self, pattern: re.Pattern[str], timeout_s: float) -> re.Match[str]:
        """Returns the first line of the log, written or to come, that holds `pattern`."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if found := pattern.search(line):
                        return found
                seen = len(self._lines)
                if not self._reader.is_alive() and self.process.poll() is not None:
                    raise AssertionError(f"the server ended with {self.process.returncode} before {pattern.pattern!r}")
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    raise AssertionError(f"the server did not write {pattern.pattern!r} within {timeout_s} s")
                self._news.wait(min(remaining_s, 0.1))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops the server by a signal and returns its exit code; fails, and kills it, after STOP_S."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not stop within {STOP_S} s of {number.name}") from None
        finally:
            self.end()

    def end(self) -> None:
        """Kills the server's process if it still runs, and releases its output."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        """Adds each line that the server writes to the log. The target of a thread."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()


@contextmanager
def serving(
    *arguments: str, bind: str = "127.0.0.1:0", environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[ServerProcess]:
    """Yields a server that serves while the block runs; at the end SIGTERM must stop it with exit code 0.

    A test may stop the server itself. If the block or the stop fails, the server's log is printed.
    """
    server = ServerProcess((*arguments, "--bind", bind), environment or {}, folder)
    try:
        assert server.url
        yield server
        was_running = server.process.poll() is None
        code = server.stop()
        if was_running:
            assert code == 0, f"the server ended with {code}"
    except BaseException:
        server.end()
        print(f"--- {' '.join(server.command)}\n{server.log}--- end of its log", file=sys.stderr)
        raise
    finally:
        server.end()


def shared(server: ServerProcess) -> Iterator[ServerProcess]:
    """Yields a server that several tests share, then prints the log lines of the test: for a test's fixture.

    The lines are always printed; pytest shows what was printed of tests that failed only.
    """
    known = len(server.log)
    yield server
    print(f"--- {' '.join(server.command)}\n{server.log[known:]}--- end of its log", file=sys.stderr)
