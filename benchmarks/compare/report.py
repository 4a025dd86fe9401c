"""Shows a comparison: a Markdown table, an SVG chart, and the notes that are needed to judge them."""

from collections.abc import Sequence
from html import escape
from typing import Final

from benchmarks.compare.pairs import LOADS, Comparison, Entry, find_figure
from benchmarks.load.row import SATURATED_PERCENT, WAITED_PERCENT
from benchmarks.load.table import format_markdown

TITLES: Final = {
    "fanout-1": "fan-out to 1000, 1 in flight",
    "fanout-16": "fan-out to 1000, 16 in flight",
    "fanout-64": "fan-out to 1000, 64 in flight",
    "fanout-1k": "fan-out to 1000, 1 KiB, 16 in flight",
    "echo": "echo, 100 connections × 16",
    "storm": "connect, subscribe, close",
    "http": "plain HTTP, 64 in flight",
    "idle": "memory",
}
UNITS: Final = {
    "idle": "bytes per connection",
    "storm": "CPU µs per connection",
    "echo": "CPU µs per echo",
    "http": "CPU µs per request",
}
DELIVERY: Final = "CPU µs per delivery"
CHARTED: Final = ("fanout-16", "fanout-64", "idle")
"""What the chart shows: what a fan-out costs when there is something to join, and what a connection costs."""
SATURATED: Final = "†"
BUSY: Final = "‡"


def format_table(result: Comparison) -> str:
    """Returns a Markdown table: a line for each server, a column for each load."""
    heads = ["server", *(f"{TITLES[load]}:<br>{UNITS.get(load, DELIVERY)}" for load in result.loads)]
    rows = []
    for entry in sorted(result.entries, key=lambda each: _make_rank(result, each)):
        name = f"{entry.title} {entry.version}"
        rows.append(
            [f"**{name}**" if _is_us(result, entry) else name, *(_format_cell(entry, load) for load in result.loads)]
        )
    return format_markdown(heads, rows)


def format_notes(result: Comparison) -> list[str]:
    """Returns what must be known to judge the table, as lines of Markdown."""
    machine = result.machine
    lines = [
        f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('system')}, Python "
        f"{machine.get('python')}; medians of {result.pairs} pairs of {result.seconds:g} s. × is the median of a "
        "server's figure over WSBroker's, measured just before it.",
        "Every server is one process on one core, the load is another on another core. Payloads are text of 64 bytes "
        "if nothing else is said. Nobody compresses, nobody logs a message, and every message is checked on arrival.",
        "A publication is in flight until all subscribers have it. CPU is that of all threads of the server, in the "
        "kernel too; memory is what the process grew by for each open, subscribed, silent connection.",
    ]
    marks = {mark for entry in result.entries for load in result.loads for mark in _find_marks(entry, load)}
    if SATURATED in marks:
        lines.append(f"{SATURATED} The load had no time left: CPU and memory hold, the server could deliver more.")
    if BUSY in marks:
        lines.append(f"{BUSY} The server waited for its core: others were busy on the machine.")
    lines += [f"{entry.title}: {entry.note}." for entry in result.entries]
    lines += [f"{name}: not measured: {why}" for name, why in result.skipped.items()]
    lines += result.problems
    return [f"* {line}" for line in lines]


def format_section(result: Comparison) -> str:
    """Returns the section of docs/performance.md: the chart, the table and the notes."""
    chart_line = "![CPU per delivery and memory per connection of the servers below](../benchmarks/results/compare.svg)"
    return "\n".join([chart_line, "", format_table(result), "", *format_notes(result)])


def _make_rank(result: Comparison, entry: Entry) -> tuple[bool, float]:
    """Returns the sort key of a server: its figure under the first load; servers without one come last."""
    cell = entry.cells.get(result.loads[0])
    return (cell is None, find_figure(result.loads[0], cell.row) if cell is not None else 0.0)


def _is_us(result: Comparison, entry: Entry) -> bool:
    """Whether the entry is WSBroker."""
    return entry is result.entries[0]


def _format_cell(entry: Entry, load: str) -> str:
    """Returns a server's figure under a load, its ratio and its marks."""
    cell = entry.cells.get(load)
    if cell is None:
        return "–"
    ratio = f" ({cell.ratio:.1f} ×)" if cell.ratio is not None else ""
    return f"{_format_number(find_figure(load, cell.row))}{ratio}{''.join(_find_marks(entry, load))}"


def _find_marks(entry: Entry, load: str) -> list[str]:
    """Returns the marks of a cell: SATURATED, BUSY."""
    cell = entry.cells.get(load)
    if cell is None or load == "idle":
        return []
    return [SATURATED] * (cell.row.load_percent > SATURATED_PERCENT) + [BUSY] * (
        cell.row.waited_percent > WAITED_PERCENT
    )


def _format_number(value: float) -> str:
    """Returns a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# The chart. -------------------------------------------------------------------------------------------------------

WIDTH: Final = 760
NAME_WIDTH: Final = 190
VALUE_WIDTH: Final = 110
BAR_HEIGHT: Final = 16
BAR_GAP: Final = 6
HEAD_HEIGHT: Final = 40
MARGIN: Final = 12

# Legible on white and on black; lighter in dark mode.
STYLE: Final = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
  .head { font-weight: 600; font-size: 13px; fill: #24292f }
  .us { font-weight: 600; fill: #0b6bcb }
  .bar { fill: #a8b3bf }
  .bar.us { fill: #0b6bcb }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .head { fill: #f0f6fc }
    .us { fill: #4aa8ff }
    .bar { fill: #545d68 }
    .bar.us { fill: #2f8de4 }
  }
"""


def draw_chart(result: Comparison, loads: Sequence[str] | None = None) -> str:
    """Returns an SVG with a panel for each load: a bar for each server, the shortest on top, to its own scale."""
    panels = []
    top = MARGIN
    for load in loads if loads is not None else result.loads:
        entries = sorted(
            (each for each in result.entries if load in each.cells), key=lambda each: _find_value(each, load)
        )
        if not entries:
            continue
        panels.append(_draw_panel(result, load, entries, top))
        top += HEAD_HEIGHT + len(entries) * (BAR_HEIGHT + BAR_GAP) + MARGIN
    title = "CPU and memory of WebSocket servers under the same load"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
            f'role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            *panels,
            "</svg>",
            "",
        ]
    )


def _draw_panel(result: Comparison, load: str, entries: Sequence[Entry], top: int) -> str:
    """Returns the SVG elements of one load's panel, `top` pixels from the chart's top."""
    longest = max(_find_value(entry, load) for entry in entries) or 1.0
    room = WIDTH - NAME_WIDTH - VALUE_WIDTH - 2 * MARGIN
    head = f"{TITLES[load]}: {UNITS.get(load, DELIVERY)} (less is better)"
    parts = [f'<text class="head" x="{MARGIN}" y="{top + 20}">{escape(head)}</text>']
    for index, entry in enumerate(entries):
        y = top + HEAD_HEIGHT - 6 + index * (BAR_HEIGHT + BAR_GAP)
        middle = y + BAR_HEIGHT - 4
        width = max(_find_value(entry, load) / longest * room, 1.5)
        left = MARGIN + NAME_WIDTH
        us = " us" if _is_us(result, entry) else ""
        parts += [
            f'<text class="name{us}" x="{left - 8}" y="{middle}" text-anchor="end">{escape(entry.title)}</text>',
            f'<rect class="bar{us}" x="{left}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<text class="value{us}" x="{left + width + 6:.1f}" y="{middle}">{_format_label(entry, load)}</text>',
        ]
    return "\n".join(parts)


def _format_label(entry: Entry, load: str) -> str:
    """Returns the text behind a bar."""
    ratio = entry.cells[load].ratio
    return escape(_format_number(_find_value(entry, load)) + (f" ({ratio:.1f} ×)" if ratio is not None else ""))


def _find_value(entry: Entry, load: str) -> float:
    """Returns the length of a server's bar under a load, not below 0."""
    return max(find_figure(load, entry.cells[load].row), 0.0)


assert TITLES.keys() == LOADS.keys()
