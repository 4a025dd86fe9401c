"""Rows as tables of text, and tables in Markdown."""

from collections.abc import Sequence
from typing import Final

from benchmarks.load.job import Job
from benchmarks.load.row import Row

HEADS: Final = (
    *("scenario", "per second", "CPU µs", "spread", "p50 ms", "p90", "p99", "p99.9", "max"),
    *("server %", "load %", "RSS/conn", "wrong"),
)


def format_cells(job: Job, row: Row) -> list[str]:
    """Returns the cells of a row, one for each of HEADS."""
    latency = [f"{us / 1000:.2f}" for us in row.latency_us.values()] or ["", "", "", "", ""]
    spread = f"{row.cpu_us_low:.2f}–{row.cpu_us_high:.2f}" if row.cpu_us_low else ""
    memory = f"{row.rss_per_connection:,.0f} B" if row.rss_per_connection > 0 else ""
    share = [f"{row.server_percent:.0f}", f"{row.load_percent:.0f}"] if row.server_percent else ["", ""]
    return [job.name, f"{row.rate:,.0f}", f"{row.cpu_us:.2f}", spread, *latency, *share, memory, str(row.wrong)]


def format_notes(job: Job, row: Row) -> list[str]:
    """Returns what a row's cells do not say, as lines: warnings, losses, figures of its scenario."""
    found = [f"{job.name}: {warning}" for warning in row.warnings]
    if row.wrong:
        found.append(
            f"{job.name}: lost {row.lost}, doubled {row.doubled}, out of order {row.reordered}, mangled {row.mangled}"
        )
    if row.ended:
        found.append(f"{job.name}: the server ended {row.ended} connections")
    if job.scenario == "idle" and "messages_per_s" in row.extra:
        found.append(
            f"{job.name}: {row.extra['messages_per_s']:,.0f} messages/s came back; memory of the server: "
            f"{row.rss_peak / 2**20:.1f} MiB"
        )
    if job.scenario == "stall" and row.extra:
        found.append(
            f"{job.name}: before {row.extra['stalled']:.0f} stopped reading, p50 {row.extra['p50_before'] / 1000:.2f} "
            f"and p99 {row.extra['p99_before'] / 1000:.2f} ms; "
            f"memory {row.extra['rss_before'] / 2**20:.1f} MiB before, {row.rss_peak / 2**20:.1f} MiB at most; "
            f"the server ended {row.extra['cut_off']:.0f} of them"
        )
    return found


def format_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns lines with columns as wide as their cells: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(_format_line(row, widths) for row in (heads, ["─" * width for width in widths], *rows))


def _format_line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Returns one line of `format_columns`."""
    first, *others = zip(row, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def format_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, numbers to the right."""
    marks = ["---", *("---:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, marks, *rows))
