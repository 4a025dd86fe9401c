"""Handlers that compute: how much more two workers do than one, kind by kind, and what a question to the core costs.

    python -m benchmarks cores [--seconds 2] [--rounds 3] [--workers 2] [--kinds interpreter,process] [--json FILE]

Each message costs its handler about 1 ms of JSON and hashing, all of it under the interpreter lock, so the load is
nearly idle. The kinds are measured in turns: what else happens on the machine meets all of them. Exits with 1 if a
ratio is below its aim.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks.cores_app import compute_digest
from benchmarks.experiments import Claim, Experiment, Result, claim_at_least, claim_at_most
from benchmarks.load.job import Job
from benchmarks.load.run import run_job
from benchmarks.load.server import Command, Cores, build_our_command, read_our_version, serve_command
from benchmarks.load.table import format_columns
from wsbroker.bench.client import Target, connect

HANDLER_S: Final = 0.001
LOAD: Final = Job("echo", connections=16, in_flight=4, runs=1)
PROBE_ROUNDS: Final = 50
MORE_THAN_ONE: Final = 1.6
MORE_THAN_THREADS: Final = 1.5
QUESTION_US: Final = 100.0
APP: Final = Path(__file__).with_name("cores_app.py")
QUESTIONS: Final = 300
QUESTION_PAUSE_S: Final = 0.002


class Workers(NamedTuple):
    """A kind of worker and how many there are."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} × {self.number}"


class Rate(NamedTuple):
    """Messages handled per second, and the load's CPU in percent of a core."""

    per_second: float
    load_percent: float


def calibrate_rounds() -> int:
    """Returns how many rounds of computing take HANDLER_S on this machine, by the fastest of 20 tries."""
    times_s = []
    for _ in range(20):
        start = time.perf_counter()
        compute_digest(PROBE_ROUNDS)
        times_s.append(time.perf_counter() - start)
    return max(1, round(PROBE_ROUNDS * HANDLER_S / min(times_s)))


def build_command(workers: Workers, rounds: int) -> Command:
    """Returns the command that starts a server with these workers, whose handlers compute so many rounds."""
    settings = ["--worker-kind", workers.kind, "--workers", str(workers.number), "--worker-arg", str(rounds)]
    return build_our_command(sys.executable, settings, APP)


def measure_rates(choices: Sequence[Workers], rounds: int, seconds: float, repeats: int) -> dict[Workers, Rate]:
    """Measures all choices in turns, `repeats` times; returns the medians."""
    job = replace(LOAD, seconds=seconds)
    rates: dict[Workers, list[Rate]] = {workers: [] for workers in choices}
    for _ in range(repeats):
        for workers in choices:
            row = run_job(job, build_command(workers, rounds), Cores(None, None), lambda phase, done, total: None)
            rates[workers].append(Rate(row.rate, row.load_percent))
    return {
        workers: Rate(median(rate.per_second for rate in found), median(rate.load_percent for rate in found))
        for workers, found in rates.items()
    }


async def ask_in_turn(target: Target) -> list[float]:
    """Has an idle worker time QUESTIONS calls of `subscribe`, one per message; returns lowest, p50 and p90 in µs."""
    client = await connect(target)
    times_us = []
    for _ in range(QUESTIONS):
        await asyncio.sleep(QUESTION_PAUSE_S)
        client.send_message("ask")
        times_us.append(float(await client.receive_message()))
    await client.close()
    times_us.sort()
    return [times_us[0], median(times_us), times_us[QUESTIONS * 9 // 10]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, after a warm-up  [2]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns; medians count  [3]")
    parser.add_argument("--workers", type=int, default=2, help="that are compared with one  [2]")
    default = "interpreter,process" if sys.version_info >= (3, 13) else "process"
    parser.add_argument("--kinds", default=default, help=f"separated by commas  [{default}]")


def measure_cores(options: argparse.Namespace) -> Result:
    """Measures the handlers' rates of all kinds and counts, then the questions of an idle worker of each kind."""
    kinds = options.kinds.split(",")
    choices = [Workers("thread", options.workers)]
    choices += [Workers(kind, count) for kind in kinds for count in (1, options.workers)]
    rounds = calibrate_rounds()
    version = read_our_version(sys.executable)
    print(*version, f"{rounds} rounds of JSON and hashing in a message", sep="\n")
    rates = measure_rates(choices, rounds, options.seconds, options.rounds)
    questions = {}
    for kind in ("inline", "thread", *kinds):
        with serve_command(build_command(Workers(kind, 1), rounds), None) as server:
            target = Target.from_url(f"ws://127.0.0.1:{server.port}/")
            questions[kind] = dict(zip(("lowest", "p50", "p90"), asyncio.run(ask_in_turn(target)), strict=True))
    return {
        "server": version,
        "kinds": kinds,
        "workers": options.workers,
        "handlers_per_second": {str(workers): rate._asdict() for workers, rate in rates.items()},
        "subscribe_us": questions,
    }


def format_cores(result: Result) -> str:
    """Returns the rates and the questions as two tables."""
    rates = result["handlers_per_second"].items()
    rows = [[name, f"{rate['per_second']:,.0f}", f"{rate['load_percent']:.0f}"] for name, rate in rates]
    questions = [[name, *(f"{us:.0f}" for us in each.values())] for name, each in result["subscribe_us"].items()]
    heads = ["subscribe from an idle worker, µs", "lowest", "p50", "p90"]
    return "\n\n".join(
        [format_columns(["workers", "per second", "load %"], rows), format_columns(heads, questions), ""]
    )


def claim_cores(result: Result) -> list[Claim]:
    """Returns the ratios of two workers beside one and beside two threads, and the questions' medians."""
    rates, count = result["handlers_per_second"], result["workers"]
    claims = []
    for kind in result["kinds"]:
        many = str(Workers(kind, count))
        for other, aim in ((Workers(kind, 1), MORE_THAN_ONE), (Workers("thread", count), MORE_THAN_THREADS)):
            ratio = rates[many]["per_second"] / rates[str(other)]["per_second"]
            claims.append(claim_at_least(f"handlers of 1 ms a second: {many} beside {other}", ratio, aim))
    p50_us = {kind: question["p50"] for kind, question in result["subscribe_us"].items()}
    if "interpreter" in p50_us:
        us = p50_us.pop("interpreter")
        claims.append(claim_at_most("subscribe from an idle interpreter worker, µs", us, QUESTION_US))
    subject = f"the same from a worker of kind {', '.join(p50_us)}"
    return [*claims, Claim(subject, ", ".join(f"{us:.0f}" for us in p50_us.values()))]


EXPERIMENT: Final = Experiment(
    "cores", __doc__.partition("\n")[0], add_options, measure_cores, format_cores, claim_cores
)
