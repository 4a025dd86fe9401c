"""The README's measured parts: each stands between two markers, and is written by the command that measured it."""

from pathlib import Path
from typing import Final

README: Final = Path(__file__).parents[1] / "README.md"
RESULTS: Final = README.parent / "benchmarks" / "results"


def between_markers(text: str, name: str, body: str) -> str:
    """Returns `text` with `body` between ``<!-- name:start -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: the markers are not there, once each and in this order.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the README must hold {start} and {end} once each, in this order")
    head, _, rest = text.partition(start)
    return f"{head}{start}\n\n{body.strip()}\n\n{end}{rest.partition(end)[2]}"


def write(name: str, body: str, readme: Path = README) -> None:
    """Puts a part where it belongs."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(between_markers(text, name, body), encoding="utf-8")
