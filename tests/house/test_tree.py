"""What must not stand in any file: traces of the machine that it was written on."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
FOLDERS = ("wsbroker", "docs", "tests", "tools", "stubs", "benchmarks", ".ci")
TRACES = [
    "/" + "work/",
    "/" + "root/",
    "/" + r"home/\w+/",
    "/" + r"Users/\w+/",
    "file:" + "///opt",
    "python" + r"hosted\.org",
    "py" + r"pi\.org/simple",
    r"registry\." + r"npm",
]


def _files() -> Iterator[Path]:
    yield from (path for path in CHECKOUT.iterdir() if path.is_file())
    for folder in FOLDERS:
        paths = (CHECKOUT / folder).rglob("*")
        yield from (path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def test_no_file_names_a_machine() -> None:
    pattern = re.compile("|".join(TRACES))
    found = []
    for path in _files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(CHECKOUT)
        found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_no_build_product_is_committed() -> None:
    listed = subprocess.run(["git", "-C", CHECKOUT, "ls-files"], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert [name for name in listed.stdout.splitlines() if re.search(r"\.(so|pyd|py[co]|whl|egg-info)$", name)] == []
