"""Runs jobs: starts the server and the load's process, and receives the result; several servers take turns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.load.job import Job
from benchmarks.load.row import Row
from benchmarks.load.server import CHECKOUT, Command, Cores, RunningServer, ServerError, serve_command

Progress = Callable[[str, float, float], None]
"""Called with the phase, how far it is, and how far it goes."""


class Variant(NamedTuple):
    """A server under a load: a row of a table, by this name."""

    name: str
    job: Job
    command: Command


def measure_in_turns(
    variants: Sequence[Variant], rounds: int, cores: Cores, problems: list[str]
) -> list[list[Row | None]]:
    """Measures all variants, a fresh server each, and that so many times.

    Args:
        problems: gets a line for each row that could not be measured, or that has messages lost or changed.

    Returns: the rows by round and variant; None for those that could not be measured.
    """
    found: list[list[Row | None]] = []
    for number in range(rounds):
        found.append([])
        for variant in variants:
            name = f"{variant.name}, {number + 1} of {rounds}" if rounds > 1 else variant.name
            row = None
            try:
                row = run_job(variant.job, variant.command, cores, _show_progress(name))
                if row.wrong:
                    problems.append(f"{name}: {row.problems}")
            except ServerError as error:
                problems.append(f"{name}: {str(error)[-500:]}")
            found[-1].append(row)
    return found


def find_ratio(
    turns: Sequence[Sequence[Row | None]], index: int, base: int = 0, figure: str = "cpu_us"
) -> float | None:
    """Returns the median of a variant's figure as a multiple of that of the variant `base` in the same round.

    None if no round has both.
    """
    pairs = [(getattr(turn[index], figure, 0.0), getattr(turn[base], figure, 0.0)) for turn in turns]
    ratios = [theirs / ours for theirs, ours in pairs if theirs and ours > 0]
    return median(ratios) if ratios else None


def run_job(job: Job, command: Command, cores: Cores, progress: Progress) -> Row:
    """Starts a server, loads it from another process, stops both and returns the row.

    Raises:
        ServerError: the server did not start, ended, or refused what the load asked of it.
    """
    with serve_command(command, cores.server) as server:
        load = start_load(job, server, cores)
        try:
            return receive_row(load, progress)
        finally:
            load.kill()
            load.communicate()


def start_load(job: Job, server: RunningServer, cores: Cores) -> "subprocess.Popen[str]":
    """Starts the load's process for a server that runs."""
    order = {"job": job.as_dict(), "port": server.port, "pid": server.pid, "core": cores.load}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load.generator", json.dumps(order)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def receive_row(load: "subprocess.Popen[str]", progress: Progress) -> Row:
    """Waits for the result of the load's process and passes its progress on.

    Raises:
        ServerError: the load ended without a result, or with an error.
    """
    assert load.stdout is not None
    for line in load.stdout:
        news = json.loads(line)
        if "row" in news:
            return Row.from_dict(news["row"])
        if "error" in news:
            raise ServerError(news["error"])
        progress(news["phase"], news["done"], news["total"])
    raise ServerError(f"the load ended with {load.wait()}, without a result")


def _show_progress(name: str) -> Progress:
    """Prints the name of a row on stderr; returns a callback that shows the progress there if it is a terminal."""
    print(f"… {name}", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        return lambda phase, done, total: None
    return lambda phase, done, total: print(f"  {phase}: {done / total:4.0%} \r", end="", file=sys.stderr, flush=True)
