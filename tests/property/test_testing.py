"""`wsbroker.testing.TestBroker` against the sequential model: it means what the broker means, call by call.

A program is a list of turns. In each turn either the test itself makes some calls, or a handler does: that of a message
that one of the sockets sends. Sockets are opened, closed by calls and closed by their clients between them.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

import wsbroker
from kits.broker_model import BrokerModel, Call
from wsbroker.testing import TestBroker

CHANNELS = [b"b", b"a", b"c"]
LIMIT = 2
"""Channels of one socket: fewer than there are, so that some subscriptions and copies are refused."""
SOCKETS = 3
MOST_SOCKETS = 5

TEST = 0
"""The actor that is no socket: the test itself."""
OPEN = "open"
LEAVE = "leave"

a_socket = st.integers(1, MOST_SOCKETS)
a_channel = st.sampled_from(CHANNELS)
a_text = st.text("xyz", max_size=3)
a_call = st.one_of(
    st.tuples(st.just("subscribe"), a_socket, a_channel),
    st.tuples(st.just("subscribe"), a_socket, a_channel),
    st.tuples(st.just("unsubscribe"), a_socket, a_channel),
    st.tuples(st.just("copy_subscriptions"), a_channel, a_channel),
    st.tuples(st.just("set_token"), a_socket, st.one_of(st.none(), st.just(b"t"), st.just(b"u"))),
    st.tuples(st.just("send"), a_socket, a_text),
    st.tuples(st.just("send_to_channel"), a_channel, a_text, st.lists(a_socket, max_size=2).map(tuple)),
    st.tuples(st.just("close"), a_socket, st.integers(4000, 4003), a_text),
    st.tuples(st.sampled_from(["subscriber_count", "subscribers"]), a_channel),
    st.tuples(st.sampled_from(["subscriptions", "is_open"]), a_socket),
    st.tuples(st.just("channels")),
)
Turn = tuple[int | str, list[Call]]
"""Who acts, and the calls; OPEN and LEAVE have none."""

a_turn: st.SearchStrategy[Turn] = st.one_of(
    st.tuples(st.integers(TEST, MOST_SOCKETS), st.lists(a_call, min_size=1, max_size=6)),
    st.tuples(st.just(OPEN), st.just([])),
    st.tuples(a_socket.map(lambda socket_id: f"{LEAVE} {socket_id}"), st.just([])),
)


class Acting:
    """Handlers that make the calls of a turn, and note what they were given and answered."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: list[object] = []
        self.tokens: list[bytes | None] = []
        self.closes: list[tuple[int, int, str]] = []

    def handle_socket_message(self, data: str, socket_id: int, token: bytes | None) -> None:
        self.tokens.append(token)
        self.answers += [make_call(call) for call in self.calls]

    def handle_socket_close(self, socket_id: int, token: bytes | None, code: int, reason: str) -> None:
        self.closes.append((socket_id, code, reason))


def make_call(call: Call) -> object:
    """Makes a call of the public API; returns its answer."""
    name, *arguments = call
    if name == "send_to_channel":
        channel, data, exclude = arguments
        answer: object = wsbroker.send_to_channel(channel, data, exclude=exclude)  # type: ignore[func-returns-value,arg-type]
    else:
        answer = getattr(wsbroker, str(name))(*arguments)
    return sorted(answer) if name == "channels" and isinstance(answer, list) else answer


@settings(max_examples=200, deadline=None)
@given(st.lists(a_turn, min_size=4, max_size=20))
def test_the_kit_for_applications_answers_and_sends_what_the_model_does(
    program: list[Turn],
) -> None:
    acting = Acting()
    model: BrokerModel[bytes, str] = BrokerModel([], LIMIT)
    with TestBroker(acting, max_channels_per_socket=LIMIT) as broker:
        sockets = {}

        def open_socket() -> None:
            socket = broker.connect()
            sockets[int(socket.id)] = socket
            model.open_socket(socket.id)

        for _ in range(SOCKETS):
            open_socket()
        for actor, calls in program:
            acting.calls, acting.answers, acting.tokens = calls, [], []
            if actor == OPEN:
                if len(sockets) < MOST_SOCKETS:
                    open_socket()
            elif isinstance(actor, str):
                left = int(actor.removeprefix(LEAVE))
                if left in sockets:
                    sockets[left].close(1001, "bye")
                    model.close(left, 1001, "bye")
            elif actor == TEST:
                assert [make_call(call) for call in calls] == [model.apply(call) for call in calls]
            elif actor in sockets:
                is_handled, token = model.is_open(actor), model.tokens[actor]
                sockets[actor].send("go")
                assert acting.tokens == [token] * is_handled
                assert acting.answers == [model.apply(call) for call in calls if is_handled]
            for channel in CHANNELS:
                assert broker.subscribers(channel) == model.subscribers(channel)
            for socket_id, socket in sockets.items():
                assert socket.received == model.received[socket_id]
                assert socket.is_open == model.is_open(socket_id)
                assert broker.subscriptions(socket_id) == socket.subscriptions == model.subscriptions(socket_id)
                if socket.is_open:
                    assert socket.token == model.tokens[socket_id]
                else:
                    assert (socket.close_code, socket.close_reason) == model.closed[socket_id]
        assert acting.closes == [(socket_id, *closed) for socket_id, closed in model.closed.items()]
