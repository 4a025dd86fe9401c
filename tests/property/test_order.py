"""The order promise against a sequential model.

A program is a list of calls; the model carries each out at once on plain lists, the broker gathers turns, flushes,
merges, blocks and caps. Each socket must have received exactly the model's list.

ORDER_PROGRAMS in the environment says how many programs (CI: 12,000 once; every other run 2,000).
"""

import os
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker_kit import RecordingSocket, a_broker, connect
from wsbroker.broker.broker import Broker

SOCKETS = 6
CHANNELS = 5
PROGRAMS = int(os.environ.get("ORDER_PROGRAMS", "2000"))
BIG = 70 * 1024  # two of these on one source reach the cap

Step = tuple[str, int, int, tuple[int, ...]]

an_index = st.integers(0, SOCKETS - 1)
a_channel = st.integers(0, CHANNELS - 1)
some_sockets = st.lists(an_index, max_size=3).map(tuple)


def step(name: str, first: st.SearchStrategy[int], second: st.SearchStrategy[int]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), first, second, st.just(()))


nothing = st.just(0)
steps = st.one_of(
    step("subscribe", an_index, a_channel),
    step("subscribe", an_index, a_channel),
    step("unsubscribe", an_index, a_channel),
    st.tuples(st.just("publish"), nothing, a_channel, some_sockets),
    st.tuples(st.just("publish"), nothing, a_channel, st.just(())),
    step("send", an_index, nothing),
    step("copy", an_index, an_index),
    step("close", an_index, nothing),
    step("block", an_index, st.integers(0, 2)),
    step("resume", an_index, nothing),
    step("flush", nothing, nothing),
    step("big", nothing, a_channel),
    step("bigsend", an_index, nothing),
)


@dataclass
class Model:
    """The sequential truth."""

    open: list[bool] = field(default_factory=lambda: [True] * SOCKETS)
    members: list[list[int]] = field(default_factory=lambda: [[] for _ in range(CHANNELS)])
    received: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(SOCKETS)])

    def subscribe(self, socket: int, channel: int) -> bool:
        if not self.open[socket] or socket in self.members[channel]:
            return False
        self.members[channel].append(socket)
        return True

    def unsubscribe(self, socket: int, channel: int) -> bool:
        if socket not in self.members[channel]:
            return False
        self.members[channel].remove(socket)
        return True

    def publish(self, channel: int, payload: bytes, exclude: tuple[int, ...]) -> None:
        for socket in self.members[channel]:
            if socket not in exclude:
                self.received[socket].append(payload)

    def send(self, socket: int, payload: bytes) -> None:
        if self.open[socket]:
            self.received[socket].append(payload)

    def copy(self, source: int, target: int) -> None:
        if self.open[source] and self.open[target]:
            for members in self.members:
                if source in members and target not in members:
                    members.append(target)

    def close(self, socket: int) -> None:
        if self.open[socket]:
            self.received[socket].append(b"close")
            self.open[socket] = False
            for members in self.members:
                if socket in members:
                    members.remove(socket)


def resume(broker: Broker, socket: RecordingSocket) -> None:
    socket.room = None
    if socket.is_blocked:
        broker.outgoing.drain(socket)


@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=40))
def test_every_socket_receives_what_a_sequential_broker_would_have_sent(program: list[Step]) -> None:
    broker = a_broker()
    model = Model()
    sockets = [connect(broker) for _ in range(SOCKETS)]
    for number, (name, first, second, exclude) in enumerate(program):
        socket, channel = sockets[first], b"c%d" % second
        payload = b"%d" % number
        if name == "subscribe":
            assert broker.subscribe(socket.id, channel) == model.subscribe(first, second)
        elif name == "unsubscribe":
            assert broker.unsubscribe(socket.id, channel) == model.unsubscribe(first, second)
        elif name == "publish":
            broker.publish(channel, payload, tuple(sockets[index].id for index in exclude))
            model.publish(second, payload, exclude)
        elif name == "send":
            broker.send(socket.id, payload)
            model.send(first, payload)
        elif name == "copy":
            broker.copy_subscriptions(socket.id, sockets[second].id)
            model.copy(first, second)
        elif name == "close":
            broker.close(socket.id, 1000, "")
            model.close(first)
        elif name == "block":
            if second == 0:
                socket.is_blocked = True
            else:
                socket.room = second
        elif name == "resume":
            resume(broker, socket)
        elif name == "flush":
            broker.flush()
        elif name == "big":
            payload += b"x" * BIG
            broker.publish(channel, payload, ())
            model.publish(second, payload, ())
        elif name == "bigsend":
            payload += b"x" * BIG
            broker.send(socket.id, payload)
            model.send(first, payload)
    broker.flush()
    for socket in sockets:
        resume(broker, socket)
    for index, socket in enumerate(sockets):
        assert socket.received == model.received[index]
        assert (socket.finishes > 0) == (not model.open[index])
        assert not socket.outbox_bytes and not socket.outbox
    for number, members in enumerate(model.members):
        assert sorted(broker.subscribers(b"c%d" % number)) == sorted(sockets[index].id for index in members)
        assert broker.subscriber_count(b"c%d" % number) == len(members)
    assert sorted(broker.channels()) == sorted(
        b"c%d" % number for number, members in enumerate(model.members) if members
    )
