"""All figures that docs/performance.md shows, in one command: runs every experiment, writes ``results/`` and the pages.

    python -m benchmarks report                      all parts: some 25 minutes on two quiet cores
    python -m benchmarks report --parts http,cores   these again; the others stay as they were
    python -m benchmarks report --quick              in 5 minutes, to see that all works
    python -m benchmarks report --write              measures nothing: writes the pages from results/ once more
    python -m benchmarks report --reference a.jsonl  takes over what was measured beside a server in C

Each part (`PARTS`) is an experiment, which can be run by itself. ``results/figures.json`` has the lines of the page's
table, ``results/compare.json`` all numbers of the comparison. --reference takes lines of JSON with ``scenario``,
``ratio``, ``p50_us`` and so on; --reference-interpreter the same, measured with workers of kind `interpreter`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.experiments import Claim, Result, read_machine, write_json
from benchmarks.load.server import read_our_version
from benchmarks.load.table import format_markdown

PERFORMANCE_PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
BENCHMARKS_README: Final = Path(__file__).with_name("README.md")
RESULTS: Final = Path(__file__).with_name("results")
FIGURES: Final = RESULTS / "figures.json"
COMPARISON: Final = RESULTS / "compare.json"
CHART: Final = RESULTS / "compare.svg"


class Part(NamedTuple):
    """The arguments of an experiment for the published figures; `quick` are more of them, for --quick."""

    arguments: Sequence[str]
    quick: Sequence[str]


PARTS: Final[dict[str, Part]] = {
    "cores": Part(["cores", "--rounds", "5"], ["--rounds", "2", "--seconds", "1"]),
    "http": Part(["http"], ["--rounds", "2", "--seconds", "1"]),
    "scaling": Part(["scaling"], ["--rounds", "20"]),
    "idle": Part(["load", "idle", "--connections", "100000", "--seconds", "5"], ["--seconds", "2"]),
    "joins": Part(["soak", "joins"], ["--rounds", "2"]),
    "busy": Part(["soak", "busy", "--seconds", "300"], ["--seconds", "15"]),
    "flush": Part(["flush", "--rounds", "5"], ["--rounds", "1", "--seconds", "2"]),
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
"""By scenario of the reference: what it measures, and the most CPU, as a multiple of the C server's."""
ECHO_IN_INTERPRETER: Final = 12.0
HOP_US: Final = 120.0


def claim_reference(inline: Sequence[Result], interpreter: Sequence[Result]) -> list[Claim]:
    """Returns the claims about CPU beside a C server with the same algorithm, and about the hop to an interpreter.

    Args:
        inline: the reference's lines, one for each scenario, with inline workers.
        interpreter: the same with workers of kind `interpreter`; may be empty.
    """
    by_name = {line["scenario"]: line for line in inline}
    through = {line["scenario"]: line for line in interpreter}
    ratios = [(*BUDGETS[name], by_name[name]["ratio"]) for name in BUDGETS if name in by_name]
    if "echo-w16" in through:
        subject = "echo, 100 connections × 16, handler in an interpreter"
        ratios.append((subject, ECHO_IN_INTERPRETER, through["echo-w16"]["ratio"]))
    claims = [
        Claim(f"{subject}: CPU beside C", f"{ratio:.2f} ×", f"≤ {budget:g} ×", ratio <= budget)
        for subject, budget, ratio in ratios
    ]
    if "rtt" in by_name and "rtt" in through:
        hop_us = through["rtt"]["p50_us"] - by_name["rtt"]["p50_us"]
        subject = "round trip through an interpreter, less one inline: p50"
        claims.append(Claim(subject, f"{hop_us:.0f} µs", f"≤ {HOP_US:g} µs", hop_us <= HOP_US))
        p99 = f"{through['rtt']['p99_us']:.0f} µs, {by_name['rtt']['p99_us']:.0f} µs"
        claims.append(Claim("the same round trips: p99 through an interpreter, inline", p99))
    return claims


def main(argv: Sequence[str]) -> int:
    """Measures the parts that were asked for and writes the pages; returns 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__.partition("\n")[0])
    names = [*PARTS, COMPARE]
    parser.add_argument("--parts", type=lambda text: text.split(","), metavar="NAME[,…]", help=", ".join(names))
    parser.add_argument("--pairs", default="3", metavar="N", help="of the comparison  [3]")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that all works")
    parser.add_argument("--write", action="store_true", help="measure nothing, write the pages from results/")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="lines of JSON measured beside C, inline")
    parser.add_argument("--reference-interpreter", type=Path, metavar="FILE", help="the same through interpreters")
    options, further = parser.parse_known_args(argv)
    measures_all = not (options.parts or options.write or options.reference)
    chosen = names if measures_all else options.parts or []
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"{', '.join(unknown)}: none of {', '.join(names)}")
    failed = []
    if options.reference:
        interpreter = _read_lines(options.reference_interpreter) if options.reference_interpreter else []
        _keep_claims("reference", claim_reference(_read_lines(options.reference), interpreter))
    for name in chosen:
        print(f"\n=== {name}", flush=True)
        if name == COMPARE:
            quick = ["--pairs", "1", "--seconds", "1"] if options.quick else ["--pairs", options.pairs]
            code = _run_command(["compare", "--json", str(COMPARISON), *quick, *further])
            failed += [name] * (code != 0)
        elif claims := _measure_claims([*PARTS[name].arguments, *(PARTS[name].quick if options.quick else ())]):
            _keep_claims(name, claims)
        else:
            failed.append(name)
    write_pages()
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _measure_claims(arguments: Sequence[str]) -> list[Sequence[object]]:
    """Runs an experiment in a process and returns its claims; [] if it could not be measured."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        _run_command([*arguments, "--json", str(file)])
        return list(json.loads(file.read_text(encoding="utf-8"))["claims"]) if file.exists() else []


def _run_command(arguments: Sequence[str]) -> int:
    """Runs ``python -m benchmarks`` with these arguments; returns its exit code."""
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=Path(__file__).parents[1]).returncode


def _read_lines(file: Path) -> list[Result]:
    """Returns the JSON objects of a file with one per line; other lines are skipped."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def _keep_claims(part: str, claims: Sequence[Sequence[object]]) -> None:
    """Writes the claims of a part to FIGURES, with the machine and the version they were measured on."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    figures["parts"][part] = claims
    figures["machine"] = read_machine()
    if part != "reference":
        figures["server"] = read_our_version(sys.executable)
    write_json(FIGURES, figures)


# The pages. ---------------------------------------------------------------------------------------------------------


def write_pages() -> None:
    """Writes the measured parts of docs/performance.md and the benchmarks' README, and the chart, from ``results/``."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    write_section("figures", format_figures(figures))
    write_section("flush", format_flush(figures), BENCHMARKS_README)
    _run_command(["compare", "--from", str(COMPARISON), "--svg", str(CHART), "--readme"])


def write_section(name: str, body: str, page: Path = PERFORMANCE_PAGE) -> None:
    """Replaces what stands between ``<!-- name:start -->`` and ``<!-- name:end -->`` in a page.

    Raises:
        ValueError: the markers are not there, once each and in this order.
    """
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the page must hold {start} and {end} once each, in this order")
    head, _, rest = text.partition(start)
    page.write_text(f"{head}{start}\n\n{body.strip()}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def format_figures(figures: Mapping[str, Any]) -> str:
    """Returns the page's table of claims, and the machine they were measured on."""
    claims = _list_claims(figures, [name for name in ("reference", *PARTS) if name != "flush"])
    machine = figures["machine"]
    where = f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('system')}"
    table = format_markdown(["what", "found", "held to"], [claim.cells for claim in claims])
    return "\n".join([table, "", f"{where}; {', '.join(figures['server'])}. What is over its aim is **bold**."])


def format_flush(figures: Mapping[str, Any]) -> str:
    """Returns the table of flush intervals, for the benchmarks' README."""
    heads = ["`--flush-interval`", "CPU per delivery", "latency, p50", "p99"]
    claims = _list_claims(figures, ["flush"])
    return format_markdown(heads, [[claim.subject, *claim.figure.split(", ")] for claim in claims])


def _list_claims(figures: Mapping[str, Any], names: Sequence[str]) -> list[Claim]:
    """Returns the kept claims of these parts, in this order."""
    return [Claim(*cells) for name in names for cells in figures["parts"].get(name, [])]
