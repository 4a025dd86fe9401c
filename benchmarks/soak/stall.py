"""Stall: one of two thread workers stands still while its sockets send far more than the broker may keep."""

import asyncio
from typing import Final

from benchmarks.soak.report import format_mib
from benchmarks.soak.run import Option, Soak
from benchmarks.soak.server import Control
from wsbroker.bench.client import BenchClient, make_frame
from wsbroker.settings.config import Config, Settings
from wsbroker.websocket.frames import BINARY, TEXT

STALLED_WORKER: Final = b"worker-0"
PUSHERS: Final = 32
IDLERS: Final = 4
"""Sockets of the stalled worker that send nothing: they are pinged all the time."""
PATIENCE_S: Final = 120.0
SLACK_BYTES: Final = 4 << 20


class Stall(Soak):
    """Blocks a worker while its sockets go on sending; checks memory, and the sockets of another worker."""

    avoided_worker = STALLED_WORKER
    options = (
        Option("count", 64, "MiB that are pushed"),
        Option("size", 16 * 1024, "of a message, in bytes"),
        Option("seconds", 8.0, "that the worker stands still after that"),
        Option("ping", 1.0, "ping interval and pong time-out in seconds; should pass several times during the stall"),
    )

    def make_settings(self) -> Settings:
        """Returns the settings of the server."""
        pings: Settings = {"ping_interval": self.chosen.ping, "pong_timeout": self.chosen.ping}
        return {"workers": 2, "worker_kind": "thread", "handler_timeout": PATIENCE_S, **pings}

    def compute_bound_bytes(self, config: Config) -> float:
        """Returns the bytes that the broker may keep for the sockets of a stalled worker, by its settings.

        For each socket a full inbox (the mailbox's share counts there too), the read that filled it, and an incomplete
        message; for the worker its mailbox once more as bytes on the wire, and as events on the other side.
        """
        by_socket = config.inbox_bytes + config.read_budget_bytes + config.max_message_size
        return PUSHERS * by_socket + 2 * config.mailbox_bytes + SLACK_BYTES

    async def prepare(self) -> None:
        """Opens sockets until the first worker has enough."""
        self._stalled: list[BenchClient] = []
        self._others: list[BenchClient] = []
        while len(self._stalled) < 1 + IDLERS + PUSHERS:
            (client,) = await self.connect_all(1)
            client.send_message("who")
            is_stalled = await client.receive_message() == STALLED_WORKER
            (self._stalled if is_stalled else self._others).append(client)

    async def drive(self) -> None:
        """Stalls the first worker, pushes to it, lets it go on, and checks everything."""
        blocker, idlers, pushers = self._stalled[0], self._stalled[1 : 1 + IDLERS], self._stalled[1 + IDLERS :]
        each = (self.chosen.count << 20) // PUSHERS // self.chosen.size
        blocker.send_message("stand")
        assert await self.server.call(Control.wait_until_standing)
        for number, pusher in enumerate(pushers):
            _push(pusher, TEXT if number % 2 else BINARY, each, self.chosen.size)
            await asyncio.sleep(0)
        await self._wait_until_full()
        self.report.log("      everything is pushed, as far as it goes")
        await asyncio.sleep(self.chosen.seconds)
        statistics = await self.server.call(Control.read_statistics)
        kept = (await self.server.call(Control.take_snapshot)).left - self.fresh
        self.memory_watch.cancel()  # the bound is that of a worker that takes nothing
        self._others[0].send_message("go on")
        counts = {await _ask_count(pusher) for pusher in pushers}
        pings = [client.ping_count for client in idlers]
        self.report.show_figure("pings answered meanwhile by silent sockets of the stalled worker", pings)
        self.report.show_figure("kept while it stood still", dict(sorted(kept.items())))
        paused = statistics["inboxes_full"]
        self.report.check(paused >= PUSHERS, "every pusher's reading was paused", paused)
        most_bytes = max(worker["mailbox_bytes"] for worker in statistics["workers"])
        limit_bytes = Config.of(**self.make_settings()).mailbox_bytes
        self.report.check_at_most("bytes in a worker's mailbox", most_bytes, limit_bytes, format_mib)
        self.report.check_equal("counts of messages handled, and of those out of order", counts, {f"{each} 0"})

    async def _wait_until_full(self) -> None:
        """Returns once the server reads nothing more from the pushers."""
        before = -1
        while True:
            statistics = await self.server.call(Control.read_statistics)
            if statistics["inboxes_full"] == PUSHERS or statistics["messages_received"] == before:
                return
            before = statistics["messages_received"]
            await asyncio.sleep(0.2)


def _push(client: BenchClient, opcode: int, count: int, size: int) -> None:
    """Writes this many numbered messages; the transport keeps what the server does not read."""
    padding = b"." * (size - 12)
    for index in range(count):
        client.write_bytes(make_frame(opcode, b"%011d:%b" % (index, padding)))


async def _ask_count(client: BenchClient) -> str:
    """Asks how many messages of the client were handled, and how many of them out of order."""
    client.send_message("count")
    async with asyncio.timeout(PATIENCE_S):
        return (await client.receive_message()).decode()
