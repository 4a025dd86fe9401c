"""The checks of `soak order` (`kits.exact_history`) see what they are for: a history on paper is right, and each way to
spoil it is not."""

from collections.abc import Callable

import pytest

from kits.broker_model import BrokerModel
from kits.exact_app import Done, Op, Report
from kits.exact_history import FOREIGN, Actor, Applied, History, SocketRecord
from kits.exact_programs import LIMIT, QUESTIONS, call_of

IDS = [1, 2, 3]
ROAMER = 2
"""Leaves channel a and comes back."""
EXCLUDED = 1
"""Subscribed to channel a, and excluded from the message "not 1"."""
OUTSIDER = 3
"""Never subscribed to channel a."""
WORKER = 0
STEP_NS = 10
LAST_TOKEN = "second"

MAIN: list[Op] = [
    *(["subscribe", socket_id, "a"] for socket_id in (EXCLUDED, ROAMER)),
    *(["subscribe", socket_id, "b"] for socket_id in IDS),
    ["send_to_channel", "a", "first of a", []],
    ["send_to_channel", "b", "first of b", []],
    ["send_to_channel", "a", "not 1", [EXCLUDED]],
    ["set_token", EXCLUDED, "first"],
    ["send_to_channel", "a", "before leaving", []],
    ["unsubscribe", ROAMER, "a"],
    ["send_to_channel", "a", "while away", []],
    ["subscribe_nowait", ROAMER, "a"],
    ["send_to_channel", "a", "after joining", []],
    ["set_token", EXCLUDED, LAST_TOKEN],
    ["send", OUTSIDER, "direct"],
]
"""What a thread of the main program does."""
HANDLER: list[Op] = [["subscribers", "a"], ["send", EXCLUDED, "from the handler"]]
"""What the handler of each of two messages of the socket EXCLUDED does, once the main program has done the above."""

RECEIVED = [
    [
        *("first of a", "first of b", "before leaving", "while away", "after joining"),
        *("from the handler", "from the handler"),
    ],
    ["first of a", "first of b", "not 1", "before leaving", "after joining"],
    ["first of b", "direct"],
]
"""What the sockets receive then: EXCLUDED, ROAMER, OUTSIDER."""


class Paper:
    """Carries out calls one after the other, STEP_NS each, and writes down what everybody sees."""

    def __init__(self) -> None:
        self.model = BrokerModel[str, str](IDS, LIMIT)
        self.applied: list[Applied] = []
        self.now_ns = 0

    def carry_out(self, lane: int, ops: list[Op]) -> list[Done]:
        """Carries out the calls of an actor; returns what it saw."""
        return [self._carry_out(lane, op) for op in ops]

    def _carry_out(self, lane: int, op: Op) -> Done:
        self.now_ns += STEP_NS
        self.applied.append(Applied(lane, self.now_ns, call_of(op)))
        answer = self.model.apply(call_of(op))
        return [self.now_ns - 1, self.now_ns + 1, answer if op[0] in QUESTIONS else None]

    def report(self, handler: str, socket_id: int, number: int = 0) -> Report:
        """Returns the report of a handler that runs now; one of a message carries out HANDLER."""
        self.now_ns += STEP_NS
        start_ns = self.now_ns
        return {
            "handler": handler,
            "socket": socket_id,
            "worker": f"worker-{WORKER}",
            "number": number,
            "start": start_ns,
            "done": self.carry_out(WORKER, HANDLER) if handler == "message" else [],
            "end": self.now_ns + 2,
            "token": str(self.model.tokens[socket_id]) if self.model.tokens[socket_id] else None,
            "code": 0,
            "beside": [],
        }


def make_history() -> History:
    """Returns a right history: a program of the main program, two messages of a socket, then all sockets are closed."""
    paper = Paper()
    main = Actor(FOREIGN)
    main.add_calls(MAIN, paper.carry_out(FOREIGN, MAIN))
    sent_ns = paper.now_ns + 1
    reports = [paper.report("message", EXCLUDED, number) for number in range(2)]
    closing: list[Op] = [["close", socket_id, 4999, "over"] for socket_id in IDS]
    main.add_calls(closing, paper.carry_out(FOREIGN, closing))
    reports += [paper.report("close", socket_id) for socket_id in IDS]
    sockets = [
        SocketRecord(socket_id, [], [], list(paper.model.received[socket_id]), *paper.model.closed[socket_id])
        for socket_id in IDS
    ]
    sockets[0].tasks = [{"number": number, "ops": HANDLER, "beside": []} for number in range(2)]
    sockets[0].sent_at = [sent_ns, sent_ns]
    return History(sockets, paper.applied, reports, [main], kept_open=set(IDS))


def received_by(history: History, socket_id: int) -> list[str]:
    return next(socket.received for socket in history.sockets if socket.id == socket_id)


def test_a_right_history_is_accepted() -> None:
    history = make_history()
    assert [socket.received for socket in history.sockets] == RECEIVED
    tally = history.check()
    assert (tally["programs"], tally["calls"], tally["tokens seen"]) == (1, len(history.applied), 5)


def lose_last_before_leaving(history: History) -> None:
    received_by(history, ROAMER).remove("before leaving")


def lose_first_after_joining(history: History) -> None:
    received_by(history, ROAMER).remove("after joining")


def give_while_away(history: History) -> None:
    received_by(history, ROAMER).insert(4, "while away")


def lose_direct(history: History) -> None:
    received_by(history, OUTSIDER).remove("direct")


def give_to_outsider(history: History) -> None:
    received_by(history, OUTSIDER).insert(0, "first of a")


def give_to_excluded(history: History) -> None:
    received_by(history, EXCLUDED).insert(2, "not 1")


def swap_channels(history: History) -> None:
    received = received_by(history, ROAMER)
    received[0], received[1] = received[1], received[0]


def double(history: History) -> None:
    received_by(history, ROAMER).insert(0, "first of a")


def change(history: History) -> None:
    received_by(history, ROAMER)[0] = "first of A"


@pytest.mark.parametrize(
    "spoil, socket_id",
    [
        (lose_last_before_leaving, ROAMER),
        (lose_first_after_joining, ROAMER),
        (give_while_away, ROAMER),
        (lose_direct, OUTSIDER),
        (give_to_outsider, OUTSIDER),
        (give_to_excluded, EXCLUDED),
        (swap_channels, ROAMER),
        (double, ROAMER),
        (change, ROAMER),
    ],
)
def test_a_socket_that_received_something_else_is_reported(spoil: Callable[[History], None], socket_id: int) -> None:
    history = make_history()
    spoil(history)
    with pytest.raises(AssertionError, match=f"by socket, received and expected: {{{socket_id}: "):
        history.check()


def test_a_socket_that_was_closed_in_another_way_is_reported() -> None:
    history = make_history()
    history.sockets[0].code = 1006
    with pytest.raises(AssertionError, match="received and expected"):
        history.check()


def answer_wrongly(history: History) -> None:
    history.actors[0].done[0][2] = False


def answer_too_early(history: History) -> None:
    history.actors[0].done[0][1] = 0


def swap_calls(history: History) -> None:
    actor = history.actors[0]
    actor.ops[5], actor.ops[6] = actor.ops[6], actor.ops[5]


def invent_call(history: History) -> None:
    history.applied.insert(0, Applied(FOREIGN, 1, ("send", OUTSIDER, "from nowhere")))
    received_by(history, OUTSIDER).insert(0, "from nowhere")


@pytest.mark.parametrize("spoil", [answer_wrongly, answer_too_early, swap_calls, invent_call])
def test_a_call_that_no_actor_made_so_is_reported(spoil: Callable[[History], None]) -> None:
    history = make_history()
    spoil(history)
    with pytest.raises(AssertionError, match="no actor made"):
        history.check()


def test_a_call_that_was_not_carried_out_is_reported() -> None:
    history = make_history()
    history.actors[0].add_calls([["channels"]], [[0, 1, []]])
    with pytest.raises(AssertionError, match="calls were not carried out"):
        history.check()


@pytest.mark.parametrize(
    "spoil, text",
    [
        (lambda reports: reports.pop(1), r"handled of 2 messages"),
        (lambda reports: reports.insert(1, reports[0]), r"handled as \[0, 0, 1\]"),
        (lambda reports: reports.reverse(), r"handled as \[1, 0\]"),
        (lambda reports: reports.pop(), "0 close handlers"),
        (lambda reports: reports.append(reports[-1]), "2 close handlers"),
        (lambda reports: reports[1].update(worker="worker-1"), "two workers"),
    ],
    ids=["lost", "doubled", "disordered", "no close", "two closes", "two workers"],
)
def test_a_handler_that_did_not_run_as_it_should_is_reported(
    spoil: Callable[[list[Report]], object], text: str
) -> None:
    history = make_history()
    spoil(history.reports)
    with pytest.raises(AssertionError, match=text):
        history.check()


def test_a_message_that_was_handled_after_its_socket_had_closed_itself_is_reported() -> None:
    history = make_history()
    history.sockets[0].tasks[0]["ops"] = [["close", EXCLUDED, 4000, ""], HANDLER[1]]
    with pytest.raises(AssertionError, match="handled after its close"):
        history.check()


@pytest.mark.parametrize("token", ["first", None, "never set"])
def test_a_token_that_was_not_the_last_one_is_reported(token: str | None) -> None:
    history = make_history()
    history.reports[0]["token"] = token
    with pytest.raises(AssertionError, match="a token that was not the last one"):
        history.check()
