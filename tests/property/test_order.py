"""The order promise against a sequential model.

A program is a list of calls; the model carries each out at once on plain lists, the broker gathers turns, flushes,
merges, blocks and caps. Each socket must have received exactly the model's list. Some calls are made from inside a
write to a socket, as by a finaliser: those count as made behind the call that wrote.

ORDER_PROGRAMS in the environment says how many programs (CI: 12,000 once; every other run 600).
"""

import os
from collections import defaultdict

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kits.broker_kit import RecordingSocket, a_broker, connect
from kits.broker_model import BrokerModel
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import Limits

SOCKETS = 6
CHANNELS = 5
LIMIT = 4
"""Channels of one socket: fewer than there are, so that some subscriptions and copies are refused."""
PROGRAMS = int(os.environ.get("ORDER_PROGRAMS", "600"))
BIG = 70 * 1024  # two of these on one source reach the cap
NOW = -1

Step = tuple[str, int, int, tuple[int, ...], int]
"""Name, two numbers, the excluded ones, and the socket during whose next write it is asked for (or NOW)."""

an_index = st.integers(0, SOCKETS - 1)
a_channel = st.integers(0, CHANNELS - 1)
some_sockets = st.lists(an_index, max_size=3).map(tuple)
now = st.just(NOW)
now_or_inside = st.one_of(now, now, st.integers(NOW, SOCKETS - 1))


def step(
    name: str,
    first: st.SearchStrategy[int],
    second: st.SearchStrategy[int],
    when: st.SearchStrategy[int] = now,
    exclude: st.SearchStrategy[tuple[int, ...]] = st.just(()),  # noqa: B008
) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), first, second, exclude, when)


nothing = st.just(0)
steps = st.one_of(
    step("subscribe", an_index, a_channel, now_or_inside),
    step("subscribe", an_index, a_channel),
    step("unsubscribe", an_index, a_channel, now_or_inside),
    step("publish", nothing, a_channel, now_or_inside, some_sockets),
    step("publish", nothing, a_channel),
    step("send", an_index, nothing, now_or_inside),
    step("copy", a_channel, a_channel, now_or_inside),
    step("copy", a_channel, a_channel),
    step("close", an_index, nothing, now_or_inside),
    step("block", an_index, st.integers(0, 2)),
    step("resume", an_index, nothing),
    step("flush", nothing, nothing),
    step("big", nothing, a_channel),
    step("bigsend", an_index, nothing),
)


class Truth:
    """The sequential model; carries out the steps of a program. Its sockets have their indexes as ids."""

    def __init__(self) -> None:
        self.model: BrokerModel[bytes, bytes] = BrokerModel(range(SOCKETS), LIMIT)

    def carry_out(self, step: Step, payload: bytes) -> bool:
        """Carries out a call; returns what `subscribe` and `unsubscribe` do."""
        model = self.model
        name, first, second, exclude, _ = step
        channel = b"c%d" % second
        if name == "subscribe":
            return model.subscribe(first, channel)
        if name == "unsubscribe":
            return model.unsubscribe(first, channel)
        if name in ("publish", "big"):
            model.send_to_channel(channel, payload, exclude)
        elif name in ("send", "bigsend"):
            model.send(first, payload)
        elif name == "copy":
            model.copy_subscriptions(b"c%d" % first, channel)
        elif name == "close":
            model.close(first, 1000, "")
        return False


class Rig:
    """The broker, and calls that wait for a write."""

    def __init__(self) -> None:
        self.broker = a_broker(Limits(max_queue_bytes=1 << 40, max_channels=LIMIT))
        self.sockets = [connect(self.broker) for _ in range(SOCKETS)]
        self.asked: list[tuple[Step, bytes]] = []
        """Calls that were made inside a write, until the model has them."""
        self._waiting: defaultdict[int, list[tuple[Step, bytes]]] = defaultdict(list)
        for index, socket in enumerate(self.sockets):
            self._hook(index, socket)

    def _hook(self, index: int, socket: RecordingSocket) -> None:
        def write(data: bytes) -> None:
            socket.writes.append(data)
            for step, payload in self._waiting.pop(index, ()):
                self.asked.append((step, payload))
                self.carry_out(step, payload)

        socket.on_write = write

    def wait(self, step: Step, payload: bytes) -> None:
        """Makes this call during the next write to its socket."""
        self._waiting[step[4]].append((step, payload))

    def carry_out(self, step: Step, payload: bytes) -> bool:
        """Makes a call; returns its answer if it has one."""
        broker = self.broker
        name, first, second, exclude, when = step
        socket, channel = self.sockets[first], b"c%d" % second
        if name == "subscribe":
            if when == NOW:
                return broker.subscribe(socket.id, channel)
            broker.subscribe_nowait(socket.id, channel)
        elif name == "unsubscribe":
            if when == NOW:
                return broker.unsubscribe(socket.id, channel)
            broker.unsubscribe_nowait(socket.id, channel)
        elif name in ("publish", "big"):
            broker.publish(channel, payload, tuple(self.sockets[index].id for index in exclude))
        elif name in ("send", "bigsend"):
            broker.send(socket.id, payload)
        elif name == "copy":
            broker.copy_subscriptions(b"c%d" % first, channel)
        elif name == "close":
            broker.close(socket.id, 1000, "")
        elif name == "block":
            if second == 0:
                socket.is_blocked = True
            else:
                socket.room = second
        elif name == "resume":
            resume(broker, socket)
        elif name == "flush":
            broker.flush()
        return False

    def end(self) -> None:
        """Lets everything out."""
        self._waiting.clear()
        self.broker.flush()
        for socket in self.sockets:
            resume(self.broker, socket)


def resume(broker: Broker, socket: RecordingSocket) -> None:
    socket.room = None
    if socket.is_blocked:
        broker.outgoing.drain_outbox(socket)


@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=40))
def test_every_socket_receives_what_a_sequential_broker_would_have_sent(program: list[Step]) -> None:
    rig = Rig()
    broker, sockets = rig.broker, rig.sockets
    truth = Truth()
    model = truth.model
    for index, socket in enumerate(sockets):  # else most short programs have nobody to write to
        for channel in {0, index % CHANNELS}:
            assert broker.subscribe(socket.id, b"c%d" % channel) == model.subscribe(index, b"c%d" % channel)
    for number, step in enumerate(program):
        payload = b"%d" % number
        if step[0].startswith("big"):
            payload += b"x" * BIG
        if step[4] != NOW:
            rig.wait(step, payload)
            continue
        assert rig.carry_out(step, payload) == truth.carry_out(step, payload)
        for made_inside, its_payload in rig.asked:
            truth.carry_out(made_inside, its_payload)
        rig.asked.clear()
    rig.end()
    for index, socket in enumerate(sockets):
        is_closed = index in model.closed
        assert socket.received == model.received[index] + [b"close"] * is_closed
        assert (socket.finishes > 0) == is_closed
        assert socket.outbox is None
        assert broker.subscriptions(socket.id) == model.subscriptions(index)
    assert (broker.outgoing.waiting_bytes, broker.outgoing.waiting_sockets) == (0, {})
    for name in [b"c%d" % number for number in range(CHANNELS)]:
        assert broker.subscribers(name) == [sockets[index].id for index in model.subscribers(name)]
        assert broker.subscriber_count(name) == model.subscriber_count(name)
    assert sorted(broker.channels()) == model.channels()
