"""Says which build is measured, and measures the core's parts twice: compiled, and the same sources interpreted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import wsbroker
from kits.workload_kit import COMPILED, INTERPRETED, Work, worlds
from wsbroker.build import core_kind, package_version

medians_s: dict[str, dict[str, float]] = {}
"""By benchmark and kind of core."""
_worlds: dict[str, type[Work]] = {}


def pytest_report_header() -> str:
    """Returns the line that says which core is measured. Called by pytest."""
    return f"wsbroker {package_version()}, core: {core_kind()}, from {Path(wsbroker.__file__).parent}"


@pytest.fixture(params=[COMPILED, INTERPRETED])
def work(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Iterator[type[Work]]:
    """Provides `Work` on one kind of core: both kinds stand side by side in the table."""
    if not _worlds:
        _worlds.update(worlds())
    if request.param not in _worlds:
        pytest.skip("there is no compiled core here")
    name = request.node.name.replace(f"-{request.param}", "").replace(f"{request.param}-", "")
    benchmark.group = name.replace(f"[{request.param}]", "")
    yield _worlds[request.param]
    if benchmark.stats is not None:
        medians_s.setdefault(str(benchmark.group), {})[request.param] = benchmark.stats.stats.median


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes how much faster the compiled core is. Called by pytest at the end."""
    pairs = {name: kinds for name, kinds in medians_s.items() if len(kinds) == 2}
    if not pairs:
        return
    terminalreporter.section("compiled beside interpreted: medians")
    for name, kinds in pairs.items():
        fast_us, slow_us = kinds[COMPILED] * 1e6, kinds[INTERPRETED] * 1e6
        terminalreporter.write_line(f"{slow_us / fast_us:6.1f} ×  {fast_us:10.1f} µs {slow_us:10.1f} µs  {name}")
