"""Runs a job: a server, the load in a process beside it, and what it says on the way."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.load.job import Job
from benchmarks.load.row import Row
from benchmarks.load.server import CHECKOUT, Command, Cores, RunningServer, ServerError, serve_command

Progress = Callable[[str, float, float], None]


def run_job(job: Job, command: Command, cores: Cores, progress: Progress) -> Row:
    """Starts the server, loads it, stops it.

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
    """Starts the load's process."""
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
    """Waits for the load's result, and passes on what it says until then.

    Raises:
        ServerError: it has none.
    """
    assert load.stdout is not None
    for line in load.stdout:
        said = json.loads(line)
        if "row" in said:
            return Row.from_dict(said["row"])
        if "error" in said:
            raise ServerError(said["error"])
        progress(said["phase"], said["done"], said["total"])
    raise ServerError(f"the load ended with {load.wait()}, without a result")


def describe_row(job: Job, row: Row) -> dict[str, object]:
    """A row with what it was asked for."""
    return {"name": job.name, "job": asdict(job), **row.as_dict()}
