"""The sequential truth of `test_exact`, and random programs for it."""

from dataclasses import dataclass, field
from random import Random

from kits.exact_app import PAUSE, Op

Call = tuple[object, ...]
"""What the core is asked: a name and its exact arguments, the same for the one-way form and for the question."""

CHANNELS = ["a", "b", "c", "d"]
LIMIT = 3
"""Channels of one socket."""


@dataclass
class Model:
    """What the core does, on plain lists.

    Args:
        sockets: the ids of those that are open.
    """

    sockets: list[int]
    members: dict[str, list[int]] = field(default_factory=lambda: {channel: [] for channel in CHANNELS})
    received: dict[int, list[str]] = field(default_factory=dict)
    closed: dict[int, tuple[int, str]] = field(default_factory=dict)
    tokens: dict[int, str | None] = field(default_factory=dict)
    _held: dict[int, list[str]] = field(default_factory=dict)
    """The channels of a socket, oldest subscription first."""

    def __post_init__(self) -> None:
        for socket in self.sockets:
            self.received[socket] = []
            self.tokens[socket] = None
            self._held[socket] = []

    def apply(self, call: Call) -> object:
        """Carries out a call; returns its answer."""
        name, *arguments = call
        return getattr(self, str(name))(*arguments)

    def is_open(self, socket: int) -> bool:
        return socket in self._held

    def subscriptions(self, socket: int) -> list[str]:
        return list(self._held.get(socket, []))

    def subscribe(self, socket: int, channel: str) -> bool:
        held = self.subscriptions(socket)
        if not self.is_open(socket) or channel in held or len(held) >= LIMIT:
            return False
        self._held[socket].append(channel)
        self.members[channel].append(socket)
        return True

    def unsubscribe(self, socket: int, channel: str) -> bool:
        if channel not in self.subscriptions(socket):
            return False
        self._held[socket].remove(channel)
        self.members[channel].remove(socket)
        return True

    def copy_subscriptions(self, source: str, target: str) -> None:
        if source != target:
            for socket in self.members[source]:
                self.subscribe(socket, target)

    def set_token(self, socket: int, token: str | None) -> None:
        if self.is_open(socket):
            self.tokens[socket] = token

    def send(self, socket: int, data: str) -> None:
        if self.is_open(socket):
            self.received[socket].append(data)

    def send_to_channel(self, channel: str, data: str, exclude: tuple[int, ...]) -> None:
        for socket in self.members[channel]:
            if socket not in exclude:
                self.received[socket].append(data)

    def close(self, socket: int, code: int, reason: str) -> None:
        if self.is_open(socket):
            for channel in self.subscriptions(socket):
                self.unsubscribe(socket, channel)
            del self._held[socket]
            self.closed[socket] = (code, reason)

    def subscriber_count(self, channel: str) -> int:
        return len(self.members[channel])

    def subscribers(self, channel: str) -> list[int]:
        return list(self.members[channel])

    def channels(self) -> list[str]:
        return sorted(channel for channel, members in self.members.items() if members)


QUESTIONS = {
    "subscribe",
    "unsubscribe",
    "subscriber_count",
    "has_subscribers",
    "subscribers",
    "subscriptions",
    "channels",
    "is_open",
}

WEIGHTS = {
    "subscribe": 10,
    "subscribe_nowait": 3,
    "unsubscribe": 6,
    "unsubscribe_nowait": 2,
    "copy_subscriptions": 5,
    "set_token": 12,
    "send": 4,
    "send_to_channel": 6,
    "close": 0.4,
    "subscriber_count": 2,
    "has_subscribers": 1,
    "subscribers": 3,
    "subscriptions": 3,
    "channels": 1,
    "is_open": 1,
    PAUSE: 4,
}


class Author:
    """Writes programs.

    Args:
        seed: of all that is random.
        sockets: whom they are about.
    """

    def __init__(self, seed: str, sockets: list[int]) -> None:
        self.random = Random(seed)
        self._sockets = sockets
        self._said = 0

    def ops(self, least: int, most: int) -> list[Op]:
        """One actor's program."""
        count = self.random.randint(least, most)
        return [self._op(name) for name in self.random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)]

    def _op(self, name: str) -> Op:
        socket = self.random.choice(self._sockets)
        channel = self.random.choice(CHANNELS)
        if name in (PAUSE, "channels"):
            return [name]
        if name in ("subscriptions", "is_open"):
            return [name, socket]
        if name in ("subscriber_count", "has_subscribers", "subscribers"):
            return [name, channel]
        if name == "copy_subscriptions":
            return [name, channel, self.random.choice(CHANNELS)]
        if name == "close":
            return [name, socket, 4000 + self.random.randrange(100), self._text()]
        if name == "set_token":
            return [name, socket, None if self.random.random() < 0.1 else self._text()]
        if name == "send":
            return [name, socket, self._text()]
        if name == "send_to_channel":
            return [name, channel, self._text(), self.random.sample(self._sockets, self.random.choice([0, 0, 1, 2]))]
        return [name, socket, channel]

    def _text(self) -> str:
        """Never the same again."""
        self._said += 1
        return str(self._said)


def call_of(op: Op) -> Call:
    """What the core is asked by it."""
    name, *arguments = op
    if name == "has_subscribers":
        return ("subscriber_count", *arguments)
    if name == "send_to_channel":
        channel, data, exclude = arguments
        assert isinstance(exclude, list)
        return (name, channel, data, tuple(exclude))
    return (str(name).removesuffix("_nowait"), *arguments)


def is_answer(op: Op, seen: object, answer: object) -> bool:
    """Whether an actor was told what the model says. One-way calls are told nothing."""
    name = op[0]
    if name not in QUESTIONS:
        return seen is None
    if name == "has_subscribers":
        return seen is (answer != 0)
    if name == "channels":
        assert isinstance(seen, list)
        return sorted(seen) == answer
    return seen == answer
