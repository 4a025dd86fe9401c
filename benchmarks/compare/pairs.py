"""Measures WSBroker and a peer in turn, as many pairs as asked, and takes the medians."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import median
from typing import Any, Final, cast

from benchmarks.compare.servers import Contender
from benchmarks.load.job import Job
from benchmarks.load.progress import show_bar
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.run import run_job
from benchmarks.load.server import Cores, ServerError

LOADS: Final[dict[str, Job]] = {
    "fanout-1": Job("fanout", in_flight=1, runs=1),
    "fanout-16": Job("fanout", in_flight=16, runs=1),
    "fanout-64": Job("fanout", in_flight=64, runs=1),
    "fanout-1k": Job("fanout", in_flight=16, size=1024, runs=1),
    "echo": Job("echo", connections=100, in_flight=16, runs=1),
    "storm": Job("storm", connections=64, runs=1),
    "http": Job("http", connections=64, runs=1),
    "idle": Job("idle", connections=2000, channels=100, runs=1, seconds=1.0),
}
DEFAULT_LOADS: Final = ("fanout-1", "fanout-16", "fanout-64", "echo", "http", "idle")


@dataclass(slots=True)
class Cell:
    """The figures of one server under one load.

    Args:
        row: the medians of its runs.
        ratio: the median of its CPU beside WSBroker's of the same pair; for `idle` of its memory. None for WSBroker.
    """

    row: Row
    ratio: float | None = None


@dataclass(slots=True)
class Entry:
    """One server: its version, what it was told to do, and its figures by the names of LOADS."""

    name: str
    title: str
    version: str
    language: str
    note: str
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(slots=True)
class Comparison:
    """The figures of all servers; `skipped` says why a peer was not measured, `problems` what else to know."""

    machine: dict[str, object]
    pairs: int
    seconds: float
    loads: list[str]
    entries: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Returns the comparison as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Comparison":
        """Returns the comparison that `as_dict` described; unknown keys are ignored."""
        entries = []
        for entry in values["entries"]:
            cells = {
                load: Cell(Row.from_dict(cell["row"]), cast("float | None", cell["ratio"]))
                for load, cell in entry["cells"].items()
            }
            entries.append(Entry(**{**entry, "cells": cells}))
        known = {each.name for each in fields(cls)}
        return cls(**{**{name: value for name, value in values.items() if name in known}, "entries": entries})


def find_figure(load: str, row: Row) -> float:
    """Returns the compared figure of a row: memory per connection for `idle`, else CPU per unit."""
    return row.rss_per_connection if load == "idle" else row.cpu_us


def compare_servers(
    us: Contender,
    peers: Sequence[Contender],
    loads: Sequence[str],
    pairs: int,
    seconds: float | None,
    pin: bool,
    jobs: Mapping[str, Job] = LOADS,
) -> Comparison:
    """Runs every load: for each peer WSBroker and then the peer, and all of that `pairs` times."""
    used_s = seconds if seconds is not None else LOADS["fanout-16"].seconds
    result = Comparison({}, pairs, used_s, list(loads))
    result.entries = [_entry(us), *(_entry(peer) for peer in peers)]
    cores = Cores.choose(pin)
    for load in loads:
        job = jobs[load] if seconds is None or load == "idle" else replace(jobs[load], seconds=seconds)
        others: list[Contender | None] = [peer for peer in peers if load not in peer.lacks] or [None]
        rows: dict[str, list[Row]] = {each.name: [] for each in (us, *peers)}
        ratios: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for number in range(pairs):
            for peer in others:
                label = f"{load}, pair {number + 1} of {pairs}"
                ours = _measure(us, job, cores, label, result)
                theirs = _measure(peer, job, cores, label, result) if peer is not None else None
                if ours is not None:
                    rows[us.name].append(ours)
                if peer is not None and theirs is not None:
                    rows[peer.name].append(theirs)
                    if ours is not None and find_figure(load, ours) > 0:
                        ratios[peer.name].append(find_figure(load, theirs) / find_figure(load, ours))
        for entry in result.entries:
            if rows[entry.name]:
                found = ratios.get(entry.name)
                entry.cells[load] = Cell(merge_rows(rows[entry.name]), median(found) if found else None)
    return result


def _measure(contender: Contender, job: Job, cores: Cores, label: str, result: Comparison) -> Row | None:
    """Runs one job on one server; returns None, and notes the problem, if the row cannot be counted."""
    try:
        with show_bar(f"{contender.title}: {label}") as progress:
            row = run_job(job, contender.command, cores, progress)
    except ServerError as error:
        problem = f"{contender.title}: {label}: …{str(error)[-300:]}"
    else:
        if row.rate and not row.wrong:
            return row
        wrong = f"lost {row.lost}, doubled {row.doubled}, out of order {row.reordered}, mangled {row.mangled}"
        problem = f"{contender.title}: {label}: not counted: {wrong if row.wrong else row.warnings[0]}"
        if row.rate and row.ended == 0 and row.mangled == 0:
            result.problems.append(problem.replace("not counted", "counted all the same"))
            return row
    print(problem, file=sys.stderr)
    result.problems.append(problem)
    return None


def _entry(contender: Contender) -> Entry:
    """Returns an entry without figures."""
    return Entry(contender.name, contender.title, contender.version, contender.language, contender.note)
