"""What a soak run measured and whether it was right, printed while the run goes on."""

import sys
import time
from collections.abc import Callable
from math import inf


class Report:
    """Collects the checks and figures of a run.

    Args:
        title: the name of the run.
        print_line: takes each line of output; None: stdout.
    """

    def __init__(self, title: str, print_line: Callable[[str], object] | None = None) -> None:
        self.failures: list[str] = []
        self.numbers: dict[str, list[float]] = {}
        """The figures of `keep_numbers`, by name."""
        self._print_line = print_line or (lambda line: print(line, flush=True))
        self._started_s = time.monotonic()
        self.log(f"{title}: Python {sys.version.split()[0]}")

    def log(self, text: str) -> None:
        """Prints a line with the seconds since the start of the run."""
        self._print_line(f"{time.monotonic() - self._started_s:7.1f} s  {text}")

    def show_figure(self, name: str, value: object) -> None:
        """Prints a measured value."""
        self.log(f"      {name}: {value}")

    def keep_numbers(self, name: str, *values: float) -> None:
        """Appends figures to those of the same name in the JSON."""
        self.numbers.setdefault(name, []).extend(values)

    def check(self, is_right: bool, claim: str, found: object = "") -> None:
        """Prints whether a claim holds; a claim that does not is a failure of the run."""
        line = f"{claim}{f': {found}' if found != '' else ''}"
        self.log(f"{'ok   ' if is_right else 'WRONG'} {line}")
        if not is_right:
            self.failures.append(line)

    def check_equal(self, claim: str, found: object, expected: object) -> None:
        """Prints whether a value is the expected one; any other value is a failure of the run."""
        self.check(found == expected, claim, found if found == expected else f"{found!r}, expected {expected!r}")

    def check_at_most(self, claim: str, found: float, bound: float, show: Callable[[float], str] = str) -> None:
        """Prints whether a value, as text made by `show`, is at most its bound; a greater value is a failure.

        Without a bound (infinity) prints nothing.
        """
        if bound < inf:
            self.check(found <= bound, f"{claim}, at most {show(bound)}", show(found))


def format_mib(size_bytes: float) -> str:
    """Returns bytes as text in MiB."""
    return f"{size_bytes / (1 << 20):.1f} MiB"


def format_ms(duration_s: float) -> str:
    """Returns seconds as text in ms."""
    return f"{duration_s * 1e3:.1f} ms"


def format_spread(durations_s: list[float]) -> str:
    """Returns median, 99th percentile and maximum of durations as text in ms."""
    if not durations_s:
        return "none"
    median, p99, worst = (duration_s * 1e3 for duration_s in rank_percentiles(durations_s))
    return f"median {median:.2f}, p99 {p99:.2f}, worst {worst:.2f} ms ({len(durations_s)} samples)"


def rank_percentiles(values: list[float]) -> tuple[float, float, float]:
    """Returns the median, the 99th percentile and the maximum."""
    ranked = sorted(values)
    return ranked[len(ranked) // 2], ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)], ranked[-1]
