"""Stall: one of two thread workers stands still while its sockets are pushed far more than anybody should keep."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Final, cast

import wsbroker
from benchmarks.client import BINARY, TEXT, Client, connect, frame, hang_up_all
from benchmarks.soaking.echo import Echo
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, mib
from benchmarks.soaking.server import Control, ServerProcess, rss_bytes
from wsbroker.settings.config import Config, Settings

STALLED: Final = b"worker-0"
PUSHERS: Final = 32
IDLERS: Final = 4
"""Sockets of the stalled worker that send nothing: they are pinged all the time."""
PATIENCE_S: Final = 120.0
SLACK_BYTES: Final = 4 << 20
SAMPLE_S: Final = 0.05


class Stalling:
    """The application: counts numbered messages, and stands still when told to."""

    gate: Final = threading.Event()
    standing: Final = threading.Event()
    handled: Final[dict[int, int]] = {}
    wrong: Final[dict[int, int]] = {}

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        """Numbered messages begin with a digit, in text and in binary."""
        text = data if isinstance(data, str) else data[:12].decode()
        if text[0].isdigit():
            index = Stalling.handled.get(socket_id, 0)
            if int(text[:11]) != index:
                Stalling.wrong[socket_id] = Stalling.wrong.get(socket_id, 0) + 1
            Stalling.handled[socket_id] = index + 1
        elif text == "who":
            wsbroker.send(socket_id, threading.current_thread().name)
        elif text == "stand":
            Stalling.standing.set()
            Stalling.gate.wait(PATIENCE_S)
        elif text == "go on":
            Stalling.gate.set()
        elif text == "count":
            wsbroker.send(socket_id, f"{Stalling.handled.get(socket_id, 0)} {Stalling.wrong.get(socket_id, 0)}")
        else:
            wsbroker.send(socket_id, data)


class StallControl(Control):
    """Also watches the memory."""

    def __init__(self, server: wsbroker.Server) -> None:
        super().__init__(server)
        self._is_over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._most_bytes = 0

    def wait_standing(self) -> bool:
        """Returns once the worker stands still."""
        return Stalling.standing.wait(PATIENCE_S)

    def watch(self) -> int:
        """Begins to note the most memory; returns what is used now."""
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return rss_bytes()

    def _watch(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self._most_bytes = max(self._most_bytes, rss_bytes())

    def watched(self) -> int:
        """The most that was used so far."""
        return self._most_bytes

    def end(self) -> None:
        """Nothing waits any more."""
        Stalling.gate.set()
        self._is_over.set()
        if self._watcher is not None:
            self._watcher.join()


@dataclass
class Pusher:
    """A socket of the stalled worker."""

    client: Client
    opcode: int
    count: int
    size: int

    def push(self) -> None:
        """Sends everything; the transport keeps what the server does not take."""
        padding = b"." * (self.size - 12)
        for index in range(self.count):
            self.client.write(frame(b"%011d:%b" % (index, padding), self.opcode))


def bound_bytes(config: Config) -> int:
    """What the broker may keep for the sockets of a stalled worker, by its settings.

    For each socket a full inbox (what is in the mailbox counts there too), the read that filled it, and a message that
    is not complete; for the worker its mailbox once more as bytes on the wire, and as events on the other side.
    """
    by_socket = config.inbox_bytes + config.read_budget_bytes + config.max_message_size
    return PUSHERS * by_socket + 2 * config.mailbox_bytes + SLACK_BYTES


def run(report: Report, total_bytes: int, size: int, stall_s: float, ping_s: float = 1.0) -> None:
    """Runs it.

    Args:
        total_bytes: of all that is pushed.
        size: of a message, at least 12.
        stall_s: how long the worker stands still after everything was pushed.
        ping_s: ping interval and pong time-out; both should pass several times during the stall.
    """
    settings: Settings = {
        "workers": 2,
        "worker_kind": "thread",
        "handler_timeout": PATIENCE_S,
        "ping_interval": ping_s,
        "pong_timeout": ping_s,
    }
    with ServerProcess(StallControl, Stalling, **settings) as server:
        report.say(f"stall: 2 x thread, core {server.core}, {mib(total_bytes)} in messages of {size} bytes")
        run_in_loop(_soak(report, server, Config.of(**settings), total_bytes, size, stall_s))


async def _soak(
    report: Report, server: ServerProcess, config: Config, total_bytes: int, size: int, stall_s: float
) -> None:
    stalled, others = await _connect(server)
    blocker, idlers = stalled[0], stalled[1 : 1 + IDLERS]
    count = total_bytes // PUSHERS // size
    pushers = [
        Pusher(client, TEXT if number % 2 else BINARY, count, size)
        for number, client in enumerate(stalled[1 + IDLERS :])
    ]
    async with Echo(server.address, STALLED) as quiet:
        await asyncio.sleep(min(stall_s, 2))
    async with Echo(server.address, STALLED) as meanwhile:
        closed = await _closed(server)
        blocker.send("stand")
        assert await server.answer("wait_standing")
        base_bytes = cast(int, await server.answer("watch"))
        for pusher in pushers:
            pusher.push()
            await asyncio.sleep(0)
        await _until_full(server)
        report.say("      everything is pushed, as far as it goes")
        await asyncio.sleep(stall_s)
        stood = await server.snapshot()
        most_bytes = cast(int, await server.answer("watched"))
        others[0].send("go on")
        report.say("      the worker goes on")
        counts = await asyncio.gather(*(_count(pusher.client) for pusher in pushers))
        report.say("      everything is handled")
        closed_meanwhile = await _closed(server) - closed
    report.figure("round trips on the other worker, before", quiet.text)
    report.figure("round trips on the other worker, meanwhile", meanwhile.text)
    report.figure("pings answered meanwhile by silent sockets of the stalled worker", [one.pings for one in idlers])
    report.figure("kept while it stood still", {name: stood.state[name] for name in sorted(stood.state)})
    grown_bytes, bound = most_bytes - base_bytes, bound_bytes(config)
    report.check(grown_bytes <= bound, f"memory grown by at most {mib(bound)}", mib(grown_bytes))
    paused = stood.count("inboxes_full")
    report.check(paused >= PUSHERS, "every pusher's reading was paused", paused)
    mailboxes = max(entry["mailbox_bytes"] for entry in cast("list[dict[str, int]]", stood.statistics["workers"]))
    report.check(mailboxes <= config.mailbox_bytes, "the mailbox kept to its limit", mib(mailboxes))
    wrong = [text for text in counts if text != f"{count} 0".encode()]
    report.check(not wrong, "every message was handled once and in order", wrong or count * PUSHERS)
    report.equal("sockets closed", closed_meanwhile, 0)
    report.equal("connections lost", [client.code for client in (*stalled, *others) if client.is_lost], [])
    await hang_up_all((*stalled, *others))


async def _connect(server: ServerProcess) -> tuple[list[Client], list[Client]]:
    """Sockets of the first worker, as many as needed, and those of the second."""
    mine: list[Client] = []
    others: list[Client] = []
    while len(mine) < 1 + IDLERS + PUSHERS:
        client = await connect(server.address)
        (mine if await _worker_of(client) == STALLED else others).append(client)
    return mine, others


async def _closed(server: ServerProcess) -> int:
    statistics = cast("dict[str, object]", await server.answer("statistics"))
    return cast(int, statistics["sockets_closed"])


async def _worker_of(client: Client) -> bytes:
    client.send("who")
    return await client.receive()


async def _until_full(server: ServerProcess) -> None:
    """Returns once the server takes nothing more."""
    before = -1
    while True:
        statistics = cast("dict[str, object]", await server.answer("statistics"))
        received = cast(int, statistics["messages_received"])
        if statistics["inboxes_full"] == PUSHERS or received == before:
            return
        before = received
        await asyncio.sleep(0.2)


async def _count(client: Client) -> bytes:
    client.send("count")
    async with asyncio.timeout(PATIENCE_S):
        return await client.receive()
