"""The figures of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import median, quantiles
from typing import Any, Final, cast

SATURATED_PERCENT: Final = 85.0
"""With more of its core used by the load, rate and latency of a row say more about the load than about the server."""
WAITED_PERCENT: Final = 15.0
"""With the server waiting longer than this for its core, others were busy on the machine."""


@dataclass(slots=True)
class Row:
    """One measurement, or the medians of several.

    Args:
        rate: deliveries, echoes, requests or connections a second.
        cpu_us: CPU of the server, all its threads and children, for each of these.
        cpu_us_low, cpu_us_high: the quartiles of several measurements.
        latency_us: percentiles, by name.
        server_percent, load_percent: of one core.
        waited_percent: for how much of the time the server was ready to run and did not.
        rss_per_connection: bytes that the server grew by while the connections were opened, for each of them.
        rss_peak: the most memory it was seen with, in bytes.
        lost: messages that did not come in their turn.
        unexpected: messages that came changed, twice or late.
        ended: connections that the server ended.
        extra: what only one pattern has.
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
    unexpected: int = 0
    ended: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """How many messages did not come as they should."""
        return self.lost + self.unexpected

    @property
    def problems(self) -> str:
        """What was wrong with the messages, as text."""
        return f"lost {self.lost}, unexpected (changed, doubled or late) {self.unexpected}"

    @property
    def warnings(self) -> list[str]:
        """The reasons not to trust the row, as sentences."""
        reasons = {
            "nothing came back while it was measured": not self.rate,
            f"the load used {self.load_percent:.0f} % of its core: rate and latency are the load's": self.is_saturated,
            f"the server waited {self.waited_percent:.0f} % of the time for its core: a busy machine": self.is_delayed,
        }
        return [reason for reason, holds in reasons.items() if holds]

    @property
    def is_saturated(self) -> bool:
        """Whether the load had no time left."""
        return self.load_percent > SATURATED_PERCENT

    @property
    def is_delayed(self) -> bool:
        """Whether other processes kept the server from its core."""
        return self.waited_percent > WAITED_PERCENT

    def as_dict(self) -> dict[str, object]:
        """Returns the row as JSON takes it, with `wrong` and `warnings`."""
        return {**asdict(self), "wrong": self.wrong, "warnings": self.warnings}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Row":
        """Returns the row that `as_dict` described; unknown keys are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**cast("dict[str, Any]", {name: value for name, value in values.items() if name in known}))


_SUMS: Final = ("lost", "unexpected", "ended")


def merge_rows(rows: Sequence[Row]) -> Row:
    """Returns the medians of several rows, with the quartiles of their CPU and the sums of all problems."""
    if len(rows) == 1:
        return rows[0]
    found = Row()
    for each in fields(Row):
        values = [getattr(row, each.name) for row in rows]
        if each.name in ("latency_us", "extra"):
            setattr(found, each.name, {name: median(value[name] for value in values) for name in values[0]})
        else:
            setattr(found, each.name, sum(values) if each.name in _SUMS else median(values))
    found.cpu_us_low, _, found.cpu_us_high = quantiles([row.cpu_us for row in rows], method="inclusive")
    return found
