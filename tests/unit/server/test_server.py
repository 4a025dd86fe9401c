"""The lifecycle of a server when a reload hangs or fails, and when the file watch fails."""

import asyncio
import logging
from pathlib import Path
from typing import cast

import pytest

from wsbroker.pool.pool import ReloadUnfinished
from wsbroker.server import lifecycle as lifecycle_module
from wsbroker.server.lifecycle import Lifecycle
from wsbroker.server.node import Node
from wsbroker.settings.config import Config, Settings


class HangingNode:
    """A node whose reload ends when the test resolves `outcome`."""

    def __init__(self) -> None:
        self.pool = self
        self.kind = "process"
        self.begun = 0
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def reload(self) -> None:
        """Begins a reload that ends with `outcome`."""
        self.begun += 1
        await self.outcome


def kit() -> tuple[Lifecycle, HangingNode]:
    """A server of kind `process` that runs a `HangingNode`."""
    lifecycle = Lifecycle(Config.of(**Settings(worker_kind="process")), "not.imported")
    node = HangingNode()
    lifecycle.node = cast(Node, node)
    return lifecycle, node


@pytest.mark.anyio
async def test_watching_goes_on_while_a_reload_hangs() -> None:
    lifecycle, node = kit()
    for _ in range(2):
        await lifecycle.on_files_changed()
    await asyncio.sleep(0)  # the tasks begin
    assert node.begun == 2
    await lifecycle.cancel_tasks()


@pytest.mark.anyio
async def test_a_reload_in_part_does_not_say_that_the_old_workers_stay(caplog: pytest.LogCaptureFixture) -> None:
    lifecycle, node = kit()
    node.outcome.set_exception(ReloadUnfinished("1 of 2 workers have the new code"))
    await lifecycle.reload_and_log()
    assert caplog.messages == ["reload not finished: 1 of 2 workers have the new code"]


@pytest.mark.anyio
async def test_a_watcher_that_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(folders: list[Path], on_change: object, on_mistake: object) -> None:
        raise OSError("inotify limit reached")

    monkeypatch.setattr(lifecycle_module, "watch_python_files", fails)
    lifecycle = Lifecycle(Config.of(**Settings(worker_kind="inline")), Idle())
    lifecycle.watched_folders = [Path()]
    living = asyncio.create_task(lifecycle.run_until_stopped([], lambda: None))
    async with asyncio.timeout(20):
        while not any(record.levelno == logging.ERROR for record in caplog.records):
            await asyncio.sleep(0)
    assert (
        "files are not watched any more, send SIGHUP to reload or restart the server: inotify limit reached"
        in caplog.messages
    )
    lifecycle.request_stop(None)
    await living


class Idle:
    """A worker whose message handler does nothing."""

    def handle_socket_message(self, data: object) -> None:
        """Does nothing."""
