"""How the core's cost grows with subscribers, channels and subscriptions: what must be flat, and what it is held to.

    python -m benchmarks scaling [--rounds 60] [--json FILE]

No sockets and no loop take part, and a write is a call that drops it, so what the rows show is the broker's own growth
and nothing else. Each figure is the lowest of the rounds, which alternate: what others do on the machine only adds. The
cost of a delivery is what a turn with three times as many of them takes longer, so a publication's is not in it.
Claims about a delivery count the cheapest write there is with it, one to /dev/null (a ``send`` costs ten times as much
and more): without, they would be about the processor's cache. Exits with 1 if a claim does not hold.
"""

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from operator import call
from pathlib import Path
from typing import Final

# Behind everything, so that an installed wsbroker is what is measured.
if not __package__:
    sys.path.append(str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent.parent / "tests"))

from benchmarks.claim import Claim
from benchmarks.load.machine import facts
from benchmarks.load.table import text_table
from kits.workload_kit import Work
from wsbroker.build import core_kind

PAYLOAD: Final = "x" * 64
SUBSCRIBERS: Final = (10, 100, 1000, 10_000)
CHANNELS: Final = (1, 10, 100, 1000, 10_000)
SUBSCRIPTIONS: Final = (1, 2, 4, 8, 16, 32, 64)
FLAT: Final = 1.5
BESIDE_LISTS: Final = 2.0
BESIDE_ALONE: Final = 1.2
"""A publication to 10,000 with one direct answer, beside the publication alone; seen: 1.0 to 1.1."""
DELIVERIES: Final = 10_000
"""In a measured piece of work, at least."""

Turn = Callable[[], object]


def lowest_s(turns: Sequence[Turn], rounds: int, repeats: Sequence[int] = ()) -> list[float]:
    """How long each takes: the lowest of the rounds, in which they alternate.

    Args:
        repeats: how often each is taken in a round; () for once.
    """
    found = [float("inf")] * len(turns)
    for _ in range(rounds):
        for index, turn in enumerate(turns):
            times = repeats[index] if repeats else 1
            turn()  # what the others pushed out of the processor's cache is in it again
            start_s = time.perf_counter()
            for _ in range(times):
                turn()
            found[index] = min(found[index], (time.perf_counter() - start_s) / times)
    return found


def subscribed(sockets: int, channels: int) -> Work:
    """Sockets with a channel each: the first ones with the first channel, and so on."""
    work = Work(sockets, channels, subscriptions=0, counts_writes=False)
    for index, connection in enumerate(work.connections):
        work.broker.subscribe(connection.id, work.names[index * channels // sockets])
    work.turn()
    return work


def publish_on_all(work: Work) -> None:
    """A turn with a publication on every channel."""
    publish = work.broker.publish
    for name in work.names:
        publish(name, PAYLOAD, ())
    work.turn()


def deliveries_ns(shapes: Sequence[tuple[int, int]], rounds: int) -> list[float]:
    """What a delivery costs in each shape (subscribers, channels): thrice the subscribers, and the difference.

    All shapes alternate: what slows the machine for a while slows them all.
    """
    turns, repeats = [], []
    for subscribers, channels in shapes:
        for count in (subscribers, 3 * subscribers):
            turns.append(partial(publish_on_all, subscribed(count, channels)))
            repeats.append(max(DELIVERIES // subscribers, 1))
    took_s = lowest_s(turns, rounds, repeats)
    return [
        (took_s[2 * index + 1] - took_s[2 * index]) / (2 * subscribers) * 1e9
        for index, (subscribers, _) in enumerate(shapes)
    ]


class Lists:
    """The usual way: a list of frames for each connection, joined once a turn.

    Its loops run in C, and who has something to write it need not find out: it is as fast as Python can be told to be.
    """

    def __init__(self, sockets: int, channels: int, subscriptions: int) -> None:
        self._write: Callable[[bytes], None] = deque[bytes](maxlen=0).append
        self._lists: list[list[bytes]] = [[] for _ in range(sockets)]
        self._members: list[list[Callable[[bytes], None]]] = [[] for _ in range(channels)]
        for index, each in enumerate(self._lists):
            for number in range(subscriptions):
                self._members[(index + number) % channels].append(each.append)
        self._head = bytes([0x81, len(PAYLOAD)])

    def turn(self) -> None:
        """A publication on every channel, and the writes."""
        for members in self._members:
            frame = self._head + PAYLOAD.encode()
            deque(map(call, members, repeat(frame)), 0)
        deque(map(self._write, map(b"".join, self._lists)), 0)
        deque(map(list.clear, self._lists), 0)


def subscribers_flat(rounds: int, numbers: Sequence[int] = SUBSCRIBERS) -> tuple[list[list[str]], list[Claim]]:
    """Rows and claim: from a few subscribers of a channel to many."""
    found = dict(zip(numbers, deliveries_ns([(number, 1) for number in numbers], rounds), strict=True))
    rows = [[f"1 channel of {number:,} subscribers", f"{ns:.0f} ns"] for number, ns in found.items()]
    what = f"a delivery with the cheapest write, from {numbers[0]:,} to {numbers[-1]:,} subscribers"
    return rows, [flat(what, list(found.values()), cheapest_write_ns(rounds))]


def channels_flat(
    rounds: int, numbers: Sequence[int] = CHANNELS, subscribers: int = 10_000
) -> tuple[list[list[str]], list[Claim]]:
    """Rows and claim: from one channel with everybody in it to channels with one subscriber."""
    found = dict(zip(numbers, deliveries_ns([(subscribers, number) for number in numbers], rounds), strict=True))
    rows = [
        [f"{number:,} channels of {subscribers // number:,}, all in one turn", f"{ns:.0f} ns"]
        for number, ns in found.items()
    ]
    what = f"a delivery with the cheapest write, from {numbers[0]:,} to {numbers[-1]:,} channels"
    return rows, [flat(what, list(found.values()), cheapest_write_ns(rounds))]


def beside_lists(
    rounds: int, numbers: Sequence[int] = SUBSCRIPTIONS, sockets: int = 1000
) -> tuple[list[list[str]], list[Claim]]:
    """Rows and claim: one to many subscriptions of each socket, all with something new in the same turn."""
    channels = max(numbers)
    rows, ratios = [], []
    for number in numbers:
        ours = partial(publish_on_all, Work(sockets, channels, number, counts_writes=False))
        ours_s, lists_s = lowest_s([ours, Lists(sockets, channels, number).turn], rounds)
        ratios.append(ours_s / lists_s)
        each_ns, lists_ns = (took_s / sockets / number * 1e9 for took_s in (ours_s, lists_s))
        rows.append(
            [f"{number} of {channels} channels for each of {sockets:,}", f"{each_ns:.0f} ns, lists {lists_ns:.0f}"]
        )
    what = (
        f"{numbers[0]} to {numbers[-1]} subscriptions of each socket: core's cost beside a list per connection, at most"
    )
    return rows, [Claim(what, max(ratios), f"≤ {BESIDE_LISTS:g}", max(ratios) <= BESIDE_LISTS)]


def answer_is_cheap(rounds: int, subscribers: int = 10_000) -> tuple[list[list[str]], list[Claim]]:
    """Rows and claim: a publication and a direct answer to one subscriber in the same turn."""
    work = subscribed(subscribers, 1)
    one = work.connections[subscribers // 2].id

    def alone() -> None:
        work.broker.publish(work.names[0], PAYLOAD, ())
        work.turn()

    def answered() -> None:
        work.broker.publish(work.names[0], PAYLOAD, ())
        work.broker.send(one, "answer")
        work.turn()

    alone_s, answered_s = lowest_s([alone, answered], rounds, (4, 4))
    rows = [
        [f"a publication to {subscribers:,}", f"{alone_s * 1e6:.0f} µs"],
        ["and a direct answer to one of them", f"{answered_s * 1e6:.0f} µs"],
    ]
    ratio = answered_s / alone_s
    what = "core's cost of a publication to 10,000 with a direct answer, beside one without"
    return rows, [Claim(what, ratio, f"≤ {BESIDE_ALONE:g}", ratio <= BESIDE_ALONE)]


def cheapest_write_ns(rounds: int) -> float:
    """What the system takes for a write that goes nowhere."""
    frame = bytes([0x81, len(PAYLOAD)]) + PAYLOAD.encode()
    with open(os.devnull, "wb", buffering=0) as nowhere:
        (took_s,) = lowest_s([partial(os.write, nowhere.fileno(), frame)], rounds, (1000,))
    return took_s * 1e9


def flat(what: str, costs_ns: Sequence[float], write_ns: float) -> Claim:
    """The claim that the highest is near the lowest."""
    ratio = (max(costs_ns) + write_ns) / (max(min(costs_ns), 0.0) + write_ns)
    return Claim(f"{what}: highest beside lowest", ratio, f"≤ {FLAT:g}", ratio <= FLAT)


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="whose lowest counts  [60]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args(argv)
    print(f"core: {core_kind()}, Python {sys.version.split()[0]}; {facts()}")
    rows: list[list[str]] = []
    claims: list[Claim] = []
    for measure in (subscribers_flat, channels_flat, beside_lists, answer_is_cheap):
        more_rows, more_claims = measure(options.rounds)
        rows += more_rows
        claims += more_claims
    print(text_table(["what", "each"], rows))
    print(f"The cheapest write there is takes {cheapest_write_ns(options.rounds):.0f} ns here.", "", *claims, sep="\n")
    if core_kind() != "compiled":
        print("This core is interpreted: the claims are about the compiled one.")
    if options.json:
        found = {
            "core": core_kind(),
            "machine": facts(),
            "rows": [dict(zip(("what", "each"), row, strict=True)) for row in rows],
            "claims": [claim._asdict() for claim in claims],
        }
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
