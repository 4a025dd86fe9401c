"""Hot reload under load: no connection drops, no message is lost or handled twice; a broken version changes nothing."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import aiohttp
import pytest
import websockets

import wsbroker
from kits.pool_kit import APPS
from kits.server_process import START_S, ServerProcess, serving
from wsbroker.pool.kinds.process import ProcessHost
from wsbroker.pool.slot import WorkerStatistics
from wsbroker.settings.config import WorkerKind

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")

KINDS = ["process", *(["interpreter"] if sys.version_info >= (3, 13) else [])]
CLIENTS = 4
IN_FLIGHT = 20
LIMIT_S = 40.0

APP = """
import wsbroker

VERSION = 1

def handle_worker_start(arg):
    assert wsbroker.subscriber_count("all") >= 0  # a worker may ask before it takes over

def handle_socket_open(request, socket_id):
    wsbroker.subscribe(socket_id, "all")

def handle_socket_message(data, socket_id, token):
    if token is None:
        wsbroker.set_token(socket_id, b"by-%d" % VERSION)
    wsbroker.send(socket_id, f"{VERSION} {data} {'' if token is None else token.decode()}")
    if data == "tell":
        wsbroker.send_to_channel("all", "told")
"""


class Talker:
    """A client that sends numbered messages, `IN_FLIGHT` at a time, until the test stops it."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.sent = 0
        self.answers: list[tuple[int, int, str]] = []
        self.is_stopping = False

    async def talk(self) -> None:
        while not self.is_stopping or len(self.answers) < self.sent:
            while not self.is_stopping and self.sent - len(self.answers) < IN_FLIGHT:
                await self.socket.send(str(self.sent))
                self.sent += 1
            version, number, token = str(await self.socket.recv()).split(" ")
            self.answers.append((int(version), int(number), token))

    def check(self, versions: list[int]) -> None:
        """Asserts that each message was answered once, in order, by these versions in turn, and the token was kept."""
        assert [number for _, number, _ in self.answers] == list(range(self.sent))
        seen = [version for version, _, _ in self.answers]
        assert seen == sorted(seen)
        assert sorted(set(seen)) == versions
        assert {token for _, _, token in self.answers[1:]} == {"by-1"}


async def answered(talkers: list[Talker], more: int, version: int) -> None:
    """Waits until every client has received `more` further answers, the last one from this version of the code."""
    goals = [len(talker.answers) + more for talker in talkers]
    while any(
        len(talker.answers) < goal or talker.answers[-1][0] != version
        for talker, goal in zip(talkers, goals, strict=True)
    ):
        await asyncio.sleep(0.005)


async def logged(server: ServerProcess, text: str) -> None:
    await asyncio.to_thread(server.wait_for_line, re.compile(re.escape(text)), START_S)


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_workers_are_exchanged_under_load(kind: str, workers: int, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)
    arguments = ("app.py", "--worker-kind", kind, "--workers", str(workers))
    with serving(*arguments, folder=tmp_path, environment={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        async with asyncio.timeout(LIMIT_S):
            sockets = [await websockets.connect(server.websocket_url) for _ in range(CLIENTS)]
            talkers = [Talker(socket) for socket in sockets]
            async with asyncio.TaskGroup() as group:
                for talker in talkers:
                    group.create_task(talker.talk())
                await answered(talkers, 50, version=1)
                app.write_text(APP.replace("VERSION = 1", "VERSION = 2"))
                server.process.send_signal(signal.SIGHUP)
                await answered(talkers, 50, version=2)
                await logged(server, "wsbroker.server.lifecycle: reloaded")
                app.write_text("1 / 0\n")
                server.process.send_signal(signal.SIGHUP)
                await logged(server, "not reloaded, the running workers stay: cannot import 'app': ZeroDivisionError")
                await answered(talkers, 50, version=2)
                for talker in talkers:
                    talker.is_stopping = True
            for talker in talkers:
                talker.check([1, 2])
            await sockets[0].send("tell")  # subscriptions are still there
            for socket in sockets[1:]:
                assert await socket.recv() == "told"
            async with websockets.connect(server.websocket_url) as late:
                await late.send("0")
                assert await late.recv() == "2 0 "
            for socket in sockets:
                await socket.close()


@pytest.mark.parametrize("kind", ["inline", "thread"])
def test_kinds_that_share_the_servers_modules_say_why_they_cannot(kind: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("app.py", "--worker-kind", kind, folder=tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line(
            re.compile(f"not reloaded, the running workers stay: workers of kind {kind} share the server's modules"),
            START_S,
        )


@pytest.mark.parametrize("kind", ["inline", "thread"])
def test_new_code_that_cannot_be_imported_does_not_end_a_server_that_is_restarted_for_it(
    kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("watchfiles")
    app = tmp_path / "app.py"
    app.write_text(APP)
    arguments = ("app.py", "--worker-kind", kind, "--reload")
    with serving(*arguments, folder=tmp_path, environment={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        server.wait_for_line(re.compile("watching for changes"), START_S)
        deadline = time.monotonic() + START_S
        while "files changed" not in server.log:  # the watcher may not look yet: change it until it does
            assert time.monotonic() < deadline
            app.write_text("import time\ntime.sleep(60)\n")  # it hangs, until it is corrected
            time.sleep(0.1)
        app.write_text("print('loading')\nimport not_there\n")
        server.wait_for_line(
            re.compile("not restarted, the running server stays: cannot import 'app': .*No module named 'not_there'"),
            START_S,
        )
        app.write_text("import os\nos._exit(7)\n")
        server.wait_for_line(re.compile("stays: loading the handlers failed: its process exited with code 7"), START_S)
        app.write_text(APP + "\nprint('the new', 'code')\n")
        server.wait_for_line(re.compile("restarting: "), START_S)
        server.wait_for_line(re.compile("^the new code$"), START_S)
        deadline = time.monotonic() + START_S
        while server.log.count("serving on") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.stop() == 0
        assert "loading\n" not in server.log


# Every count. ---------------------------------------------------------------------------------------------------------

BOOKKEEPER = """
import os
import wsbroker

VERSION = 1

def note(text):
    os.write(log, f"{text}\\n".encode())

def handle_worker_start(arg):
    global log
    log = os.open(arg, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    note("start")

def handle_worker_stop():
    note("stop")

def handle_socket_open(request, socket_id):
    wsbroker.subscribe(socket_id, "all")
    wsbroker.set_token(socket_id, str(socket_id))

def handle_socket_message(data, socket_id, token):
    note(f"message {socket_id} {data}")
    wsbroker.send(socket_id, f"{VERSION} {data} {token.decode()}")

def handle_socket_close(socket_id, token, code):
    note(f"close {socket_id} {code} {token.decode()}")

def handle_http_request(request):
    note("request")
    return str(VERSION)
"""


class Books:
    """Counts what clients did while workers were replaced."""

    def __init__(self, server: wsbroker.Server, log: Path) -> None:
        self.server = server
        self.log = log
        self.url = str(server.addresses[0])
        self.is_over = False
        self.sockets = 0
        self.sent = 0
        self.requests = 0
        self.versions: set[str] = set()

    async def talk(self, count: int) -> None:
        """Opens a socket, sends messages a few at a time and checks the answers; without a count, until the end."""
        async with websockets.connect(self.url.replace("http", "ws"), compression=None, proxy=None) as socket:
            self.sockets += 1
            sent = heard = 0
            token = ""
            while heard < sent or (not self.is_over if count == 0 else sent < count):
                while sent - heard < IN_FLIGHT and (not self.is_over if count == 0 else sent < count):
                    await socket.send(str(sent))
                    sent += 1
                    self.sent += 1
                version, number, seen = str(await socket.recv()).split()
                assert (int(number), seen) == (heard, token or seen)
                token = seen
                heard += 1
                self.versions.add(version)

    async def come_and_go(self) -> None:
        """Opens sockets one after the other, each for a few messages."""
        while not self.is_over:
            await self.talk(3)

    async def request(self, session: aiohttp.ClientSession) -> None:
        """Sends plain HTTP requests one after the other."""
        while not self.is_over:
            async with session.get(self.url) as response:
                assert response.status == 200
                self.versions.add(await response.text())
            self.requests += 1

    async def until(self, claim: Callable[[], bool]) -> None:
        """Waits until `claim()` is true, by asking again and again."""
        async with asyncio.timeout(LIMIT_S):
            while not claim():
                await asyncio.sleep(0.005)

    def workers(self) -> list[WorkerStatistics]:
        """Returns the statistics of the workers."""
        return cast("list[WorkerStatistics]", self.server.statistics()["workers"])

    def notes(self, kind: str) -> list[str]:
        """Returns the lines that handlers have written."""
        return [line for line in self.log.read_text().splitlines() if line.split()[0] == kind]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_sent_handled_and_answered_messages_opens_closes_and_requests_add_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "bookkeeper.py"
    app.write_text(BOOKKEEPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    log = tmp_path / "log"
    server = wsbroker.start(
        "127.0.0.1:0",
        worker="bookkeeper",
        worker_kind=cast(WorkerKind, kind),
        workers=2,
        worker_arg=str(log),
        handle_signals=False,
    )
    with server:
        books = Books(server, log)
        async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(books.talk(0))
            for _ in range(2):
                group.create_task(books.come_and_go())
            group.create_task(books.request(session))
            for version in ("22", "333"):  # of another length: bytecode of the same second would be taken for it
                app.write_text(BOOKKEEPER.replace("VERSION = 1", f"VERSION = {version}"))
                await books.until(lambda: len(books.notes("message")) > 100)
                await asyncio.to_thread(server.reload)
                await books.until(lambda version=version: version in books.versions)  # type: ignore[misc]
            app.write_text("1 / 0\n")
            with pytest.raises(wsbroker.ConfigError, match="ZeroDivisionError"):
                await asyncio.to_thread(server.reload)
            books.is_over = True
        await books.until(lambda: len(books.notes("close")) >= books.sockets)
        statistics = server.statistics()
        assert sum(worker["handled"] for worker in books.workers()) == statistics["messages_received"] == books.sent
        assert statistics["messages_lost"] == sum(worker["restarts"] for worker in books.workers()) == 0
        assert statistics["sockets_opened"] == statistics["sockets_closed"] == books.sockets
        begun = Counter(books.notes("message"))
        assert set(begun.values()) == {1} and begun.total() == books.sent
        closes = [line.split() for line in books.notes("close")]
        assert sorted(int(socket_id) for _, socket_id, _, _ in closes) == list(range(1, books.sockets + 1))
        assert all(code == "1000" and token == socket_id for _, socket_id, code, token in closes)
        assert len(books.notes("request")) == books.requests
        assert {"1", "22", "333"} >= books.versions >= {"22", "333"}
    assert len(books.notes("start")) == len(books.notes("stop")) == 2 * 3


@pytest.mark.anyio
@pytest.mark.parametrize("how, code", [("stubborn", 1012), ("swallow", 1011)])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_that_hangs_while_it_is_exchanged_loses_its_own_sockets_only(
    kind: str, how: str, code: int, tmp_path: Path
) -> None:
    server = wsbroker.start(
        "127.0.0.1:0",
        worker=APPS + ("Drill" if how == "stubborn" else "AsyncDrill"),
        worker_kind=cast(WorkerKind, kind),
        workers=2,
        worker_arg=str(tmp_path),
        handler_timeout=0.3,
        worker_hang_timeout=0.3,
        handle_signals=False,
    )
    with server:
        books = Books(server, tmp_path / "log")
        url = books.url.replace("http", "ws")
        sockets = [await websockets.connect(url, compression=None, proxy=None) for _ in range(4)]
        await sockets[0].send(how)
        await books.until(lambda: bool(books.notes("message")))
        await sockets[2].send("never handled" if how == "stubborn" else "handled meanwhile")
        await asyncio.to_thread(server.reload)
        for socket in (sockets[0], sockets[2]):
            await socket.wait_closed()
        assert [socket.close_code for socket in sockets] == [code, None, 1012, None]
        await books.until(lambda: len(books.notes("close")) == 2)
        (tmp_path / "end").touch()
        for socket in (sockets[1], sockets[3]):
            await socket.send("still there")
            assert await socket.recv() == "still there"
            await socket.close()
        await books.until(lambda: len(books.notes("close")) == 4)
        notes = [line.split() for line in books.notes("close")]
        ends = sorted((int(socket_id), int(code)) for _, socket_id, code, _ in notes)
        assert ends == [(1, code), (2, 1000), (3, 1012), (4, 1000)]
        statistics = server.statistics()
        handled = sum(worker["handled"] for worker in books.workers())
        lost = cast(int, statistics["messages_lost"])
        assert statistics["messages_received"] == handled + lost == 4
        assert lost == (2 if how == "stubborn" else 1)


# Interrupted in the middle. -------------------------------------------------------------------------------------------

SLOW = """
import os, time
import wsbroker

def note(text):
    os.write(log, f"{text}\\n".encode())

def handle_worker_start(arg):
    global folder, log
    folder = arg
    log = os.open(os.path.join(arg, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    note("start")

def handle_worker_stop():
    note("stop")

def handle_socket_message(data, socket_id):
    note(f"message {socket_id} {data}")
    while data == "wait" and not os.path.exists(os.path.join(folder, "end")):
        time.sleep(0.005)
    wsbroker.send(socket_id, data)

def handle_socket_close(socket_id, token, code):
    note(f"close {socket_id} {code}")
"""


@pytest.mark.anyio
@pytest.mark.parametrize("event", ["stop", "disconnect", "kill"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_counts_add_up_whatever_happens_in_the_middle_of_an_exchange(
    kind: str, event: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, event) == ("interpreter", "kill"):
        pytest.skip("nothing kills an interpreter")
    (tmp_path / "slow_app.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    server = wsbroker.start(
        "127.0.0.1:0",
        worker="slow_app",
        worker_kind=cast(WorkerKind, kind),
        workers=1,
        worker_arg=str(tmp_path),
        handler_timeout=START_S,
        handle_signals=False,
    )
    with server:
        books = Books(server, tmp_path / "log")
        node = server._lifecycle.node
        assert node is not None
        broker = node.broker
        url = books.url.replace("http", "ws")
        sockets = [await websockets.connect(url, compression=None, proxy=None) for _ in range(2)]
        await sockets[0].send("wait")
        await books.until(lambda: len(books.notes("message")) == 1)
        reloading = asyncio.create_task(asyncio.to_thread(server.reload))
        await books.until(lambda: broker.worker_queues[0].is_paused)
        await sockets[1].send("held")
        await books.until(lambda: broker.counters.messages_received == 2)
        if event == "stop":
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            await sockets[1].wait_closed()
            (tmp_path / "end").touch()
            await stopping
            with pytest.raises(wsbroker.WSBrokerError):
                await reloading
            messages, code = ["message 1 wait", "message 2 held"], "1001"
        elif event == "disconnect":
            for socket in sockets:
                socket.transport.abort()
            (tmp_path / "end").touch()
            await reloading
            messages, code = ["message 1 wait", "message 2 held"], "1006"
        else:
            os.kill(process_of_worker(server), signal.SIGKILL)
            await reloading
            for socket in sockets:
                await socket.wait_closed()
                assert socket.close_code == 1012
            messages, code = ["message 1 wait"], "1012"
        await books.until(lambda: len(books.notes("close")) == 2)
        assert books.notes("message") == messages
        assert sorted(books.notes("close")) == [f"close 1 {code}", f"close 2 {code}"]
    assert len(books.notes("start")) == 2
    assert len(books.notes("stop")) == (1 if event == "kill" else 2)


def process_of_worker(server: wsbroker.Server) -> int:
    """Returns the process id of the only worker."""
    node = server._lifecycle.node
    assert node is not None
    worker = node.pool._slots[0].worker
    assert worker is not None
    assert isinstance(worker._host, ProcessHost) and worker._host._process is not None
    return worker._host._process.pid
