"""All figures that the README shows, in one command: measures part by part, writes ``results/`` and both READMEs.

    python -m benchmarks report                      all parts: some 25 minutes on two quiet cores
    python -m benchmarks report --parts http,cores   these again; the others stay as they were
    python -m benchmarks report --quick              in 5 minutes, to see that all works
    python -m benchmarks report --write              measures nothing: writes the READMEs from results/ once more
    python -m benchmarks report --reference a.jsonl  takes over what was measured beside a server in C

Each part is a command of its own (`PARTS`), which can be run by itself. ``results/figures.json`` has the lines of the
table, ``results/compare.json`` all numbers of the comparison. --reference takes lines of JSON with ``scenario``,
``ratio``, ``p50_us`` and so on; --reference-interpreter the same, measured with workers of kind `interpreter`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from benchmarks import readme
from benchmarks.load.machine import facts
from benchmarks.load.server import ServerError, our_version
from benchmarks.load.table import markdown_table

FIGURES: Final = readme.RESULTS / "figures.json"
COMPARISON: Final = readme.RESULTS / "compare.json"
CHART: Final = readme.RESULTS / "compare.svg"
BENCHMARKS_README: Final = Path(__file__).with_name("README.md")

Result = Mapping[str, Any]
"""What a command has written with --json."""


class Line(NamedTuple):
    """A line of the README's table.

    Args:
        aim: what it is held to; "" if to nothing.
    """

    what: str
    found: str
    aim: str = ""
    holds: bool = True

    @property
    def cells(self) -> list[str]:
        """For the table."""
        return [self.what, self.found if self.holds else f"**{self.found}**", self.aim]


class Part(NamedTuple):
    """A command, and what the table takes from its JSON."""

    arguments: Sequence[str]
    lines: Callable[[Result], list[Line]]
    quick: Sequence[str] = ()
    """What makes it short, for --quick."""


# What is taken from each. -------------------------------------------------------------------------------------------


def of_claims(result: Result) -> list[Line]:
    """The claims, as they stand."""
    return [Line(claim["what"], _figure(claim["found"]), claim["bound"], claim["holds"]) for claim in result["claims"]]


def of_cores(result: Result) -> list[Line]:
    """The claims, and what a question costs where nothing is held to anything."""
    asked = {name: each["p50"] for name, each in result["subscribe_us"].items() if name != "interpreter"}
    what = f"the same from a worker of kind {', '.join(asked)}"
    return [*of_claims(result), Line(what, ", ".join(f"{us:.0f}" for us in asked.values()))]


def of_idle(result: Result) -> list[Line]:
    """As many connections as the limit of open files allows."""
    row = result["rows"][0]
    count, rss = row["job"]["connections"], row["rss_per_connection"]
    latency = row["latency_us"]
    return [
        Line(f"memory for each of {count:,} idle connections", f"{rss:,.0f} bytes", "≤ 2,000", rss <= 2000),
        Line("CPU to open one: TCP, upgrade, subscribe, answer", f"{row['cpu_us']:.0f} µs"),
        Line(
            f"{row['extra']['messages_per_s']:,.0f} messages/s among them, each to one: p50, p99",
            f"{latency['p50'] / 1000:.2f} ms, {latency['p99'] / 1000:.2f} ms",
        ),
    ]


def of_joins(result: Result) -> list[Line]:
    """Sockets that join all at once."""
    numbers = result["numbers"]
    sockets, each = numbers["sockets"][0], numbers["channels_each"][0]
    rates = numbers["joins_per_s"]
    grown = numbers["grown_bytes"][-1] / 2**20
    return [
        Line(
            f"{sockets:,.0f} sockets join {each:.0f} channels each at once, by handlers in 2 {result['kind']} workers",
            f"{min(rates):,.0f} to {max(rates):,.0f} joins/s",
        ),
        Line(
            f"memory grown from the first such round to the last of {len(rates)}, all joined",
            f"{grown:.1f} MiB",
            "nothing kept",
            not result["failures"],
        ),
    ]


def of_busy(result: Result) -> list[Line]:
    """Threads beside a busy loop."""
    numbers = result["numbers"]
    return [
        Line(
            f"{what} of a worker thread, loop saturated for {numbers['seconds'][0]:.0f} s: p50, p99, worst",
            ", ".join(f"{ms:.1f}" for ms in numbers[name]) + " ms",
            "worst ≤ 1 s",
            not result["failures"],
        )
        for what, name in (("echo", "echo_ms"), ("question", "question_ms"))
    ]


def of_flush(result: Result) -> list[Line]:
    """Windows."""
    lines = []
    for row in result["rows"]:
        latency = row["latency_us"]
        found = f"{row['cpu_us']:.2f} µs, {latency['p50'] / 1000:.1f} ms, {latency['p99'] / 1000:.1f} ms"
        lines.append(Line(f"{row['window_ms']:g} ms", found))
    return lines


PARTS: Final[dict[str, Part]] = {
    "cores": Part(["cores", "--rounds", "5"], of_cores, ["--rounds", "2", "--seconds", "1"]),
    "http": Part(["http"], of_claims, ["--pairs", "2", "--seconds", "1"]),
    "scaling": Part(["scaling"], of_claims, ["--rounds", "20"]),
    "idle": Part(["load", "idle", "--connections", "100000", "--seconds", "5"], of_idle, ["--seconds", "2"]),
    "joins": Part(["soak", "joins"], of_joins, ["--rounds", "2"]),
    "busy": Part(["soak", "busy", "--seconds", "300"], of_busy, ["--seconds", "15"]),
    "flush": Part(["flush", "--rounds", "5"], of_flush, ["--rounds", "1", "--seconds", "2"]),
}
"""In the order of the table. The comparison is one more, and has a table of its own."""
COMPARE: Final = "compare"

BUDGETS: Final = {
    "f64-w1": ("fan-out to 1,000, 64 B, 1 in flight", 1.5),
    "f64-w16": ("fan-out to 1,000, 64 B, 16 in flight", 1.35),
    "f64-w64": ("fan-out to 1,000, 64 B, 64 in flight", 1.6),
    "f1k-w16": ("fan-out to 1,000, 1 KiB, 16 in flight", 1.3),
    "c100-w8": ("fan-out to 100 channels of 10, 8 in flight of each of 10 publishers", 1.8),
    "open": ("fan-out to 500, 100 publications/s", 1.5),
    "echo-w16": ("echo, 100 connections × 16, handler inline", 5.0),
    "idle": ("a connection from accept to open", 6.0),
}
ECHO_IN_INTERPRETER: Final = 12.0
HOP_US: Final = 120.0


def of_reference(inline: Sequence[Result], interpreter: Sequence[Result]) -> list[Line]:
    """CPU beside a C server with the same algorithm; and what the hop to an interpreter costs."""
    lines = []
    by_name = {each["scenario"]: each for each in inline}
    theirs = {each["scenario"]: each for each in interpreter}
    for name, (what, budget) in BUDGETS.items():
        if name in by_name:
            ratio = by_name[name]["ratio"]
            lines.append(Line(f"{what}: CPU beside C", f"{ratio:.2f} ×", f"≤ {budget:g} ×", ratio <= budget))
    if "echo-w16" in theirs:
        ratio = theirs["echo-w16"]["ratio"]
        what = "echo, 100 connections × 16, handler in an interpreter: CPU beside C"
        lines.append(Line(what, f"{ratio:.2f} ×", f"≤ {ECHO_IN_INTERPRETER:g} ×", ratio <= ECHO_IN_INTERPRETER))
    if "rtt" in by_name and "rtt" in theirs:
        hop_us = theirs["rtt"]["p50_us"] - by_name["rtt"]["p50_us"]
        what = "round trip through an interpreter, less one inline: p50"
        lines.append(Line(what, f"{hop_us:.0f} µs", f"≤ {HOP_US:g} µs", hop_us <= HOP_US))
        p99 = f"{theirs['rtt']['p99_us']:.0f} µs, {by_name['rtt']['p99_us']:.0f} µs"
        lines.append(Line("the same round trips: p99 through an interpreter, inline", p99))
    return lines


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}"


# The command. -------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Measures and writes; returns the exit code: 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__.partition("\n")[0])
    names = [*PARTS, COMPARE]
    parser.add_argument("--parts", type=lambda text: text.split(","), metavar="NAME[,…]", help=", ".join(names))
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="of the comparison  [3]")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that all works")
    parser.add_argument("--write", action="store_true", help="measure nothing, write the READMEs from results/")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="lines of JSON measured beside C, inline")
    parser.add_argument("--reference-interpreter", type=Path, metavar="FILE", help="the same through interpreters")
    options, further = parser.parse_known_args(argv)
    quick_comparison = ["--pairs", "1", "--seconds", "1"] if options.quick else []
    measures_all = not (options.parts or options.write or options.reference)
    chosen = names if measures_all else options.parts or []
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"{', '.join(unknown)}: none of {', '.join(names)}")
    figures = _read(FIGURES)
    failed = []
    readme.RESULTS.mkdir(exist_ok=True)
    if options.reference:
        interpreter = _lines(options.reference_interpreter) if options.reference_interpreter else []
        figures["parts"]["reference"] = of_reference(_lines(options.reference), interpreter)
        figures["machine"] = facts()
    for name in chosen:
        print(f"\n=== {name}", flush=True)
        if name == COMPARE:
            files = ["--json", str(COMPARISON), "--svg", str(CHART), "--readme", "--pairs", str(options.pairs)]
            failed += [name] * (_run(["compare", *files, *quick_comparison, *further]) != 0)
        elif (result := _measured([*PARTS[name].arguments, *(PARTS[name].quick if options.quick else ())])) is not None:
            figures["parts"][name] = PARTS[name].lines(result)
            figures["machine"] = facts()
            figures["server"] = _version()
            _save(figures)
        else:
            failed.append(name)
    _save(figures)
    write(figures)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def write(figures: Mapping[str, Any]) -> None:
    """Writes both READMEs from what is in ``benchmarks/results/``."""
    readme.write("figures", figures_section(figures))
    readme.write("flush", flush_section(figures), BENCHMARKS_README)
    if COMPARISON.exists():
        _run(["compare", "--from", str(COMPARISON), "--svg", str(CHART), "--readme"])


def figures_section(figures: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = _lines_of(figures, [name for name in ("reference", *PARTS) if name != "flush"])
    machine = figures["machine"]
    where = f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('system')}"
    table = markdown_table(["what", "found", "held to"], [line.cells for line in lines])
    return "\n".join([table, "", f"{where}; {', '.join(figures['server'])}. What is over its aim is **bold**."])


def flush_section(figures: Mapping[str, Any]) -> str:
    """The table of windows, for the benchmarks' README."""
    heads = ["`--flush-interval`", "CPU per delivery", "latency, p50", "p99"]
    return markdown_table(heads, [[line.what, *line.found.split(", ")] for line in _lines_of(figures, ["flush"])])


def _lines_of(figures: Mapping[str, Any], names: Sequence[str]) -> list[Line]:
    return [Line(*line) for name in names for line in figures["parts"].get(name, [])]


def _measured(arguments: Sequence[str]) -> Result | None:
    """Runs a part; None if it has no result. (A part that is over an aim has one, and exits with 1.)"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        _run([*arguments, "--json", str(file)])
        return cast(Result, json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _run(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=readme.README.parent).returncode


def _version() -> list[str]:
    try:
        return our_version(sys.executable)
    except ServerError:
        return []


def _lines(file: Path) -> list[Result]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def _read(file: Path) -> dict[str, Any]:
    if file.exists():
        return cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
    return {"machine": facts(), "server": _version(), "parts": {}}


def _save(figures: Mapping[str, Any]) -> None:
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
