"""Every command that the READMEs show is one that the benchmarks have; every name that soak runs look for exists."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import COMMANDS
from benchmarks.experiments import Experiment
from benchmarks.soak.command import SOAKS
from benchmarks.soak.run import KINDS
from benchmarks.soak.server import KEPT

CHECKOUT = Path(__file__).parents[3]
SOURCES = CHECKOUT / "wsbroker"
COMMAND = re.compile(r"python -m benchmarks ([^\n`|#&,]+)")

SHOWN = sorted(
    {
        match.group(1).strip().rstrip(";")
        for file in (CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md"), report.BENCHMARKS_README)
        for match in COMMAND.finditer(file.read_text(encoding="utf-8"))
    }
)

FILES = {
    "broker": ["broker"],
    "worker queue": ["broker/worker_queue.py"],
    "connections": ["connections/connections.py", "broker/timer_wheel.py"],
    "inline runner": ["connections/inline_runner.py"],
    "front": ["front"],
    "local API": ["pool/local_api.py"],
    "pool": ["pool/pool.py"],
    "remote worker": ["pool/remote_worker.py"],
    "wire API": ["worker"],
    "async runtime": ["worker"],
}
"""By part of a server: the files that define its attributes."""


def experiment_of(words: list[str]) -> tuple[Experiment, list[str]]:
    if words[0] == "soak":
        return next(soak for soak in SOAKS if soak.name == f"soak {words[1]}"), words[2:]
    module, _, experiment = COMMANDS[words[0]][0].partition(":")
    return getattr(import_module(module), experiment), words[1:]


@pytest.mark.parametrize("command", SHOWN)
def test_every_command_of_the_readmes_is_there(command: str) -> None:
    words = shlex.split(command)
    if words in (["soak"], ["report"]):
        assert words[0] in COMMANDS
        return
    experiment, arguments = experiment_of(words)
    if "interpreter" in arguments and "interpreter" not in KINDS:
        arguments[arguments.index("interpreter")] = "thread"
    experiment.make_parser().parse_args(arguments)


def test_the_parts_of_the_report_can_be_measured() -> None:
    for part in report.PARTS.values():
        experiment, arguments = experiment_of(list(part.arguments))
        experiment.make_parser().parse_args([*arguments, *part.quick])


@pytest.mark.parametrize("part", KEPT)
def test_the_attributes_that_soak_runs_measure_exist(part: str) -> None:
    files = [
        file
        for name in FILES[part]
        for file in ([SOURCES / name] if name.endswith(".py") else (SOURCES / name).glob("*.py"))
    ]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    names = {name for dotted in KEPT[part] for name in dotted.split(".")} - {"connections"}  # aiohttp's own
    missing = [name for name in names if not re.search(rf"\bself\.{name}\b|\bdef {name}\b", source)]
    assert missing == []
