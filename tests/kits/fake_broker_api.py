"""A fake broker of a few dictionaries, for tests of applications' handlers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from wsbroker.worker import api as worker_api


class FakeBrokerApi(worker_api.BrokerApi):
    """Carries out calls at once; keeps the messages that each socket would have got.

    Args:
        max_channels: the number of subscriptions that a socket may have.
    """

    __slots__ = ("closed", "max_channels", "sent", "tables", "tokens")

    def __init__(self, max_channels: int = 128) -> None:
        self.max_channels = max_channels
        self.sent: dict[int, list[str | bytes]] = {}
        self.tables: dict[bytes, list[int]] = {}
        self.tokens: dict[int, bytes | None] = {}
        self.closed: dict[int, tuple[int, str]] = {}

    def pop_sent_messages(self, socket_id: int) -> list[object]:
        """Returns the messages that a socket got since the last call, decoded from JSON."""
        return [json.loads(data) for data in self.sent.pop(socket_id, [])]

    def send(self, socket_id: int, data: str | bytes) -> None:
        self.sent.setdefault(socket_id, []).append(data)

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        for socket_id in self.tables.get(channel, []):
            if socket_id not in exclude:
                self.send(socket_id, data)

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        members = self.tables.setdefault(channel, [])
        if socket_id in members or len(self.subscriptions(socket_id)) == self.max_channels:
            return False
        members.append(socket_id)
        return True

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        members = self.tables.get(channel, [])
        if socket_id not in members:
            return False
        members.remove(socket_id)
        return True

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        self.tokens[socket_id] = token

    def close(self, socket_id: int, code: int, reason: str) -> None:
        self.closed[socket_id] = (code, reason)

    def subscriber_count(self, channel: bytes) -> int:
        return len(self.tables.get(channel, []))

    def subscribers(self, channel: bytes) -> list[int]:
        return list(self.tables.get(channel, []))

    def subscriptions(self, socket_id: int) -> list[bytes]:
        return [channel for channel, members in self.tables.items() if socket_id in members]


@contextmanager
def as_broker(fake: FakeBrokerApi) -> Iterator[FakeBrokerApi]:
    """Has the calls of the API go to `fake`."""
    before = worker_api.context_api.set(fake)
    try:
        yield fake
    finally:
        worker_api.context_api.reset(before)
