"""How far it is, on stderr: bars of `rich` where that is installed, lines for those who write it to a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load.run import Progress


@contextmanager
def show_bar(name: str) -> Iterator[Progress]:
    """A bar for one row, which is gone when the row is done."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
    except ImportError:
        Bars = None  # type: ignore[assignment,misc]
    if Bars is None or not sys.stderr.isatty():
        print(f"… {name}", file=sys.stderr, flush=True)
        yield lambda phase, done, total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=None)

        def show(phase: str, done: float, total: float) -> None:
            bars.update(task, description=f"{name} · {phase}", completed=done, total=total)

        yield show
