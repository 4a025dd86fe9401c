"""Channels: subscription order, O(1) leaving, compaction."""

from kits.broker_kit import a_broker, connect
from wsbroker.broker.channel import MIN_HOLES_TO_COMPACT
from wsbroker.broker.limits import BATCH_BYTES


def test_members_are_listed_in_subscription_order() -> None:
    broker = a_broker()
    sockets = [connect(broker) for _ in range(4)]
    for socket in reversed(sockets):
        assert broker.subscribe(socket.id, b"c")
    broker.unsubscribe(sockets[2].id, b"c")
    broker.subscribe(sockets[2].id, b"c")
    assert broker.subscribers(b"c") == [sockets[index].id for index in (3, 1, 0, 2)]


def test_the_holes_of_a_shrinking_channel_are_closed() -> None:
    broker = a_broker()
    sockets = [connect(broker) for _ in range(200)]
    for socket in sockets:
        broker.subscribe(socket.id, b"c")
    for socket in sockets[:190]:
        assert broker.unsubscribe(socket.id, b"c")
    channel = broker.channels_by_name[b"c"]
    assert len(channel.members) - channel.member_count <= MIN_HOLES_TO_COMPACT + channel.member_count
    assert broker.subscribers(b"c") == [socket.id for socket in sockets[190:]]
    for socket in sockets[190:]:
        assert broker.unsubscribe(socket.id, b"c")
    assert broker.channels_by_name == {}


def test_a_channel_without_subscribers_is_forgotten_even_if_it_was_dirty() -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.subscribe(socket.id, b"c")
    broker.publish(b"c", "last words", ())
    broker.unsubscribe(socket.id, b"c")
    assert broker.channels() == []
    broker.flush()
    assert broker.channels_by_name == {}
    assert socket.received == [b"last words"]


def test_a_socket_finds_its_place_in_one_and_in_many_channels() -> None:
    broker = a_broker()
    socket = connect(broker)
    names = [b"%d" % number for number in range(5)]
    assert [broker.subscribe(socket.id, name) for name in names] == [True] * 5
    assert [broker.subscribe(socket.id, name) for name in names] == [False] * 5
    assert broker.subscriptions(socket.id) == names
    assert broker.unsubscribe(socket.id, b"0")
    assert not broker.unsubscribe(socket.id, b"0")
    assert sorted(broker.subscriptions(socket.id)) == names[1:]
    broker.subscribe(socket.id, b"0")
    assert sorted(broker.subscriptions(socket.id)) == names
    broker.close(socket.id, 1000, "")
    assert broker.channels_by_name == {}


def test_closing_holes_does_not_confuse_a_socket_that_gave_up_an_older_subscription() -> None:
    broker = a_broker()
    sockets = [connect(broker) for _ in range(3 * MIN_HOLES_TO_COMPACT)]
    moved = sockets[0]
    broker.subscribe(moved.id, b"older")
    for socket in sockets[1:] + [moved]:
        broker.subscribe(socket.id, b"c")
    broker.unsubscribe(moved.id, b"older")
    for socket in sockets[1:-1]:
        broker.unsubscribe(socket.id, b"c")
    assert broker.subscriptions(moved.id) == [b"c"]
    assert broker.unsubscribe(moved.id, b"c")
    assert not broker.unsubscribe(moved.id, b"c")
    assert broker.subscribers(b"c") == [sockets[-1].id]


def test_a_channel_that_came_back_outlives_the_one_that_was_emptied_in_the_same_turn() -> None:
    broker = a_broker()
    socket = connect(broker)
    broker.subscribe(socket.id, b"c")
    broker.publish(b"c", "last words", ())
    broker.unsubscribe(socket.id, b"c")
    broker.send(socket.id, b"x" * BATCH_BYTES)  # flushes in the middle of the turn
    broker.subscribe(socket.id, b"c")
    broker.unsubscribe(socket.id, b"c")
    broker.subscribe(socket.id, b"c")
    broker.flush()
    assert broker.subscribers(b"c") == [socket.id]
    broker.publish(b"c", "back", ())
    broker.flush()
    assert socket.received[-1] == b"back"
