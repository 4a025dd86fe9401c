"""How the core's cost grows with subscribers, channels and subscriptions: what must be flat, and what it is held to.

    python -m benchmarks scaling [--rounds 60] [--json FILE]

No sockets and no loop take part, and a write is a call that drops it, so what the rows show is the broker's own growth
and nothing else. Each figure is the lowest of the rounds, which alternate: what others do on the machine only adds. The
cost of a delivery is what a turn with three times as many of them takes longer, so a publication's is not in it.
Claims about a delivery count the cheapest write there is with it, one to /dev/null (a ``send`` costs ten times as much
and more): without, they would be about the processor's cache. Exits with 1 if a claim does not hold.
"""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from operator import call
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # behind everything, an installed wsbroker included

from benchmarks.experiments import Claim, Experiment, Result, claim_at_most
from benchmarks.load.table import format_columns
from kits.workload_kit import Work
from wsbroker.build import core_kind

PAYLOAD: Final = "x" * 64
SUBSCRIBERS: Final = ((10, 1), (100, 1), (1000, 1), (10_000, 1))
CHANNELS: Final = ((10_000, 1), (10_000, 10), (10_000, 100), (10_000, 1000), (10_000, 10_000))
"""The shapes, numbers of subscribers and channels, whose deliveries must cost the same."""
SUBSCRIPTIONS: Final = (1, 2, 4, 8, 16, 32, 64)
FLAT: Final = 1.5
BESIDE_LISTS: Final = 2.0
BESIDE_ALONE: Final = 1.2
"""A publication to 10,000 with one direct answer, beside the publication alone; seen: 1.0 to 1.1."""
DELIVERIES: Final = 10_000
"""In a measured piece of work, at least."""

Turn = Callable[[], object]
Found = tuple[list[list[str]], list[Claim]]
"""Rows of the table, and the claims about them."""


def measure_lowest_s(turns: Sequence[Turn], rounds: int, repeats: Sequence[int] = ()) -> list[float]:
    """Returns the seconds that each turn takes: the lowest of the rounds, in which the turns alternate.

    Args:
        repeats: how often each turn is taken in a round; () for once.
    """
    lowest = [float("inf")] * len(turns)
    for _ in range(rounds):
        for index, turn in enumerate(turns):
            times = repeats[index] if repeats else 1
            turn()  # what the others pushed out of the processor's cache is in it again
            start_s = time.perf_counter()
            for _ in range(times):
                turn()
            lowest[index] = min(lowest[index], (time.perf_counter() - start_s) / times)
    return lowest


def make_subscribed(sockets: int, channels: int) -> Work:
    """Returns a broker whose sockets have a channel each: the first sockets the first channel, and so on."""
    work = Work(sockets, channels, subscriptions=0, counts_writes=False)
    for index, connection in enumerate(work.connections):
        work.broker.subscribe(connection.id, work.names[index * channels // sockets])
    work.turn()
    return work


def publish_on_all(work: Work) -> None:
    """Takes a turn with a publication on every channel."""
    publish = work.broker.publish
    for name in work.names:
        publish(name, PAYLOAD, ())
    work.turn()


def measure_deliveries_ns(shapes: Sequence[tuple[int, int]], rounds: int) -> list[float]:
    """Returns what a delivery costs in each shape (subscribers, channels): thrice the subscribers, and the difference.

    The shapes alternate: what slows the machine for a while slows all of them.
    """
    turns, repeats = [], []
    for subscribers, channels in shapes:
        for count in (subscribers, 3 * subscribers):
            turns.append(partial(publish_on_all, make_subscribed(count, channels)))
            repeats.append(max(DELIVERIES // subscribers, 1))
    took_s = measure_lowest_s(turns, rounds, repeats)
    return [
        (took_s[2 * index + 1] - took_s[2 * index]) / (2 * subscribers) * 1e9
        for index, (subscribers, _) in enumerate(shapes)
    ]


class Lists:
    """Broadcasts the usual way: a list of frames for each connection, joined once a turn.

    The loops run in C and need not find out which connections have something to write: as fast as Python gets.
    """

    def __init__(self, sockets: int, channels: int, subscriptions: int) -> None:
        self._write: Callable[[bytes], None] = deque[bytes](maxlen=0).append
        self._lists: list[list[bytes]] = [[] for _ in range(sockets)]
        self._members: list[list[Callable[[bytes], None]]] = [[] for _ in range(channels)]
        for index, each in enumerate(self._lists):
            for number in range(subscriptions):
                self._members[(index + number) % channels].append(each.append)
        self._head = bytes([0x81, len(PAYLOAD)])

    def take_turn(self) -> None:
        """Appends a publication of every channel, and writes for every connection."""
        for members in self._members:
            frame = self._head + PAYLOAD.encode()
            deque(map(call, members, repeat(frame)), 0)
        deque(map(self._write, map(b"".join, self._lists)), 0)
        deque(map(list.clear, self._lists), 0)


def measure_growth(rounds: int, shapes: Sequence[tuple[int, int]] = SUBSCRIBERS, unit: str = "subscribers") -> Found:
    """Measures a delivery in each shape (subscribers, channels), and claims that the last costs what the first does."""
    costs_ns = measure_deliveries_ns(shapes, rounds)
    names = [
        f"a publication on each of {each:,} channels, to {sockets // each:,} subscribers" for sockets, each in shapes
    ]
    rows = [[name, f"{ns:.0f} ns"] for name, ns in zip(names, costs_ns, strict=True)]
    first, last = (shape[unit == "channels"] for shape in (shapes[0], shapes[-1]))
    # The cheapest write is counted with each: without, the claim would be about the processor's cache.
    write_ns = measure_cheapest_write_ns(rounds)
    ratio = (max(costs_ns) + write_ns) / (max(min(costs_ns), 0.0) + write_ns)
    subject = f"a delivery with the cheapest write, from {first:,} to {last:,} {unit}: highest beside lowest"
    return rows, [claim_at_most(subject, ratio, FLAT)]


def measure_subscriptions(rounds: int, numbers: Sequence[int] = SUBSCRIPTIONS, sockets: int = 1000) -> Found:
    """Measures one to many subscriptions of each socket, beside `Lists`."""
    channels = max(numbers)
    rows, ratios = [], []
    for number in numbers:
        ours = partial(publish_on_all, Work(sockets, channels, number, counts_writes=False))
        ours_s, lists_s = measure_lowest_s([ours, Lists(sockets, channels, number).take_turn], rounds)
        ratios.append(ours_s / lists_s)
        each_ns, lists_ns = (took_s / sockets / number * 1e9 for took_s in (ours_s, lists_s))
        rows.append(
            [f"{number} of {channels} channels for each of {sockets:,}", f"{each_ns:.0f} ns, lists {lists_ns:.0f}"]
        )
    subject = (
        f"{numbers[0]} to {numbers[-1]} subscriptions of each socket: core's cost beside a list per connection, at most"
    )
    return rows, [claim_at_most(subject, max(ratios), BESIDE_LISTS)]


def measure_direct_answer(rounds: int, subscribers: int = 10_000) -> Found:
    """Measures a publication with a direct answer to one subscriber in the same turn, beside one without."""
    work = make_subscribed(subscribers, 1)
    one = work.connections[subscribers // 2].id

    def publish_alone() -> None:
        work.broker.publish(work.names[0], PAYLOAD, ())
        work.turn()

    def publish_and_answer() -> None:
        work.broker.publish(work.names[0], PAYLOAD, ())
        work.broker.send(one, "answer")
        work.turn()

    alone_s, answered_s = measure_lowest_s([publish_alone, publish_and_answer], rounds, (4, 4))
    rows = [
        [f"a publication to {subscribers:,}", f"{alone_s * 1e6:.0f} µs"],
        ["and a direct answer to one of them", f"{answered_s * 1e6:.0f} µs"],
    ]
    subject = "core's cost of a publication to 10,000 with a direct answer, beside one without"
    return rows, [claim_at_most(subject, answered_s / alone_s, BESIDE_ALONE)]


def measure_cheapest_write_ns(rounds: int) -> float:
    """Returns what the system takes for a write to /dev/null."""
    frame = bytes([0x81, len(PAYLOAD)]) + PAYLOAD.encode()
    with open(os.devnull, "wb", buffering=0) as nowhere:
        (took_s,) = measure_lowest_s([partial(os.write, nowhere.fileno(), frame)], rounds, (1000,))
    return took_s * 1e9


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--rounds", type=int, default=60, help="whose lowest counts  [60]")


def measure_scaling(options: argparse.Namespace) -> Result:
    """Measures all rows and claims."""
    measures = (
        measure_growth,
        partial(measure_growth, shapes=CHANNELS, unit="channels"),
        measure_subscriptions,
        measure_direct_answer,
    )
    found = [measure(options.rounds) for measure in measures]
    write_ns = measure_cheapest_write_ns(options.rounds)
    return {
        "core": core_kind(),
        "rows": [*chain(*(rows for rows, _ in found)), ["the cheapest write, to /dev/null", f"{write_ns:.0f} ns"]],
        "scaling_claims": [*chain(*(claims for _, claims in found))],
    }


def format_scaling(result: Result) -> str:
    """Returns the rows as a table."""
    warning = "" if result["core"] == "compiled" else "; the claims are about the compiled one"
    head = f"core: {result['core']}{warning}, Python {sys.version.split()[0]}"
    return "\n".join([head, format_columns(["what", "each"], result["rows"]), ""])


def claim_scaling(result: Result) -> list[Claim]:
    """Returns the claims, which are made where their rows are measured."""
    return list(result["scaling_claims"])


EXPERIMENT: Final = Experiment(
    "scaling", "how the core's cost grows", add_options, measure_scaling, format_scaling, claim_scaling
)
