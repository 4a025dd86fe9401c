"""Close handlers of lost workers are run by another worker, but not again and again for ever."""

from typing import cast

import pytest

from kits.pool_fakes import FakeCore, FakeWorkerQueue
from wsbroker.pool.orphaned_closes import MAX_LOSSES, OrphanedCloses
from wsbroker.pool.slot import WorkerSlot
from wsbroker.wire import events
from wsbroker.wire.events import Event


class FakeSlot:
    """A slot that runs or does not run."""

    def __init__(self, core: FakeCore, is_running: bool = True) -> None:
        self.index = len(core.worker_queues)
        self.queue: FakeWorkerQueue = core.add_worker_queue(self.index, 0, False)
        self.is_running = is_running


def kit(*are_running: bool) -> tuple[FakeCore, list[FakeSlot], OrphanedCloses]:
    core = FakeCore()
    slots = [FakeSlot(core, is_running) for is_running in are_running]
    return core, slots, OrphanedCloses(core, cast(list[WorkerSlot], slots))


def close(socket_id: int) -> Event:
    return (events.CLOSE, socket_id, None, 0, 1012, "worker restart")


def test_they_go_to_the_running_worker_with_the_fewest_sockets() -> None:
    core, slots, closes = kit(False, True, True)
    slots[1].queue.socket_count = 5
    closes.add_closes(cast(WorkerSlot, slots[0]), [close(7), close(8)])
    assert core.adopted == [(2, [close(7), close(8)])]


def test_without_a_running_worker_they_wait_for_the_replacement() -> None:
    core, slots, closes = kit(False)
    closes.add_closes(cast(WorkerSlot, slots[0]), [close(7)])
    assert core.adopted == [] and len(closes) == 1
    slots[0].is_running = True
    closes.assign_closes()
    closes.assign_closes()
    assert core.adopted == [(0, [close(7)])] and len(closes) == 0


def test_one_that_was_with_three_lost_workers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    core, slots, closes = kit(False)
    slot = slots[0]
    left = [close(7)]
    for _ in range(MAX_LOSSES):
        closes.add_closes(cast(WorkerSlot, slot), left)
        slot.is_running = True
        closes.assign_closes()
        slot.is_running = False
        left = core.mark_worker_lost(0, 1012)
    assert len(core.adopted) == MAX_LOSSES - 1
    assert "close handler given up, lost with its worker socket=7 times=3" in caplog.text


def test_what_was_run_is_forgotten() -> None:
    core, slots, closes = kit(False, True)
    for socket_id in range(100):
        closes.add_closes(cast(WorkerSlot, slots[0]), [close(socket_id)])
        core.worker_queues[1].unhandled_closes.clear()  # its handler has run
    assert closes._losses_by_queue == {1: {99: 1}}


def test_what_is_left_when_the_pool_stops_is_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    _, slots, closes = kit(False)
    closes.add_closes(cast(WorkerSlot, slots[0]), [close(7), close(8)])
    closes.drop_unassigned()
    assert "close handlers not run, worker lost and pool stopping count=2" in caplog.text
    assert len(closes) == 0
