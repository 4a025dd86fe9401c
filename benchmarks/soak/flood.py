"""Flood: sockets send far more small messages than their worker handles, and another socket asks beside them."""

import asyncio
from typing import Final

from benchmarks.soak.run import KINDS, Option, Soak
from benchmarks.soak.server import Control
from wsbroker.bench.client import make_frame
from wsbroker.websocket.frames import TEXT

MESSAGE: Final = make_frame(TEXT, b"xx")


class Flood(Soak):
    """Floods a worker with more messages than it handles, and measures the waits of another socket."""

    options = (
        Option("kind", "thread", "of worker", KINDS),
        Option("count", 20, "sockets"),
        Option("kib", 703, "that each sends, in messages of 2 bytes"),
        Option("seconds", 8.0, "that the other socket asks meanwhile; the flood has to last as long"),
        Option("worst", 0.5, "seconds that the other socket may wait, with 20 sockets and handlers of 0.3 ms"),
    )

    def compute_bound_s(self, quiet_s: float) -> float:
        """Returns how long the other socket may wait."""
        return float(self.chosen.worst)

    async def drive(self) -> None:
        """Sends all messages at once; checks that they were too many."""
        bystander, *flooders = await self.connect_all(1 + self.chosen.count)
        each = self.chosen.kib * 1024 // len(MESSAGE)
        before = (await self.server.call(Control.read_statistics))["messages_received"]
        for flooder in flooders:
            flooder.write_bytes(MESSAGE * each)
        await asyncio.sleep(self.chosen.seconds)
        read = (await self.server.call(Control.read_statistics))["messages_received"] - before
        sent = each * len(flooders)
        self.report.check(read < sent, "the flood lasted to the end", f"{read} of {sent} messages were read")
        bystander.send_message("calm")
        bystander.send_message("echo")
        await bystander.receive_message()
