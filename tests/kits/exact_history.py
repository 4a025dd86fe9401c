"""Histories of random programs (`exact_kit`), and the checks that one order of all calls explains what everybody saw.

A history is right if, with the order in which the core carried out the calls and no other,

* each actor's calls stand in the order in which it made them, questions between their begin and their return (so the
  order is one that an outside clock agrees with: the history is linearizable);
* the sequential model gives every actor the answers that it had, and every socket what it received and was closed with;
* every message was handled once, in order, with a token that was the last one: by the core's order when the message was
  sent, or one set since; and never one older than its own worker had set by then, or than its last message had.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from kits.broker_model import BrokerModel, Call
from kits.exact_app import PAUSE, Done, Op, Report, Task
from kits.exact_programs import LIMIT, QUESTIONS, call_of, is_answer

FOREIGN = -1
"""The core's lane of commands of threads of the main program."""
LOOP = -2
"""Calls on the loop's own thread: of inline handlers, and of the main program."""


class Applied(NamedTuple):
    """One call, noted when the core carried it out.

    Args:
        lane: the index of the worker that made the call, or FOREIGN, or LOOP.
        at: when, in ns of the clock of all processes.
        call: name and arguments.
        number: of a token: not 0 if the worker that set it caches it.
    """

    lane: int
    at: int
    call: Call
    number: int = 0


@dataclass
class Actor:
    """One thread or coroutine: the calls that it made one after the other, and what each gave it."""

    lane: int
    ops: list[Op] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    def add_calls(self, ops: list[Op], done: list[Done]) -> None:
        """Adds the calls that the actor made next, without the pauses."""
        assert len(ops) == len(done), (ops, done)
        for op, each in zip(ops, done, strict=True):
            if op[0] != PAUSE:
                self.ops.append(op)
                self.done.append(each)

    def may_have_made(self, index: int, applied: Applied, answer: object) -> bool:
        """Returns whether the call of this index can be the one that the core carried out with this answer."""
        if index == len(self.ops):
            return False
        op = self.ops[index]
        start, end, seen = cast("tuple[int, int, object]", self.done[index])
        if call_of(op) != applied.call or start > applied.at or not is_answer(op, seen, answer):
            return False
        return applied.at <= end or (self.lane != LOOP and op[0] not in QUESTIONS)


@dataclass
class SocketRecord:
    """What one client sent and received.

    Args:
        id: of the socket.
        tasks: what was sent, oldest first.
        sent_at: when each task was sent, in ns.
        received: the messages that came, oldest first.
        code: of the Close frame that came.
        reason: of the same.
    """

    id: int
    tasks: list[Task] = field(default_factory=list)
    sent_at: list[int] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    code: int | None = None
    reason: str | None = None


class Set(NamedTuple):
    """A change of a socket's token.

    Args:
        place: in the order of all calls.
        is_open: whether the socket was open.
        began: when the call began, in ns; `returned`: when it returned.
    """

    place: int
    lane: int
    at: int
    number: int
    token: str | None
    is_open: bool
    began: int
    returned: int


@dataclass
class History:
    """Everything that was seen of one program, to be checked once.

    Args:
        sockets: what each client sent and received.
        applied: all calls, in the order in which the core carried them out.
        reports: of all handler calls, in the order in which the core was given them.
        actors: of the main program; `check` adds those of the handlers.
        kept_open: the ids of the sockets that the program did not close: all their messages must have been handled.
        is_async: whether handlers were coroutines.
    """

    sockets: list[SocketRecord]
    applied: list[Applied]
    reports: list[Report]
    actors: list[Actor]
    kept_open: set[int] = field(default_factory=set)
    is_async: bool = False
    tally: Counter[str] = field(default_factory=Counter)

    def check(self) -> Counter[str]:
        """Checks everything; returns how much was checked, by name.

        Raises:
            AssertionError: no order explains the history; the text shows what does not fit.
        """
        for socket in self.sockets:
            self._check_handled(socket)
        model = BrokerModel[str, str]([socket.id for socket in self.sockets], LIMIT)
        answers, sets = _replay(model, self.applied)
        self._check_order(answers)
        seen = {socket.id: (socket.received, socket.code, socket.reason) for socket in self.sockets}
        expected = {socket.id: (model.received[socket.id], *model.closed[socket.id]) for socket in self.sockets}
        wrong = {socket: (seen[socket], expected[socket]) for socket in seen if seen[socket] != expected[socket]}
        assert not wrong, f"by socket, received and expected: {wrong}"
        returned = _return_times(self.actors)
        for socket in self.sockets:
            self._check_tokens(socket, [_add_times(change, returned) for change in sets[socket.id]])
        self.tally["programs"] += 1
        self.tally["calls"] += len(answers)
        self.tally["answers"] += sum(op[0] in QUESTIONS for actor in self.actors for op in actor.ops)
        self.tally["actors"] += len(self.actors)
        return self.tally

    def _check_handled(self, socket: SocketRecord) -> None:
        """Checks that messages were handled once and in order, and all if the socket stayed open; adds their actors."""
        reports = [each for each in self.reports if (each["handler"], each["socket"]) == ("message", socket.id)]
        numbers = [report["number"] for report in reports]
        assert numbers == list(range(len(numbers))), f"socket {socket.id} had its messages handled as {numbers}"
        is_whole = len(numbers) == len(socket.tasks) or socket.id not in self.kept_open
        assert is_whole, f"socket {socket.id} had {numbers} handled of {len(socket.tasks)} messages"
        ends = sum((each["handler"], each["socket"]) == ("close", socket.id) for each in self.reports)
        assert ends == 1, f"socket {socket.id} had {ends} close handlers"
        if not reports:
            return
        lane = _read_lane(reports[0]["worker"])
        actor = Actor(lane)
        for report in reports:
            assert _read_lane(report["worker"]) == lane, f"socket {socket.id} had two workers"
            task = socket.tasks[report["number"]]
            actor.add_calls(task["ops"], report["done"])
            thread = Actor(FOREIGN if lane == LOOP else lane)
            thread.add_calls(task["beside"], report["beside"])
            self.actors.append(thread)
            is_closing = any(op[:2] == ["close", socket.id] for op in task["ops"])
            assert report is reports[-1] or not is_closing, f"socket {socket.id} had messages handled after its close"
        self.actors.append(actor)

    def _check_order(self, answers: list[object]) -> None:
        """Checks that the calls of each lane are those of its actors, put into one another, with these answers."""
        for lane in {actor.lane for actor in self.actors}:
            actors = [actor for actor in self.actors if actor.lane == lane]
            places = {(0,) * len(actors)}
            """How far each actor may be: the same call may be that of several."""
            for applied, answer in zip(self.applied, answers, strict=True):
                if applied.lane == lane:
                    after = {
                        (*place[:index], place[index] + 1, *place[index + 1 :])
                        for place in places
                        for index, actor in enumerate(actors)
                        if actor.may_have_made(place[index], applied, answer)
                    }
                    assert after, f"lane {lane}: no actor made {applied} -> {answer!r}: {_list_next(actors, places)}"
                    places = after
            is_whole = tuple(len(actor.ops) for actor in actors) in places
            assert is_whole, f"lane {lane}: calls were not carried out: {_list_next(actors, places)}"

    def _check_tokens(self, socket: SocketRecord, sets: list[Set]) -> None:
        """Checks that each call of a handler of this socket had a token that was the last one for it."""
        reports = [report for report in self.reports if report["socket"] == socket.id]
        mine = {
            op[2] for task in socket.tasks for op in task["ops"] + task["beside"] if op[:2] == ["set_token", socket.id]
        } - {None}
        last = -1
        before = 0
        for report in reports:
            start = report["start"]
            lane = _read_lane(report["worker"])
            own = [change for change in sets if change.lane == lane and (change.number or change.token in mine)]
            # An inline handler of this socket may be running while others of its loop set what it has closed already.
            taken = [change for change in sets if change.is_open or (change.lane == lane == LOOP)]
            sent = socket.sent_at[report["number"]] if report["handler"] == "message" else 0
            # When it was called, at the earliest: a coroutine begins some time after its call.
            called = max(before, sent) if self.is_async else start
            before = report["end"]
            # The core had these when it read the message. An inline handler is given what the core has at its call.
            read = called if lane == LOOP else sent
            least = max(
                last,
                *(change.place for change in sets if change.is_open and change.at < read),
                *(change.place for change in own if change.returned <= called),
                -1,
            )
            fits = [
                change.place
                for change in sets
                if change.token == report["token"]
                and change.place >= least
                and ((change in taken and change.at <= start) or (change in own and change.began <= start))
            ]
            if report["token"] is None and least < 0:
                fits.append(-1)
            assert fits, f"a token that was not the last one: {report}, {least}, {sets}"
            last = min(fits)
            self.tally["tokens seen"] += 1
            self.tally["of them set by others"] += last >= 0 and all(change.place != last for change in own)
            self.tally["of them not yet applied"] += last >= 0 and all(
                change.place != last or change.at > start for change in sets
            )


def _replay(model: BrokerModel[str, str], applied: list[Applied]) -> tuple[list[object], dict[int, list[Set]]]:
    """Has the model carry out all calls; returns its answers, and the changes of each socket's token."""
    answers: list[object] = []
    sets: dict[int, list[Set]] = {socket: [] for socket in model.received}
    for place, (lane, at, call, number) in enumerate(applied):
        if call[0] == "set_token":
            _, socket, token = cast("tuple[str, int, str | None]", call)
            sets[socket].append(Set(place, lane, at, number, token, model.is_open(socket), at, at))
        answers.append(model.apply(call))
    return answers, sets


def _return_times(actors: list[Actor]) -> dict[object, tuple[int, int]]:
    """Returns when the calls that set tokens began and returned, by token: no token is set twice, but for None."""
    return {
        op[2]: cast("tuple[int, int]", tuple(done[:2]))
        for actor in actors
        for op, done in zip(actor.ops, actor.done, strict=True)
        if op[0] == "set_token"
    }


def _add_times(change: Set, returned: dict[object, tuple[int, int]]) -> Set:
    """Returns the change with the times of its call, as far as they are known."""
    if change.token is None:
        return change._replace(began=0)  # unknown: it may have been any of them
    began, ended = returned[change.token]
    return change._replace(began=began, returned=ended)


def _list_next(actors: list[Actor], places: set[tuple[int, ...]]) -> list[object]:
    """Returns what each actor may have done next, for the text of a failure."""
    return [
        [(actor.ops[index], actor.done[index]) for actor, index in zip(actors, place, strict=True) if actor.ops[index:]]
        for place in sorted(places)[:3]
    ]


def _read_lane(worker: str) -> int:
    """Returns the lane of a worker by its thread's name; LOOP for an inline one."""
    name, _, index = worker.partition("-")
    return int(index) if name == "worker" and index.isdigit() else LOOP
