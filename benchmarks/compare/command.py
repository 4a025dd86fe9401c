"""``python -m benchmarks compare``: WSBroker and other servers under the same load, in turn."""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.compare.peers import (
    PEERS,
    Contender,
    choose_home,
    describe_ours,
    find_contender,
    install_peer,
    read_python_version,
)
from benchmarks.compare.report import CHARTED, LOADS, draw_chart, format_notes, format_section, format_table
from benchmarks.experiments import Experiment, Result, add_pin_option, make_no_claims, read_machine
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.run import Variant, find_ratio, measure_in_turns
from benchmarks.load.server import Cores, raise_fd_limit, read_our_version
from benchmarks.report import write_section

NAMES: Final = [peer.name for peer in PEERS]
DEFAULT_LOADS: Final = ("fanout-1", "fanout-16", "fanout-64", "echo", "http", "idle")


def measure_comparison(options: argparse.Namespace) -> Result:
    """Prepares the peers or measures, as asked, and writes the files; too few measured servers are a failure.

    Raises:
        ServerError: there is no wsbroker.
    """
    if options.from_json is not None:
        return _write_files(json.loads(options.from_json.read_text(encoding="utf-8")), options)
    chosen = [peer for peer in PEERS if peer.name in options.peers]
    problems = {peer.title: install_peer(peer, options.home) for peer in chosen} if options.prepare else {}
    if options.prepare and not (options.loads or options.json or options.markdown or options.svg or options.readme):
        return {"entries": [], "failures": [f"{title}: {problem}" for title, problem in problems.items() if problem]}
    found = {peer.title: find_contender(peer, options.home) for peer in chosen}
    why = "it is not installed: run with --prepare"
    skipped = {title: problems.get(title) or why for title, peer in found.items() if peer is None}
    version = read_our_version(options.python)
    servers = [describe_ours(options.python, version), *(peer for peer in found.values() if peer is not None)]
    raise_fd_limit()
    cores = Cores.choose(options.pin)
    result = compare_servers(servers, options.loads or DEFAULT_LOADS, options.pairs, options.seconds, cores)
    theirs = read_python_version(options.home)
    if theirs and not any(line.startswith(f"python: {theirs} ") for line in version):
        result["problems"].append(f"the peers run on Python {theirs}, WSBroker on another one: {version[-1]}")
    return _write_files({**result, "skipped": skipped}, options)


def compare_servers(
    servers: Sequence[Contender], loads: Sequence[str], pairs: int, seconds: float | None, cores: Cores
) -> dict[str, Any]:
    """Runs every load: for each peer the first server and then the peer, and all of that `pairs` times.

    Args:
        seconds: of each run; None: those of the load.

    Returns: `entries`, an object for each server with `cells` by load: `row`, the medians of its runs, and `ratio`, the
        median of its figure as a multiple of the first server's in the same pair; `problems`; what was asked for.
    """
    problems: list[str] = []
    kept = ("name", "title", "version", "note")
    entries = [{**{name: getattr(server, name) for name in kept}, "cells": {}} for server in servers]
    for load in loads:
        job = LOADS[load].job if seconds is None or load == "idle" else replace(LOADS[load].job, seconds=seconds)
        peers = [peer for peer in servers[1:] if load not in peer.lacks]
        order = [server for peer in peers for server in (servers[0], peer)] or servers[:1]
        variants = [Variant(f"{server.title}: {load}", job, server.command) for server in order]
        turns = measure_in_turns(variants, pairs, cores, problems)
        cells = merge_pairs([server.name for server in order], turns, LOADS[load].figure)
        for entry in entries:
            if entry["name"] in cells:
                entry["cells"][load] = cells[entry["name"]]
    return {
        "machine": read_machine(),
        "pairs": pairs,
        "seconds": seconds or LOADS["fanout-16"].job.seconds,
        "loads": list(loads),
        "entries": entries,
        "problems": problems,
    }


def merge_pairs(names: Sequence[str], turns: Sequence[Sequence[Row | None]], figure: str) -> dict[str, dict[str, Any]]:
    """Returns the cells of one load, by the names of the servers that have rows that count.

    Args:
        names: of the servers as they took their turns: the first server before each peer.
        turns: their rows, by round.
        figure: the field of a row that is compared.
    """
    turns = [[row if row is not None and _is_counted(row) else None for row in turn] for turn in turns]
    cells = {}
    for index, name in enumerate(names):
        rows = [row for turn in turns for place, row in enumerate(turn) if row is not None and names[place] == name]
        if rows:
            ratio = find_ratio(turns, index, index - 1, figure) if name != names[0] else None
            cells[name] = {"row": merge_rows(rows).as_dict(), "ratio": ratio}
    return cells


def _is_counted(row: Row) -> bool:
    """Whether the figures of a row count: something came back, and at most it was lost on the way."""
    return bool(row.rate) and not (row.wrong and (row.ended or row.unexpected))


def _write_files(result: Result, options: argparse.Namespace) -> Result:
    """Writes the files that the options ask for and returns the comparison, which fails if no peer was measured."""
    if options.markdown is not None:
        options.markdown.write_text(format_comparison(result) + "\n", encoding="utf-8")
    if options.svg is not None:
        options.svg.write_text(draw_chart(result, CHARTED), encoding="utf-8")
    if options.readme:
        write_section("compare", format_section(result))
    measured = sum(bool(entry["cells"]) for entry in result["entries"])
    return {**result, "failures": [] if measured > 1 else ["no peer could be measured"]}


def format_comparison(result: Result) -> str:
    """Returns table and notes in Markdown; after --prepare alone, that the peers are installed."""
    if not result["entries"]:
        return "the peers are installed" if not result["failures"] else ""
    return "\n".join([format_table(result), "", *format_notes(result)])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.epilog = "With --prepare alone nothing is measured."
    loads = f"{', '.join(LOADS)}  [{','.join(DEFAULT_LOADS)}]"
    parser.add_argument("--prepare", action="store_true", help="install the peers, or newer versions of them")
    parser.add_argument(
        "--peers", type=partial(_parse_names, NAMES), default=NAMES, metavar="NAME[,…]", help=", ".join(NAMES)
    )
    parser.add_argument("--loads", type=partial(_parse_names, LOADS), metavar="NAME[,…]", help=loads)
    parser.add_argument("--pairs", type=int, choices=range(1, 101), default=3, metavar="N", help="[3]")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each run  [2]")
    parser.add_argument("--home", type=Path, default=choose_home(), metavar="FOLDER", help="where the peers are")
    parser.add_argument("--python", default=sys.executable, metavar="EXE", help="that has wsbroker  [this one]")
    add_pin_option(parser)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write table and notes there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the chart there")
    parser.add_argument("--readme", action="store_true", help="put chart and table into docs/performance.md")
    parser.add_argument("--from", dest="from_json", type=Path, metavar="FILE", help="measure nothing: show that JSON")


def _parse_names(known: Collection[str], text: str) -> list[str]:
    """Parses known names with commas between them; called by argparse."""
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))} is none of {', '.join(known)}")
    return names


EXPERIMENT: Final = Experiment(
    "compare",
    "WSBroker and other servers under the same load, in turn",
    add_options,
    measure_comparison,
    format_comparison,
    make_no_claims,
)
