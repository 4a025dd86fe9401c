"""``python -m benchmarks load``: a server in a process of its own, and a load on it from another process.

Without scenarios all of them run, with the loads that the project has budgets for.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Final

from benchmarks.experiments import Claim, Experiment, Result, add_pin_option
from benchmarks.load.job import PRESETS, SCENARIOS, Job
from benchmarks.load.progress import show_bar
from benchmarks.load.row import Row
from benchmarks.load.run import describe_row, run_job
from benchmarks.load.server import Command, Cores, ServerError, build_our_command, raise_fd_limit, read_our_version
from benchmarks.load.table import HEADS, format_cells, format_columns, format_notes

SPARE_DESCRIPTORS: Final = 200
OUR_RESERVE: Final = 1024
"""WSBroker keeps so many descriptors free, unless it is told how many connections there may be."""
MANY_CONNECTIONS: Final = 1000
"""With fewer idle connections, their memory says nothing."""


def measure_load(options: argparse.Namespace) -> Result:
    """Runs all jobs that were asked for; a job that could not be measured, or lost messages, is a failure.

    Raises:
        ValueError: an option is out of its bounds, or the scenario does not have it.
        ServerError: there is no wsbroker.
    """
    limit = raise_fd_limit() - SPARE_DESCRIPTORS
    jobs = list_jobs(options, limit)
    version = ["a server of your own"] if options.server else read_our_version(options.python)
    command = _choose_command(options, max(job.connections for job in jobs), limit)
    print(f"{', '.join(version)}; limit of open files: {limit + SPARE_DESCRIPTORS} for each process")
    rows = []
    failures = []
    for job in jobs:
        try:
            with show_bar(job.name) as progress:
                row = run_job(job, command, Cores.choose(options.pin), progress)
        except ServerError as error:
            failures.append(f"{job.name}: {error}")
            continue
        rows.append(describe_row(job, row))
        if row.wrong and options.verify:
            failures.append(f"{job.name}: {row.wrong} messages did not come as they should")
    return {"server": version, "command": str(command), "open_files": limit, "rows": rows, "failures": failures}


def format_load(result: Result) -> str:
    """Returns a line for each job, and below the table what the lines do not say."""
    rows = [(Job.from_dict(row["job"]), Row.from_dict(row)) for row in result["rows"]]
    table = format_columns(HEADS, [format_cells(job, row) for job, row in rows])
    return "\n".join([table, *(note for job, row in rows for note in format_notes(job, row))])


def claim_idle(result: Result) -> list[Claim]:
    """Returns the figures of an `idle` job with MANY_CONNECTIONS or more."""
    claims = []
    for row in result["rows"]:
        count = row["job"]["connections"]
        if row["job"]["scenario"] != "idle" or count < MANY_CONNECTIONS:
            continue
        rss, latency = row["rss_per_connection"], row["latency_us"]
        claims += [
            Claim(f"memory for each of {count:,} idle connections", f"{rss:,.0f} bytes", "≤ 2,000", rss <= 2000),
            Claim("CPU to open one: TCP, upgrade, subscribe, answer", f"{row['cpu_us']:.0f} µs"),
        ]
        if latency:
            subject = f"{row['extra']['messages_per_s']:,.0f} messages/s among them, each to one: p50, p99"
            claims.append(Claim(subject, f"{latency['p50'] / 1000:.2f} ms, {latency['p99'] / 1000:.2f} ms"))
    return claims


def list_jobs(options: argparse.Namespace, descriptors: int) -> list[Job]:
    """Returns the jobs that the options ask for, cut to so many descriptors.

    Raises:
        ValueError: a setting is out of its bounds, or the scenario does not have it.
    """
    jobs: list[Job] = []
    for scenario in options.scenarios or SCENARIOS:
        presets: Sequence[Job] = PRESETS[scenario]
        shape = ("connections", "channels", "publishers", "rate", "stalled")
        given = {name: getattr(options, name) for name in shape if getattr(options, name) is not None}
        if given or options.in_flight or options.size:
            # The given load instead of the presets; several sizes or windows make several jobs.
            base = replace(presets[0], **given)
            windows, sizes = options.in_flight or [base.in_flight], options.size or [base.size]
            presets = [replace(base, in_flight=window, size=size) for size, window in product(sizes, windows)]
        for job in presets:
            times = {"seconds": options.seconds, "runs": options.runs, "warmup_s": options.warmup}
            job = replace(job, **{name: value for name, value in times.items() if value is not None})
            if job.connections > descriptors:
                print(f"{job.name}: only {descriptors} connections, for the limit of open files", file=sys.stderr)
                job = replace(job, connections=descriptors)
            jobs.append(job)
    return jobs


def _choose_command(options: argparse.Namespace, connections: int, limit: int) -> Command:
    """Returns the command that starts the measured server."""
    if options.server:
        return Command(options.server.split())
    settings = ["--worker-kind", options.worker_kind]
    if connections > limit - OUR_RESERVE:
        settings += ["--max-connections", str(limit)]
    if options.workers is not None:
        settings += ["--workers", str(options.workers)]
    return build_our_command(options.python, [*settings, *options.set])


def _parse_counts(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS), type=_parse_scenario)
    load = parser.add_argument_group("the load")
    load.add_argument("--connections", type=int, metavar="N", help="subscribers, or connections that echo")
    load.add_argument("--channels", type=int, metavar="N", help="the subscribers are dealt out to them")
    load.add_argument("--publishers", type=int, metavar="N", help="each on its own share of the channels")
    load.add_argument(
        "--in-flight", type=_parse_counts, metavar="N[,N…]", help="messages that are on the way at a time"
    )
    load.add_argument("--size", type=_parse_counts, metavar="BYTES[,…]", help="of a payload")
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
    add_pin_option(parser)


def _parse_scenario(text: str) -> str:
    if text not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SCENARIOS)}")
    return text


EXPERIMENT: Final = Experiment("load", __doc__.partition("\n")[0], add_options, measure_load, format_load, claim_idle)
