"""Tables: rows of a load as text, with what their cells do not say below; any cells as text or Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.load.row import Row

HEADS: Final = (
    *("per second", "CPU µs", "quartiles", "beside", "p50 ms", "p90", "p99", "p99.9", "max"),
    *("server %", "load %", "RSS/conn", "wrong"),
)


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of rows as `benchmarks.load.variants` describes them: a line for each, and notes below."""
    lines = [[str(row["name"]), *format_cells(Row.from_dict(row), row.get("beside"))] for row in rows]
    kept = [0, *(column for column in range(1, len(HEADS) + 1) if any(line[column] for line in lines))]
    table = format_columns(
        [["", *HEADS][column] for column in kept], [[line[column] for column in kept] for line in lines]
    )
    return "\n".join([table, *(f"{row['name']}: {note}" for row in rows for note in list_notes(Row.from_dict(row)))])


def format_cells(row: Row, beside: float | None) -> list[str]:
    """Returns the cells of a row, one for each of HEADS; `beside` is its CPU as a multiple of another row's."""
    latency = [f"{us / 1000:.2f}" for us in row.latency_us.values()] or ["", "", "", "", ""]
    spread = f"{row.cpu_us_low:.2f}–{row.cpu_us_high:.2f}" if row.cpu_us_low else ""
    memory = f"{row.rss_per_connection:,.0f} B" if row.rss_per_connection > 0 else ""
    share = [f"{row.server_percent:.0f}", f"{row.load_percent:.0f}"] if row.server_percent else ["", ""]
    ratio = f"{beside:.2f}" if beside is not None else ""
    return [f"{row.rate:,.0f}", f"{row.cpu_us:.2f}", spread, ratio, *latency, *share, memory, str(row.wrong)]


def list_notes(row: Row) -> list[str]:
    """Returns what a row's cells do not say, as lines: warnings, losses, figures of its pattern."""
    notes, extra = row.warnings, row.extra
    if row.wrong:
        notes.append(row.problems)
    if row.ended:
        notes.append(f"the server ended {row.ended} connections")
    peak = f"{row.rss_peak / 2**20:.1f} MiB"
    if "messages_per_s" in extra:
        notes.append(f"{extra['messages_per_s']:,.0f} messages/s came back; memory of the server: {peak}")
    if "stalled" in extra:
        notes.append(
            f"before {extra['stalled']:.0f} stopped reading, p50 {extra['p50_before'] / 1000:.2f} and p99 "
            f"{extra['p99_before'] / 1000:.2f} ms; memory {extra['rss_before'] / 2**20:.1f} MiB before, {peak} at "
            f"most; the server ended {extra['cut_off']:.0f} of them"
        )
    return notes


def format_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns lines with columns as wide as their cells: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in (heads, ["─" * width for width in widths], *rows)
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def format_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, numbers to the right."""
    marks = ["---", *("---:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, marks, *rows))
