"""Joins: thousands of sockets whose handlers join channels, all at a time; then they are gone, and come again."""

import asyncio
import time
from typing import Final, cast

from benchmarks.client import Client, connect, hang_up_all, source_address
from benchmarks.load.meter import Meter
from benchmarks.load.server import raise_fd_limit
from benchmarks.soaking.joins_app import Joining
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import Report, mib, spread
from benchmarks.soaking.server import Control, ServerProcess
from wsbroker.settings.config import Settings, WorkerKind

AT_ONCE: Final = 200
"""Connections that are being opened at a time."""
SHARED: Final = (1_000_000, 1000, 100, 10)
"""So many sockets share the first channel, the second, …; the others are a socket's own."""
SLACK_BYTES: Final = 4 << 20
SLACK_EACH: Final = 200
"""Bytes for each socket of a round that may stay, in the allocator's gaps: a leak of an object is more."""
SPARE_DESCRIPTORS: Final = 200
PATIENCE_S: Final = 120.0
"""For all answers to one question to everybody; then something is broken."""


def names_of(index: int, channels: int) -> str:
    """The channels of a socket, with commas between them."""
    shared = [f"c{size}.{index // size}" for size in SHARED[:channels]]
    return ",".join([*shared, *(f"own{number}.{index}" for number in range(channels - len(shared)))])


def run(report: Report, kind: str, workers: int, sockets: int, channels: int, rounds: int) -> None:
    """Runs it.

    Args:
        kind: of the workers.
        sockets: how many there are at a time.
        channels: that each joins.
        rounds: of coming, joining, leaving, going; memory with all joined in the last is held against the first.
    """
    descriptors = raise_fd_limit()
    if sockets > descriptors - SPARE_DESCRIPTORS:
        sockets = descriptors - SPARE_DESCRIPTORS
        report.say(f"only {sockets} sockets, for the limit of open files is {descriptors}")
    settings: Settings = {"workers": workers, "worker_kind": cast(WorkerKind, kind)}
    with ServerProcess(Control, Joining, **settings) as server:
        report.say(f"joins: {sockets} sockets, {channels} channels each, {workers} × {kind}, core {server.core}")
        run_in_loop(_soak(report, server, sockets, channels, rounds))


async def _soak(report: Report, server: ServerProcess, sockets: int, channels: int, rounds: int) -> None:
    meter = Meter(server.pid)
    await server.settled()
    report.figure("memory before, with all workers", mib(meter.read().rss_bytes))
    for number in range(rounds):
        report.say(f"round {number + 1} of {rounds}")
        await _round(report, server, meter, sockets, channels)
        snapshot = await server.settled()
        report.equal("sizes in the statistics", set(snapshot.gauges.values()), {0})
        report.equal("what the broker, its pool and its workers still keep", snapshot.state, {})
        report.figure("memory when all are gone", mib(meter.read().rss_bytes))
    if rounds > 1:
        # With all joined, not with all gone: how much of what is free goes back to the system differs by 10 MiB.
        bound = SLACK_BYTES + sockets * SLACK_EACH
        joined_bytes = report.numbers["rss_bytes"]
        grown = joined_bytes[-1] - joined_bytes[0]
        report.number("grown_bytes", grown)
        report.check(grown <= bound, f"memory grown since the first round by at most {mib(bound)}", mib(grown))


async def _round(report: Report, server: ServerProcess, meter: Meter, sockets: int, channels: int) -> None:
    start_s, cpu_ns = time.monotonic(), meter.read().cpu_ns
    clients: list[Client] = []
    while len(clients) < sockets:
        more = range(len(clients), min(len(clients) + AT_ONCE, sockets))
        clients += await asyncio.gather(*(connect(server.address, source=source_address(index)) for index in more))
    took_s, used_ns = time.monotonic() - start_s, meter.read().cpu_ns - cpu_ns
    report.figure(
        "opened", f"{took_s:.2f} s, {sockets / took_s:,.0f} a second, {used_ns / sockets / 1e3:.0f} µs of CPU each"
    )

    for what, expected in (("join", channels), ("join", 0), ("leave", channels)):
        start_s, cpu_ns = time.monotonic(), meter.read().cpu_ns
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(
                *(_ask(client, f"{what} {names_of(index, channels)}") for index, client in enumerate(clients))
            )
        took_s, used_ns = time.monotonic() - start_s, meter.read().cpu_ns - cpu_ns
        report.equal(f"answers to {what}", {count for count, _ in answers}, {expected})
        calls = sockets * channels
        report.figure(
            f"{what}, {sockets} × {channels}",
            f"{took_s:.2f} s, {calls / took_s:,.0f} a second, {used_ns / calls / 1e3:.1f} µs of CPU each; "
            f"a socket's answer after {spread([s for _, s in answers])}",
        )
        if expected and what == "join":
            statistics = await server.answer("statistics")
            names = {name for index in range(sockets) for name in names_of(index, channels).split(",")}
            report.equal("channels", cast("dict[str, int]", statistics)["channels"], len(names))
            report.number("joins_per_s", calls / took_s)
            report.number("join_cpu_us", used_ns / calls / 1e3)
            report.number("sockets", sockets)
            report.number("channels_each", channels)
            report.number("rss_bytes", meter.read().rss_bytes)
            report.figure("memory", mib(report.numbers["rss_bytes"][-1]))
    await hang_up_all(clients)


async def _ask(client: Client, text: str) -> tuple[int, float]:
    start_s = time.perf_counter()
    client.send(text)
    return int(await client.receive()), time.perf_counter() - start_s
