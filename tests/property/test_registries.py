"""The registries against model lists, with crowds: channels grow, shrink, and close the holes that leavers left."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from kits.broker_kit import a_broker, connect
from kits.broker_model import BrokerModel
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import Limits

SOCKETS = 80
CHANNELS = 5
CALLS = 700
LIMIT = 4
"""Subscriptions that a socket may have: fewer than there are channels, so that some are refused."""


def compare(broker: Broker, model: BrokerModel[bytes, bytes], ever: list[int]) -> None:
    """Everything that can be asked has the same answer."""
    assert sorted(broker.channels()) == model.channels()
    for name in model.channels():
        assert broker.subscribers(name) == model.subscribers(name)
        assert broker.subscriber_count(name) == model.subscriber_count(name)
    for socket_id in ever:
        assert broker.subscriptions(socket_id) == model.subscriptions(socket_id)
        assert broker.is_open(socket_id) == model.is_open(socket_id)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_crowds_come_and_go_and_the_tables_say_what_lists_would(seed: int) -> None:
    random = Random(seed)
    broker = a_broker(Limits(max_channels=LIMIT))
    model: BrokerModel[bytes, bytes] = BrokerModel([], LIMIT)
    names = [b"channel-%d" % number for number in range(CHANNELS)]
    alive: list[int] = []
    ever: list[int] = []

    def arrive() -> None:
        socket = connect(broker)
        model.open_socket(socket.id)
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
                    model.close(who, 1000, "")
                    alive.remove(who)
                    arrive()
                elif what < 0.05:
                    target = random.choice([*names, b"only by copying"])
                    model.copy_subscriptions(name, target)
                    broker.copy_subscriptions(name, target)
                elif what < 0.1:
                    broker.publish(name, "news", ())
                elif what < 0.15:
                    broker.flush()
                elif random.random() < eagerness:
                    assert broker.subscribe(who, name) == model.subscribe(who, name)
                else:
                    held = model.subscriptions(who)
                    name = random.choice(held) if held else name
                    assert broker.unsubscribe(who, name) == model.unsubscribe(who, name)
            compare(broker, model, ever)
    for who in list(alive):
        broker.close(who, 1000, "")
        model.close(who, 1000, "")
    broker.flush()
    compare(broker, model, ever)
    assert not broker.channels_by_name and not broker.sockets
