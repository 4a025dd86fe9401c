"""Stall: one of two thread workers stands still while its sockets send far more than the broker may keep."""

import asyncio
import threading
from typing import Final, NamedTuple, cast

import wsbroker
from benchmarks.soak.echo import EchoProbe
from benchmarks.soak.report import Report, format_mib
from benchmarks.soak.server import Control, ServerProcess, run_in_loop
from wsbroker.bench.client import BenchClient, connect, hang_up_all, make_frame
from wsbroker.settings.config import Config, Settings
from wsbroker.websocket.frames import BINARY, TEXT

STALLED_WORKER: Final = b"worker-0"
PUSHERS: Final = 32
IDLERS: Final = 4
"""Sockets of the stalled worker that send nothing: they are pinged all the time."""
PATIENCE_S: Final = 120.0
SLACK_BYTES: Final = 4 << 20


class Counting:
    """Counts numbered messages, and blocks its worker after ``stand`` until ``go on``."""

    gate: Final = threading.Event()
    standing: Final = threading.Event()
    handled: Final[dict[int, int]] = {}
    wrong: Final[dict[int, int]] = {}

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        """Checks the number at the beginning of a text or binary message, or obeys a word."""
        text = data if isinstance(data, str) else data[:12].decode()
        if text[0].isdigit():
            index = Counting.handled.get(socket_id, 0)
            if int(text[:11]) != index:
                Counting.wrong[socket_id] = Counting.wrong.get(socket_id, 0) + 1
            Counting.handled[socket_id] = index + 1
        elif text == "who":
            wsbroker.send(socket_id, threading.current_thread().name)
        elif text == "stand":
            Counting.standing.set()
            Counting.gate.wait(PATIENCE_S)
        elif text == "go on":
            Counting.gate.set()
        elif text == "count":
            wsbroker.send(socket_id, f"{Counting.handled.get(socket_id, 0)} {Counting.wrong.get(socket_id, 0)}")
        else:
            wsbroker.send(socket_id, data)


class StallControl(Control):
    """Tells when the worker stands still."""

    def wait_until_standing(self) -> bool:
        """Waits until the worker stands still, at most PATIENCE_S; returns whether it does."""
        return Counting.standing.wait(PATIENCE_S)

    def end(self) -> None:
        """Lets the worker go on and joins the watching thread."""
        Counting.gate.set()
        super().end()


class Pusher(NamedTuple):
    """A socket of the stalled worker that sends numbered messages."""

    client: BenchClient
    opcode: int
    messages: int
    size: int

    def push_all(self) -> None:
        """Writes all messages; the transport keeps what the server does not read."""
        padding = b"." * (self.size - 12)
        for index in range(self.messages):
            self.client.write_bytes(make_frame(self.opcode, b"%011d:%b" % (index, padding)))


def compute_bound(config: Config) -> int:
    """Returns the bytes that the broker may keep for the sockets of a stalled worker, by its settings.

    For each socket a full inbox (the mailbox's share counts there too), the read that filled it, and an incomplete
    message; for the worker its mailbox once more as bytes on the wire, and as events on the other side.
    """
    by_socket = config.inbox_bytes + config.read_budget_bytes + config.max_message_size
    return PUSHERS * by_socket + 2 * config.mailbox_bytes + SLACK_BYTES


def run(report: Report, total_bytes: int, size: int, stall_s: float, ping_s: float = 1.0) -> None:
    """Stalls a worker; checks memory, its sockets, and the sockets of the other worker.

    Args:
        total_bytes: of all that is pushed.
        size: bytes of a message, at least 12.
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
    with ServerProcess(StallControl, Counting, **settings) as server:
        report.log(f"stall: 2 x thread, core {server.core}, {format_mib(total_bytes)} in messages of {size} bytes")
        run_in_loop(_stall_and_check(report, server, Config.of(**settings), total_bytes, size, stall_s))


async def _stall_and_check(
    report: Report, server: ServerProcess, config: Config, total_bytes: int, size: int, stall_s: float
) -> None:
    """Stalls the first worker, pushes to it, lets it go on, and checks everything."""
    stalled, others = await _connect_by_worker(server)
    blocker, idlers = stalled[0], stalled[1 : 1 + IDLERS]
    count = total_bytes // PUSHERS // size
    pushers = [
        Pusher(client, TEXT if number % 2 else BINARY, count, size)
        for number, client in enumerate(stalled[1 + IDLERS :])
    ]
    async with EchoProbe(server.target, STALLED_WORKER) as quiet:
        await asyncio.sleep(min(stall_s, 2))
    async with EchoProbe(server.target, STALLED_WORKER) as meanwhile:
        closed = (await server.read_statistics())["sockets_closed"]
        blocker.send_message("stand")
        assert await server.ask_async("wait_until_standing")
        base_bytes = cast(int, await server.ask_async("start_memory_watch"))
        for pusher in pushers:
            pusher.push_all()
            await asyncio.sleep(0)
        await _wait_until_full(server)
        report.log("      everything is pushed, as far as it goes")
        await asyncio.sleep(stall_s)
        stood = await server.take_snapshot()
        most_bytes, _ = cast("tuple[int, int]", await server.ask_async("read_peaks"))
        others[0].send_message("go on")
        report.log("      the worker goes on")
        counts = await asyncio.gather(*(_ask_count(pusher.client) for pusher in pushers))
        report.log("      everything is handled")
        closed_meanwhile = (await server.read_statistics())["sockets_closed"] - closed
    report.show_figure("round trips on the other worker, before", quiet.summary)
    report.show_figure("round trips on the other worker, meanwhile", meanwhile.summary)
    pings = [client.ping_count for client in idlers]
    report.show_figure("pings answered meanwhile by silent sockets of the stalled worker", pings)
    report.show_figure("kept while it stood still", dict(sorted(stood.kept.items())))
    grown_bytes, bound = most_bytes - base_bytes, compute_bound(config)
    report.check(grown_bytes <= bound, f"memory grown by at most {format_mib(bound)}", format_mib(grown_bytes))
    paused = cast(int, stood.statistics["inboxes_full"])
    report.check(paused >= PUSHERS, "every pusher's reading was paused", paused)
    mailboxes = max(entry["mailbox_bytes"] for entry in cast("list[dict[str, int]]", stood.statistics["workers"]))
    report.check(mailboxes <= config.mailbox_bytes, "the mailbox kept to its limit", format_mib(mailboxes))
    wrong = [text for text in counts if text != f"{count} 0".encode()]
    report.check(not wrong, "every message was handled once and in order", wrong or count * PUSHERS)
    report.check_equal("sockets closed", closed_meanwhile, 0)
    lost = [client.close_code for client in (*stalled, *others) if client.is_lost]
    report.check_equal("connections lost", lost, [])
    await hang_up_all((*stalled, *others))


async def _connect_by_worker(server: ServerProcess) -> tuple[list[BenchClient], list[BenchClient]]:
    """Opens connections until the first worker has enough; returns its connections, and the other worker's."""
    stalled: list[BenchClient] = []
    others: list[BenchClient] = []
    while len(stalled) < 1 + IDLERS + PUSHERS:
        client = await connect(server.target)
        client.send_message("who")
        (stalled if await client.receive_message() == STALLED_WORKER else others).append(client)
    return stalled, others


async def _wait_until_full(server: ServerProcess) -> None:
    """Returns once the server reads nothing more from the pushers."""
    before = -1
    while True:
        statistics = await server.read_statistics()
        received = statistics["messages_received"]
        if statistics["inboxes_full"] == PUSHERS or received == before:
            return
        before = received
        await asyncio.sleep(0.2)


async def _ask_count(client: BenchClient) -> bytes:
    """Asks how many messages of the client were handled; returns ``HANDLED WRONG``."""
    client.send_message("count")
    async with asyncio.timeout(PATIENCE_S):
        return await client.receive_message()
