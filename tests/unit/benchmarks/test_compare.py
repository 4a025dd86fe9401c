"""The comparison's table and chart, and the choice of servers."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.command import EXPERIMENT, merge_pairs
from benchmarks.compare.peers import APPS, PEERS, find_contender
from benchmarks.compare.report import BUSY, LOADS, SATURATED, draw_chart, format_notes, format_table
from benchmarks.load.row import Row

SVG = "{http://www.w3.org/2000/svg}"


def entry(name: str, title: str, version: str, note: str, **cells: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "title": title, "version": version, "note": note, "cells": cells}


def cell(cpu_us: float, ratio: float | None = None, load_percent: float = 50.0) -> dict[str, Any]:
    row = {"rate": 1.0, "cpu_us": cpu_us, "rss_per_connection": cpu_us, "load_percent": load_percent}
    return {"row": row, "ratio": ratio}


def result() -> dict[str, Any]:
    us = entry("wsbroker", "WSBroker", "1.0", "inline", fanout=cell(0.25, load_percent=99), idle=cell(1500))
    slow = entry("slow", "slow & sons", "2.1", "as its manual says", fanout=cell(5, 20.0), idle=cell(15000, 10.0))
    broken = entry("broken", "broken", "3", "nothing")
    for each in (us, slow):
        each["cells"]["fanout-16"] = each["cells"].pop("fanout")
    return {
        "machine": {"processor": "a processor", "cores": 2},
        "pairs": 3,
        "seconds": 2.0,
        "loads": ["fanout-16", "idle"],
        "entries": [us, slow, broken],
        "skipped": {"absent": "there is no node"},
        "problems": [],
    }


def test_the_table_has_the_figures_and_what_they_are_beside_ours() -> None:
    lines = format_table(result()).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == f"| **WSBroker 1.0** | 0.25{SATURATED} | 1,500 |"
    assert lines[3] == "| slow & sons 2.1 | 5.00 (20.0 ×) | 15,000 (10.0 ×) |"
    assert lines[4] == "| broken 3 | – | – |"


def test_the_best_of_the_first_load_stands_on_top() -> None:
    found = result()
    found["entries"][1]["cells"]["fanout-16"]["row"]["cpu_us"] = 0.1
    assert "slow & sons" in format_table(found).splitlines()[2]


def test_the_notes_say_what_each_server_was_told_and_which_is_missing() -> None:
    text = "\n".join(format_notes(result()))
    assert "a processor, 2 cores" in text
    assert "slow & sons: as its manual says." in text
    assert "absent: not measured: there is no node" in text
    assert SATURATED in text and BUSY not in text


def test_the_chart_is_an_svg_with_a_bar_for_each_figure_the_shortest_on_top() -> None:
    root = ET.fromstring(draw_chart(result()))
    bars = [(float(bar.get("y", "")), float(bar.get("width", ""))) for bar in root.iter(f"{SVG}rect")]
    assert len(bars) == 4
    assert bars == sorted(bars, key=lambda bar: bar[0])
    assert bars[0][1] / bars[1][1] == pytest.approx(0.25 / 5, rel=0.01)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "slow & sons" in texts
    assert max(y for y, _ in bars) < float(root.get("height", ""))
    assert all(float(text.get("x", "")) < float(root.get("width", "")) for text in root.iter(f"{SVG}text"))


def test_the_chart_can_be_read_in_light_and_dark() -> None:
    style = ET.fromstring(draw_chart(result())).find(f"{SVG}style")
    assert style is not None and style.text is not None
    light, separator, dark = style.text.partition("prefers-color-scheme: dark")
    assert separator and "fill: #" in light and "fill: #" in dark


def test_a_chart_may_leave_loads_out() -> None:
    assert draw_chart(result(), ["idle"]).count("<rect") == 2


def test_every_peer_has_an_application_of_60_lines_at_most_and_a_note() -> None:
    for peer in PEERS:
        assert len((APPS / peer.app).read_text(encoding="utf-8").splitlines()) <= 60
        assert peer.note and peer.packages
    assert {path.name for path in APPS.glob("*_app.*")} == {peer.app for peer in PEERS}


def test_a_peer_that_is_not_installed_is_not_found(tmp_path: Path) -> None:
    assert [find_contender(peer, tmp_path) for peer in PEERS] == [None] * len(PEERS)


def test_an_installed_peer_is_found_with_its_version(tmp_path: Path) -> None:
    packages = {"picows": "2.3.1", "uvloop": "0.23"}
    for name, version in packages.items():
        folder = tmp_path / "python" / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    found = find_contender(next(peer for peer in PEERS if peer.name == "picows"), tmp_path)
    assert found is not None
    assert found.version == "2.3.1"
    assert str(tmp_path) in str(found.command)


def test_a_ratio_is_of_pairs_and_rows_that_say_nothing_are_not_counted() -> None:
    ours, slow, broken = Row(rate=1, cpu_us=2), Row(rate=1, cpu_us=6), Row(rate=1, cpu_us=9, unexpected=1)
    turns: list[list[Row | None]] = [
        [ours, slow, ours, broken],
        [ours, Row(rate=1, cpu_us=20, lost=3), None, None],
        [ours, None, ours, Row()],
    ]
    cells = merge_pairs(["us", "slow", "us", "broken"], turns, "cpu_us")
    assert {name: (each["row"]["cpu_us"], each["ratio"]) for name, each in cells.items()} == {
        "us": (2, None),
        "slow": (13, 6.5),
    }


def test_only_known_peers_and_loads_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = EXPERIMENT.make_parser().parse_args(["--peers", "ws,picows", "--loads", "idle"])
    assert (parsed.peers, parsed.loads) == (["ws", "picows"], ["idle"])
    for argv in (["--peers", "nobody"], ["--loads", "nothing"], ["--pairs", "0"]):
        with pytest.raises(SystemExit):
            EXPERIMENT.make_parser().parse_args(argv)
    assert f"'nothing' is none of {', '.join(LOADS)}" in capsys.readouterr().err
