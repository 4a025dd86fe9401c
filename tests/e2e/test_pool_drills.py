"""Workers are killed, hang and crash under load, with clients that we did not write: every count adds up.

Some sockets are pinned to the worker that is lost, the others to another one. Each sends numbers, several at a time,
and is sent them back.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import websockets

import wsbroker
from e2e.pool_kit import APPS, WIRED
from unit.pool.fakes import run
from wsbroker.config import WorkerKind

SOCKETS = 12
"""For each of the two workers."""
WINDOW = 8
AFTER = 300
"""The worker is lost after so many answers."""

Connection = websockets.ClientConnection


class Pinned:
    """A socket, and what it said and heard."""

    def __init__(self, connection: Connection, who: str) -> None:
        self.connection = connection
        socket_id, self.worker, process = who.split()
        self.id = int(socket_id)
        self.process = int(process)
        self.sent = 0
        self.heard: list[str] = []
        self.code: int | None = None

    async def talk(self, is_over: asyncio.Event, heard: Callable[[], None]) -> None:
        """Sends numbers until it is over, and hears the last of them; or until it is closed."""
        try:
            while self.sent > len(self.heard) or not is_over.is_set():
                with contextlib.suppress(websockets.ConnectionClosed):  # there may still be something to hear
                    while self.sent < len(self.heard) + WINDOW and not is_over.is_set():
                        await self.connection.send(str(self.sent))
                        self.sent += 1
                self.heard.append(str(await self.connection.recv()))
                heard()
        except websockets.ConnectionClosed:
            self.code = self.connection.close_code


class Drill:
    """A server with two workers, sockets of both, and one that is told of all closes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connections: list[Connection] = []
        self.answers = 0
        self.enough = asyncio.Event()
        self.is_over = asyncio.Event()
        self.closes: Counter[tuple[int, int]] = Counter()

    async def connect(self, query: str = "") -> Pinned:
        """Opens a socket."""
        connection = await websockets.connect(f"{self.url}?{query}", compression=None, proxy=None)
        self.connections.append(connection)
        await connection.send("who")
        return Pinned(connection, str(await connection.recv()))

    def heard(self) -> None:
        """One more answer."""
        self.answers += 1
        if self.answers >= AFTER:
            self.enough.set()

    def talk(self, sockets: list[Pinned]) -> asyncio.Future[list[None]]:
        """All of them talk."""
        return asyncio.gather(*(socket.talk(self.is_over, self.heard) for socket in sockets))

    async def watch(self, watcher: Pinned, count: int) -> None:
        """Waits for so many close handlers."""
        while self.closes.total() < count:
            socket_id, code = str(await watcher.connection.recv()).split()
            self.closes[int(socket_id), int(code)] += 1


async def drill(server: wsbroker.Server, lose: Callable[[Pinned], Awaitable[object]]) -> None:
    """Runs the load, loses the first worker in the middle of it, and counts."""
    drill = Drill(str(server.addresses[0]).replace("http", "ws"))
    try:
        await perform(drill, server, lose)
    finally:
        await asyncio.gather(*(connection.close() for connection in drill.connections))


async def perform(drill: Drill, server: wsbroker.Server, lose: Callable[[Pinned], Awaitable[object]]) -> None:
    """The drill itself."""
    first = await drill.connect()
    watcher = await drill.connect("watch")
    assert (first.worker, watcher.worker) == ("worker-0", "worker-1")
    sockets = [await drill.connect() for _ in range(2 * SOCKETS)]
    lost = [socket for socket in sockets if socket.worker == "worker-0"]
    kept = [socket for socket in sockets if socket.worker == "worker-1"]
    assert len(lost) == len(kept) == SOCKETS

    talking, talking_in_vain = drill.talk(kept), drill.talk(lost)
    await drill.enough.wait()
    await lose(first)
    await first.connection.wait_closed()
    await talking_in_vain
    drill.is_over.set()
    await talking

    # Nobody else notices: every message of the other worker's sockets was handled and answered, once and in order.
    assert [socket.code for socket in kept] == [None] * SOCKETS
    for socket in kept:
        assert socket.heard == [str(n) for n in range(socket.sent)]
    # All sockets of the lost worker are told to come again; what they heard is the beginning of what they sent.
    assert [socket.code for socket in lost] == [1012] * SOCKETS and first.connection.close_code == 1012
    for socket in lost:
        assert socket.heard == [str(n) for n in range(len(socket.heard))] and len(socket.heard) <= socket.sent
    workers = cast("list[dict[str, int]]", server.statistics()["workers"])
    asked = 1 + SOCKETS  # who they are pinned to
    assert workers[1]["handled"] == asked + sum(socket.sent for socket in kept)
    handled = workers[0]["handled"] - asked
    received = cast(int, server.statistics()["messages_received"]) - asked - workers[1]["handled"]
    heard = sum(len(socket.heard) for socket in lost)
    assert handled <= heard <= received <= sum(socket.sent for socket in lost) + 1  # the one that did it
    # Each close handler has run once, elsewhere; then the replacement takes sockets.
    await drill.watch(watcher, 1 + SOCKETS)
    assert drill.closes == {(socket.id, 1012): 1 for socket in (first, *lost)}
    while [worker["state"] for worker in cast("list[dict[str, str]]", server.statistics()["workers"])] != [
        "running"
    ] * 2:
        await asyncio.sleep(0.005)
    again = [await drill.connect() for _ in range(4)]
    assert Counter(socket.worker for socket in again) == {"worker-0": 2, "worker-1": 2}
    drill.is_over.clear()
    drill.answers = 0
    drill.enough.clear()
    talking = drill.talk(again)
    await drill.enough.wait()
    drill.is_over.set()
    await talking
    assert [socket.heard for socket in again] == [[str(n) for n in range(socket.sent)] for socket in again]
    for socket in (*kept, *again):
        await socket.connection.close()
    await drill.watch(watcher, 1 + SOCKETS + len(kept) + len(again))
    assert set(drill.closes.values()) == {1}
    assert Counter(code for _, code in drill.closes) == {1012: 1 + SOCKETS, 1000: len(kept) + len(again)}
    await watcher.connection.close()
    statistics = server.statistics()
    assert statistics["sockets_opened"] == 2 + 2 * SOCKETS + len(again)


def run_drill(kind: str, lose: Callable[[Pinned], Awaitable[object]], arg: str | None = None) -> None:
    """One drill."""
    with wsbroker.start(
        "127.0.0.1:0",
        worker=APPS + "Drill",
        worker_kind=cast(WorkerKind, kind),
        workers=2,
        worker_arg=arg,
        handler_timeout=0.2,
        worker_hang_timeout=0.2,
        handle_signals=False,
    ) as server:
        run(drill(server, lose))


@pytest.mark.parametrize("kind", WIRED)
def test_a_worker_that_hangs_in_c_costs_its_own_sockets_only(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def hang(socket: Pinned) -> None:
        await socket.connection.send("block")

    run_drill(kind, hang, str(pipe))
    if kind != "process":
        with open(pipe, "wb"):  # the abandoned one goes on, and finds that nobody is there
            pass
    assert "worker lost worker=worker-0 reason='handle_socket_message (socket 1) hangs: " in caplog.text


def test_a_killed_process_costs_its_own_sockets_only(caplog: pytest.LogCaptureFixture) -> None:
    async def kill(socket: Pinned) -> None:
        os.kill(socket.process, signal.SIGKILL)

    run_drill("process", kill)
    assert (
        "worker lost worker=worker-0 reason='its process was ended by signal SIGKILL (nothing of ours: " in caplog.text
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [("fault", "its process was ended by signal SIGSEGV"), ("exit", "its process exited with code 3")],
)
def test_a_process_that_crashes_costs_its_own_sockets_only(
    how: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(socket: Pinned) -> None:
        await socket.connection.send(how)

    run_drill("process", crash)
    assert f"worker lost worker=worker-0 reason='{reason}'" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_process_is_lost_by_its_probes(caplog: pytest.LogCaptureFixture) -> None:
    """SIGSTOP: its helper thread does not answer either."""

    async def suspend(socket: Pinned) -> None:
        os.kill(socket.process, signal.SIGSTOP)

    run_drill("process", suspend)
    assert "worker lost worker=worker-0 reason='it did not answer a probe for 0.2 s'" in caplog.text
