"""Workers are killed, hang and crash under load, with clients that we did not write: every count adds up.

Some sockets are pinned to the worker that is lost, the others to another one. Each sends numbers, several at a time,
and is sent them back. The handlers write down what they begin, in a file that outlives their worker.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import websockets

import wsbroker
from kits.pool_fakes import run
from kits.pool_kit import APPS, WIRED, Pipe
from wsbroker.pool.slot import WorkerStatistics
from wsbroker.settings.config import WorkerKind

SOCKETS = 12
"""Number of sockets of each worker."""
WINDOW = 8
AFTER = 300
"""Number of answers after which the worker is lost."""

Connection = websockets.ClientConnection


class Pinned:
    """One client connection with its socket id and worker, the number of messages sent, and the answers received."""

    def __init__(self, connection: Connection, who: str) -> None:
        self.connection = connection
        socket_id, self.worker, process = who.split()
        self.id = int(socket_id)
        self.process = int(process)
        self.sent = 0
        self.heard: list[str] = []
        self.code: int | None = None

    async def talk(self, is_over: asyncio.Event, heard: Callable[[], None]) -> None:
        """Sends numbers until `is_over` is set and receives their answers; ends early if the connection is closed."""
        try:
            while self.sent > len(self.heard) or not is_over.is_set():
                with contextlib.suppress(websockets.ConnectionClosed):  # there may still be answers to receive
                    while self.sent < len(self.heard) + WINDOW and not is_over.is_set():
                        await self.connection.send(str(self.sent))
                        self.sent += 1
                self.heard.append(str(await self.connection.recv()))
                heard()
        except websockets.ConnectionClosed:
            self.code = self.connection.close_code


class Drill:
    """A server under load whose worker is lost: clients of all workers, and the counts that must add up."""

    def __init__(self, server: wsbroker.Server, folder: Path, lose: "Lose", let_go: "LetGo", code: int) -> None:
        self.server = server
        self.lose = lose
        self.let_go = let_go
        self.code = code
        """Close code of the socket whose handler makes the worker be lost."""
        self.log = folder / "log"
        self.url = str(server.addresses[0]).replace("http", "ws")
        self.connections: list[Connection] = []
        self.sockets: list[Pinned] = []
        self.answers = 0
        self.enough = asyncio.Event()
        self.is_over = asyncio.Event()

    async def connect(self, query: str = "") -> Pinned:
        """Opens a client connection and asks for its socket id and worker."""
        connection = await websockets.connect(f"{self.url}?{query}", compression=None, proxy=None)
        self.connections.append(connection)
        await connection.send("who")
        self.sockets.append(Pinned(connection, str(await connection.recv())))
        return self.sockets[-1]

    def heard(self) -> None:
        """Counts one more answer; sets `enough` after `AFTER` answers."""
        self.answers += 1
        if self.answers >= AFTER:
            self.enough.set()

    def talk(self, sockets: list[Pinned]) -> asyncio.Future[list[None]]:
        """Starts the load of all these sockets, which ends when `is_over` is set."""
        self.answers = 0
        self.enough.clear()
        self.is_over.clear()
        return asyncio.gather(*(socket.talk(self.is_over, self.heard) for socket in sockets))

    async def come_back_beside(self, again: list[Pinned]) -> None:
        """Puts load on these sockets while the lost worker's thread wakes up and ends; then checks the counts."""
        talking = self.talk(again)
        await self.enough.wait()
        await self.let_go()
        while sum(thread.name == "worker-0" for thread in threading.enumerate()) > 1:
            await asyncio.sleep(0.005)
        self.is_over.set()
        await talking
        self.check_messages()

    # What is known. ---------------------------------------------------------------------------------------------

    def count(self, name: str) -> int:
        """Returns one of the server's statistics."""
        return cast(int, self.server.statistics()[name])

    def workers(self) -> list[WorkerStatistics]:
        """Returns the statistics of the server's workers."""
        return cast("list[WorkerStatistics]", self.server.statistics()["workers"])

    def begun(self, what: str) -> list[list[str]]:
        """Returns the notes of this kind that the handlers wrote at their start, in order."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [words for kind, *words in lines if kind == what]

    def closes(self) -> list[tuple[int, int]]:
        """Returns socket id and close code of the close handlers that have begun."""
        return [(int(socket_id), int(code)) for socket_id, code, _ in self.begun("close")]

    async def until_closed(self, count: int) -> None:
        """Waits until this many close handlers have begun."""
        while len(self.closes()) < count:
            await asyncio.sleep(0.005)

    async def until_running(self) -> None:
        """Waits until all workers run."""
        while {worker["state"] for worker in self.workers()} != {"running"}:
            await asyncio.sleep(0.005)

    def books(self) -> str:
        """Returns all counts as one line, to be printed under `pytest -s`."""
        numbers = {
            "sent": sum(socket.sent for socket in self.sockets) + len(self.sockets),  # and their first message, "who"
            "received": self.count("messages_received"),
            "handled": sum(worker["handled"] for worker in self.workers()),
            "lost": self.count("messages_lost"),
            "begun": len(self.begun("message")),
            "answered": sum(len(socket.heard) for socket in self.sockets) + len(self.sockets),
            "sockets": len(self.sockets),
            "closed with 1012": sum(code == 1012 for _, code in self.closes()),
            "close handlers": len(self.closes()),
        }
        return " ".join(f"{name}={number}" for name, number in numbers.items())

    def check_messages(self) -> None:
        """Checks that handlers ran once for each message, in order, and that no answer is missing.

        A socket whose worker was lost has the first of its messages handled, every other socket all. The count
        of received messages is the sum of the messages handled and lost.
        """
        begun: dict[int, list[str]] = {socket.id: [] for socket in self.sockets}
        for socket_id, data in self.begun("message"):
            if data.isdigit():
                begun[int(socket_id)].append(data)
        for socket in self.sockets:
            numbers = [str(number) for number in range(socket.sent)]
            assert begun[socket.id] == numbers[: len(begun[socket.id])]
            assert socket.heard == begun[socket.id][: len(socket.heard)]
            assert socket.code is not None or len(numbers) == len(begun[socket.id]) == len(socket.heard)
        handled = sum(worker["handled"] for worker in self.workers())
        assert handled + self.count("messages_lost") == self.count("messages_received")


Lose = Callable[[Pinned], Awaitable[object]]
LetGo = Callable[[], Awaitable[object]]


async def lose_one_of_two(drill: Drill) -> None:
    """Loses the first worker in the middle of the load, and counts."""
    first = await drill.connect()
    watcher = await drill.connect("watch")
    assert (first.worker, watcher.worker) == ("worker-0", "worker-1")
    sockets = [await drill.connect() for _ in range(2 * SOCKETS)]
    lost = [socket for socket in sockets if socket.worker == "worker-0"]
    kept = [socket for socket in sockets if socket.worker == "worker-1"]
    assert len(lost) == len(kept) == SOCKETS

    talking, talking_in_vain = drill.talk(kept), drill.talk(lost)
    await drill.enough.wait()
    await drill.lose(first)
    await first.connection.wait_closed()
    first.code = first.connection.close_code
    await talking_in_vain
    drill.is_over.set()
    await talking

    # All sockets of the lost worker are told to come again, and nobody else notices.
    assert [socket.code for socket in kept] == [None] * SOCKETS
    assert [socket.code for socket in (first, *lost)] == [drill.code] + [1012] * SOCKETS
    # Their close handlers run once, elsewhere.
    await drill.until_closed(1 + SOCKETS)
    await drill.until_running()
    assert Counter(drill.closes()) == {(socket.id, socket.code): 1 for socket in (first, *lost)}
    assert {worker for _, _, worker in drill.begun("close")} == {"worker-1"}
    drill.check_messages()
    workers = drill.workers()
    asked = 1 + SOCKETS  # who they are pinned to
    assert workers[1]["handled"] == asked + sum(socket.sent for socket in kept)
    # What was answered to the lost ones was said before it was acknowledged, and never without a handler.
    assert workers[0]["handled"] - asked <= sum(len(socket.heard) for socket in lost)
    assert [worker["restarts"] for worker in workers] == [1, 0]

    # The replacement takes sockets, while what hangs comes back to life.
    again = [await drill.connect() for _ in range(4)]
    assert Counter(socket.worker for socket in again) == {"worker-0": 2, "worker-1": 2}
    await drill.come_back_beside(again)
    for socket in (*kept, *again):
        await socket.connection.close()
    await drill.until_closed(1 + SOCKETS + len(kept) + len(again))
    assert set(Counter(drill.closes()).values()) == {1}
    codes = Counter([drill.code] + [1012] * SOCKETS + [1000] * (len(kept) + len(again)))
    assert Counter(code for _, code in drill.closes()) == codes
    # The watcher hears of each close once, and nothing of what an abandoned worker says.
    told = [str(await watcher.connection.recv()) for _ in drill.closes()]
    await watcher.connection.send("fence")
    assert await watcher.connection.recv() == "fence"
    assert sorted(told) == sorted(" ".join(words) for words in drill.begun("close"))
    await watcher.connection.close()
    await drill.until_closed(len(drill.sockets))
    assert drill.count("sockets_opened") == drill.count("sockets_closed") == len(drill.sockets)
    print(drill.books())


async def lose_the_only_one(drill: Drill) -> None:
    """Loses the only worker in the middle of the load: its replacement runs the close handlers."""
    first, *lost = [await drill.connect() for _ in range(1 + SOCKETS)]
    talking_in_vain = drill.talk(lost)
    await drill.enough.wait()
    await drill.lose(first)
    await first.connection.wait_closed()
    first.code = first.connection.close_code
    await talking_in_vain
    assert [socket.code for socket in (first, *lost)] == [1012] * (1 + SOCKETS)
    await drill.until_closed(1 + SOCKETS)
    await drill.until_running()
    assert Counter(drill.closes()) == {(socket.id, 1012): 1 for socket in (first, *lost)}
    drill.check_messages()
    again = [await drill.connect() for _ in range(2)]
    await drill.come_back_beside(again)
    assert [worker["restarts"] for worker in drill.workers()] == [1]
    for socket in again:
        await socket.connection.close()
    await drill.until_closed(len(drill.sockets))
    assert Counter(code for _, code in drill.closes()) == {1012: 1 + SOCKETS, 1000: len(again)}
    assert drill.count("sockets_opened") == drill.count("sockets_closed") == len(drill.sockets)
    print(drill.books())


async def nothing() -> None:
    """Does nothing: no lost worker hangs in this drill."""


def run_drill(
    kind: str,
    folder: Path,
    lose: Lose,
    let_go: LetGo = nothing,
    app: str = "Drill",
    workers: int = 2,
    code: int = 1012,
) -> None:
    """Runs one drill on a server with this worker kind and application."""

    async def main(server: wsbroker.Server) -> None:
        drill = Drill(server, folder, lose, let_go, code)
        try:
            await (lose_one_of_two if workers == 2 else lose_the_only_one)(drill)
        finally:
            (folder / "end").touch()
            await asyncio.gather(*(connection.close() for connection in drill.connections))

    with wsbroker.start(
        "127.0.0.1:0",
        worker=APPS + app,
        worker_kind=cast(WorkerKind, kind),
        workers=workers,
        worker_arg=str(folder),
        handler_timeout=0.2,
        worker_hang_timeout=0.2,
        handle_signals=False,
    ) as server:
        run(main(server))


def saying(text: str) -> Lose:
    """Returns a function that loses a socket's worker by sending it this message."""

    async def lose(socket: Pinned) -> None:
        await socket.connection.send(text)

    return lose


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", WIRED)
def test_a_worker_that_hangs_in_c_costs_its_own_sockets_only(
    kind: str, workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = Pipe(tmp_path)

    async def release() -> None:
        if kind != "process":  # which was killed
            await pipe.release()

    run_drill(kind, tmp_path, saying("block"), release, workers=workers)
    assert "worker lost worker=worker-0 reason='handle_socket_message (socket 1) hangs: " in caplog.text


@pytest.mark.parametrize("app, how", [("Drill", "stubborn"), ("AsyncDrill", "swallow")])
@pytest.mark.parametrize("kind", WIRED)
def test_a_handler_that_catches_its_interruption_and_goes_on_costs_its_own_sockets_only(
    kind: str, app: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def end() -> None:
        (tmp_path / "end").touch()

    code = 1011 if how == "swallow" else 1012  # an event loop goes on while a handler does not let itself be cancelled
    run_drill(kind, tmp_path, saying(how), end, app, code=code)
    assert "worker lost worker=worker-0 reason='handle_socket_message (socket 1) hangs: " in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_costs_its_own_sockets_only(
    workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def kill(socket: Pinned) -> None:
        os.kill(socket.process, signal.SIGKILL)

    run_drill("process", tmp_path, kill, workers=workers)
    assert (
        "worker lost worker=worker-0 reason='its process was ended by signal SIGKILL (nothing of ours: " in caplog.text
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [("fault", "its process was ended by signal SIGSEGV"), ("exit", "its process exited with code 3")],
)
def test_a_process_that_crashes_costs_its_own_sockets_only(
    how: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_drill("process", tmp_path, saying(how))
    assert f"worker lost worker=worker-0 reason='{reason}'" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_process_is_lost_by_its_probes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGSTOP: its helper thread does not answer either."""

    async def suspend(socket: Pinned) -> None:
        os.kill(socket.process, signal.SIGSTOP)

    run_drill("process", tmp_path, suspend)
    assert "worker lost worker=worker-0 reason='it did not answer a probe for 0.2 s'" in caplog.text
