"""Joins: thousands of sockets whose handlers join channels, all at a time; then they are gone, and come again."""

import asyncio
import time
from typing import Final, cast

from benchmarks.load.meter import Meter
from benchmarks.load.server import raise_fd_limit
from benchmarks.soak.apps import Joining
from benchmarks.soak.report import Report, format_mib, format_spread
from benchmarks.soak.server import Control, ServerProcess, run_in_loop
from wsbroker.bench.client import BenchClient, choose_source_address, connect, hang_up_all
from wsbroker.settings.config import Settings, WorkerKind

OPENING_AT_ONCE: Final = 200
SHARED_BY: Final = (1_000_000, 1000, 100, 10)
"""So many sockets share the first channel, the second, …; the other channels belong to one socket each."""
SLACK_BYTES: Final = 4 << 20
SLACK_EACH_BYTES: Final = 200
"""Bytes for each socket of a round that may stay, in the allocator's gaps: a leaked object is more."""
SPARE_DESCRIPTORS: Final = 200
PATIENCE_S: Final = 120.0
"""For all answers to one question to all sockets; after that the run has failed."""


def run(report: Report, kind: str, workers: int, sockets: int, channels: int, rounds: int) -> None:
    """Has sockets join channels in rounds; what stays behind, or a rising memory, is a failure.

    Args:
        sockets: how many there are at a time.
        channels: how many each socket joins.
        rounds: of coming, joining, leaving, going; memory with all joined in the last is held against the first.
    """
    descriptors = raise_fd_limit()
    if sockets > descriptors - SPARE_DESCRIPTORS:
        sockets = descriptors - SPARE_DESCRIPTORS
        report.log(f"only {sockets} sockets, for the limit of open files is {descriptors}")
    settings: Settings = {"workers": workers, "worker_kind": cast(WorkerKind, kind)}
    with ServerProcess(Control, Joining, **settings) as server:
        report.log(f"joins: {sockets} sockets, {channels} channels each, {workers} × {kind}, core {server.core}")
        run_in_loop(_run_rounds(report, server, sockets, channels, rounds))


async def _run_rounds(report: Report, server: ServerProcess, sockets: int, channels: int, rounds: int) -> None:
    """Runs all rounds; checks after each that nothing is kept, and in the end that memory has not grown."""
    meter = Meter(server.pid)
    await server.wait_until_empty()
    report.show_figure("memory before, with all workers", format_mib(meter.read().rss_bytes))
    for number in range(rounds):
        report.log(f"round {number + 1} of {rounds}")
        await _run_round(report, server, meter, sockets, channels)
        snapshot = await server.wait_until_empty()
        report.check_equal("sizes in the statistics", set(snapshot.gauges.values()), {0})
        report.check_equal("what the broker, its pool and its workers still keep", snapshot.kept, {})
        report.show_figure("memory when all are gone", format_mib(meter.read().rss_bytes))
    if rounds > 1:
        # With all joined, not with all gone: how much free memory goes back to the system differs by 10 MiB.
        bound = SLACK_BYTES + sockets * SLACK_EACH_BYTES
        joined_bytes = report.numbers["rss_bytes"]
        grown = joined_bytes[-1] - joined_bytes[0]
        report.keep_numbers("grown_bytes", grown)
        report.check(
            grown <= bound, f"memory grown since the first round by at most {format_mib(bound)}", format_mib(grown)
        )


async def _run_round(report: Report, server: ServerProcess, meter: Meter, sockets: int, channels: int) -> None:
    """Opens all sockets, has them join twice and leave once, and hangs them up."""
    start_s, cpu_ns = time.monotonic(), meter.read().cpu_ns
    clients: list[BenchClient] = []
    while len(clients) < sockets:
        more = range(len(clients), min(len(clients) + OPENING_AT_ONCE, sockets))
        clients += await asyncio.gather(
            *(connect(server.target, source=choose_source_address(index)) for index in more)
        )
    took_s, used_ns = time.monotonic() - start_s, meter.read().cpu_ns - cpu_ns
    rate = f"{took_s:.2f} s, {sockets / took_s:,.0f} a second, {used_ns / sockets / 1e3:.0f} µs of CPU each"
    report.show_figure("opened", rate)
    for verb, expected in (("join", channels), ("join", 0), ("leave", channels)):
        start_s, cpu_ns = time.monotonic(), meter.read().cpu_ns
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(
                *(_ask(client, f"{verb} {list_channels(index, channels)}") for index, client in enumerate(clients))
            )
        took_s, used_ns = time.monotonic() - start_s, meter.read().cpu_ns - cpu_ns
        report.check_equal(f"answers to {verb}", {count for count, _ in answers}, {expected})
        calls = sockets * channels
        report.show_figure(
            f"{verb}, {sockets} × {channels}",
            f"{took_s:.2f} s, {calls / took_s:,.0f} a second, {used_ns / calls / 1e3:.1f} µs of CPU each; "
            f"a socket's answer after {format_spread([s for _, s in answers])}",
        )
        if expected and verb == "join":
            names = {name for index in range(sockets) for name in list_channels(index, channels).split(",")}
            report.check_equal("channels", (await server.read_statistics())["channels"], len(names))
            report.keep_numbers("joins_per_s", calls / took_s)
            report.keep_numbers("join_cpu_us", used_ns / calls / 1e3)
            report.keep_numbers("sockets", sockets)
            report.keep_numbers("channels_each", channels)
            report.keep_numbers("rss_bytes", meter.read().rss_bytes)
            report.show_figure("memory", format_mib(report.numbers["rss_bytes"][-1]))
    await hang_up_all(clients)


def list_channels(index: int, channels: int) -> str:
    """Returns the channel names of the socket with this index, separated by commas."""
    shared = [f"c{size}.{index // size}" for size in SHARED_BY[:channels]]
    return ",".join([*shared, *(f"own{number}.{index}" for number in range(channels - len(shared)))])


async def _ask(client: BenchClient, text: str) -> tuple[int, float]:
    """Sends a request to join or leave; returns the number in the answer and the seconds the answer took."""
    start_s = time.perf_counter()
    client.send_message(text)
    return int(await client.receive_message()), time.perf_counter() - start_s
