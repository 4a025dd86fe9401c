"""What is special about workers that are processes: what they inherit, how they end, that none is ever left."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import websockets.sync.client

from kits.pool_kit import APPS, Pipe, Shop, live, start_error
from kits.server_process import ServerProcess, serving
from wsbroker.errors import WorkerError
from wsbroker.pool.kinds.process import describe_exit
from wsbroker.settings.config import WorkerKind
from wsbroker.wire import commands

PROCESS: WorkerKind = "process"
PATIENCE_S = 15.0
PATH = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])}
"""So that a command finds the applications of these tests."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def until(claim: Callable[[], bool]) -> None:
    """Waits for what nobody tells us of."""
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has_ended(process: int) -> bool:
    """Whether it is gone, or waits for whoever has inherited it."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(process: int) -> list[int]:
    """Its worker processes."""
    text = "".join(task.read_text(encoding="utf-8") for task in Path(f"/proc/{process}/task").glob("*/children"))
    return [int(child) for child in text.split()]


@linux
def test_it_inherits_its_two_streams_and_the_servers_output_and_nothing_else() -> None:
    async def work(shop: Shop) -> None:
        with socket.create_server(("127.0.0.1", 0)):
            names = (await shop.asks("descriptors")).splitlines()
        output = [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)]
        assert names[:3] == ["/dev/null", *output]
        names = [name for name in names if "/libffi." not in name]  # it may keep its own file open, for ctypes
        assert [name.partition(":")[0] for name in names[3:]] == ["socket", "socket"]

    live(APPS + "Where", work, worker_kind=PROCESS)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "its process exited with code 3"),
        ("kill", "its process was ended by signal SIGKILL (nothing of ours: "),
        ("fault", "its process was ended by signal SIGSEGV"),
    ],
)
def test_a_process_that_ends_is_a_loss_with_a_reason(how: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work(shop: Shop) -> None:
        shop.message(1, how)
        await shop.core.wait_until(lambda: shop.core.lost_queues == [(0, 1012)])
        await shop.until_running(1)
        assert await shop.asks("hello") == "hello"

    live(APPS + "Dies", work, worker_kind=PROCESS)
    assert f"worker lost worker=worker-0 reason='{reason}" in caplog.text


def test_a_process_without_memory_fails_its_handler_or_is_lost_and_replaced() -> None:
    """Whoever meets the MemoryError: the handler, and it fails; our code, and the worker ends."""

    async def work(shop: Shop) -> None:
        shop.message(1, "memory")
        await shop.core.wait_until(
            lambda: bool(shop.core.lost_queues) or (commands.HANDLER_FAILED, 1) in shop.core.log or bool(shop.sent)
        )
        while not shop.core.lost_queues:
            shop.message(1, "exit")
            await asyncio.sleep(0.01)
        await shop.until_running(1)
        assert await shop.asks("hello") == "hello"

    live(APPS + "Dies", work, worker_kind=PROCESS)


def test_a_fork_of_a_worker_does_not_hide_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(tmp_path)

    async def work(shop: Shop) -> None:
        shop.message(1, "fork")
        await shop.core.wait_until(lambda: bool(shop.core.lost_queues))
        await shop.until_running(1)
        await pipe.release()  # the child was there all the time

    live(APPS + "Dies", work, worker_kind=PROCESS, worker_arg=str(pipe.path))
    assert "reason='its process exited with code 4'" in caplog.text


def test_a_process_that_ends_while_it_starts_says_how() -> None:
    error = start_error(APPS + "DiesAgain", worker_kind=PROCESS, worker_arg=__file__)
    assert isinstance(error, WorkerError)
    assert str(error) == "worker worker-0 ended before it had started: its process exited with code 5"


def test_a_crash_loop_is_fatal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wsbroker.pool.restart_policy.FIRST_DELAY_S", 0.001)
    flag = tmp_path / "flag"

    async def work(shop: Shop) -> None:
        flag.touch()
        shop.message(1, "die")
        await shop.core.wait_until(lambda: bool(shop.fatal))

    shop = live(APPS + "DiesAgain", work, worker_kind=PROCESS, worker_arg=str(flag))
    (error,) = shop.fatal
    assert isinstance(error, WorkerError)
    assert str(error).startswith("worker worker-0 was lost more than 5 times within 60 s, the last time because ")
    assert str(error).endswith("its process exited with code 5")


def test_how_a_process_ended_in_words() -> None:
    assert describe_exit(0) == "its process exited with code 0"
    assert describe_exit(-signal.SIGTERM) == "its process was ended by signal SIGTERM"
    assert describe_exit(-250) == "its process was ended by signal 250"


# On the command line. -------------------------------------------------------------------------------------------------


def talk(server: ServerProcess, message: str) -> str:
    """One message, and its answer."""
    with websockets.sync.client.connect(server.websocket_url, compression=None, proxy=None) as client:
        client.send(message)
        return str(client.recv(PATIENCE_S))


@linux
def test_ctrl_c_reaches_the_workers_too_and_is_the_servers_business() -> None:
    with serving(f"{APPS}Where", "--worker-kind=process", "--workers=2", environment=PATH) as server:
        assert server.url
        workers = children(server.process.pid)
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGINT)
        assert {int(talk(server, "process")) for _ in workers} == set(workers)
        assert server.stop(signal.SIGINT) == 0
        assert "lost" not in server.log


@linux
def test_a_child_that_outlives_a_killed_server_keeps_no_worker(tmp_path: Path) -> None:
    """A worker ends with its wire, so the child must not have the server's end of it."""
    os.mkfifo(tmp_path / "pipe")
    script = f"""
import os
import wsbroker
if __name__ == "__main__":
    server = wsbroker.start("127.0.0.1:0", worker="{APPS}Hangs", worker_kind="process", workers=2)
    if os.fork() == 0:
        os.open({str(tmp_path / "pipe")!r}, os.O_RDONLY)
        os._exit(0)
    print("forked", flush=True)
"""
    environment = {**os.environ, **PATH}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None and server.stdout.readline() == b"forked\n"
        found = children(server.pid)
        assert len(found) == 3
        server.kill()
        until(lambda: sum(map(has_ended, found)) == 2)
        with open(tmp_path / "pipe", "wb"):
            until(lambda: all(map(has_ended, found)))


@linux
@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_server_that_is_killed_leaves_no_worker(is_stuck: bool, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["--worker-kind=process", "--workers=2", "--shutdown-timeout=0.3", f"--worker-arg={pipe}"]
    server = ServerProcess((f"{APPS}Hangs", "--bind", "127.0.0.1:0", *arguments), PATH, None)
    try:
        url = server.websocket_url
        workers = children(server.process.pid)
        assert len(workers) == 2
        with websockets.sync.client.connect(url, compression=None, proxy=None) as client:
            client.send("hello")
            assert client.recv(PATIENCE_S) == "hello"
            if is_stuck:
                client.send("block")
                with open(pipe, "wb"):  # it is stuck when this returns: in the one after it
                    client.send("block")
            server.process.kill()
            until(lambda: all(map(has_ended, workers)))
    finally:
        server.end()
