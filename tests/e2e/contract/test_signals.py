"""Signals to a whole process group under load: only the server acts on them, and no message is lost."""

import os
import re
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from kits.contract_kit import APPS
from kits.forked_programs import Forks, Program, program
from kits.raw_peer import PATIENCE_S, Peer, close_frame, text
from wsbroker.settings.config import WorkerKind

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no process groups there")

RELOADED = re.compile(r": (reloaded$|not reloaded, the running workers stay)")
CLIENTS = 8


class Chatter(threading.Thread):
    """A client that sends numbers, eight at a time, as fast as they are echoed, until the server closes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.peer = Peer(("127.0.0.1", port))
        self.peer.upgrade()
        self.echoed: list[str] = []
        self.sent = 0
        self.end: tuple[int, str] | None = None
        self.start()

    def run(self) -> None:
        """Sends and receives until the server's Close frame. Runs in the client's thread."""
        self._send(8)
        while True:
            opcode, payload = self.peer.frame()
            if opcode == 8:
                self.end = int.from_bytes(payload[:2], "big"), payload[2:].decode()
                self.peer.send(close_frame(1001))
                assert self.peer.rest() == b""
                self.peer.end()
                return
            self.echoed.append(payload.decode())
            self._send(1)

    def _send(self, count: int) -> None:
        try:
            self.peer.send(*(text(str(self.sent + number)) for number in range(count)))
            self.sent += count
        except ConnectionError:
            pass  # the server has closed already


def reloads(server: Program) -> int:
    return len(re.findall(RELOADED.pattern, server.log, re.MULTILINE))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_a_whole_group_reload_and_stop_the_server_cleanly(
    forks: Forks, kind: WorkerKind, number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "tally"
    workers = 1 if kind == "inline" else 2
    arguments = [f"--worker-kind={kind}", f"--workers={workers}", f"--worker-arg={file}", "--bind=127.0.0.1:0"]
    with program(forks, f"{APPS}tally:app", *arguments) as server:
        chatters = [Chatter(server.port) for _ in range(CLIENTS)]
        wait_for_echoes(chatters)
        os.killpg(server.process.pid, signal.SIGHUP)
        server.wait_for_line(RELOADED, PATIENCE_S)
        wait_for_echoes(chatters)
        os.killpg(server.process.pid, number)
        os.killpg(server.process.pid, number)  # a wrapper's: not the second one
        assert server.ended() == 0
        for chatter in chatters:
            chatter.join(PATIENCE_S)
        assert [chatter.end for chatter in chatters] == [(1001, "server shutdown")] * CLIENTS
        assert "lost" not in server.log and "Traceback" not in server.log and "second signal" not in server.log
    lines = file.read_text(encoding="utf-8").splitlines()
    has_reloaded = kind in ("process", "interpreter")
    assert lines.count("stop") == workers * (2 if has_reloaded else 1)
    closes = sorted(line for line in lines if line.startswith("close"))
    assert closes == sorted(f"close {chatter.echoed[0].split()[0]} 1001" for chatter in chatters)
    for chatter in chatters:
        me = chatter.echoed[0].split()[0]
        handled = [line.removeprefix("message ") for line in lines if line.startswith(f"message {me} ")]
        # In order, without a gap; what came behind the Close of the server is not handled.
        assert handled == [f"{me} {each}" for each in range(len(handled))]
        assert chatter.echoed == handled[: len(chatter.echoed)] and len(handled) <= chatter.sent


def wait_for_echoes(chatters: list[Chatter]) -> None:
    """Waits until each client has received more echoes."""
    had = [len(chatter.echoed) for chatter in chatters]
    deadline = time.monotonic() + PATIENCE_S
    while any(len(chatter.echoed) < before + 5 for chatter, before in zip(chatters, had, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_group_while_the_workers_start_is_the_servers_too(
    forks: Forks, kind: WorkerKind, number: signal.Signals, tmp_path: Path
) -> None:
    """A worker has no handlers yet in its first instants."""
    if kind != "process":
        pytest.skip("it is a process of its own only there")
    arguments = [f"--worker-kind={kind}", "--workers=2", f"--worker-arg={tmp_path / 'tally'}", "--bind=127.0.0.1:0"]
    with program(forks, f"{APPS}tally:app", *arguments) as server:
        server.wait_for_line(re.compile("workers kind=process"), PATIENCE_S)
        until = time.monotonic() + 0.15
        while time.monotonic() < until:
            os.killpg(server.process.pid, number)
            time.sleep(0.005)
        if number == signal.SIGHUP:
            assert server.port
            assert server.stop() == 0
        else:
            assert server.ended() == 0
        assert "SIG" not in server.log and "lost" not in server.log


def test_a_second_signal_at_once_is_the_first_one(forks: Forks, tmp_path: Path) -> None:
    arguments = ["--worker-kind=inline", "--shutdown-timeout=60", "--handler-timeout=60", "--bind=127.0.0.1:0"]
    with program(forks, f"{APPS}recorder:Stuck", *arguments) as server:
        peer = Peer(("127.0.0.1", server.port))
        peer.upgrade(text("wait"))
        assert peer.text() == "waiting"
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        assert peer.close_frame() == (1001, "server shutdown")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line(re.compile(" stopping$"), PATIENCE_S)
        time.sleep(0.1)
        assert server.process.poll() is None
        while server.process.poll() is None:  # one that comes later does end it
            time.sleep(0.05)
            server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 143
        peer.end()


def test_a_hang_up_that_nohup_has_ignored_stays_ignored(forks: Forks, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(f"""
            import logging, os, signal, subprocess, sys
            import wsbroker
            logging.basicConfig(level="INFO")
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            wsbroker.run("127.0.0.1:0", worker="{APPS}echo", worker_kind="inline")
            """),
        encoding="utf-8",
    )
    with program(forks, script=path) as server:
        peer = Peer(("127.0.0.1", server.port))
        peer.upgrade()
        server.process.send_signal(signal.SIGHUP)
        peer.send(text("hello"))
        assert peer.text() == "hello"
        peer.end()
        assert server.stop() == 0
        assert "SIGHUP is ignored" in server.log and not reloads(server)


PROGRAM = """
import signal, sys, weakref
import wsbroker.server.api, wsbroker.cli, wsbroker.server.signals
def run(*arguments, **settings):
    class Lock: ...
    lock = Lock()
    ref = weakref.ref(lock, lambda ref: {what})  # an import has such a callback; Python ignores what it raises
    del lock
    sys.exit(5)
wsbroker.server.api.run = run
wsbroker.server.signals.DUPLICATE_SIGNAL_S = 60
sys.argv = ["wsbroker", "--bind=127.0.0.1:0"]
sys.exit(wsbroker.cli.main())
"""


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("signal.raise_signal(signal.SIGINT)", 130),
        ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM),
        ("(setattr(wsbroker.server.signals, '_stop_signal_at', 1e12), signal.raise_signal(signal.SIGTERM))", 5),
    ],
)
def test_a_signal_before_the_start_ends_the_command_line_and_a_duplicate_behind_the_stop_does_not(
    what: str, code: int, forks: Forks, tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text(PROGRAM.format(what=what), encoding="utf-8")
    with program(forks, script=path) as command:
        assert command.ended() == code, command.log
