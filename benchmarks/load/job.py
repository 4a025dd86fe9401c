"""The jobs of the load: a pattern with its connections, rates, sizes and times."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final, Literal

Scenario = Literal["fanout", "echo", "storm", "stall", "idle", "http", "question"]

SHAPE: Final = ("connections", "channels", "publishers", "in_flight", "rate", "size", "work", "stalled")
"""The fields of a job that make another load; the others are times."""
TIMES: Final = ("seconds", "runs", "warmup_s")
MIN_SIZE: Final = 12
"""Bytes of a payload: room for the channel and the number."""


@dataclass(frozen=True, slots=True)
class Job:
    """The load of one row of a table.

    Args:
        scenario: the pattern of the load.
        connections: subscribers; connections that echo; connections at a time (storm); that send requests (http).
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
        """Checks the bounds of all fields."""
        for name in ("connections", "channels", "publishers", "in_flight", "seconds", "runs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be more")
        if self.size < MIN_SIZE:
            raise ValueError(f"size is {self.size}, and must be {MIN_SIZE} or more")
        if self.scenario in ("fanout", "stall") and self.publishers > self.channels:
            raise ValueError(f"{self.publishers} publishers on {self.channels} channels: each needs one of its own")

    @property
    def name(self) -> str:
        """A short name for tables: the pattern, the connections, and each setting that is not a default."""
        usual = Job(self.scenario)
        settings = [(name, getattr(self, name)) for name in SHAPE if getattr(self, name) != getattr(usual, name)]
        texts = [f"{value:g} {name.replace('_', ' ')}" for name, value in settings if name != "connections"]
        return ", ".join([f"{self.scenario} {self.connections}", *texts])

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


def add_job_options(parser: argparse.ArgumentParser, names: Iterable[str], base: Job | None = None) -> None:
    """Adds an option for each of these fields of a job, with the defaults of a job.

    Args:
        base: None: no defaults, and each option takes several values with commas between them.
    """
    for name in names:
        parse = type(getattr(FANOUT, name))
        if base is None:
            parser.add_argument(_spell_option(name), dest=name, type=partial(_parse_list, parse), metavar="N[,N…]")
        else:
            default = getattr(base, name)
            parser.add_argument(_spell_option(name), dest=name, type=parse, default=default, help=f"[{default:g}]")


def _spell_option(name: str) -> str:
    """Returns the option for a field of a job."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def _parse_list(parse: Callable[[str], float], text: str) -> list[float]:
    """Parses numbers with commas between them; called by argparse."""
    try:
        return [parse(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of such numbers") from None
