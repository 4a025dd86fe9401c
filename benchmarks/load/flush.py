"""``--flush-interval``: what a window saves in CPU, and what it adds to latency, under many small publications.

    python -m benchmarks flush [--windows 0,1,5,20] [--rate 1000] [--connections 100] [--rounds 3] [--json FILE]

Publications come at a fixed rate, each in a turn of its own, so that without a window there is nothing to join: one
write for each message and subscriber. The windows are measured in turns, on a fresh server each; medians count.
"""

import argparse
import sys
from dataclasses import replace
from typing import Final

from benchmarks.experiments import Claim, Experiment, Result, add_pin_option, parse_numbers
from benchmarks.load.job import Job
from benchmarks.load.progress import show_bar
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.run import describe_row, run_job
from benchmarks.load.server import Cores, ServerError, build_our_command, raise_fd_limit, read_our_version
from benchmarks.load.table import format_columns

LOAD: Final = Job("fanout", connections=100, rate=1000.0, seconds=3.0, runs=1)
WINDOWS_MS: Final = (0.0, 1.0, 5.0, 20.0)
HEADS: Final = ("window", "CPU µs", "beside none", "p50 ms", "p99", "max", "server %")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--windows", type=parse_numbers, default=WINDOWS_MS, metavar="MS[,…]", help="[0,1,5,20]")
    parser.add_argument("--rate", type=float, default=LOAD.rate, metavar="N", help="publications a second  [1000]")
    parser.add_argument("--connections", type=int, default=LOAD.connections, metavar="N", help="subscribers  [100]")
    parser.add_argument("--size", type=int, default=LOAD.size, metavar="BYTES", help="of a payload  [64]")
    parser.add_argument("--seconds", type=float, default=LOAD.seconds, metavar="S", help="of each measurement  [3]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns; medians count  [3]")
    parser.add_argument("--worker-kind", default="inline", metavar="KIND", help="[inline]")
    add_pin_option(parser)


def measure_windows(options: argparse.Namespace) -> Result:
    """Measures each window in turn, as many rounds as asked; the result has the medians.

    Raises:
        ServerError: a server did not run, or messages were lost.
    """
    job = replace(LOAD, rate=options.rate, connections=options.connections, size=options.size, seconds=options.seconds)
    raise_fd_limit()
    version = read_our_version(sys.executable)
    rows: dict[float, list[Row]] = {window_ms: [] for window_ms in options.windows}
    for number in range(options.rounds):
        for window_ms in options.windows:
            command = build_our_command(
                sys.executable, ["--worker-kind", options.worker_kind, "--flush-interval", f"{window_ms:g}ms"]
            )
            with show_bar(f"window {window_ms:g} ms, round {number + 1} of {options.rounds}") as progress:
                row = run_job(job, command, Cores.choose(options.pin), progress)
            if row.wrong:
                raise ServerError(f"{row.wrong} messages were lost, doubled, changed or out of order")
            rows[window_ms].append(row)
    described = [{"window_ms": ms, **describe_row(job, merge_rows(found))} for ms, found in rows.items()]
    return {"server": version, "rows": described}


def format_windows(result: Result) -> str:
    """Returns a line for each window, beside the first one's CPU."""
    cells, warnings = [], []
    first = result["rows"][0]
    for row in result["rows"]:
        latency = [f"{row['latency_us'][name] / 1000:.1f}" for name in ("p50", "p99", "max")]
        share = f"{row['cpu_us'] / first['cpu_us']:.2f}" if first["cpu_us"] else ""
        window = f"{row['window_ms']:g} ms"
        cells.append([window, f"{row['cpu_us']:.2f}", share, *latency, f"{row['server_percent']:.0f}"])
        warnings += [f"{window}: {warning}" for warning in row["warnings"]]
    title = f"{first['name']}: per delivery; {', '.join(result['server'])}"
    return "\n".join([title, "", format_columns(HEADS, cells), *warnings, ""])


def claim_windows(result: Result) -> list[Claim]:
    """Returns CPU, p50 and p99 of each window, which are held to nothing."""
    claims = []
    for row in result["rows"]:
        latency = row["latency_us"]
        figure = f"{row['cpu_us']:.2f} µs, {latency['p50'] / 1000:.1f} ms, {latency['p99'] / 1000:.1f} ms"
        claims.append(Claim(f"{row['window_ms']:g} ms", figure))
    return claims


EXPERIMENT: Final = Experiment(
    "flush", __doc__.partition("\n")[0], add_options, measure_windows, format_windows, claim_windows
)
