"""Flood: sockets send far more small messages than their worker handles, and another socket asks beside them."""

import asyncio
import time
from typing import Final, cast

from benchmarks.soak.apps import Computing
from benchmarks.soak.echo import measure_trip
from benchmarks.soak.report import Report, format_spread, rank_percentiles
from benchmarks.soak.server import Control, ServerProcess, run_in_loop
from wsbroker.bench.client import BenchClient, connect, make_frame
from wsbroker.settings.config import Settings, WorkerKind
from wsbroker.websocket.frames import TEXT

QUIET_S: Final = 0.2
PAUSE_S: Final = 0.01
WORST_S: Final = 0.5
"""How long the other socket of the same worker may wait, with 20 sockets and handlers of 0.3 ms."""


def run(report: Report, kind: str, sockets: int, kib: int, seconds: float, worst_s: float = WORST_S) -> None:
    """Floods one worker and measures the waits of another socket.

    Args:
        sockets: how many sockets flood the worker.
        kib: how much each of them sends, in messages of 2 bytes.
        seconds: how long the other socket asks meanwhile; the flood has to last as long.
        worst_s: the longest that an answer may take.
    """
    settings: Settings = {"worker_kind": cast(WorkerKind, kind), "workers": 1}
    with ServerProcess(Control, Computing, **settings) as server:
        report.log(f"flood: 1 × {kind}, {sockets} sockets, {kib} KiB each, core {server.core}")
        run_in_loop(_flood(report, server, sockets, kib, seconds, worst_s))


async def _flood(report: Report, server: ServerProcess, sockets: int, kib: int, seconds: float, worst_s: float) -> None:
    """Measures a bystander before and during the flood, and checks the waits."""
    bystander = await connect(server.target)
    quiet_s = await _measure_trips(bystander, QUIET_S)
    report.show_figure("round trips of a socket, alone", format_spread(quiet_s))
    flooders = [await connect(server.target) for _ in range(sockets)]
    message = make_frame(TEXT, b"xx")
    count = kib * 1024 // len(message)
    for flooder in flooders:
        flooder.write_bytes(message * count)
    trips_s = await _measure_trips(bystander, seconds)
    received = (await server.read_statistics())["messages_received"]
    report.show_figure("round trips of that socket, in the flood", format_spread(trips_s))
    report.keep_numbers("quiet_ms", *(s * 1e3 for s in rank_percentiles(quiet_s)))
    report.keep_numbers("flood_ms", *(s * 1e3 for s in rank_percentiles(trips_s)))
    sent = sockets * count + len(quiet_s) + len(trips_s)
    report.check(received < sent, "the flood lasted to the end", f"{received} of {sent} messages were read")
    longest_s = max(trips_s)
    report.check(longest_s <= worst_s, f"no round trip took more than {worst_s:g} s", f"{longest_s * 1e3:.0f} ms")
    bystander.send_message("calm")
    for flooder in flooders:
        flooder.reset()
    await bystander.close()


async def _measure_trips(client: BenchClient, seconds: float) -> list[float]:
    """Sends pings, each after the last one's answer, for so long; returns the seconds that each answer took."""
    trips_s: list[float] = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        trips_s.append(await measure_trip(client, "ping"))
        await asyncio.sleep(PAUSE_S)
    return trips_s
