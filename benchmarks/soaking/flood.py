"""Flood: sockets that send far more small messages than their worker handles, and one that asks beside them."""

import asyncio
import time
from typing import Final, cast

from benchmarks.client import TEXT, Client, connect, frame
from benchmarks.soaking.flood_app import Flooding
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, percentiles, spread
from benchmarks.soaking.server import Control, ServerProcess
from wsbroker.settings.config import Settings, WorkerKind

QUIET_S: Final = 0.2
PAUSE_S: Final = 0.01
PATIENCE_S: Final = 60.0
WORST_S: Final = 0.5
"""How long the other socket of the same worker may wait, with 20 sockets and handlers of 0.3 ms."""


def run(report: Report, kind: str, sockets: int, kib: int, seconds: float, worst_s: float = WORST_S) -> None:
    """Runs it.

    Args:
        kind: of the one worker.
        sockets: that flood it.
        kib: that each of them sends, in messages of 2 bytes.
        seconds: how long the other socket asks meanwhile; the flood has to last as long.
        worst_s: what its worst answer may take.
    """
    settings: Settings = {"worker_kind": cast(WorkerKind, kind), "workers": 1}
    with ServerProcess(Control, Flooding, **settings) as server:
        report.say(f"flood: 1 × {kind}, {sockets} sockets, {kib} KiB each, core {server.core}")
        run_in_loop(_soak(report, server, sockets, kib, seconds, worst_s))


async def _soak(report: Report, server: ServerProcess, sockets: int, kib: int, seconds: float, worst_s: float) -> None:
    bystander = await connect(server.address)
    quiet_s = await _trips(bystander, QUIET_S)
    report.figure("round trips of a socket, alone", spread(quiet_s))
    flooders = [await connect(server.address) for _ in range(sockets)]
    message = frame(b"xx", TEXT)
    count = kib * 1024 // len(message)
    for flooder in flooders:
        flooder.write(message * count)
    trips_s = await _trips(bystander, seconds)
    received = cast("dict[str, int]", await server.answer("statistics"))["messages_received"]
    report.figure("round trips of that socket, in the flood", spread(trips_s))
    report.number("quiet_ms", *(s * 1e3 for s in percentiles(quiet_s)))
    report.number("flood_ms", *(s * 1e3 for s in percentiles(trips_s)))
    sent = sockets * count + len(quiet_s) + len(trips_s)
    report.check(received < sent, "the flood lasted to the end", f"{received} of {sent} messages were read")
    report.check(trips_s[-1] <= worst_s, f"no round trip took more than {worst_s:g} s", f"{trips_s[-1] * 1e3:.0f} ms")
    bystander.send("calm")
    for flooder in flooders:
        flooder.reset()
    await bystander.close()


async def _trips(client: Client, seconds: float) -> list[float]:
    """Asks again and again; returns how long the answers took, the longest last."""
    trips_s: list[float] = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        start_s = time.perf_counter()
        client.send("ping")
        async with asyncio.timeout(PATIENCE_S):
            await client.receive()
        trips_s.append(time.perf_counter() - start_s)
        await asyncio.sleep(PAUSE_S)
    return sorted(trips_s)
