"""The application of `test_exact`: handlers carry out the calls that messages contain, and report results and times.

Runs anywhere: what it knows leaves as messages to REPORTS, a socket that nobody has. Whoever stands between the wires
and the core finds them there, in the order in which they were applied.
"""

import asyncio
import json
import threading
import time
from contextvars import copy_context
from time import monotonic_ns
from typing import TypedDict

import wsbroker

REPORTS = 1 << 40
PAUSE = "pause"
"""No call: others may go on meanwhile."""

Op = list[object]
"""A call of the API: its name and its arguments."""
Done = list[object]
"""When it began and when it returned, in ns of a clock that all processes share, and what it returned."""


class Task(TypedDict):
    """What a message asks for."""

    number: int
    ops: list[Op]
    beside: list[Op]
    """What a thread does meanwhile."""


class Report(TypedDict):
    """What a call of a handler tells."""

    handler: str
    socket: int
    worker: str
    number: int
    start: int
    """In a coroutine this is its first step, which may come after its call."""
    end: int
    token: str | None
    code: int
    done: list[Done]
    beside: list[Done]


def carry_out(op: Op) -> Done:
    """Makes one call of the API; returns when it began, when it returned, and what it returned."""
    name, *arguments = op
    start = monotonic_ns()
    if name == PAUSE:
        time.sleep(0)
        answer: object = None
    elif name == "send_to_channel":
        channel, data, exclude = arguments
        answer = wsbroker.send_to_channel(channel, data, exclude=exclude)  # type: ignore[func-returns-value,arg-type]
    else:
        answer = getattr(wsbroker, str(name))(*arguments)
    end = monotonic_ns()
    return [start, end, [plain(item) for item in answer] if isinstance(answer, list) else answer]


def carry_out_all(ops: list[Op]) -> list[Done]:
    """Makes one call after the other; returns what `carry_out` returns for each."""
    return [carry_out(op) for op in ops]


def plain(item: object) -> object:
    """Returns an item of an answer in a form that JSON has: bytes as text, all others unchanged."""
    return item.decode() if isinstance(item, bytes) else item


def begun(handler: str, socket_id: int, token: bytes | None, number: int = 0, code: int = 0) -> Report:
    """Returns the report on a handler's call that begins now, without its end and results."""
    return {
        "handler": handler,
        "socket": socket_id,
        "worker": threading.current_thread().name,
        "number": number,
        "start": monotonic_ns(),
        "end": 0,
        "token": None if token is None else token.decode(),
        "code": code,
        "done": [],
        "beside": [],
    }


def tell(report: Report) -> None:
    """Completes a report with the present time and sends the report to the socket REPORTS."""
    report["end"] = monotonic_ns()
    wsbroker.send(REPORTS, json.dumps(report))


class Sync:
    """Plain functions."""

    def handle_socket_open(self, request: wsbroker.HttpRequest, socket_id: int) -> None:
        wsbroker.send(socket_id, str(socket_id))

    def handle_socket_message(self, data: str, socket_id: int, token: bytes | None) -> None:
        """Carries out a task, with a thread for its second list of calls, and reports all results."""
        task: Task = json.loads(data)
        report = begun("message", socket_id, token, task["number"])
        if task["beside"]:
            thread = threading.Thread(
                target=copy_context().run, args=(lambda: report["beside"].extend(carry_out_all(task["beside"])),)
            )
            thread.start()
            report["done"] = carry_out_all(task["ops"])
            thread.join()
        else:
            report["done"] = carry_out_all(task["ops"])
        tell(report)

    def handle_socket_close(self, socket_id: int, token: bytes | None, code: int) -> None:
        tell(begun("close", socket_id, token, code=code))


class Async(Sync):
    """Coroutines, which take turns."""

    async def handle_socket_message(  # type: ignore[override]
        self, data: str, socket_id: int, token: bytes | None
    ) -> None:
        """Carries out a task, other coroutines between its calls, and reports all results; see `Sync`."""
        task: Task = json.loads(data)
        report = begun("message", socket_id, token, task["number"])
        beside: asyncio.Future[list[Done]] | None = None
        if task["beside"]:
            beside = asyncio.ensure_future(asyncio.to_thread(carry_out_all, task["beside"]))
        report["done"] = await carry_out_in_turns(task["ops"])
        if beside is not None:
            report["beside"] = await beside
        tell(report)


async def carry_out_in_turns(ops: list[Op]) -> list[Done]:
    """Makes one call after the other as a coroutine; at each PAUSE other coroutines of the loop run."""
    done: list[Done] = []
    for op in ops:
        if op[0] == PAUSE:
            await asyncio.sleep(0)
        done.append(carry_out(op))
    return done
