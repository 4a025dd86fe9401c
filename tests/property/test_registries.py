"""The registries against naive lists, with crowds: channels grow, shrink, and close the holes that leavers left."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from kits.broker_kit import a_broker, connect
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import Limits

SOCKETS = 80
CHANNELS = 5
CALLS = 700
LIMIT = 4
"""Subscriptions that a socket may have: fewer than there are channels, so that some are refused."""


class Naive:
    """What the calls mean, on plain lists."""

    def __init__(self) -> None:
        self.members: dict[bytes, list[int]] = {}
        self.held: dict[int, list[bytes]] = {}

    def subscribe(self, socket_id: int, name: bytes) -> bool:
        held = self.held.get(socket_id)
        if held is None or name in held or len(held) >= LIMIT:
            return False
        held.append(name)
        self.members.setdefault(name, []).append(socket_id)
        return True

    def unsubscribe(self, socket_id: int, name: bytes) -> bool:
        held = self.held.get(socket_id)
        if held is None or name not in held:
            return False
        held.remove(name)
        self.members[name].remove(socket_id)
        if not self.members[name]:
            del self.members[name]
        return True

    def copy(self, source: bytes, target: bytes) -> None:
        if source != target:
            for socket_id in self.members.get(source, []):
                self.subscribe(socket_id, target)

    def leave(self, socket_id: int) -> None:
        for name in list(self.held.pop(socket_id, [])):
            self.members[name].remove(socket_id)
            if not self.members[name]:
                del self.members[name]


def compare(broker: Broker, naive: Naive, ever: list[int]) -> None:
    """Everything that can be asked has the same answer."""
    assert sorted(broker.channels()) == sorted(naive.members)
    for name, members in naive.members.items():
        assert broker.subscribers(name) == members
        assert broker.subscriber_count(name) == len(members)
    for socket_id in ever:
        assert broker.subscriptions(socket_id) == naive.held.get(socket_id, [])
        assert broker.is_open(socket_id) == (socket_id in naive.held)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_crowds_come_and_go_and_the_tables_say_what_lists_would(seed: int) -> None:
    random = Random(seed)
    broker, naive = a_broker(Limits(max_channels=LIMIT)), Naive()
    names = [b"channel-%d" % number for number in range(CHANNELS)]
    alive: list[int] = []
    ever: list[int] = []

    def arrive() -> None:
        socket = connect(broker)
        naive.held[socket.id] = []
        alive.append(socket.id)
        ever.append(socket.id)

    for _ in range(SOCKETS):
        arrive()
    for _ in range(4):  # crowds that come are followed by crowds that go: only then are holes closed
        for eagerness in (0.9, 0.1):
            for _ in range(CALLS // 8):
                who, name = random.choice(alive), random.choice(names)
                what = random.random()
                if what < 0.02:
                    broker.close(who, 1000, "")
                    naive.leave(who)
                    alive.remove(who)
                    arrive()
                elif what < 0.05:
                    target = random.choice([*names, b"only by copying"])
                    naive.copy(name, target)
                    broker.copy_subscriptions(name, target)
                elif what < 0.1:
                    broker.publish(name, "news", ())
                elif what < 0.15:
                    broker.flush()
                elif random.random() < eagerness:
                    assert broker.subscribe(who, name) == naive.subscribe(who, name)
                else:
                    held = naive.held[who]
                    name = random.choice(held) if held else name
                    assert broker.unsubscribe(who, name) == naive.unsubscribe(who, name)
            compare(broker, naive, ever)
    for who in list(alive):
        broker.close(who, 1000, "")
        naive.leave(who)
    broker.flush()
    compare(broker, naive, ever)
    assert not broker.channels_by_name and not broker.sockets
