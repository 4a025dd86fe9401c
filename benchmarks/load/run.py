"""Runs a job: starts the server and the load's process, and receives the load's progress and result."""

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


def describe_row(job: Job, row: Row) -> dict[str, object]:
    """Returns a row and its job as JSON takes them."""
    return {"name": job.name, "job": asdict(job), **row.as_dict()}
