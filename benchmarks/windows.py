"""``--flush-interval``: what a window saves in CPU, and what it adds to latency, under many small publications.

    python -m benchmarks flush [--windows 0,1,5,20] [--rate 1000] [--connections 100] [--rounds 3] [--json FILE]

Publications come at a fixed rate, each in a turn of its own, so that without a window there is nothing to join: one
write for each message and subscriber. The windows are measured in turns, on a fresh server each; medians count.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.load.job import Job
from benchmarks.load.machine import facts
from benchmarks.load.progress import bar
from benchmarks.load.row import Row, middle
from benchmarks.load.run import as_json, run
from benchmarks.load.server import Cores, ServerError, our_command, our_version, raise_fd_limit
from benchmarks.load.table import markdown_table, text_table

LOAD: Final = Job("fanout", connections=100, rate=1000.0, seconds=3.0, runs=1)
WINDOWS_MS: Final = (0.0, 1.0, 5.0, 20.0)
HEADS: Final = ("window", "CPU µs", "beside none", "p50 ms", "p99", "max", "server %")


def measure(job: Job, windows_ms: Sequence[float], rounds: int, kind: str, pin: bool) -> dict[float, Row]:
    """Measures each window in turn, `rounds` times; returns the medians.

    Raises:
        ServerError: it could not be measured, or messages were lost.
    """
    found: dict[float, list[Row]] = {window_ms: [] for window_ms in windows_ms}
    for number in range(rounds):
        for window_ms in windows_ms:
            settings = ["--worker-kind", kind, "--flush-interval", f"{window_ms:g}ms"]
            with bar(f"window {window_ms:g} ms, round {number + 1} of {rounds}") as progress:
                row = run(job, our_command(sys.executable, settings), Cores.choose(pin), progress)
            if row.wrong:
                raise ServerError(f"{row.wrong} messages were lost, doubled, changed or out of order")
            found[window_ms].append(row)
    return {window_ms: middle(rows) for window_ms, rows in found.items()}


def cells(windows: dict[float, Row]) -> list[list[str]]:
    """The lines of the table."""
    first = next(iter(windows.values()))
    lines = []
    for window_ms, row in windows.items():
        latency = [f"{row.latency_us[name] / 1000:.1f}" for name in ("p50", "p99", "max")]
        share = f"{row.cpu_us / first.cpu_us:.2f}" if first.cpu_us else ""
        lines.append([f"{window_ms:g} ms", f"{row.cpu_us:.2f}", share, *latency, f"{row.server_percent:.0f}"])
    return lines


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks flush", description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=_numbers, default=WINDOWS_MS, metavar="MS[,…]", help="[0,1,5,20]")
    parser.add_argument("--rate", type=float, default=LOAD.rate, metavar="N", help="publications a second  [1000]")
    parser.add_argument("--connections", type=int, default=LOAD.connections, metavar="N", help="subscribers  [100]")
    parser.add_argument("--size", type=int, default=LOAD.size, metavar="BYTES", help="of a payload  [64]")
    parser.add_argument("--seconds", type=float, default=LOAD.seconds, metavar="S", help="of each measurement  [3]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns; medians count  [3]")
    parser.add_argument("--worker-kind", default="inline", metavar="KIND", help="[inline]")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="server and load to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(argv)
    job = replace(LOAD, rate=options.rate, connections=options.connections, size=options.size, seconds=options.seconds)
    raise_fd_limit()
    try:
        version = our_version(sys.executable)
        windows = measure(job, options.windows, options.rounds, options.worker_kind, options.pin)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{job.name}: per delivery; {', '.join(version)}", "", sep="\n")
    print((markdown_table if options.markdown else text_table)(HEADS, cells(windows)))
    for window_ms, row in windows.items():
        for warning in row.warnings:
            print(f"{window_ms:g} ms: {warning}")
    if options.json:
        rows = [{"window_ms": window_ms, **as_json(job, row)} for window_ms, row in windows.items()]
        result = {"server": version, "machine": facts(), "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _numbers(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]
