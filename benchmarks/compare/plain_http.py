"""Plain HTTP beside aiohttp's own web server, which parses and writes ours too: what the broker's front adds to it.

    python -m benchmarks http [--pairs 5] [--connections 64] [--seconds 2] [--json FILE]

The same work in both handlers (the query is sent back as text), kept connections with one request each, one process on
one core, alternating. aiohttp is the one that WSBroker is installed with, so nothing has to be prepared; other servers
answer the same requests in ``python -m benchmarks compare --loads http``.
"""

import argparse
import sys
from dataclasses import replace
from importlib.metadata import version
from typing import Final

from benchmarks.compare.pairs import LOADS, compare_servers
from benchmarks.compare.servers import APPS, PEERS, PYTHON, Contender, describe_ours
from benchmarks.experiments import Claim, Experiment, Result, add_pin_option, claim_at_most
from benchmarks.load.machine import read_machine
from benchmarks.load.server import Command, read_our_version
from benchmarks.load.table import format_columns

BESIDE_AIOHTTP: Final = 1.3
"""CPU per request, as a multiple of aiohttp's."""
HEADS: Final = ("server", "requests/s", "CPU µs", "spread", "p50 ms", "p99", "max", "load %")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="aiohttp, WSBroker, and again  [5]")
    parser.add_argument("--connections", type=int, default=64, metavar="N", help="with one request each  [64]")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each run  [2]")
    add_pin_option(parser)


def measure_http(options: argparse.Namespace) -> Result:
    """Measures aiohttp and WSBroker in turn."""
    job = replace(LOADS["http"], connections=options.connections)
    aiohttp = Contender(
        "aiohttp",
        "aiohttp",
        version("aiohttp"),
        PYTHON,
        next(peer.note for peer in PEERS if peer.name == "aiohttp"),
        Command([sys.executable, str(APPS / "aiohttp_app.py"), "{port}"]),
    )
    ours = describe_ours(sys.executable, read_our_version(sys.executable))
    comparison = compare_servers(aiohttp, [ours], ["http"], options.pairs, options.seconds, options.pin, {"http": job})
    comparison.machine = read_machine()
    cell = comparison.entries[1].cells.get("http")
    failures = [] if cell is not None and cell.ratio is not None else ["could not be measured"]
    return {**comparison.as_dict(), "connections": options.connections, "failures": failures}


def format_http(result: Result) -> str:
    """Returns a line for each server, and what else should be known."""
    rows = []
    for entry in result["entries"]:
        if "http" in entry["cells"]:
            row = entry["cells"]["http"]["row"]
            latency = [f"{row['latency_us'][name] / 1000:.2f}" for name in ("p50", "p99", "max")]
            figures = [
                f"{row['rate']:,.0f}",
                f"{row['cpu_us']:.1f}",
                f"{row['cpu_us_low']:.1f}–{row['cpu_us_high']:.1f}",
            ]
            rows.append([f"{entry['title']} {entry['version']}", *figures, *latency, f"{row['load_percent']:.0f}"])
    title = f"http, {result['connections']} in flight; {result['entries'][1]['note']}"
    return "\n".join([title, format_columns(HEADS, rows), "", *result["problems"]])


def claim_http(result: Result) -> list[Claim]:
    """Returns the CPU per request beside aiohttp's."""
    if result["failures"]:
        return []
    subject = f"plain HTTP, {result['connections']} in flight: CPU per request beside aiohttp"
    return [claim_at_most(subject, result["entries"][1]["cells"]["http"]["ratio"], BESIDE_AIOHTTP)]


EXPERIMENT: Final = Experiment("http", __doc__.partition("\n")[0], add_options, measure_http, format_http, claim_http)
