"""The jobs of the load: a pattern with its connections, rates, sizes and times."""

from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

Scenario = Literal["fanout", "echo", "storm", "stall", "idle", "http", "question"]

BOUNDS: Final = {
    "connections": (1, 200_000),
    "channels": (1, 100_000),
    "publishers": (1, 1000),
    "in_flight": (1, 1024),
    "rate": (0, 1_000_000),
    "size": (12, 65_000),  # room for the channel and the number
    "work": (0, 1_000_000),
    "stalled": (0, 99),
    "warmup_s": (0, 60),
    "seconds": (0.05, 600),
    "runs": (1, 100),
}


@dataclass(frozen=True, slots=True)
class Job:
    """The load of one row of a table.

    Args:
        scenario: the pattern of the load.
        connections: subscribers; connections that echo; connections at a time (storm); with a request each (http).
        channels: the subscribers are dealt out to them.
        publishers: connections that publish, each on its own share of the channels.
        in_flight: publications of each publisher, or echoes of each connection, on the way at a time; a publication
            is until every subscriber has received it. Not used with `rate`.
        rate: messages a second of all publishers or connections together, sent whether the server keeps up or not; 0:
            as fast as `in_flight` allows.
        size: bytes of a payload.
        work: rounds that the handler computes before each echo.
        stalled: of 100 subscribers this many stop reading (stall).
        warmup_s: load before the measuring.
        seconds: how long each of the `runs` measures; the medians count.

    Raises:
        ValueError: a field is out of its bounds.
    """

    scenario: Scenario
    connections: int = 1000
    channels: int = 1
    publishers: int = 1
    in_flight: int = 16
    rate: float = 0.0
    size: int = 64
    work: int = 0
    stalled: int = 10
    warmup_s: float = 0.5
    seconds: float = 2.0
    runs: int = 3

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be from {low} to {high}")
        if self.scenario in ("fanout", "stall") and self.publishers > self.channels:
            raise ValueError(f"{self.publishers} publishers on {self.channels} channels: each needs one of its own")

    @property
    def name(self) -> str:
        """A short name for tables: what differs from row to row."""
        size = f"{self.size // 1024} KiB" if self.size % 1024 == 0 else f"{self.size} B"
        flow = f"{self.rate:g}/s" if self.rate else f"{self.in_flight} in flight"
        names = {
            "fanout": f"fan-out {self.channels} × {round(self.connections / self.channels)}, {size}, {flow}",
            "echo": f"echo {self.connections} × {self.in_flight}, {size}",
            "storm": f"storm, {self.connections} at a time",
            "stall": f"stall {self.stalled} % of {self.connections}, {size}, {flow}",
            "idle": f"idle {self.connections}" + (f", {self.rate:g} messages/s" if self.rate else ""),
            "http": f"http, {self.connections} in flight, {size}",
            "question": f"question of a handler, {flow}",
        }
        return names[self.scenario]

    def as_dict(self) -> dict[str, object]:
        """Returns the job as JSON takes it: the arguments that make it again."""
        return asdict(self)


FANOUT: Final = Job("fanout")
PRESETS: Final[dict[Scenario, tuple[Job, ...]]] = {
    "fanout": (
        replace(FANOUT, in_flight=1),
        FANOUT,
        replace(FANOUT, in_flight=64),
        replace(FANOUT, size=1024),
        replace(FANOUT, channels=100, publishers=10, in_flight=8),
    ),
    "echo": (Job("echo", connections=100), Job("echo", connections=1, in_flight=1)),
    "storm": (Job("storm", connections=64),),
    "stall": (Job("stall", connections=100, rate=1000.0, size=4096, seconds=4.0, runs=1),),
    "idle": (Job("idle", connections=10_000, channels=100, rate=1000.0, runs=1),),
    "http": (Job("http", connections=64),),
    "question": (Job("question", connections=1, rate=500.0, warmup_s=0.0, seconds=1.0, runs=1),),
}
"""The jobs without further options: the loads that the project has budgets for."""
SCENARIOS: Final = tuple(PRESETS)
