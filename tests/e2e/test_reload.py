"""Hot reload under load: no connection drops, no message is lost or handled twice; a broken version changes nothing."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest
import websockets

from e2e.serving import START_S, ServerProcess, serving

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
    """A client that numbers its messages and has some on their way at any moment, until it is told to stop."""

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
        """Every message was answered once, in order, by these versions one after the other, and the token was kept."""
        assert [number for _, number, _ in self.answers] == list(range(self.sent))
        seen = [version for version, _, _ in self.answers]
        assert seen == sorted(seen)
        assert sorted(set(seen)) == versions
        assert {token for _, _, token in self.answers[1:]} == {"by-1"}


async def answered(talkers: list[Talker], more: int, version: int) -> None:
    """Waits until every client has had this many more answers, the last one by this version."""
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
                await logged(server, "wsbroker.app: reloaded")
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
