"""Log records of a worker that logs much: replayed in order, a limited number per turn, while the worker waits."""

import asyncio
import logging

import pytest

from kits.pool_fakes import FakeWorkerEnd, PoolKit, run, send_started
from wsbroker.pool import log_replay as records
from wsbroker.pool.log_replay import PAUSE_AT_RECORDS, RESUME_AT_RECORDS, SLICE_S, LogReplay
from wsbroker.wire import commands, events
from wsbroker.wire.commands import Command

NAME = "tests.records"
PER_SLICE = 10


def _record(number: int) -> Command:
    return (commands.LOG, logging.INFO, NAME, str(number), "", "", 1, "app.py", 1, "f", "t", 1)


class Flood:
    """A log replay with a fake clock on which each record takes a tenth of a slice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.said: list[int] = []
        self.pauses: list[bool] = []
        monkeypatch.setattr(records, "replay_record", self._replay)
        pause, resume = (lambda: self.pauses.append(True)), (lambda: self.pauses.append(False))
        self.records = LogReplay("worker-0", pause, resume, lambda: self.now)

    def _replay(self, worker: str, command: Command) -> None:
        self.said.append(int(str(command[3])))
        self.now += SLICE_S / PER_SLICE

    def add(self, amount: int, start: int = 0) -> None:
        for number in range(start, start + amount):
            self.records.add_record(_record(number))


def test_a_flood_of_records_is_handled_in_slices_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        flood = Flood(monkeypatch)
        flood.add(5)
        assert flood.said == [0, 1, 2, 3, 4]  # few are handled at once: before what their worker says next
        flood.add(45, 5)
        before = len(flood.said)
        assert PER_SLICE <= before <= PER_SLICE + 1
        while len(flood.said) < 50:
            await asyncio.sleep(0)
            assert 0 < len(flood.said) - before <= PER_SLICE + 1
            before = len(flood.said)
        assert flood.said == list(range(50)) and flood.pauses == []
        await asyncio.sleep(0)
        flood.add(1, 50)
        assert flood.said[-1] == 50

    run(work())


def test_a_worker_that_logs_faster_than_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        flood = Flood(monkeypatch)
        flood.add(PAUSE_AT_RECORDS + 100)
        assert flood.pauses == [True]
        while flood.pauses == [True]:
            await asyncio.sleep(0)
        assert flood.pauses == [True, False]
        assert (
            PAUSE_AT_RECORDS + 100 - RESUME_AT_RECORDS
            <= len(flood.said)
            <= PAUSE_AT_RECORDS + 100 - RESUME_AT_RECORDS + 2 * PER_SLICE
        )
        flood.add(5, PAUSE_AT_RECORDS + 100)
        flood.records.replay_rest()
        assert flood.said == list(range(PAUSE_AT_RECORDS + 105))
        await asyncio.sleep(0)

    run(work())


def test_all_that_a_worker_has_logged_is_said_in_order_and_before_it_is_said_to_be_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    amount = 3 * PAUSE_AT_RECORDS

    def floods(wire: FakeWorkerEnd) -> None:
        send_started(wire, "handle_socket_message")
        if wire.read()[0][0] == events.MESSAGE:
            for number in range(0, amount, 100):
                wire.write(*[_record(number) for number in range(number, number + 100)])

    async def work() -> None:
        house = PoolKit(floods)
        await house.pool.start()
        house.post_message(1, "go")
        await house.core.wait_until(lambda: bool(house.core.lost_queues))
        await house.pool.stop(5)

    caplog.set_level(logging.INFO)
    run(work())
    said = [record.getMessage() for record in caplog.records]
    numbers = [record.getMessage() for record in caplog.records if record.name == NAME]
    assert numbers == [str(number) for number in range(amount)]
    assert said.index(str(amount - 1)) < next(i for i, text in enumerate(said) if text.startswith("worker lost"))
