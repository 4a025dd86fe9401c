"""Shows a comparison: a Markdown table, an SVG chart, and the notes that are needed to judge them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from benchmarks.experiments import Result
from benchmarks.load.job import Job
from benchmarks.load.row import Row
from benchmarks.load.table import format_markdown


class Load(NamedTuple):
    """A load of the comparison: its job, how tables name it, and which figure of a row is compared."""

    job: Job
    title: str
    unit: str
    figure: str = "cpu_us"


DELIVERY: Final = "CPU µs per delivery"
LOADS: Final = {
    "fanout-1": Load(Job("fanout", in_flight=1, runs=1), "fan-out to 1000, 1 in flight", DELIVERY),
    "fanout-16": Load(Job("fanout", in_flight=16, runs=1), "fan-out to 1000, 16 in flight", DELIVERY),
    "fanout-64": Load(Job("fanout", in_flight=64, runs=1), "fan-out to 1000, 64 in flight", DELIVERY),
    "fanout-1k": Load(Job("fanout", size=1024, runs=1), "fan-out to 1000, 1 KiB, 16 in flight", DELIVERY),
    "echo": Load(Job("echo", connections=100, runs=1), "echo, 100 connections × 16", "CPU µs per echo"),
    "storm": Load(Job("storm", connections=64, runs=1), "connect, subscribe, close", "CPU µs per connection"),
    "http": Load(Job("http", connections=64, runs=1), "plain HTTP, 64 in flight", "CPU µs per request"),
    "idle": Load(
        Job("idle", connections=2000, channels=100, runs=1, seconds=1.0),
        "memory",
        "bytes per connection",
        "rss_per_connection",
    ),
}
CHARTED: Final = ("fanout-16", "fanout-64", "idle")
"""What the chart shows: what a fan-out costs when there is something to join, and what a connection costs."""
SATURATED: Final = "†"
BUSY: Final = "‡"


def format_table(result: Result) -> str:
    """Returns a Markdown table: a line for each server, a column for each load."""
    loads, us = result["loads"], result["entries"][0]
    heads = ["server", *(f"{LOADS[load].title}:<br>{LOADS[load].unit}" for load in loads)]
    first = [entry for entry in result["entries"] if loads[0] in entry["cells"]]
    first.sort(key=lambda entry: find_figure(entry, loads[0]))
    rows = []
    for entry in [*first, *(entry for entry in result["entries"] if entry not in first)]:
        name = f"{entry['title']} {entry['version']}"
        rows.append([f"**{name}**" if entry is us else name, *(_format_cell(entry, load) for load in loads)])
    return format_markdown(heads, rows)


def format_notes(result: Result) -> list[str]:
    """Returns what must be known to judge the table, as lines of Markdown."""
    machine = result["machine"]
    lines = [
        f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('system')}, Python "
        f"{machine.get('python')}; medians of {result['pairs']} pairs of {result['seconds']:g} s. × is the median of a "
        "server's figure over WSBroker's, measured just before it.",
        "Every server is one process on one core, the load is another on another core. Payloads are text of 64 bytes "
        "if nothing else is said. Nobody compresses, nobody logs a message, and every message is checked on arrival.",
        "A publication is in flight until all subscribers have it. CPU is that of all threads of the server, in the "
        "kernel too; memory is what the process grew by for each open, subscribed, silent connection.",
    ]
    marks = "".join(_find_marks(entry, load) for entry in result["entries"] for load in result["loads"])
    if SATURATED in marks:
        lines.append(f"{SATURATED} The load had no time left: CPU and memory hold, the server could deliver more.")
    if BUSY in marks:
        lines.append(f"{BUSY} The server waited for its core: others were busy on the machine.")
    lines += [f"{entry['title']}: {entry['note']}." for entry in result["entries"]]
    lines += [f"{name}: not measured: {why}" for name, why in result.get("skipped", {}).items()]
    lines += result["problems"]
    return [f"* {line}" for line in lines]


def format_section(result: Result) -> str:
    """Returns the section of docs/performance.md: the chart, the table and the notes."""
    chart_line = "![CPU per delivery and memory per connection of the servers below](../benchmarks/results/compare.svg)"
    return "\n".join([chart_line, "", format_table(result), "", *format_notes(result)])


def find_figure(entry: Mapping[str, Any], load: str) -> float:
    """Returns the figure of a server that is compared under a load, not below 0."""
    return max(float(entry["cells"][load]["row"][LOADS[load].figure]), 0.0)


def _format_cell(entry: Mapping[str, Any], load: str) -> str:
    """Returns a server's figure under a load, its ratio and its marks."""
    return _format_figure(entry, load) + _find_marks(entry, load) if load in entry["cells"] else "–"


def _format_figure(entry: Mapping[str, Any], load: str) -> str:
    """Returns a server's figure under a load and its ratio."""
    ratio = entry["cells"][load]["ratio"]
    return _format_number(find_figure(entry, load)) + (f" ({ratio:.1f} ×)" if ratio is not None else "")


def _find_marks(entry: Mapping[str, Any], load: str) -> str:
    """Returns the marks of a cell: SATURATED, BUSY."""
    if load not in entry["cells"] or load == "idle":
        return ""
    row = Row.from_dict(entry["cells"][load]["row"])
    return SATURATED * row.is_saturated + BUSY * row.is_delayed


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


def draw_chart(result: Result, loads: Sequence[str] | None = None) -> str:
    """Returns an SVG with a panel for each load: a bar for each server, the shortest on top, to its own scale."""
    panels = []
    top = MARGIN
    for load in loads if loads is not None else result["loads"]:
        entries = [entry for entry in result["entries"] if load in entry["cells"]]
        entries.sort(key=lambda entry: find_figure(entry, load))
        if entries:
            panels.append(_draw_panel(load, entries, result["entries"][0], top))
            top += HEAD_HEIGHT + len(entries) * (BAR_HEIGHT + BAR_GAP) + MARGIN
    title = "CPU and memory of WebSocket servers under the same load"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
    head += f'role="img" aria-label="{title}">'
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *panels, "</svg>", ""])


def _draw_panel(load: str, entries: Sequence[Mapping[str, Any]], us: Mapping[str, Any], top: int) -> str:
    """Returns the SVG elements of one load's panel, `top` pixels from the chart's top."""
    longest = max(find_figure(entry, load) for entry in entries) or 1.0
    room = WIDTH - NAME_WIDTH - VALUE_WIDTH - 2 * MARGIN
    left = MARGIN + NAME_WIDTH
    head = f"{LOADS[load].title}: {LOADS[load].unit} (less is better)"
    parts = [f'<text class="head" x="{MARGIN}" y="{top + 20}">{escape(head)}</text>']
    for index, entry in enumerate(entries):
        y = top + HEAD_HEIGHT - 6 + index * (BAR_HEIGHT + BAR_GAP)
        middle = y + BAR_HEIGHT - 4
        width = max(find_figure(entry, load) / longest * room, 1.5)
        mark = " us" if entry is us else ""
        label = escape(_format_figure(entry, load))
        parts += [
            f'<text class="name{mark}" x="{left - 8}" y="{middle}" text-anchor="end">{escape(entry["title"])}</text>',
            f'<rect class="bar{mark}" x="{left}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<text class="value{mark}" x="{left + width + 6:.1f}" y="{middle}">{label}</text>',
        ]
    return "\n".join(parts)
