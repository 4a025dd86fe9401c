"""The sequential model of the broker: what each call of the API means, carried out at once on plain lists.

The broker gathers turns, merges, blocks and caps; several workers and threads ask it at the same time. For one order
of the calls, sockets must receive and calls must return what this model says. It
stands against the core (`property/test_order.py`, `property/test_registries.py`), whole servers (`kits/exact_kit.py`)
and `wsbroker.testing.TestBroker` (`property/test_testing.py`).
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

Call = tuple[object, ...]
"""A call of the API: its name and its exact arguments, the same for the one-way form and for the one with an answer."""

Channel = TypeVar("Channel", str, bytes)
Payload = TypeVar("Payload", str, bytes)


class BrokerModel(Generic[Channel, Payload]):
    """A broker with these sockets open and no subscriptions.

    Args:
        socket_ids: the ids of the open sockets.
        max_channels: how many subscriptions a socket may have; more are refused.
    """

    def __init__(self, socket_ids: Iterable[int], max_channels: int) -> None:
        self.received: dict[int, list[Payload]] = {}
        """What each socket was sent, oldest first; closed sockets keep theirs."""
        self.tokens: dict[int, str | bytes | None] = {}
        self.closed: dict[int, tuple[int, str]] = {}
        """Code and reason by the ids of the closed sockets."""
        self._max_channels = max_channels
        self._members: dict[Channel, list[int]] = {}
        self._held: dict[int, list[Channel]] = {}
        """The channels of each open socket, oldest subscription first."""
        for socket_id in socket_ids:
            self.open_socket(socket_id)

    def apply(self, call: Call) -> object:
        """Carries out a call; returns its answer."""
        name, *arguments = call
        return getattr(self, str(name))(*arguments)

    def open_socket(self, socket_id: int) -> None:
        """Adds a socket with a new id."""
        assert socket_id not in self.received, socket_id
        self.received[socket_id] = []
        self.tokens[socket_id] = None
        self._held[socket_id] = []

    def is_open(self, socket_id: int) -> bool:
        return socket_id in self._held

    def subscriptions(self, socket_id: int) -> list[Channel]:
        return list(self._held.get(socket_id, []))

    def subscribe(self, socket_id: int, channel: Channel) -> bool:
        """Subscribes a socket to a channel; returns whether that changed something."""
        held = self.subscriptions(socket_id)
        if not self.is_open(socket_id) or channel in held or len(held) >= self._max_channels:
            return False
        self._held[socket_id].append(channel)
        self._members.setdefault(channel, []).append(socket_id)
        return True

    def unsubscribe(self, socket_id: int, channel: Channel) -> bool:
        """Unsubscribes a socket from a channel; returns whether that changed something."""
        if channel not in self.subscriptions(socket_id):
            return False
        self._held[socket_id].remove(channel)
        self._members[channel].remove(socket_id)
        return True

    def copy_subscriptions(self, source: Channel, target: Channel) -> None:
        if source != target:
            for socket_id in self.subscribers(source):
                self.subscribe(socket_id, target)

    def set_token(self, socket_id: int, token: str | bytes | None) -> None:
        if self.is_open(socket_id):
            self.tokens[socket_id] = token

    def send(self, socket_id: int, data: Payload) -> None:
        if self.is_open(socket_id):
            self.received[socket_id].append(data)

    def send_to_channel(self, channel: Channel, data: Payload, exclude: tuple[int, ...]) -> None:
        for socket_id in self._members.get(channel, []):
            if socket_id not in exclude:
                self.received[socket_id].append(data)

    def close(self, socket_id: int, code: int, reason: str) -> None:
        if self.is_open(socket_id):
            for channel in self.subscriptions(socket_id):
                self.unsubscribe(socket_id, channel)
            del self._held[socket_id]
            self.closed[socket_id] = (code, reason)

    def subscriber_count(self, channel: Channel) -> int:
        return len(self._members.get(channel, []))

    def subscribers(self, channel: Channel) -> list[int]:
        return list(self._members.get(channel, []))

    def channels(self) -> list[Channel]:
        """Returns the channels that have a subscriber, sorted: the broker promises no order."""
        return sorted(channel for channel, members in self._members.items() if members)
