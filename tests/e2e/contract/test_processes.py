"""Whole processes: `run`, the command line, scripts that end with `start`; signals, exit codes, what is logged."""

import http.client
import os
import re
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kits.contract_kit import APPS, KINDS, ONLY_WIRED
from kits.forked_programs import Forks, Program, environment_of, program
from kits.log_records import SECRET
from kits.raw_peer import PATIENCE_S, Peer, close_frame, frame, request, text, upgrade
from kits.server_process import SERVING_ON, START_S, ServerProcess, serving
from wsbroker.settings.config import WorkerKind

STARTED = re.compile("^started$")
BYE = (1001, "server shutdown")


Script = Callable[[str], AbstractContextManager[Program]]
"""Runs a program; its log goes where its output goes."""


@pytest.fixture
def script(forks: Forks, tmp_path: Path) -> Script:
    """Starts a script as a forked program."""

    def run(source: str) -> AbstractContextManager[Program]:
        path = tmp_path / "script.py"
        log = "import logging; logging.basicConfig(level='INFO')\n"
        path.write_text(log + textwrap.dedent(source), encoding="utf-8")
        return program(forks, script=path)

    return run


def command(forks: Forks, *arguments: str) -> AbstractContextManager[Program]:
    """Starts ``python -m wsbroker`` on a free port."""
    return program(forks, "--bind=127.0.0.1:0", *arguments)


def connected(process: ServerProcess, *more: bytes, path: str = "/") -> Peer:
    """Returns an open WebSocket connection to this server."""
    peer = Peer(("127.0.0.1", process.port))
    peer.upgrade(*more, path=path)
    return peer


def send_until_ended(program: ServerProcess, number: signal.Signals) -> None:
    """Sends a signal repeatedly until the program ends; half a second after the first it counts as the second."""
    for _ in range(1000):
        program.process.send_signal(number)
        try:
            program.process.wait(0.02)
            return
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture
def number(kind: WorkerKind) -> signal.Signals:
    """SIGINT or SIGTERM; the kinds of worker alternate, because a signal has the same effect with all of them."""
    return signal.SIGTERM if KINDS.index(kind) % 2 else signal.SIGINT


def test_the_command_line_stops_cleanly_on_a_signal(forks: Forks, kind: WorkerKind, number: signal.Signals) -> None:
    with command(forks, f"{APPS}echo", f"--worker-kind={kind}") as server:
        peer = connected(server, text("hello"))
        assert peer.text() == "hello"
        server.process.send_signal(number)
        assert peer.close_frame() == BYE
        peer.send(close_frame(1001))
        assert peer.rest() == b""
        assert server.ended() == 0
        assert "Traceback" not in server.log and " ERROR " not in server.log
        peer.end()


@ONLY_WIRED
def test_a_handler_that_does_not_come_back_keeps_no_process_from_its_end(
    forks: Forks, kind: WorkerKind, tmp_path: Path
) -> None:
    """A thread or an interpreter cannot be ended from outside, so that Python would wait for it at its end."""
    os.mkfifo(tmp_path / "pipe")
    arguments = [f"--worker-kind={kind}", f"--worker-arg={tmp_path / 'pipe'}", "--shutdown-timeout=0.3"]
    with command(forks, f"{APPS}recorder:Stuck", "--workers=1", "--handler-timeout=60", *arguments) as server:
        peer = connected(server, text("block"))
        assert peer.text() == "waiting"
        server.process.send_signal(signal.SIGTERM)
        assert peer.close_frame() == BYE
        peer.send(close_frame(1001))
        assert server.ended() == 0
        assert "worker did not stop in time" in server.log
        peer.end()


def test_a_second_signal_ends_the_command_line_at_once(forks: Forks, kind: WorkerKind, number: signal.Signals) -> None:
    """A handler that does not mind being cancelled would hold a clean stop for a minute."""
    with command(
        forks, f"{APPS}recorder:Stuck", f"--worker-kind={kind}", "--shutdown-timeout=60", "--handler-timeout=60"
    ) as server:
        peer = connected(server, text("wait"))
        assert peer.text() == "waiting"
        server.process.send_signal(number)
        assert peer.close_frame() == BYE
        send_until_ended(server, number)
        assert server.ended() == 128 + number
        assert "second signal: exiting at once" in server.log
        assert "Traceback" not in server.log
        peer.end()


def test_a_second_signal_ends_a_handler_that_blocks_the_loop(forks: Forks) -> None:
    with command(forks, f"{APPS}puppet", "--worker-kind=inline", "--shutdown-timeout=60") as server:
        peer = connected(server, text("here 1"))
        assert peer.text() == "1"
        peer.send(text("tell next(0 for one in iter(int, 1) if one)"))
        send_until_ended(server, signal.SIGTERM)
        assert server.ended() == 143
        peer.end()


def test_a_handler_that_ends_its_process_costs_a_worker_or_the_server(forks: Forks, kind: WorkerKind) -> None:
    """Only a process of its own keeps what cannot be caught from everybody else."""
    with command(forks, f"{APPS}puppet", f"--worker-kind={kind}", "--workers=1") as server:
        peer = connected(server, text("tell __import__('os')._exit(7)"))
        if kind == "process":
            assert peer.close_frame() == (1012, "worker restart")
            peer.send(close_frame(1012))
            server.wait_for_line(re.compile("its process exited with code 7"), PATIENCE_S)
            server.wait_for_line(re.compile("worker started worker=worker-0 generation=1"), PATIENCE_S)
            other = connected(server, text("here 1"))
            assert other.text() == "1"
            other.end()
            assert server.stop() == 0
        else:
            assert peer.rest() == b""
            assert server.ended() == 7
        peer.end()


def test_a_crash_loop_ends_the_command_with_code_4(script: Script, tmp_path: Path) -> None:
    """With less time between the attempts than there is."""
    flag = tmp_path / "flag"
    source = f"""
        import sys
        import wsbroker.cli
        import wsbroker.pool.restart_policy
        wsbroker.pool.restart_policy.FIRST_DELAY_S = 0.001
        arguments = ["kits.pool_apps:DiesAgain", "--bind=127.0.0.1:0", "--workers=1", "--worker-kind=process"]
        sys.exit(wsbroker.cli.main([*arguments, "--worker-arg={flag}"]))
    """
    with script(source) as program:
        peer = connected(program)
        flag.touch()
        peer.send(text("die"))
        assert peer.close_frame() == (1012, "worker restart")
        peer.send(close_frame(1012))
        assert program.ended() == 4
        last = program.log.splitlines()[-1]
        assert last.startswith("wsbroker: error: worker worker-0 was lost more than 5 times within 60 s, ")
        peer.end()


def test_run_returns_after_a_signal(script: Script, kind: WorkerKind) -> None:
    source = f"""
        import signal, time
        import wsbroker
        wsbroker.register_worker({APPS + "echo"!r})
        wsbroker.run("127.0.0.1:0", worker_kind={kind!r})
        time.sleep(0.5)  # until then another one is taken for a duplicate
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("behind run()")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    with script(source) as program:
        peer = connected(program, text("hello"))
        assert peer.text() == "hello"
        peer.end()
        program.process.send_signal(signal.SIGINT)
        assert program.ended() == 0
        assert program.log.endswith("behind run()\n")
        assert "Traceback" not in program.log


def test_a_script_that_ends_with_start_stays_alive_until_a_signal(
    script: Script, kind: WorkerKind, number: signal.Signals
) -> None:
    source = f"""
        import wsbroker
        print("before")
        server = wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind={kind!r})
        print("started")
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        peer = connected(program, text("hello"))
        assert peer.text() == "hello"
        program.process.send_signal(number)
        assert peer.close_frame() == BYE
        peer.send(close_frame(1001))
        peer.end()
        assert program.ended() == 0
        assert "Traceback" not in program.log


def test_a_program_that_waits_goes_on_when_the_server_has_stopped(script: Script) -> None:
    source = f"""
        import wsbroker
        with wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind="thread") as server:
            print("started")
            print(server.wait())
        print("behind wait()", server)
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        program.process.send_signal(signal.SIGTERM)
        assert program.ended() == 0
        assert re.search(r"^True\nbehind wait\(\) <Server stopped http://127.0.0.1:\d+>\n\Z", program.log, re.MULTILINE)


def test_a_first_sigint_stops_the_server_and_then_interrupts_a_program_with_a_main_loop_of_its_own(
    script: Script, kind: WorkerKind
) -> None:
    source = f"""
        import time
        import wsbroker
        try:
            with wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind={kind!r}) as server:
                print("started")
                while True:
                    wsbroker.send_to_channel("ticks", "tick")
                    time.sleep(0.01)
        except KeyboardInterrupt:
            print("interrupted", server)
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        peer = connected(program, text("hello"))
        assert peer.text() == "hello"
        program.process.send_signal(signal.SIGINT)
        assert peer.close_frame() == BYE
        peer.send(close_frame(1001))
        peer.end()
        assert program.ended() == 0
        assert re.search(r"^interrupted <Server stopped ", program.log, re.MULTILINE)
        assert "Traceback" not in program.log


def test_a_program_that_the_interruption_ends_waits_for_the_end_of_its_server(script: Script) -> None:
    source = f"""
        import time
        import wsbroker
        server = wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind="thread")
        print("started")
        time.sleep(60)
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        peer = connected(program, text("hello"))
        assert peer.text() == "hello"
        program.process.send_signal(signal.SIGINT)
        assert peer.close_frame() == BYE
        peer.send(close_frame(1001))
        peer.end()
        assert program.ended() in (1, 130, -signal.SIGINT)
        assert program.log.endswith("INFO:wsbroker.server.lifecycle:stopped\n")
        assert "KeyboardInterrupt" in program.log and "Exception ignored" not in program.log


def test_a_program_that_waits_for_the_server_is_not_interrupted(script: Script) -> None:
    """The end of the wait is what tells it."""
    source = f"""
        import signal, sys, threading, time
        import wsbroker
        main = threading.get_ident()

        def waits(frame):
            return frame is not None and (frame.f_code is wsbroker.Server.wait.__code__ or waits(frame.f_back))

        def interrupt():
            while not waits(sys._current_frames()[main]):
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGINT)

        with wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind="thread") as server:
            threading.Thread(target=interrupt).start()
            print(server.wait(), "behind wait()")
    """
    with script(source) as program:
        assert program.ended() == 0
        assert program.log.splitlines()[-1] == "True behind wait()"


@pytest.mark.parametrize(
    ("serve", "line"),
    [
        ("wsbroker.run({0}, worker={1}, worker_kind='inline')", "serving on"),
        ("server = wsbroker.start({0}, worker={1}); print('started'); server.wait()", "^started$"),
    ],
)
def test_a_duplicate_of_the_stop_signal_does_not_end_what_a_program_does_behind_its_server(
    serve: str, line: str, script: Script
) -> None:
    call = serve.format('"127.0.0.1:0"', repr(APPS + "echo"))
    source = f"""
        import time
        import wsbroker
        {call}
        print("stopped")
        time.sleep(0.4)
        print("cleaned up")
    """
    with script(source) as program:
        program.wait_for_line(re.compile(line), START_S)
        program.process.send_signal(signal.SIGTERM)
        program.wait_for_line(re.compile("^stopped$"), START_S)
        program.process.send_signal(signal.SIGTERM)
        assert program.ended() == 0
        assert program.log.endswith("cleaned up\n")


@pytest.mark.parametrize("last", ["server.wait()", "pass"])
def test_no_wait_of_a_program_misses_a_signal(last: str, script: Script) -> None:
    """One that comes just before a wait for a lock does not end that wait, as one does not that another thread gets."""
    source = f"""
        import signal, threading
        import wsbroker
        def signals():
            print("started")
            threading.Event().wait(0.1)  # the main thread waits by now
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        server = wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind="inline")
        threading.Thread(target=signals, daemon=True).start()
        {last}
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        assert program.ended() == 0


def test_a_script_that_ends_with_start_goes_on_with_threads(script: Script) -> None:
    """Python shuts `asyncio.to_thread` down when the main thread ends, before it waits for the server's."""
    source = """
        import asyncio
        import wsbroker
        class Threads:
            async def handle_http_request(self, request):
                return await asyncio.to_thread(str, 42)
        wsbroker.start("127.0.0.1:0", worker=Threads(), worker_kind="inline")
        print("started")
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        time.sleep(0.1)  # the main thread has come to its end
        connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=PATIENCE_S)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"42"
        connection.close()
        assert program.stop() == 0


def test_signals_that_a_program_handles_itself_stay_its_own(script: Script) -> None:
    source = f"""
        import signal, sys
        import wsbroker
        signal.signal(signal.SIGTERM, lambda number, frame: (print("mine"), server.stop()))
        server = wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind="thread")
        print("started")
        server.wait()
        print("done")
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        program.process.send_signal(signal.SIGTERM)
        assert program.ended() == 0
        assert "mine\n" in program.log and program.log.endswith("done\n")


def test_start_can_leave_signals_alone(script: Script) -> None:
    source = f"""
        import wsbroker
        wsbroker.start("127.0.0.1:0", worker={APPS + "echo"!r}, worker_kind="inline", handle_signals=False)
        print("started")
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        program.process.send_signal(signal.SIGTERM)
        assert program.ended() == -signal.SIGTERM


def test_a_second_signal_after_start_is_the_default(script: Script) -> None:
    source = f"""
        import wsbroker
        settings = {{"worker_kind": "thread", "shutdown_timeout": 60, "handler_timeout": 60}}
        wsbroker.start("127.0.0.1:0", worker="{APPS}recorder:Stuck", **settings)
        print("started")
    """
    with script(source) as program:
        program.wait_for_line(STARTED, START_S)
        peer = connected(program, text("wait"))
        assert peer.text() == "waiting"
        program.process.send_signal(signal.SIGTERM)
        assert peer.close_frame() == BYE
        send_until_ended(program, signal.SIGTERM)
        assert program.ended() == -signal.SIGTERM
        peer.end()


def test_a_start_that_fails_in_a_program_is_an_exception_that_ends_it(script: Script) -> None:
    source = """
        import wsbroker
        try:
            wsbroker.start("127.0.0.1:0", worker="not_there", worker_kind="inline")
        except wsbroker.ConfigError as error:
            print("caught:", error)
        wsbroker.run("127.0.0.1:0", worker="not_there", worker_kind="inline")
    """
    with script(source) as program:
        assert program.ended() == 1
        assert "caught: cannot import 'not_there': there is no module named 'not_there'; looked in " in program.log
        assert program.log.splitlines()[-1].startswith("wsbroker.errors.ConfigError: cannot import 'not_there': ")


def test_the_address_is_printed_with_its_real_port(forks: Forks, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with command(forks, f"{APPS}echo", f"--bind=unix:{path}", "--bind=[::1]:0") as server:
        line = server.wait_for_line(SERVING_ON, START_S).string
        match = re.search(r"serving on http://127\.0\.0\.1:(\d+), unix:(\S+), http://\[::1\]:(\d+)$", line.rstrip())
        assert match is not None and match[2] == str(path)
        for address in (("127.0.0.1", int(match[1])), str(path), ("::1", int(match[3]))):
            peer = Peer(address)
            peer.upgrade(text("hello"))
            assert peer.text() == "hello"
            peer.end()
        assert server.stop() == 0
        assert not path.exists()


def test_nothing_that_a_peer_or_the_application_hides_is_logged(forks: Forks, kind: WorkerKind) -> None:
    """At the level that says most: no payload, no token, no body, no header, no argument of the worker."""
    hidden = SECRET.encode()
    with command(
        forks,
        f"{APPS}puppet",
        f"--worker-kind={kind}",
        f"--worker-arg={SECRET}",
        "--log-level=debug",
        "--max-message-size=200",
        "--handler-timeout=60",
    ) as server:
        peer = connected(server, text(f"tell set_token(me, {SECRET!r})"), text("here token"), frame(2, hidden))
        assert peer.text() == repr(hidden)
        assert peer.frame() == (2, hidden)
        peer.send(text(f"here send_to_channel({SECRET!r}, {SECRET!r})"), text(f"{SECRET} {SECRET}"), text("raise"))
        assert peer.text() == "None"
        assert peer.text().startswith("!")
        assert peer.close_frame()[0] == 1011
        peer.end()
        for bad in (frame(1, hidden + b"\xff"), frame(2, hidden * 20), b"\xc1" + hidden, close_frame(4000, SECRET)):
            peer = connected(server, bad)
            peer.close_frame()
            peer.end()
        for data in (
            request("GET", "/", f"Cookie: {SECRET}", f"Authorization: Bearer {SECRET}"),
            request("POST", "/", body=f"{{}}[{SECRET!r}]".encode()),
            b"GET / HTTP/1.1\r\nHost: x\r\n" + hidden + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + hidden + b" : x\r\n\r\n",
            upgrade("/", "Origin: https://other.example", f"X: {SECRET}"),
            upgrade("/", f"Sec-WebSocket-Protocol: {SECRET}", f"X: {SECRET}"),
            upgrade("/?do=[]", f"Cookie: {SECRET}"),
        ):
            peer = Peer(("127.0.0.1", server.port))
            peer.send(data)
            peer.head()
            peer.end()
        assert server.stop() == 0
        assert "handler failed handler=handle_socket_message" in server.log
        assert "LookupError: as told" in server.log
        assert "handle_socket_open returned a list; it may return True or None (accept)" in server.log
        assert SECRET not in server.log


def test_all_that_holds_for_a_process_that_begins_with_nothing_imported() -> None:
    """The others here are forked from one that has everything."""
    with serving(APPS + "echo", environment=environment_of({})) as server:
        peer = connected(server, text("hello"))
        assert peer.text() == "hello"
        server.process.send_signal(signal.SIGTERM)
        assert peer.close_frame() == BYE
        peer.send(close_frame(1001))
        peer.end()
        assert server.process.wait(PATIENCE_S) == 0


def test_the_built_in_application_is_served_without_an_app(forks: Forks) -> None:
    with command(forks) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        assert server.stop() == 0
