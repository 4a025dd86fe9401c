"""The checks of the order run see what they are for: a history of paper is right, and each way to spoil it is not."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

import kits.benchmark_kit  # noqa: F401
from benchmarks.soaking.history import Checks, Observer
from benchmarks.soaking.plan import BURST, MAIN, MAIN_THREADS, Plan
from benchmarks.soaking.report import Report

PLAN = Plan(sockets=30, channels=4)
COUNT = BURST


def messages() -> Iterator[str]:
    """What everybody publishes, one of each in turn; a roamer joins near the beginning and leaves near the end."""
    roamer = PLAN.roamers()[0]
    channel = PLAN.roams(roamer)
    publishers = [*PLAN.publishers(), *range(MAIN, MAIN + MAIN_THREADS)]
    for index in range(COUNT * 10):
        if index == 2:
            yield from (f"J1:{roamer}:0:{channel}", f"J2:{roamer}:0:{channel}")
        if index == COUNT:
            yield from (f"L1:{roamer}:1:{channel}", f"L2:{roamer}:1:{channel}")
        for publisher in publishers:
            if index < COUNT or publisher >= MAIN:
                yield PLAN.message(publisher, index)


def a_run() -> dict[int, list[str]]:
    """By socket, what it receives when everything is right."""
    received: dict[int, list[str]] = {number: [] for number in range(PLAN.sockets)}
    members = {number: set(PLAN.memberships(number)) for number in received}
    for message in messages():
        kind, publisher, index, place = message.split(":")[:4]
        if kind == "D":
            received[int(place)].append(message)
            continue
        if kind == "J2":
            members[int(publisher)].add(int(place))
        if kind == "L2":
            members[int(publisher)].remove(int(place))
        excluded = PLAN.excluded(int(publisher), int(index)) if kind == "P" else []
        for number, channels in members.items():
            if int(place) in channels and number not in excluded:
                received[number].append(message)
    for answers in received.values():
        answers += [answer for index in range(COUNT // BURST + 1) for answer in (f"T:{index}", f"T:{index}'")]
    return received


def verdict(received: dict[int, list[str]]) -> list[str]:
    """What the checks say."""
    observer = Observer()
    for number, payloads in received.items():
        for payload in payloads:
            observer.take(number, payload.encode())
    report = Report("paper", lambda line: None)
    Checks(report, PLAN, observer, COUNT).all()
    return report.failures


def last_of(payloads: list[str], kind: str) -> int:
    return max(at for at, payload in enumerate(payloads) if payload.startswith(kind))


def test_a_right_history_is_right() -> None:
    assert verdict(a_run()) == []


def lose(payloads: list[str]) -> None:
    del payloads[last_of(payloads, "P")]


def double(payloads: list[str]) -> None:
    at = last_of(payloads, "P")
    payloads.insert(at, payloads[at])


def lose_direct(payloads: list[str]) -> None:
    del payloads[last_of(payloads, "D")]


def spoil_token(payloads: list[str]) -> None:
    payloads[last_of(payloads, "T")] = "T:0"


@pytest.mark.parametrize("spoil", [lose, double, lose_direct, spoil_token])
def test_a_socket_that_got_something_else_is_seen(spoil: Callable[[list[str]], None]) -> None:
    received = a_run()
    number = next(n for n, payloads in received.items() if n >= PLAN.channels and any(p[0] == "D" for p in payloads))
    spoil(received[number])
    assert verdict(received) != []


def swappable(received: dict[int, list[str]]) -> Iterator[tuple[list[str], int]]:
    """Neighbours of different channels that another socket has received as such too; references are left alone."""
    seen: set[tuple[str, str]] = set()
    for number, payloads in received.items():
        for at, (first, second) in enumerate(pairwise(payloads)):
            if first[0] == second[0] == "P" and first.split(":")[3] != second.split(":")[3]:
                if (first, second) in seen and number >= PLAN.channels:
                    yield payloads, at
                seen.add((first, second))


def test_two_channels_in_another_order_are_seen() -> None:
    received = a_run()
    payloads, at = next(swappable(received))
    payloads[at], payloads[at + 1] = payloads[at + 1], payloads[at]
    failures = verdict(received)
    assert len(failures) == 1 and failures[0].startswith("one order")


@pytest.mark.parametrize("mark", ["J2", "L1"])
def test_a_roamer_that_lost_one_beside_joining_or_leaving_is_seen(mark: str) -> None:
    received = a_run()
    roamer = PLAN.roamers()[0]
    place = f":{PLAN.roams(roamer)}:"
    mine = [at for at, payload in enumerate(received[roamer]) if payload[0] == "P" and place in payload[4:]]
    at = mine[0] if mark == "J2" else mine[-1]
    del received[roamer][at]
    assert verdict(received) != []


def test_one_that_was_excluded_and_got_it_is_seen() -> None:
    received = a_run()
    for message in messages():
        kind, publisher, index, place = message.split(":")[:4]
        excluded = PLAN.excluded(int(publisher), int(index)) if kind == "P" else []
        got = [number for number in excluded if int(place) in PLAN.memberships(number)]
        if got:
            received[got[0]].append(message)
            break
    assert verdict(received) != []
