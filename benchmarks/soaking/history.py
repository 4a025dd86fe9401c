"""What all sockets of the order run have received, and whether one history explains it.

The history of a channel is what its *reference*, a member that never leaves and is never excluded, has received. Every
other member must have received exactly that, less what excluded it and less what came before it joined and after it
left; joining and leaving are publications themselves, one just before and one just after. Across channels and direct
sends there must be one order of everything in which each socket's log and each publisher's program are in order: the
graph of "was received, or asked for, right before" must have no cycle.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from benchmarks.soaking.plan import BURST, MAIN, MAIN_THREADS, Plan
from benchmarks.soaking.report import Report

OUT: Final = "out"
JOINING: Final = "joining"
IN: Final = "in"
LEAVING: Final = "leaving"
AFTER_MARK: Final = {"J1": JOINING, "J2": IN, "L1": LEAVING, "L2": OUT}


class Node(NamedTuple):
    """A publication or a direct send."""

    kind: str
    """``P``, ``D``; ``J1``, ``J2``, ``L1``, ``L2``: around joining and leaving"""
    publisher: int
    step: int
    """of the publisher's program"""
    place: int
    """channel, or who it is sent to"""


class Observer:
    """What all sockets have received, as numbers of nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.logs: defaultdict[int, list[int]] = defaultdict(list)
        self.answers: defaultdict[int, list[bytes]] = defaultdict(list)
        """What was no publication: answers to ``E`` and ``t``."""
        self._known: dict[bytes, int] = {}

    def take(self, number: int, payload: bytes) -> None:
        """A message that socket `number` has received."""
        node = self._known.get(payload)
        if node is None:
            kind = payload[:1]
            if kind in b"ET":
                self.answers[number].append(payload)
                return
            node = self._known[payload] = len(self.nodes)
            name, publisher, step, place = payload.decode().split(":")[:4]
            self.nodes.append(Node(name, int(publisher), int(step), int(place)))
        self.logs[number].append(node)


class Checks:
    """Compares what was received with what one history allows."""

    def __init__(self, report: Report, plan: Plan, observer: Observer, count: int) -> None:
        self._report = report
        self._plan = plan
        self._observer = observer
        self._count = count
        self._nodes = observer.nodes
        self._by_channel = {number: self._split(log) for number, log in observer.logs.items()}

    def _split(self, log: list[int]) -> dict[int, list[int]]:
        """A socket's log by channel; direct sends stand under -1."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for node in log:
            kind, _, _, place = self._nodes[node]
            found[-1 if kind == "D" else place].append(node)
        return dict(found)

    def all(self) -> None:
        """Every check."""
        plan = self._plan
        histories = {channel: self._by_channel.get(channel, {}).get(channel, []) for channel in range(plan.channels)}
        self._check_histories(histories)
        self._check_members(histories)
        self._check_direct()
        self._check_tokens()
        self._check_one_order()

    def _programs(self) -> Iterator[tuple[int, int]]:
        """Publishers, with how many messages each."""
        for number in self._plan.publishers():
            yield number, self._count
        for number in range(MAIN, MAIN + MAIN_THREADS):
            yield number, self._count * 10

    def _check_histories(self, histories: dict[int, list[int]]) -> None:
        """Each publisher's messages are in its channels' histories, all of them, once, in order."""
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for channel, history in histories.items():
            for node in history:
                kind, publisher, index, _ = self._nodes[node]
                if kind == "P":
                    found[publisher, channel].append(index)
        expected: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for publisher, count in self._programs():
            for index in range(count):
                kind, _, _, place, _ = self._plan.message(publisher, index).split(":")
                if kind == "P":
                    expected[publisher, int(place)].append(index)
        wrong = [key for key in expected if found[key] != expected[key]]
        what = "each publisher's publications are in their channel's history, once and in order"
        self._report.check(found.keys() == expected.keys() and not wrong, what, wrong[:5] or "")

    def _check_members(self, histories: dict[int, list[int]]) -> None:
        """Every member has received its part of the history."""
        plan = self._plan
        wrong: list[tuple[int, int]] = []
        checked = 0
        roamers = set(plan.roamers())
        for number, channels in self._by_channel.items():
            expected_channels = set(plan.memberships(number))
            roams = plan.roams(number) if number in roamers else -1
            for channel in expected_channels | channels.keys() - {-1}:
                received = channels.get(channel, [])
                checked += len(received)
                if channel in expected_channels:
                    is_right = received == self._visible(histories[channel], number)
                else:
                    is_right = channel == roams and self._is_roamers_part(number, received, histories[channel])
                if not is_right:
                    wrong.append((number, channel))
        what = "every member has received the history of its time in a channel, less what excluded it"
        self._report.check(not wrong, what, f"(socket, channel) {wrong[:5]}" if wrong else checked)

    def _visible(self, history: list[int], number: int) -> list[int]:
        return [node for node in history if not self._is_excluded(node, number)]

    def _is_excluded(self, node: int, number: int) -> bool:
        kind, publisher, index, _ = self._nodes[node]
        return kind == "P" and number in self._plan.excluded(publisher, index)

    def _is_roamers_part(self, number: int, received: list[int], history: list[int]) -> bool:
        """Everything while it was a member. Between the two marks around joining it may begin at any moment, and stop
        at any between those around leaving."""
        got = set(received)
        if received != [node for node in history if node in got]:
            return False
        state = OUT
        for node in history:
            kind, publisher, _, _ = self._nodes[node]
            is_received = node in got
            if kind != "P" and publisher == number:
                if is_received != (kind in ("J2", "L1")):
                    return False
                state = AFTER_MARK[kind]
            elif self._is_excluded(node, number):
                if is_received:
                    return False
            elif state == JOINING and is_received:
                state = IN
            elif state == LEAVING and not is_received:
                state = OUT
            elif state in (OUT, IN) and is_received != (state == IN):
                return False
        return True

    def _check_direct(self) -> None:
        expected: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for publisher, count in self._programs():
            for index in range(count):
                kind, _, _, place, _ = self._plan.message(publisher, index).split(":")
                if kind == "D":
                    expected[int(place), publisher].append(index)
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, channels in self._by_channel.items():
            for node in channels.get(-1, []):
                sent = self._nodes[node]
                found[number if number == sent.place else -1, sent.publisher].append(sent.step)
        self._report.check(found == expected, "every direct send is there, once and in order", len(expected))

    def _check_tokens(self) -> None:
        times = self._count // BURST + 1
        expected = [answer.encode() for index in range(times) for answer in (f"T:{index}", f"T:{index}'")]
        wrong = [
            number
            for number in range(self._plan.sockets)
            if [answer for answer in self._observer.answers[number] if answer[0] != 0x45] != expected
        ]
        what = "every token was seen by the next message of its segment"
        told = len(expected) * self._plan.sockets
        self._report.check(not wrong, what, f"not by those of {wrong[:5]}" if wrong else told)

    def _asked_at(self, node: int) -> tuple[int, str]:
        """Where a node stands in its publisher's program."""
        found = self._nodes[node]
        return found.step, found.kind

    def _check_one_order(self) -> None:
        """Sorts everything topologically, which fails exactly if there is a cycle."""
        programs: defaultdict[int, list[int]] = defaultdict(list)
        for node in sorted(range(len(self._nodes)), key=self._asked_at):
            programs[self._nodes[node].publisher].append(node)
        after: list[set[int]] = [set() for _ in self._nodes]
        for log in (*self._observer.logs.values(), *programs.values()):
            for first, second in pairwise(log):
                after[first].add(second)
        before = [0] * len(self._nodes)
        for successors in after:
            for node in successors:
                before[node] += 1
        free = [node for node, number in enumerate(before) if number == 0]
        done = 0
        while free:
            done += 1
            for node in after[free.pop()]:
                before[node] -= 1
                if before[node] == 0:
                    free.append(node)
        stuck = [self._nodes[node] for node, number in enumerate(before) if number]
        what = "one order explains what all sockets received and all publishers asked for"
        edges = sum(map(len, after))
        self._report.check(not stuck, what, stuck[:5] if stuck else f"{done} in a row, {edges} pairs compared")
