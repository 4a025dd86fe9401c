"""The jobs of the load: a scenario with its connections, rates, sizes and times."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, cast

Scenario = Literal["fanout", "echo", "storm", "stall", "idle", "http"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("fanout", "echo", "storm", "stall", "idle", "http")

MIN_SIZE: Final = 12
"""Bytes of a payload: room for the channel and the number."""
MAX_SIZE: Final = 65_000
MAX_IN_FLIGHT: Final = 1024


@dataclass(frozen=True, slots=True)
class Job:
    """What one row of the table measures: a scenario and its load.

    Args:
        connections: subscribers; connections that echo; connections at a time (storm); with a request each (http).
        channels: the subscribers are dealt out to them.
        publishers: connections that publish, each on its own share of the channels.
        in_flight: publications of each publisher, or echoes of each connection, on the way at a time; a publication is
            until every subscriber has received it. Not used with `rate`.
        rate: publications a second of all publishers together, sent whether the server keeps up or not; 0: as fast as
            `in_flight` allows. Idle: messages a second, each to one connection, once all are open.
        size: bytes of a payload.
        stalled: of 100 subscribers this many stop reading (stall).
        warmup_s: load before the measuring.
        seconds: how long each of the `runs` measures; the medians count.
    """

    scenario: Scenario
    connections: int = 1000
    channels: int = 1
    publishers: int = 1
    in_flight: int = 16
    rate: float = 0.0
    size: int = 64
    stalled: int = 10
    warmup_s: float = 0.5
    seconds: float = 2.0
    runs: int = 3

    def __post_init__(self) -> None:
        bounds = {
            "connections": (1, 200_000),
            "channels": (1, 100_000),
            "publishers": (1, 1000),
            "in_flight": (1, MAX_IN_FLIGHT),
            "rate": (0, 1_000_000),
            "size": (MIN_SIZE, MAX_SIZE),
            "stalled": (0, 99),
            "warmup_s": (0, 60),
            "seconds": (0.05, 600),
            "runs": (1, 100),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be from {low} to {high}")
        if self.scenario in ("fanout", "stall") and self.publishers > self.channels:
            raise ValueError(f"{self.publishers} publishers on {self.channels} channels: each needs one of its own")

    @property
    def name(self) -> str:
        """A short name for tables: what differs from row to row."""
        size = f"{self.size // 1024} KiB" if self.size % 1024 == 0 else f"{self.size} B"
        flow = f"{self.rate:g}/s" if self.rate else f"{self.in_flight} in flight"
        if self.scenario == "fanout":
            each = round(self.connections / self.channels)
            return f"fan-out {self.channels} × {each}, {size}, {flow}"
        if self.scenario == "echo":
            return f"echo {self.connections} × {self.in_flight}, {size}"
        if self.scenario == "stall":
            return f"stall {self.stalled} % of {self.connections}, {size}, {flow}"
        if self.scenario == "http":
            return f"http, {self.connections} in flight, {size}"
        if self.scenario == "storm":
            return f"storm, {self.connections} at a time"
        return f"idle {self.connections}" + (f", {self.rate:g} messages/s" if self.rate else "")

    def as_dict(self) -> dict[str, object]:
        """Returns the job as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Job":
        """Returns the job that `as_dict` described; unknown keys are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**cast("dict[str, Any]", {name: value for name, value in values.items() if name in known}))


FANOUT: Final = Job("fanout")
PRESETS: Final[dict[Scenario, tuple[Job, ...]]] = {
    "fanout": (
        replace(FANOUT, in_flight=1),
        FANOUT,
        replace(FANOUT, in_flight=64),
        replace(FANOUT, size=1024),
        replace(FANOUT, channels=100, publishers=10, in_flight=8),
    ),
    "echo": (Job("echo", connections=100, in_flight=16), Job("echo", connections=1, in_flight=1)),
    "storm": (Job("storm", connections=64),),
    "stall": (Job("stall", connections=100, rate=1000.0, size=4096, seconds=4.0, runs=1),),
    "idle": (Job("idle", connections=10_000, channels=100, rate=1000.0, runs=1),),
    "http": (Job("http", connections=64),),
}
"""The jobs without further options: the loads that the project has budgets for."""
