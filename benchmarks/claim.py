"""Something that is said of the broker, what was measured of it, and whether that holds."""

from typing import NamedTuple


class Claim(NamedTuple):
    """One line of a verdict.

    Args:
        what: was measured.
        found: the figure.
        bound: what it should be, in words: ``"≤ 1.3"``.
    """

    what: str
    found: float
    bound: str
    holds: bool

    def __str__(self) -> str:
        figure = f"{self.found:,.0f}" if self.found >= 20 else f"{self.found:.2f}"
        return f"{'ok  ' if self.holds else 'OVER'}  {self.what}: {figure} ({self.bound})"
