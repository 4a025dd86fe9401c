"""The runner of all experiments: what each measures, shows and claims; ``python -m benchmarks NAME`` runs one.

Each experiment stands in the module that measures it; the soak runs stand in `soak.command`.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.load.server import ServerError

Result = Mapping[str, Any]
"""What an experiment measured, as JSON takes it. ``failures``: texts of what was wrong, if anything was."""


class Claim(NamedTuple):
    """One published figure: a line of the table in docs/performance.md.

    Args:
        subject: what was measured.
        figure: the measured value as text.
        aim: the bound, such as ``≤ 1.3``; "" if there is none.
        holds: whether the figure keeps to its aim.
    """

    subject: str
    figure: str
    aim: str = ""
    holds: bool = True

    @property
    def cells(self) -> list[str]:
        """The cells of that table; a figure that does not keep to its aim is bold."""
        return [self.subject, self.figure if self.holds else f"**{self.figure}**", self.aim]

    def __str__(self) -> str:
        verdict = ("ok  " if self.holds else "OVER") if self.aim else "    "
        return f"{verdict}  {self.subject}: {self.figure}{f' ({self.aim})' if self.aim else ''}"


def claim_at_most(subject: str, value: float, bound: float) -> Claim:
    """Makes the claim that a value is not above a bound."""
    return Claim(subject, format_value(value), f"≤ {bound:g}", value <= bound)


def claim_at_least(subject: str, value: float, bound: float) -> Claim:
    """Makes the claim that a value is not below a bound."""
    return Claim(subject, format_value(value), f"≥ {bound:g}", value >= bound)


def format_value(value: float) -> str:
    """Returns a value with two digits after the point, or none if it is 20 or more."""
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """Something that can be measured.

    Args:
        name: the words behind ``python -m benchmarks``.
        summary: one line of help.
        add_options: adds the experiment's options to the command line.
        measure: measures and returns the result; may print progress.
        table: returns the result as text.
        claims: returns the result's published figures.
    """

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Result]
    table: Callable[[Result], str]
    claims: Callable[[Result], list[Claim]]

    def make_parser(self) -> argparse.ArgumentParser:
        """Returns the command line of this experiment."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {self.name}", description=self.summary)
        self.add_options(parser)
        parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
        return parser

    def run(self, argv: Sequence[str]) -> int:
        """Measures, prints table and claims, writes the JSON; returns the exit code.

        0: all is right. 1: the experiment could not be measured, something was wrong, or a claim does not hold.
        """
        parser = self.make_parser()
        options = parser.parse_args(argv)
        try:
            result = self.measure(options)
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
        except ValueError as error:
            parser.error(str(error))
        claims = self.claims(result)
        print("\n".join([self.table(result), *map(str, claims)]))
        failures = result.get("failures", [])
        for failure in failures:
            print(failure, file=sys.stderr)
        if options.json:
            write_json(options.json, {"machine": read_machine(), **result, "claims": claims})
        return 0 if all(claim.holds for claim in claims) and not failures else 1


def make_no_claims(result: Result) -> list[Claim]:
    """Returns no claims: for experiments without published figures."""
    return []


def add_pin_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--pin`` and ``--no-pin``."""
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="server and load to cores")


def write_json(file: Path, content: object) -> None:
    """Writes JSON to a file, one value a line."""
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_machine() -> dict[str, object]:
    """Returns processor, cores, system and Python of this machine, and no names."""
    cpus = Path("/proc/cpuinfo")
    text = cpus.read_text(encoding="utf-8", errors="replace") if cpus.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
