"""``python -m benchmarks load``: its options, its table, its JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from benchmarks.load.job import PRESETS, SCENARIOS, Job
from benchmarks.load.machine import facts
from benchmarks.load.progress import bar
from benchmarks.load.row import Row
from benchmarks.load.run import as_json, run
from benchmarks.load.server import Command, Cores, ServerError, our_command, our_version, raise_fd_limit
from benchmarks.load.table import HEADS, cells, notes, text_table

SPARE_DESCRIPTORS = 200
OUR_RESERVE = 1024
"""Of the limit of open files WSBroker keeps this much free, unless it is told how many connections there may be."""


def main(argv: Sequence[str]) -> int:
    """Runs it and returns the exit code: 1 if something was lost, doubled or out of order, or could not be measured."""
    parser = _parser()
    options = parser.parse_args(argv)
    limit = raise_fd_limit() - SPARE_DESCRIPTORS
    try:
        jobs = jobs_of(options, limit)
        version = ["a server of your own"] if options.server else our_version(options.python)
    except (ValueError, ServerError) as error:
        parser.error(str(error))
    command = _command(options, max(job.connections for job in jobs), limit)
    print(f"{', '.join(version)}; limit of open files: {limit + SPARE_DESCRIPTORS} for each process")
    done: list[tuple[Job, Row]] = []
    failed = 0
    for job in jobs:
        try:
            with bar(job.name) as progress:
                done.append((job, run(job, command, Cores.choose(options.pin), progress)))
        except ServerError as error:
            failed += 1
            print(f"{job.name}: {error}", file=sys.stderr)
    print(text_table(HEADS, [cells(job, row) for job, row in done]))
    for job, row in done:
        for note in notes(job, row):
            print(note)
    if options.json:
        result = {"server": version, "command": str(command), "machine": facts(), "open_files": limit}
        rows = [as_json(job, row) for job, row in done]
        options.json.write_text(json.dumps({**result, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    return 1 if failed or (options.verify and any(row.wrong for _, row in done)) else 0


def jobs_of(options: argparse.Namespace, descriptors: int) -> list[Job]:
    """The rows that were asked for.

    Raises:
        ValueError: a setting out of its bounds, or one that the scenario does not have.
    """
    found: list[Job] = []
    for scenario in options.scenarios or SCENARIOS:
        presets: Sequence[Job] = PRESETS[scenario]
        shape = ("connections", "channels", "publishers", "rate", "stalled")
        given = {name: getattr(options, name) for name in shape if getattr(options, name) is not None}
        if given or options.in_flight or options.size:
            # One load of one's own instead of the presets; several sizes or windows make several.
            base = replace(presets[0], **given)
            windows, sizes = options.in_flight or [base.in_flight], options.size or [base.size]
            presets = [replace(base, in_flight=window, size=size) for size, window in product(sizes, windows)]
        for job in presets:
            times = {"seconds": options.seconds, "runs": options.runs, "warmup_s": options.warmup}
            job = replace(job, **{name: value for name, value in times.items() if value is not None})
            if job.connections > descriptors:
                print(f"{job.name}: only {descriptors} connections, for the limit of open files", file=sys.stderr)
                job = replace(job, connections=descriptors)
            found.append(job)
    return found


def _command(options: argparse.Namespace, connections: int, limit: int) -> Command:
    if options.server:
        return Command(options.server.split())
    settings = ["--worker-kind", options.worker_kind]
    if connections > limit - OUR_RESERVE:
        settings += ["--max-connections", str(limit)]
    if options.workers is not None:
        settings += ["--workers", str(options.workers)]
    return our_command(options.python, [*settings, *options.set])


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks load",
        description="A server in a process of its own, and a load on it from another one.",
        epilog="Without scenarios all of them run, with the loads that the project has budgets for.",
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS), type=_scenario)
    load = parser.add_argument_group("the load")
    load.add_argument("--connections", type=int, metavar="N", help="subscribers, or connections that echo")
    load.add_argument("--channels", type=int, metavar="N", help="the subscribers are dealt out to them")
    load.add_argument("--publishers", type=int, metavar="N", help="each on its own share of the channels")
    load.add_argument("--in-flight", type=_numbers, metavar="N[,N…]", help="messages that are on the way at a time")
    load.add_argument("--size", type=_numbers, metavar="BYTES[,…]", help="of a payload")
    load.add_argument("--rate", type=float, metavar="N", help="publications a second, instead of --in-flight")
    load.add_argument("--stalled", type=int, metavar="PERCENT", help="stall: how many stop reading  [10]")
    load.add_argument("--seconds", type=float, metavar="S", help="of each run")
    load.add_argument("--runs", type=int, metavar="N", help="whose medians are shown")
    load.add_argument("--warmup", type=float, metavar="S", help="before the first run")
    load.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fail if a message was lost, doubled, changed or out of order (all are looked at in any case)",
    )
    server = parser.add_argument_group("the server")
    server.add_argument("--worker-kind", default="inline", metavar="KIND", help="inline, thread, …  [inline]")
    server.add_argument("--workers", type=int, metavar="N")
    server.add_argument("--set", action="append", default=[], metavar="FLAG", help="--set=--ping-interval=5s: any flag")
    server.add_argument("--python", default=sys.executable, metavar="EXE", help="that has wsbroker  [this one]")
    server.add_argument("--server", metavar="COMMAND", help="another server; {port} in it is its port on 127.0.0.1")
    server.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="server and load to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser


def _scenario(text: str) -> str:
    if text not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SCENARIOS)}")
    return text
