"""Bodies: what clients that send request bodies in crumbs, leave in their middle, or never end them cost the others."""

import asyncio
import contextlib
from collections import Counter
from typing import Final

from benchmarks.soak.report import format_mib
from benchmarks.soak.run import Option, Soak
from wsbroker.settings.config import Config, Settings

PROMISED_S: Final = 0.5
"""The longest that a bystander may wait, beyond the longest wait of an undisturbed one."""
WAVES: Final = 15
PAUSE_S: Final = 0.2
PATIENCE_S: Final = 60.0
LIMIT_BYTES: Final = 128 << 20
"""`max_request_bytes_total` of the server: the default in a container of 512 MB."""
OVERHEAD_BYTES: Final = 48 << 20
"""What the connections and the allocator's gaps may cost besides."""
HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\n"
CRUMBS: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000
UNFINISHED: Final = HEAD + b"Content-Length: 1048576\r\n\r\n" + b"x" * 1_000_000


class Bodies(Soak):
    """Sends bodies in crumbs, abandoned and unfinished; checks a bystander's waits and the memory."""

    options = (Option("count", 200, "clients at a time"),)

    def make_settings(self) -> Settings:
        """Returns the settings of the server."""
        return {"worker_kind": "inline", "max_request_bytes_total": LIMIT_BYTES}

    def compute_bound_bytes(self, config: Config) -> float:
        """Returns by how much the memory may grow, whatever the clients send."""
        return LIMIT_BYTES + OVERHEAD_BYTES

    def compute_bound_s(self, quiet_s: float) -> float:
        """Returns how long the bystander may wait."""
        return PROMISED_S + quiet_s

    async def drive(self) -> None:
        """Sends bodies in the three ways, one after the other."""
        count = self.chosen.count
        answers = await asyncio.gather(*(self._send_request(CRUMBS) for _ in range(count)))
        statuses = Counter([(await reader.read(12)).decode() or "none" for reader, _ in answers])
        self.report.show_figure("answers to bodies in crumbs", dict(statuses))
        before_bytes = self.meter.read().rss_bytes
        await self._abandon_bodies(1)
        first_bytes = self.peak_bytes  # not what is held now: that is little if the first leavers were read slowly
        await self._abandon_bodies(WAVES - 1)
        last_bytes = self.meter.read().rss_bytes
        memory = ", ".join(map(format_mib, (before_bytes, first_bytes, last_bytes)))
        self.report.show_figure("memory before, at most in the first, and after all waves of leavers", memory)
        claim = "memory grown since the first wave of leavers"
        self.report.check_at_most(claim, last_bytes - first_bytes, OVERHEAD_BYTES, format_mib)
        writers = [(await self._send_request(UNFINISHED))[1] for _ in range(5 * count)]
        held_bytes = self.meter.read().rss_bytes - before_bytes
        for writer in writers:
            writer.transport.abort()
        self.report.keep_numbers("held_bytes", held_bytes)
        claim = f"memory held by {5 * count} unfinished bodies"
        self.report.check_at_most(claim, held_bytes, LIMIT_BYTES + OVERHEAD_BYTES, format_mib)

    async def _abandon_bodies(self, waves: int) -> None:
        """Has all clients send a part of a body and leave, once per wave."""
        for _ in range(waves):
            opened = [await self._send_request(UNFINISHED) for _ in range(self.chosen.count)]
            await asyncio.sleep(PAUSE_S)
            for _, writer in opened:
                writer.transport.abort()
            await asyncio.sleep(PAUSE_S)

    async def _send_request(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Sends as much of a request as the server takes, on a new connection; returns the connection."""
        reader, writer = await asyncio.open_connection(self.target.host, self.target.port)
        writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError):  # the server refused the request
            async with asyncio.timeout(PATIENCE_S):
                writer.write(data)
                await writer.drain()
        return reader, writer
