"""The load's process: ``python -m benchmarks.load.generator '{"job": …, "port": …, "pid": …, "core": …}'``.

Writes lines of JSON: ``{"phase": …, "done": …, "total": …}`` on the way, ``{"row": …}`` at the end, or
``{"error": …}``. Nothing else runs in it, so its CPU is that of the load.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Final

from benchmarks.load import echo, fanout, idle, plain, stall, storm
from benchmarks.load.client import LoadError
from benchmarks.load.job import Job, Scenario
from benchmarks.load.meter import Meter
from benchmarks.load.row import Row
from benchmarks.load.stage import Stage

RUNS: Final[dict[Scenario, Callable[[Stage], Row]]] = {
    "fanout": fanout.run,
    "echo": echo.run,
    "storm": storm.run,
    "stall": stall.run,
    "idle": idle.run,
    "http": plain.run,
}


def main(order: str) -> int:
    """Runs the scenario that the order, JSON, asks for; returns the exit code."""
    asked = json.loads(order)
    core = asked.get("core")
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    job = Job.from_dict(asked["job"])
    gc.disable()  # nothing here is a cycle, and a collection over 10,000 connections would be a pause
    stage = Stage(
        job, asked["port"], Meter(asked["pid"]), lambda *news: _print_json(phase=news[0], done=news[1], total=news[2])
    )
    try:
        row = RUNS[job.scenario](stage)
    except LoadError as error:
        _print_json(error=str(error))
        return 1
    _print_json(row=row.as_dict())
    return 0


def _print_json(**fields: object) -> None:
    """Prints one line of JSON, which the process that started this one reads."""
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
