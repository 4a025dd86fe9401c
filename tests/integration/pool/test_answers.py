"""Answers of a worker that cannot be sent: the request gets a 500, and nothing else is disturbed."""

import asyncio

import pytest

from kits.pool_fakes import FakeWorkerEnd, PoolKit, run, send_started
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse
from wsbroker.wire import commands, events

REQUEST = HttpRequest("GET", "/")
WRONG: list[tuple[object, object, object]] = [
    (1000, [], b""),
    (True, [], b""),
    (200, [("A", "b\r\nC: d")], b""),
    (200, [("A", 1)], b""),
    (200, None, b""),
    (200, [], {"a": 1}),
]
WRONG_OPEN: list[tuple[object, object, object]] = [
    WRONG[0],
    (101, [("A", "b\r\nC: d")], b""),
    (101, [("A", 1)], b""),
    (101, [], b"\xff"),
]


def _answers(wire: FakeWorkerEnd) -> None:
    send_started(wire, "handle_http_request", "handle_socket_open")
    number = 0
    while batch := wire.read():
        for event in batch:
            if event[0] == events.OPEN:
                wire.write((commands.OPEN_RESULT, event[1], *(WRONG_OPEN.pop() if WRONG_OPEN else (101, [], b""))))
            elif event[0] == events.HTTP:
                fields = WRONG[number] if number < len(WRONG) else (200, [], b"fine")
                number += 1
                wire.write((commands.RESPONSE, event[1], *fields))
            elif event[0] == events.STOP:
                wire.write((commands.STOPPED,))
                return


def test_an_answer_that_cannot_be_sent_is_a_500_and_the_worker_lives(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        kit = PoolKit(_answers)
        await kit.pool.start()
        try:
            answers = [await kit.pool.run_http_handler(REQUEST) for _ in range(len(WRONG) + 1)]
            assert [answer.status for answer in answers] == [500] * len(WRONG) + [200]
            for _ in range(len(WRONG_OPEN)):
                refused = await kit.pool.run_open_handler(7, 0, REQUEST)
                assert isinstance(refused, HttpResponse) and refused.status == 500
            assert await kit.pool.run_open_handler(7, 0, REQUEST) is None
            assert not kit.core.lost_queues
            await asyncio.sleep(0)
        finally:
            await kit.pool.stop(5)

    run(work())
    assert caplog.text.count("response cannot be sent worker=") == len(WRONG) + 1
