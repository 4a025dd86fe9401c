"""``python -m benchmarks load``: a server in a process of its own, and a load on it from another process.

Without scenarios all of them run, with the loads that the project has budgets for.
"""

import argparse
import sys
from dataclasses import replace
from itertools import product
from typing import Final

from benchmarks.experiments import Claim, Experiment, Result, add_pin_option
from benchmarks.load.job import PRESETS, SCENARIOS, SHAPE, TIMES, Job, add_job_options
from benchmarks.load.run import Variant
from benchmarks.load.server import Command, Cores, build_our_command, raise_fd_limit
from benchmarks.load.variants import format_variants, measure_variants

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
    command = _choose_command(options, max(job.connections for job in jobs), limit)
    print(f"limit of open files: {limit + SPARE_DESCRIPTORS} for each process")
    variants = [Variant(job.name, job, command) for job in jobs]
    result = measure_variants(variants, 1, Cores.choose(options.pin), options.python)
    rows = [{**row, "beside": None} for row in result["rows"]]  # of different jobs
    return {**result, "command": str(command), "rows": rows, "open_files": limit}


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
    """Returns the jobs that the options ask for, cut to so many descriptors; several values make several jobs.

    Raises:
        ValueError: a setting is out of its bounds, or the scenario does not have it.
    """
    jobs: list[Job] = []
    given = {name: getattr(options, name) for name in (*SHAPE, *TIMES) if getattr(options, name)}
    for scenario in options.scenarios or SCENARIOS:
        # A given load instead of the presets.
        presets = PRESETS[scenario][:1] if set(given) - set(TIMES) else PRESETS[scenario]
        for preset, values in product(presets, list(product(*given.values()))):
            job = replace(preset, **dict(zip(given, values, strict=True)))
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS), type=_parse_scenario)
    add_job_options(parser, (*SHAPE, *TIMES))
    parser.add_argument("--worker-kind", default="inline", metavar="KIND", help="inline, thread, …  [inline]")
    parser.add_argument("--workers", type=int, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="FLAG", help="--set=--ping-interval=5s: any flag")
    parser.add_argument("--python", default=sys.executable, metavar="EXE", help="that has wsbroker  [this one]")
    parser.add_argument("--server", metavar="COMMAND", help="another server; {port} in it is its port on 127.0.0.1")
    add_pin_option(parser)


def _parse_scenario(text: str) -> str:
    if text not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SCENARIOS)}")
    return text


EXPERIMENT: Final = Experiment(
    "load",
    "a server under load: fan-out, echo, storm, stall, idle, http, question",
    add_options,
    measure_load,
    format_variants,
    claim_idle,
)
