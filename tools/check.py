"""Runs all checks that must pass before a change is handed in.

    python tools/check.py               format, lint, types, docs, and the tests on the sources (import law and all)
    python tools/check.py --compiled    and the tests once more, against a compiled build in a folder of its own
    python tools/check.py --fast        the same, for the files that git reports as touched
    python tools/check.py --static      only the checks that do not run the broker
    python tools/check.py --report      checks nothing; prints sizes, shares of names, import circles (`tree_figures`)
    python tools/check.py --draw SEED   checks nothing; prints private functions drawn at random (`tree_figures`), for
                                        a reader who does not know them; --draw-key FILE: where they stand, in a file

It uses the environment of the Python that runs it: ``pip install -e '.[dev,test]'``. The exit code is the number of
failed steps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import tree_figures

ROOT: Final = Path(__file__).parent.parent
PYTEST_SCRIPT: Final = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"
"""Runs pytest without the working directory on its path, where `./wsbroker` would hide the package under test."""


class Step(NamedTuple):
    """One command: its name for the report, its arguments for this Python, its additions to the environment."""

    name: str
    arguments: list[str]
    environment: dict[str, str]


def main() -> int:
    """Runs the steps that the command line asks for; returns the number of failed steps."""
    parser = argparse.ArgumentParser(description="Check the tree.")
    parser.add_argument("--fast", action="store_true", help="only what git says was touched")
    parser.add_argument("--static", action="store_true", help="nothing that runs the broker")
    parser.add_argument("--compiled", action="store_true", help="test a compiled build too")
    parser.add_argument("--report", action="store_true", help="print figures about the sources; check nothing")
    parser.add_argument("--draw", type=int, metavar="SEED", help="print random private functions; check nothing")
    parser.add_argument("--draw-key", type=Path, metavar="FILE", help="with --draw: write the functions' positions")
    options = parser.parse_args()
    if options.draw_key is not None and options.draw is None:
        parser.error("--draw-key needs --draw")
    if options.draw is not None:
        draw = tree_figures.draw_private_functions(options.draw)
        print(*tree_figures.draw_lines(draw), sep="\n")
        if options.draw_key is not None:
            options.draw_key.write_text("\n".join(tree_figures.draw_key_lines(draw)) + "\n", encoding="utf-8")
        return 0
    if options.report:
        print(*tree_figures.report(), sep="\n")
        return 0
    touched = touched_files() if options.fast else None
    failed = run_steps_together(static_steps(touched))
    if not options.static:
        tests = ["tests"] if touched is None else tests_for_files(touched)
        failed += run_steps_together([suite_step("tests, interpreted", tests, ROOT, "WSBROKER_REQUIRE_INTERPRETED")])
        if options.compiled:
            with tempfile.TemporaryDirectory(prefix="wsbroker-build-") as folder:
                build_failed = run_steps_together([build_step(folder)])
                failed += build_failed
                if not build_failed:
                    step = suite_step("tests, compiled", tests, Path(folder), "WSBROKER_REQUIRE_COMPILED")
                    failed += run_steps_together([step])
    print(f"\n{failed} failed" if failed else "\nall is well")
    return failed


def static_steps(touched: list[Path] | None) -> list[Step]:
    """Returns the steps that only read the sources: format, lint, types, documentation.

    Args:
        touched: The files to format and lint; None: all. mypy always reads all files, from its cache.
    """
    files = ["."] if touched is None else [str(path) for path in touched if path.suffix in (".py", ".pyi")]
    steps = [Step("types", ["-m", "mypy"], {}), Step("docs", ["tools/api_reference.py", "--check"], {})]
    if files:
        steps.insert(0, Step("format", ["-m", "ruff", "format", "--check", *files], {}))
        steps.insert(1, Step("lint", ["-m", "ruff", "check", *files], {}))
    return steps


def suite_step(name: str, tests: list[str], package_folder: Path, requirement: str) -> Step:
    """Returns the step that runs tests against the `wsbroker` in a folder.

    Args:
        name: The name of the step.
        tests: Files and folders of tests.
        package_folder: The folder that holds the package.
        requirement: The environment variable that demands a kind of build.
    """
    return Step(name, ["-c", PYTEST_SCRIPT, "-q", *tests], {"PYTHONPATH": str(package_folder), requirement: "1"})


def build_step(folder: str) -> Step:
    """Returns the step that builds and installs the package into a folder, with this environment's mypyc if any."""
    isolation = ["--no-build-isolation"] if find_spec("hatchling") and find_spec("mypyc") else []
    arguments = ["-m", "pip", "install", "--quiet", "--no-deps", *isolation, "--target", folder, str(ROOT)]
    return Step("build", arguments, {"WSBROKER_REQUIRE_COMPILED": "1"})


def touched_files() -> list[Path]:
    """Returns the files that differ from the last commit and still exist."""
    listings = (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
    names: set[str] = set()
    for arguments in listings:
        names.update(subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.splitlines())
    return sorted(Path(name) for name in names if (ROOT / name).exists())


def tests_for_files(touched: list[Path]) -> list[str]:
    """Returns the tests for touched files: touched tests, those of touched rooms and top-level modules, the house's."""
    return sorted({"tests/house", *_find_tests(touched)})


def _find_tests(touched: list[Path]) -> Iterator[str]:
    """Yields the touched tests, and the unit and integration tests of each touched room or top-level module."""
    for path in touched:
        first, *rest = path.parts
        if first == "tests" and path.name.startswith("test_"):
            yield str(path)
        if first == "wsbroker" and rest:
            for kind in ("unit", "integration"):
                mirror = Path("tests", kind, rest[0] if len(rest) > 1 else f"test_{rest[0]}")
                if (ROOT / mirror).exists():
                    yield str(mirror)


def run_steps_together(steps: list[Step]) -> int:
    """Runs steps side by side; prints the time of each step and the output of failed steps.

    Returns:
        The number of failed steps.
    """
    started_s = time.perf_counter()
    running = []
    for step in steps:
        output = tempfile.TemporaryFile("w+")
        environment = os.environ | step.environment
        process = subprocess.Popen(
            [sys.executable, *step.arguments], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        running.append((step, process, output))
    failed = 0
    for step, process, output in running:
        code = process.wait()
        output.seek(0)
        lines = output.read().splitlines()
        output.close()
        failed += code != 0
        print(f"{'ok  ' if code == 0 else 'FAIL'} {step.name} ({time.perf_counter() - started_s:.1f} s)", flush=True)
        for line in lines if code else lines[-1:]:
            print(f"     {line}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
