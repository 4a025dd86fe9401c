"""What a run measured and whether it was right, printed while it goes on."""

import sys
import time
from collections.abc import Callable


class Report:
    """Collects checks and figures.

    Args:
        title: of the run.
        say: where lines go.
    """

    def __init__(self, title: str, say: Callable[[str], object] | None = None) -> None:
        self.failures: list[str] = []
        self.numbers: dict[str, list[float]] = {}
        """What `number` was told, by name."""
        self._say = say or (lambda line: print(line, flush=True))
        self._started_s = time.monotonic()
        self.say(f"{title}: Python {sys.version.split()[0]}")

    def say(self, text: str) -> None:
        """Prints a line with the time since the start."""
        self._say(f"{time.monotonic() - self._started_s:7.1f} s  {text}")

    def figure(self, name: str, value: object) -> None:
        """Prints something that was measured."""
        self.say(f"      {name}: {value}")

    def number(self, name: str, *values: float) -> None:
        """Keeps figures for the JSON, behind those of the same name."""
        self.numbers.setdefault(name, []).extend(values)

    def check(self, is_right: bool, what: str, found: object = "") -> None:
        """Prints whether something that must be true is."""
        line = f"{what}{f': {found}' if found != '' else ''}"
        self.say(f"{'ok   ' if is_right else 'WRONG'} {line}")
        if not is_right:
            self.failures.append(line)

    def equal(self, what: str, found: object, expected: object) -> None:
        """`check` of an equation."""
        self.check(found == expected, what, found if found == expected else f"{found!r}, expected {expected!r}")


def mib(size_bytes: float) -> str:
    """Bytes as text."""
    return f"{size_bytes / (1 << 20):.1f} MiB"


def spread(values: list[float], unit: str = "ms", scale: float = 1e3) -> str:
    """Median, 99th percentile and worst of some durations in seconds, as text."""
    if not values:
        return "none"
    median, p99, worst = (value * scale for value in percentiles(values))
    return f"median {median:.2f}, p99 {p99:.2f}, worst {worst:.2f} {unit} ({len(values)} samples)"


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and highest."""
    ranked = sorted(values)
    return ranked[len(ranked) // 2], ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)], ranked[-1]
