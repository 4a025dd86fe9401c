"""The figures of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any, Final, cast

SATURATED_PERCENT: Final = 85.0
"""With more of its core used by the load, rate and latency of a row say more about the load than about the server."""
WAITED_PERCENT: Final = 15.0
"""With the server waiting longer than this for its core, others were busy on the machine."""


@dataclass(slots=True)
class Row:
    """One measurement, or the medians of several.

    Args:
        rate: deliveries, echoes or connections a second.
        cpu_us: CPU of the server, all its threads and children, per delivery, echo or connection.
        latency_us: percentiles, by name.
        server_percent, load_percent: of one core.
        waited_percent: for how much of the time the server was ready to run and did not.
        rss_per_connection: bytes that the server grew by while the connections were opened, for each of them.
        rss_peak: the most memory it was seen with, in bytes.
        lost, doubled, reordered, mangled: messages that did not come as they should.
        ended: connections that the server ended.
        extra: what only one scenario has.
    """

    rate: float = 0.0
    cpu_us: float = 0.0
    cpu_us_low: float = 0.0
    cpu_us_high: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)
    server_percent: float = 0.0
    load_percent: float = 0.0
    waited_percent: float = 0.0
    rss_per_connection: float = 0.0
    rss_peak: float = 0.0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    mangled: int = 0
    ended: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """How many messages were lost, doubled, out of order or changed."""
        return self.lost + self.doubled + self.reordered + self.mangled

    @property
    def warnings(self) -> list[str]:
        """The reasons not to trust the row, as sentences."""
        found = []
        if not self.rate:
            found.append("nothing came back while it was measured")
        if self.load_percent > SATURATED_PERCENT:
            found.append(f"the load used {self.load_percent:.0f} % of its core: rate and latency are the load's")
        if self.waited_percent > WAITED_PERCENT:
            found.append(f"the server waited {self.waited_percent:.0f} % of the time for its core: a busy machine")
        return found

    def as_dict(self) -> dict[str, object]:
        """Returns the row as JSON takes it, with `wrong` and `warnings`."""
        return {**asdict(self), "wrong": self.wrong, "warnings": self.warnings}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Row":
        """Returns the row that `as_dict` described; unknown keys are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**cast("dict[str, Any]", {name: value for name, value in values.items() if name in known}))


_SUMS: Final = ("lost", "doubled", "reordered", "mangled", "ended")
_MEDIANS: Final = (
    *("rate", "cpu_us", "server_percent", "load_percent", "waited_percent"),
    *("rss_per_connection", "rss_peak"),
)


def merge_rows(rows: list[Row]) -> Row:
    """Returns the medians of several rows, with the lowest and highest CPU and the sums of all problems."""
    found = Row(
        cpu_us_low=min(row.cpu_us for row in rows),
        cpu_us_high=max(row.cpu_us for row in rows),
        latency_us={name: median(row.latency_us[name] for row in rows) for name in rows[0].latency_us},
        extra={name: median(row.extra[name] for row in rows) for name in rows[0].extra},
    )
    for name in _MEDIANS:
        setattr(found, name, median(getattr(row, name) for row in rows))
    for name in _SUMS:
        setattr(found, name, sum(getattr(row, name) for row in rows))
    return found
