"""What is special about workers that are subinterpreters: modules that refuse them, threads, and the process's end."""

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kits.pool_kit import APPS, ELSEWHERE, Shop, live, start_error
from wsbroker.errors import ConfigError
from wsbroker.pool.kinds import subinterpreters

pytestmark = pytest.mark.skipif(not subinterpreters.are_available(), reason="this Python has no subinterpreters to use")

REFUSING = """
import _interpreters
if _interpreters.get_current() != _interpreters.get_main():
    raise ImportError("module fast.core does not support loading in subinterpreters")
"""


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test writes its modules. Their names are new in each test: `sys.modules` keeps them."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")


HANDLER = """
def handle_socket_message(data, socket_id):
    import os, wsbroker
    wsbroker.send(socket_id, str(os.getpid()))
"""

# Modules that refuse. -------------------------------------------------------------------------------------------------


def test_an_explicit_kind_names_the_module_the_chain_and_what_to_use(apps: Path) -> None:
    write(apps, refused_app="import refused_db" + HANDLER, refused_db="import refused_fast", refused_fast=REFUSING)
    error = start_error("refused_app", worker_kind="interpreter", workers=2)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "cannot import 'refused_app': module fast.core does not support loading in subinterpreters "
        "(imported by refused_app → refused_db → refused_fast); use worker kind 'process', which takes every module"
    )


def test_a_package_that_wraps_the_refusal_in_a_text_of_its_own_is_understood(apps: Path) -> None:
    write(
        apps,
        wordy_app="import wordy" + HANDLER,
        wordy="""
            try:
                import wordy_fast
            except ImportError as error:
                raise RuntimeError("PLEASE READ THIS FOR ADVICE" * 100) from error
            """,
        wordy_fast=REFUSING,
    )
    assert str(start_error("wordy_app", worker_kind="interpreter")) == (
        "cannot import 'wordy_app': module fast.core does not support loading in subinterpreters "
        "(imported by wordy_app → wordy); use worker kind 'process', which takes every module"
    )


def test_a_start_handler_that_imports_it_is_refused_too(apps: Path) -> None:
    write(apps, late_fast=REFUSING, late_app="def handle_worker_start(arg):\n    import late_fast\n" + HANDLER)
    error = start_error("late_app", worker_kind="interpreter")
    assert str(error).startswith("handle_worker_start of late_app failed: ImportError: module fast.core does not")
    assert str(error).endswith("use worker kind 'process', which takes every module")


def test_auto_moves_all_workers_to_processes_and_says_why(apps: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(apps, moving_app="import moving_fast" + HANDLER, moving_fast=REFUSING)

    async def work(shop: Shop) -> None:
        assert shop.pool.kind == "process"
        processes = {await shop.asks("who", lane_index) for lane_index in (0, 1)}
        assert len(processes) == 2

    caplog.set_level(logging.INFO)
    live("moving_app", work, worker_kind="auto", workers=2)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == (
        "all workers move to kind process (worker_kind=process does so at once): cannot import 'moving_app': "
        "module fast.core does not support loading in subinterpreters (imported by moving_app → moving_fast)"
    )


def test_a_real_module_of_that_sort_is_refused_and_does_no_harm(apps: Path) -> None:
    write(apps, real_app="import uvloop" + HANDLER)
    error = start_error("real_app", worker_kind="interpreter")
    assert "module uvloop.loop does not support loading in subinterpreters (imported by real_app → uvloop" in str(error)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_module_with_both_handlers_and_the_start_of_the_server_works_if_that_is_guarded(
    apps: Path, kind: str
) -> None:
    write(
        apps,
        both_app="""
            from wsbroker import Config, Server, Settings, WorkerHandle, register_worker, run, send, serve, start
            handle: WorkerHandle = register_worker("both_app")
            assert handle.spec == "both_app"
            handle.unregister()
            def handle_socket_message(data, socket_id):
                send(socket_id, data)
            if __name__ == "__main__":
                start(":0")
            """,
    )

    async def work(shop: Shop) -> None:
        assert await shop.asks("hello") == "hello"

    live("both_app", work, worker_kind=kind)


@pytest.mark.parametrize("kind", ELSEWHERE)
@pytest.mark.parametrize("call", ["start", "run", "serve"])
def test_a_module_that_starts_the_server_when_it_is_imported_is_told_so(apps: Path, kind: str, call: str) -> None:
    name = f"eager_{call}"
    write(apps, **{name: f"import wsbroker\nwsbroker.{call}(':0')\n" + HANDLER})
    assert str(start_error(name, worker_kind=kind)) == (
        f"cannot import '{name}': CommandError: {call}() was called in a worker, where no server can start: put "
        "the lines that start the server behind if __name__ == '__main__': or into a module of their own "
        f"(imported by {name}, at {name}.py line 2)"
    )


# The end of the process. ----------------------------------------------------------------------------------------------

STUCK = """
import atexit, logging, os, sys, threading
from wsbroker.pool.kinds import subinterpreters

interpreter = subinterpreters.create_interpreter("worker-0")
reading, writing = os.pipe()
program = f"import os, time; os.write({writing}, b'x'); time.sleep(1000)"
threading.Thread(target=interpreter.run_program, args=(program,), daemon=True).start()
os.read(reading, 1)
interpreter.prepare_forced_exit()
atexit.register(print, "at exit")
file = open(sys.argv[1], "w")
file.write("not flushed")
print("last words", end=" ")
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit(258)", 2),
        ("sys.exit('a text')", 1),
        ("raise ValueError('uncaught')", 1),
        ("raise KeyboardInterrupt", 130),
        ("try:\n    sys.exit(7)\nexcept SystemExit:\n    pass", 0),
        ("threading.Thread(target=sys.exit, args=(9,)).start()", 0),
    ],
)
def test_a_process_with_a_stuck_interpreter_ends_at_once_with_its_own_status(
    end: str, status: int, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-c", STUCK + end, str(file)], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "last words at exit\n"
    assert done.stderr.splitlines()[-1] == "wsbroker: the process exits without waiting for worker-0, still busy"
    assert file.read_text(encoding="utf-8") == "not flushed"


@pytest.mark.parametrize("program", ["1 / 0", "import sys; sys.exit(2)", "import os; os.x", "pass"])
def test_what_a_program_raised_is_told_and_the_process_ends_as_ever(program: str) -> None:
    script = f"""
from wsbroker.pool.kinds import subinterpreters
interpreter = subinterpreters.create_interpreter("worker-0")
print(interpreter.run_program({program!r}).strip().splitlines()[-1:], interpreter.try_destroy())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    errors = {
        "1 / 0": ["ZeroDivisionError: division by zero"],
        "import sys; sys.exit(2)": ["SystemExit: 2"],
        "import os; os.x": ["AttributeError: module 'os' has no attribute 'x'"],
        "pass": [],
    }
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{errors[program]} True\n", "")


def test_daemon_threads_keep_their_interpreter_and_others_are_waited_for() -> None:
    script = """
import os, threading
from wsbroker.pool.kinds import subinterpreters
for is_daemon in (False, True):
    interpreter = subinterpreters.create_interpreter("worker-0")
    reading, writing = os.pipe()
    program = f"import os, threading; threading.Thread(target=os.read, args=({reading}, 1), daemon={is_daemon}).start()"
    assert interpreter.run_program(program) == ""
    threading.Timer(0.05, os.write, (writing, b"x")).start() if not is_daemon else None
    print(is_daemon, interpreter.try_destroy())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "False True\nTrue False\n")
    assert done.stderr == "wsbroker: the process exits without waiting for worker-0, still busy\n"


def test_a_program_that_ends_with_start_ends_in_time_although_a_handler_is_stuck(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys, threading, time
import websockets.sync.client, wsbroker
os.mkfifo(sys.argv[1])
server = wsbroker.start(
    "127.0.0.1:0",
    worker="{APPS}Hangs",
    worker_kind="interpreter",
    workers=1,
    worker_arg=sys.argv[1],
    shutdown_timeout=0.3,
)
url = str(server.addresses[0]).replace("http", "ws")
with websockets.sync.client.connect(url, compression=None, proxy=None) as client:
    client.send("hello")
    assert client.recv(10) == "hello"
    client.send("block")
    signal.raise_signal(signal.SIGTERM)
    server.wait()
"""
    folder = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{script}", str(tmp_path / "pipe")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "wsbroker: the process exits without waiting for worker-0, still busy"
