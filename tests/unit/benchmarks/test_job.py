"""The jobs of the load, the rows that come of them, the tables and the meter."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load.command import EXPERIMENT, list_jobs
from benchmarks.load.job import PRESETS, SCENARIOS, Job
from benchmarks.load.meter import Meter, Usage
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.table import HEADS, format_cells, format_columns, format_markdown, format_rows, list_notes

LATENCY = {"p50": 1000.0, "p90": 2000.0, "p99": 3000.0, "p99.9": 4000.0, "max": 5000.0}


def jobs(*argv: str, descriptors: int = 20_000) -> list[Job]:
    return list_jobs(EXPERIMENT.make_parser().parse_args(argv), descriptors)


def test_without_arguments_every_preset_runs() -> None:
    assert jobs() == [job for scenario in SCENARIOS for job in PRESETS[scenario]]


def test_the_time_applies_to_all_presets() -> None:
    assert {
        (job.seconds, job.runs, job.warmup_s) for job in jobs("--seconds", "1", "--runs", "2", "--warmup", "0")
    } == {(1.0, 2, 0.0)}


def test_windows_and_sizes_make_a_row_each() -> None:
    found = jobs("fanout", "--in-flight", "1,64", "--size", "64,1024", "--connections", "10")
    assert [(job.in_flight, job.size) for job in found] == [(1, 64), (1, 1024), (64, 64), (64, 1024)]
    assert {job.connections for job in found} == {10}


def test_a_load_given_by_options_replaces_the_presets() -> None:
    assert [job.channels for job in jobs("fanout", "--channels", "5")] == [5]


def test_more_connections_than_open_files_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert jobs("idle", descriptors=500)[0].connections == 500
    assert "only 500 connections" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", [{"connections": 0}, {"in_flight": 0}, {"size": 3}, {"seconds": 0}, {"publishers": 2}, {"runs": 0}]
)
def test_settings_out_of_their_bounds_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        replace(Job("fanout"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_jobs_and_rows_survive_json(scenario: str) -> None:
    for job in PRESETS[scenario]:  # type: ignore[index]
        assert Job(**json.loads(json.dumps(job.as_dict()))) == job
    row = Row(rate=1.5, latency_us=LATENCY, extra={"x": 1.0})
    assert Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row


def test_the_middle_of_rows_has_medians_quartiles_and_all_that_went_wrong() -> None:
    rows = [Row(rate=rate, cpu_us=1 / rate, latency_us={"p50": rate}, lost=1) for rate in (4.0, 1.0, 2.0)]
    found = merge_rows(rows)
    assert (found.rate, found.cpu_us, found.cpu_us_low, found.cpu_us_high) == (2.0, 0.5, 0.375, 0.75)
    assert (found.latency_us, found.lost, found.wrong) == ({"p50": 2.0}, 3, 3)


def test_rows_that_cannot_be_trusted_say_so() -> None:
    assert Row(rate=1.0).warnings == []
    assert "the load used 95 % of its core" in Row(rate=1.0, load_percent=95).warnings[0]
    assert "a busy machine" in Row(rate=1.0, waited_percent=20).warnings[0]
    assert "nothing came back" in Row().warnings[0]


def test_a_row_has_a_cell_for_each_head() -> None:
    row = Row(rate=1234567.0, cpu_us=0.256, cpu_us_low=0.2, cpu_us_high=0.3, latency_us=LATENCY, server_percent=50)
    assert len(format_cells(row, 1.5)) == len(format_cells(Row(), None)) == len(HEADS)
    assert format_cells(row, 1.5)[:5] == ["1,234,567", "0.26", "0.20–0.30", "1.50", "1.00"]


def test_columns_without_cells_are_left_out() -> None:
    heads = format_rows([{"name": "fan-out", **Row(rate=1.0).as_dict()}]).splitlines()[0].split()
    assert heads == ["per", "second", "CPU", "µs", "wrong"]


def test_the_notes_tell_of_losses_and_of_stalled_subscribers() -> None:
    extra = {"stalled": 10.0, "cut_off": 10.0, "p50_before": 1000.0, "p99_before": 2000.0, "rss_before": 2.0**20}
    text = "\n".join(list_notes(Row(rate=1.0, lost=3, ended=2, rss_peak=2.0**21, extra=extra)))
    assert "lost 3" in text
    assert "ended 2 connections" in text
    assert "1.0 MiB before, 2.0 MiB at most; the server ended 10 of them" in text


def test_tables_line_up() -> None:
    assert format_columns(["name", "n"], [["a", "10"], ["long name", "5"]]).splitlines() == [
        "name        n",
        "─────────  ──",
        "a          10",
        "long name   5",
    ]
    assert format_markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_the_meter_adds_threads_and_children(tmp_path: Path) -> None:
    for pid, threads, child in (("10", ("10", "11"), "20"), ("20", ("20",), "")):
        write(tmp_path / pid / "statm", "1000 50 3 4 5 6 7\n")
        for thread in threads:
            write(tmp_path / pid / "task" / thread / "schedstat", "1000 200 7\n")
            write(tmp_path / pid / "task" / thread / "children", child if thread == pid else "")
    usage = Meter(10, tmp_path).read()
    assert (usage.cpu_ns, usage.waited_ns) == (3000, 600)
    assert usage.rss_bytes % 100 == 0 and usage.rss_bytes > 0
    (tmp_path / "20" / "statm").unlink()
    assert Meter(10, tmp_path).read().rss_bytes * 2 == usage.rss_bytes


def test_a_process_that_has_ended_uses_nothing(tmp_path: Path) -> None:
    write(tmp_path / "10" / "task" / "10" / "children", "")
    meter = Meter(10, tmp_path)
    assert meter.read() == Usage(0, 0, 0)
