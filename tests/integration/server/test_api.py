"""Starting and stopping: what interrupts a start, and what is left when it failed. (The rest: tests/e2e/contract)"""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

import wsbroker
from wsbroker.server import api
from wsbroker.server import lifecycle as lifecycle_module
from wsbroker.server.event_loop import run_loop
from wsbroker.server.lifecycle import Lifecycle
from wsbroker.server.node import Node

BIND = "127.0.0.1:0"


class Idle:
    """A worker whose message handler does nothing."""

    def handle_socket_message(self, data: object) -> None:
        """Does nothing."""


class NeverStarts:
    """A worker whose start handler never returns."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.has_ended = False

    async def handle_worker_start(self, arg: object) -> None:
        self.is_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.has_ended = True

    def handle_socket_message(self, data: object) -> None:
        """Does nothing."""


def test_a_start_that_is_cancelled_does_not_wait_for_its_workers() -> None:
    async def main() -> None:
        worker = NeverStarts()
        entering = asyncio.create_task(wsbroker.serve(BIND, worker=worker, worker_kind="inline").__aenter__())
        await worker.is_asked.wait()
        entering.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await entering
        assert worker.has_ended
        async with wsbroker.serve(BIND, worker=Idle(), worker_kind="inline") as server:
            assert server.is_running

    asyncio.run(main())


def test_a_stop_that_is_asked_for_before_the_loop_runs_is_not_lost() -> None:
    opened: list[bool] = []
    lifecycle, addresses = api.prepare_server(BIND, Idle(), None, {"worker_kind": "inline"})
    lifecycle.request_stop(None)
    run_loop(lifecycle.run_until_stopped(addresses, lambda: opened.append(True)))
    assert lifecycle.stopped.is_set() and not opened


def test_a_server_whose_task_is_cancelled_closes_its_port() -> None:
    async def main() -> None:
        opened = asyncio.Event()
        lifecycle, addresses = api.prepare_server(BIND, Idle(), None, {"worker_kind": "inline"})
        life = asyncio.create_task(lifecycle.run_until_stopped(addresses, opened.set))
        await opened.wait()
        (address,) = lifecycle.addresses
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        async with wsbroker.serve(str(address).removeprefix("http://"), worker=Idle(), worker_kind="inline"):
            pass

    asyncio.run(main())


def test_a_thread_that_cannot_be_started_leaves_room_for_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            wsbroker.start(BIND, worker=Idle(), worker_kind="inline")
    with wsbroker.start(BIND, worker=Idle(), worker_kind="inline") as server:
        assert server.is_running


def test_run_inside_an_event_loop_says_what_to_use_instead() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="async with wsbroker.serve"):
            wsbroker.run(BIND, worker=Idle(), worker_kind="inline")

    asyncio.run(main())


def test_a_server_that_has_stopped_leaves_no_timer_in_the_loop_of_its_program() -> None:
    async def main() -> None:
        async with wsbroker.serve(BIND, worker=Idle(), worker_kind="inline") as server:
            node = server._lifecycle.node
        assert node is not None
        assert node.connections.is_stopped and node.connections.connection_count == 0

    asyncio.run(main())


# The end of the loop, seen from other threads. ------------------------------------------------------------------------

ASK: dict[str, Callable[[wsbroker.Server], object]] = {
    "statistics": wsbroker.Server.statistics,
    "reload": wsbroker.Server.reload,
}


@pytest.fixture
def dangling() -> Lifecycle:
    """A server whose loop does not run, without having been marked as stopped."""
    lifecycle = Lifecycle(wsbroker.Config(), Idle())
    lifecycle.loop = asyncio.new_event_loop()
    lifecycle.node = cast(Node, object())
    return lifecycle


@pytest.mark.parametrize("ask", ASK.values(), ids=list(ASK))
def test_what_is_asked_of_a_closed_loop_is_told_that_the_server_has_stopped(
    ask: Callable[[wsbroker.Server], object], dangling: Lifecycle
) -> None:
    assert dangling.loop is not None
    dangling.loop.close()
    with pytest.raises(wsbroker.CommandError, match="the server has stopped meanwhile"):
        ask(wsbroker.Server(dangling))


@pytest.mark.parametrize("ask", ASK.values(), ids=list(ASK))
def test_what_the_loop_does_not_come_to_any_more_is_told_so_too(
    ask: Callable[[wsbroker.Server], object], dangling: Lifecycle
) -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            ask(wsbroker.Server(dangling))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not dangling.pending_answers:
        thread.join(0.001)
    dangling.mark_stopped()
    thread.join(20)
    (error,) = errors
    assert isinstance(error, wsbroker.CommandError) and "has stopped meanwhile" in str(error)
    assert not dangling.pending_answers and dangling.loop is not None
    dangling.loop.close()


def test_a_loop_that_is_busy_for_long_has_no_statistics(dangling: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle_module, "STATISTICS_TIMEOUT_S", 0.01)
    with pytest.raises(wsbroker.CommandError, match="the event loop has been busy for 0.01 s"):
        dangling.collect_statistics()
    assert dangling.loop is not None
    dangling.loop.close()


def test_threads_that_ask_while_the_server_stops_get_an_answer_or_a_clear_error() -> None:
    outcomes: list[object] = []

    def hammer(ask: Callable[[wsbroker.Server], object]) -> None:
        while True:
            try:
                ask(server)
            except BaseException as error:
                outcomes.append(error)
                if not server.is_running:
                    return

    for _ in range(5):
        server = wsbroker.start(BIND, worker=Idle(), worker_kind="inline")
        threads = [threading.Thread(target=hammer, args=(ask,)) for ask in (*ASK.values(), *ASK.values())]
        for thread in threads:
            thread.start()
        server.stop()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    texts = {str(error).partition(":")[0] for error in outcomes}
    assert texts <= {
        "the server has stopped",
        "the server has stopped meanwhile",
        "workers of kind inline share the server's modules, so their code cannot be exchanged",
    }


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        (3000, "not int; did you mean ':3000' (all interfaces) or '127.0.0.1:3000'?"),
        (True, "not bool"),
        (None, "not NoneType"),
        (b":3000", "not bytes"),
        (Path("/run/x.sock"), "did you mean 'unix:/run/x.sock'?"),
        (("127.0.0.1", 3000), "an address is one text, not host and port: did you mean '127.0.0.1:3000'?"),
        ([3000], "an address must be a str such as '127.0.0.1:3000', not int"),
    ],
)
def test_what_is_no_address_is_a_type_error_that_says_what_is(bind: object, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        wsbroker.start(cast(str, bind), worker=Idle())
    assert text in str(caught.value)


def test_other_arguments_of_the_wrong_type_say_so() -> None:
    with pytest.raises(TypeError, match=r"config must be a wsbroker.Config, such as Config\.of\(workers=2\), not dict"):
        wsbroker.start(BIND, worker=Idle(), config=cast(wsbroker.Config, {"workers": 2}))
    with wsbroker.start(BIND, worker=Idle(), worker_kind="inline") as server:
        with pytest.raises(TypeError, match="timeout_s must be a number of seconds or None, not str"):
            server.stop(cast(float, "5"))
        assert server.is_running


class Stubborn:
    """A worker with a task that catches its cancellation, and a thread that is busy until the test ends it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def handle_worker_start(self, arg: object) -> None:
        self.tasks.append(asyncio.create_task(self.stay(), name="stays"))
        asyncio.get_running_loop().run_in_executor(None, self.may_end.wait)

    async def stay(self) -> None:
        while not self.may_end.is_set():
            try:
                await asyncio.sleep(0.1 if self.may_end.is_set() else 600)
            except asyncio.CancelledError:
                pass

    def handle_socket_message(self, data: object) -> None:
        """Does nothing."""


def test_a_task_that_catches_its_cancellation_does_not_keep_the_server_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Stubborn()
    lifecycle, addresses = api.prepare_server(BIND, worker, None, {"worker_kind": "inline"})
    loops = threading.Thread(
        target=run_loop,
        args=(lifecycle.run_until_stopped(addresses, lambda: lifecycle.request_stop(None)),),
        daemon=True,
    )
    with caplog.at_level(logging.ERROR, "wsbroker.server.event_loop"):
        loops.start()
        loops.join(20)
    try:
        assert not loops.is_alive()
        assert "stays" in caplog.text and "test_api.py" in caplog.text
    finally:
        worker.may_end.set()
        worker.tasks.clear()
        gc.collect()  # asyncio complains of the task now, not in the middle of another test


def test_a_loop_that_the_application_stops_still_ends_in_order() -> None:
    class StopsTheLoop:
        has_stopped = False

        def handle_worker_stop(self) -> None:
            self.has_stopped = True

        def handle_socket_message(self, data: object) -> None:
            """Does nothing."""

    worker = StopsTheLoop()
    lifecycle, addresses = api.prepare_server(BIND, worker, None, {"worker_kind": "inline"})
    with pytest.raises(RuntimeError, match="stopped before"):
        run_loop(lifecycle.run_until_stopped(addresses, lambda: asyncio.get_running_loop().stop()))
    assert worker.has_stopped and lifecycle.stopped.is_set()


def test_what_is_left_open_in_the_loop_does_not_keep_it_from_closing_where_warnings_are_errors() -> None:
    script = """
import asyncio, faulthandler, wsbroker
faulthandler.dump_traceback_later(30, exit=True)
class Leaves:
    async def handle_worker_start(self):
        async def nobody(reader, writer): await reader.read()
        server = await asyncio.start_server(nobody, "127.0.0.1", 0)
        self.kept = server, await asyncio.open_connection(*server.sockets[0].getsockname())
    def handle_socket_message(self, data): pass
wsbroker.start("127.0.0.1:0", worker=Leaves(), worker_kind="inline").stop()
print("stopped")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


FORKING = """
import os, signal, sys, warnings
import wsbroker

class Idle:
    def handle_socket_message(self, data):
        pass

warnings.simplefilter("ignore", DeprecationWarning)  # a fork while threads run: that is what this is about
server = wsbroker.start("127.0.0.1:0", worker=Idle(), worker_kind="inline")
for what in {calls}:
    print(what, flush=True)
    child = os.fork()
    if child == 0:
        try:
            exec(what)
        except BaseException as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    print("status", os.waitpid(child, 0)[1])
    print("open" if not wsbroker.is_open(1) and server.is_running else "broken")
server.stop()
"""
IN_A_FORK = {
    "wsbroker.is_open(1)": ["CommandError", "status 0"],
    "wsbroker.send(1, 'x')": ["CommandError", "status 0"],
    "server.statistics()": ["CommandError", "status 0"],
    "server.stop(); print(server.is_running, flush=True)": ["False", "status 0"],
    "wsbroker.start('127.0.0.1:0', worker=Idle(), worker_kind='inline').stop(); print('started', flush=True)": [
        "started",
        "status 0",
    ],
    "signal.raise_signal(signal.SIGTERM)": [f"status {int(signal.SIGTERM)}"],
}
"""What a child does, and what is printed of it."""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
def test_the_child_of_a_fork_has_no_server_and_says_so() -> None:
    program = FORKING.format(calls=list(IN_A_FORK))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, env=os.environ)
    expected = [line for what, said in IN_A_FORK.items() for line in (what, *said, "open")]
    assert ran.stdout.splitlines() == expected, ran.stderr


def test_the_mode_and_group_of_a_unix_socket_are_checked_before_anything_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "^unix_group is 'no such group', and this machine has no group of that name: create "
    with pytest.raises(wsbroker.ConfigError, match=text):
        wsbroker.start("unix:/no/such/folder/s", worker=NeverStarts(), unix_group="no such group")
    with wsbroker.start(BIND, worker=Idle(), worker_kind="inline", unix_mode=0o660, handle_signals=False):
        pass
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == "unix_mode and unix_group are for the files of Unix sockets, and none is made: bind=unix:/PATH"


def test_a_server_that_has_stopped_is_forgotten() -> None:
    servers = []
    for _ in range(3):
        server = wsbroker.start(BIND, worker=Idle(), worker_kind="inline")
        servers.append(weakref.ref(server._lifecycle))
        server.stop()
        del server
    deadline = time.monotonic() + 10
    while any(reference() is not None for reference in servers[:-1]) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert [reference() for reference in servers[:-1]] == [None, None]  # the last one's signals may be its own still
