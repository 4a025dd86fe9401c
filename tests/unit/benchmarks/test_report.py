"""The figures of the README are those in ``results/``; claims and sections are made of what was measured."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import report
from benchmarks.compare.report import CHARTED, draw_chart, format_section
from benchmarks.load.command import claim_idle
from benchmarks.load.variants import claim_flush
from benchmarks.soak.command import claim_busy, claim_joins

README = report.PERFORMANCE_PAGE.read_text(encoding="utf-8")


def part_of(text: str, name: str) -> str:
    return text.partition(f"<!-- {name}:start -->")[2].partition(f"<!-- {name}:end -->")[0].strip()


def comparison() -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(report.COMPARISON.read_text(encoding="utf-8")))


def test_the_readme_and_its_chart_show_the_comparison_that_is_kept() -> None:
    assert part_of(README, "compare") == format_section(comparison())
    assert report.CHART.read_text(encoding="utf-8") == draw_chart(comparison(), CHARTED)
    assert f"](../benchmarks/results/{report.CHART.name})" in part_of(README, "compare")


def test_the_comparison_has_what_the_chart_shows_of_every_server_in_it() -> None:
    entries = comparison()["entries"]
    assert entries[0]["title"] == "WSBroker"
    assert len(entries) >= 6
    for entry in entries:
        assert set(CHARTED) <= set(entry["cells"]), entry["title"]


def test_both_readmes_show_the_figures_that_are_kept() -> None:
    figures = json.loads(report.FIGURES.read_text(encoding="utf-8"))
    assert part_of(README, "figures") == report.format_figures(figures)
    theirs = report.BENCHMARKS_README.read_text(encoding="utf-8")
    assert part_of(theirs, "flush") == report.format_flush(figures)
    assert set(report.PARTS) <= set(figures["parts"])


def test_the_kept_results_name_the_machine_and_no_path() -> None:
    for file in (report.FIGURES, report.COMPARISON, report.CHART):
        text = file.read_text(encoding="utf-8")
        assert "/home" not in text and "/tmp" not in text and "site-packages" not in text


def test_a_part_is_put_between_its_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- a:start -->\nold\n<!-- a:end -->\nbehind\n", encoding="utf-8")
    report.write_section("a", "new\n", file)
    expected = "before\n<!-- a:start -->\n\nnew\n\n<!-- a:end -->\nbehind\n"
    assert file.read_text(encoding="utf-8") == expected
    report.write_section("a", "new", file)
    assert file.read_text(encoding="utf-8") == expected
    with pytest.raises(ValueError, match="once each"):
        report.write_section("b", "new", file)


def test_a_figure_over_its_aim_is_bold() -> None:
    lines = [["a", "1.0", "≤ 2", True], ["b", "3.0", "≤ 2", False], ["c", "5", "", True]]
    figures = {"machine": {"processor": "a processor", "cores": 2}, "server": ["one"], "parts": {"cores": lines}}
    table = report.format_figures(figures).splitlines()
    assert table[2:5] == ["| a | 1.0 | ≤ 2 |", "| b | **3.0** | ≤ 2 |", "| c | 5 |  |"]
    assert "a processor, 2 cores" in table[-1]


def row(**more: object) -> dict[str, Any]:
    latency = {"p50": 200.0, "p90": 300.0, "p99": 3500.0, "p99.9": 4000.0, "max": 5000.0}
    return {"cpu_us": 88.0, "rss_per_connection": 1772.0, "latency_us": latency, **more}


def test_each_experiment_makes_its_claims_of_its_result() -> None:
    idle = row(job={"scenario": "idle", "connections": 19800}, extra={"messages_per_s": 1000.0})
    memory, opening, latency = claim_idle({"rows": [idle]})
    assert (memory.subject, memory.figure, memory.holds) == (
        "memory for each of 19,800 idle connections",
        "1,772 bytes",
        True,
    )
    assert (opening.figure, latency.figure) == ("88 µs", "0.20 ms, 3.50 ms")
    assert not claim_idle({"rows": [{**idle, "rss_per_connection": 2500}]})[0].holds

    numbers = {"sockets": [10000.0] * 2, "channels_each": [8.0] * 2, "joins_per_s": [2e4, 3e4], "grown_bytes": [2**20]}
    joins = claim_joins({"numbers": numbers, "failures": [], "kind": "interpreter"})
    assert [line.figure for line in joins] == ["20,000 to 30,000 joins/s", "1.0 MiB"]
    assert "2 interpreter workers" in joins[0].subject

    waits = {"echo_ms": [1.0, 2.0, 30.0], "question_ms": [1.5, 2.5, 40.0], "seconds": [60.0]}
    busy = claim_busy({"numbers": waits, "failures": ["late"]})
    assert [(line.figure, line.holds) for line in busy] == [("1.0, 2.0, 30.0 ms", False), ("1.5, 2.5, 40.0 ms", False)]

    (window,) = claim_flush({"rows": [row(name="5 ms")]})
    assert window.subject == "5 ms" and window.figure == "88.00 µs, 0.2 ms, 3.5 ms"


def test_figures_beside_c_are_held_to_the_budgets() -> None:
    inline = [
        {"scenario": "f64-w16", "ratio": 1.25},
        {"scenario": "c100-w8", "ratio": 1.9},
        {"scenario": "rtt", "ratio": 1.5, "p50_us": 100.0, "p99_us": 200.0},
    ]
    theirs = [{"scenario": "rtt", "p50_us": 190.0, "p99_us": 400.0}, {"scenario": "echo-w16", "ratio": 13.0}]
    lines = report.claim_reference(inline, theirs)
    assert [(line.figure, line.holds) for line in lines] == [
        ("1.25 ×", True),
        ("1.90 ×", False),
        ("13.00 ×", False),
        ("90 µs", True),
        ("400 µs, 200 µs", True),
    ]
