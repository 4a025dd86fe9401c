"""Pool tasks log their exceptions and are cancelled together."""

import asyncio

import pytest

from kits.pool_fakes import run
from wsbroker.pool.tasks import PoolTasks


def test_an_exception_that_nobody_caught_is_logged_with_the_name_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks() -> None:
        raise LookupError("lost it")

    async def main() -> None:
        tasks = PoolTasks()
        await tasks.spawn_task(breaks(), "worker-3 mailbox")
        assert len(tasks) == 0

    run(main())
    assert "task failed task=worker-3 mailbox" in caplog.text
    assert "LookupError: lost it" in caplog.text


def test_finish_ends_what_still_runs() -> None:
    async def main() -> None:
        tasks = PoolTasks()
        for _ in range(3):
            tasks.spawn_task(asyncio.Event().wait(), "waits")  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await tasks.cancel_all()
        assert len(tasks) == 0

    run(main())
