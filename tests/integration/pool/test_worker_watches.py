"""Watches on a worker: a condition is tested after each batch, and costs nothing when it is not waited for any more."""

import asyncio
from collections.abc import Callable, Coroutine

from kits.pool_fakes import PoolKit, run, serve_events
from wsbroker.pool.remote_worker import RemoteWorker
from wsbroker.pool.tasks import wait_for_any


def with_worker(work: Callable[[PoolKit, RemoteWorker], Coroutine[object, object, None]]) -> None:
    """Runs a test with a pool of one worker."""

    async def main() -> None:
        kit = PoolKit(serve_events)
        await kit.pool.start()
        try:
            worker = kit.pool._slots[0].worker
            assert worker is not None
            await work(kit, worker)
        finally:
            await kit.pool.stop(5)

    run(main())


def test_a_watch_is_done_in_the_batch_that_makes_its_condition_true() -> None:
    async def work(kit: PoolKit, worker: RemoteWorker) -> None:
        queue = kit.core.worker_queues[0]
        watch = worker.watch(lambda: queue.handled_messages == 2)
        kit.post_message(1, "a")
        await kit.core.wait_until(lambda: queue.handled_messages == 1)
        assert not watch.done()
        kit.post_message(1, "b")
        await kit.core.wait_until(lambda: queue.handled_messages == 2)
        assert watch.done()
        assert worker._event_stream.on_batch == worker._apply_batch

    with_worker(work)


def test_a_watch_is_done_at_once_if_its_condition_holds_or_the_worker_does_not_run() -> None:
    async def work(kit: PoolKit, worker: RemoteWorker) -> None:
        assert worker.watch(lambda: True).done()
        never = worker.watch(lambda: False)
        worker.declare_lost("a test")
        assert never.done()
        assert worker.watch(lambda: False).done()

    with_worker(work)


def test_a_cancelled_watch_is_dropped_with_the_next_batch() -> None:
    async def work(kit: PoolKit, worker: RemoteWorker) -> None:
        assert not await wait_for_any([worker.watch(lambda: False)], asyncio.get_running_loop().time())
        kit.post_message(1, "a")
        await kit.core.wait_until(lambda: kit.core.worker_queues[0].handled_messages == 1)
        assert worker._watches == []
        assert worker._event_stream.on_batch == worker._apply_batch

    with_worker(work)


def test_cancelled_watches_do_not_gather_on_a_worker_that_sends_nothing() -> None:
    async def work(kit: PoolKit, worker: RemoteWorker) -> None:
        waiting = worker.watch(lambda: False)
        for _ in range(100):
            worker.watch(lambda: False).cancel()
        assert [watch[1].cancelled() for watch in worker._watches] == [False, True]
        waiting.cancel()

    with_worker(work)
