"""Random programs for `exact_kit`: lists of calls of the API, with pauses."""

from random import Random

from kits.broker_model import Call
from kits.exact_app import PAUSE, Op

CHANNELS = ["a", "b", "c", "d"]
LIMIT = 3
"""Channels of one socket."""


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
        """Returns a random program for one actor, of `least` to `most` calls."""
        count = self.random.randint(least, most)
        return [self._op(name) for name in self.random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)]

    def _op(self, name: str) -> Op:
        """Returns a call of this name with random arguments."""
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
        """Returns a text that no other call of this author has."""
        self._said += 1
        return str(self._said)


def call_of(op: Op) -> Call:
    """Returns the call that the core gets for a call of the API, in the form that `BrokerModel.apply` takes."""
    name, *arguments = op
    if name == "has_subscribers":
        return ("subscriber_count", *arguments)
    if name == "send_to_channel":
        channel, data, exclude = arguments
        assert isinstance(exclude, list)
        return (name, channel, data, tuple(exclude))
    return (str(name).removesuffix("_nowait"), *arguments)


def is_answer(op: Op, seen: object, answer: object) -> bool:
    """Returns whether a call of the API returned what the model answers; a one-way call must have returned None."""
    name = op[0]
    if name not in QUESTIONS:
        return seen is None
    if name == "has_subscribers":
        return seen is (answer != 0)
    if name == "channels":
        assert isinstance(seen, list)
        return sorted(seen) == answer
    return seen == answer
