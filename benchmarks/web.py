"""Plain HTTP beside aiohttp's own web server, which parses and writes ours too: what the broker's front adds to it.

    python -m benchmarks http [--pairs 5] [--connections 64] [--seconds 2] [--json FILE]

The same work in both handlers (the query is sent back as text), kept connections with one request each, one process on
one core, alternating. aiohttp is the one that WSBroker is installed with, so nothing has to be prepared; other servers
answer the same requests in ``python -m benchmarks compare --loads http``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.claim import Claim
from benchmarks.compare.pairs import LOADS, compare
from benchmarks.compare.servers import APPS, PEERS, PYTHON, Contender, us
from benchmarks.load.machine import facts
from benchmarks.load.server import Command, our_version
from benchmarks.load.table import text_table

BESIDE_AIOHTTP: Final = 1.3
"""CPU per request, in aiohttp's."""


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit code: 1 if it is over the budget, or could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks http", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="aiohttp, WSBroker, and again  [5]")
    parser.add_argument("--connections", type=int, metavar="N", help="with one request each on the way  [64]")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each run  [2]")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="server and load to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args(argv)
    job = LOADS["http"]
    if options.connections is not None:
        job = replace(job, connections=options.connections)
    aiohttp = Contender(
        "aiohttp",
        "aiohttp",
        version("aiohttp"),
        PYTHON,
        next(peer.note for peer in PEERS if peer.name == "aiohttp"),
        Command([sys.executable, str(APPS / "aiohttp_app.py"), "{port}"]),
    )
    ours = us(sys.executable, our_version(sys.executable))
    result = compare(aiohttp, [ours], ["http"], options.pairs, options.seconds, options.pin, {"http": job})
    result.machine = facts()
    rows = []
    for entry in result.entries:
        if "http" in entry.cells:
            row = entry.cells["http"].row
            latency = [f"{row.latency_us[name] / 1000:.2f}" for name in ("p50", "p99", "max")]
            spread = f"{row.cpu_us_low:.1f}–{row.cpu_us_high:.1f}"
            load = f"{row.load_percent:.0f}"
            rows.append(
                [f"{entry.title} {entry.version}", f"{row.rate:,.0f}", f"{row.cpu_us:.1f}", spread, *latency, load]
            )
    heads = ["server", "requests/s", "CPU µs", "spread", "p50 ms", "p99", "max", "load %"]
    print(f"{job.name}; {ours.note}", text_table(heads, rows), "", *result.problems, sep="\n")
    cell = result.entries[1].cells.get("http")
    if cell is None or cell.ratio is None:
        print("could not be measured", file=sys.stderr)
        return 1
    what = f"plain HTTP, {job.connections} in flight: CPU per request beside aiohttp"
    claim = Claim(what, cell.ratio, f"≤ {BESIDE_AIOHTTP:g}", cell.ratio <= BESIDE_AIOHTTP)
    print(claim)
    if options.json:
        found = {**result.as_dict(), "claims": [claim._asdict()]}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if claim.holds else 1
