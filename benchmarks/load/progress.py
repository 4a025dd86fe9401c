"""Progress on stderr: bars of `rich` if that is installed and stderr is a terminal, else lines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load.run import Progress


@contextmanager
def show_bar(name: str) -> Iterator[Progress]:
    """Shows the progress of one row while the block runs; yields the callback that moves the bar."""
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
