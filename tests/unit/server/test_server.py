"""What a running server does when a reload, or the watching for one, does not go as it should."""

import asyncio
import logging
from pathlib import Path
from typing import cast

import pytest

from wsbroker.pool.pool import ReloadUnfinished
from wsbroker.server import server as running
from wsbroker.server.node import Node
from wsbroker.server.server import Server
from wsbroker.settings.config import Config, Settings


class HangingNode:
    """A node whose reload comes to its end when the test says so."""

    def __init__(self) -> None:
        self.pool = self
        self.kind = "process"
        self.begun = 0
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def reload(self) -> None:
        """Begins one."""
        self.begun += 1
        await self.outcome


def kit() -> tuple[Server, HangingNode]:
    server = Server(Config.of(**Settings(worker_kind="process")), "not.imported")
    node = HangingNode()
    server._node = cast(Node, node)
    return server, node


@pytest.mark.anyio
async def test_watching_goes_on_while_a_reload_hangs() -> None:
    server, node = kit()
    for _ in range(2):
        await server._on_files_changed()
    await asyncio.sleep(0)  # the tasks begin
    assert node.begun == 2
    await server._cancel_tasks()


@pytest.mark.anyio
async def test_a_reload_in_part_does_not_say_that_the_old_workers_stay(caplog: pytest.LogCaptureFixture) -> None:
    server, node = kit()
    node.outcome.set_exception(ReloadUnfinished("1 of 2 workers have the new code"))
    await server._reload_and_log()
    assert caplog.messages == ["reload not finished: 1 of 2 workers have the new code"]


@pytest.mark.anyio
async def test_a_watcher_that_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(folders: list[Path], on_change: object) -> None:
        raise OSError("inotify limit reached")

    monkeypatch.setattr(running, "watch_python_files", fails)
    server = Server(Config.of(**Settings(worker_kind="inline")), Idle())
    server._watched_folders = [Path()]
    living = asyncio.create_task(server._run_until_stopped([], lambda: None))
    async with asyncio.timeout(20):
        while not any(record.levelno == logging.ERROR for record in caplog.records):
            await asyncio.sleep(0)
    assert (
        "files are not watched any more, send SIGHUP to reload or restart the server: inotify limit reached"
        in caplog.messages
    )
    server.stop()
    await living


class Idle:
    """A worker that handles nothing worth mentioning."""

    def handle_socket_message(self, data: object) -> None:
        """Nothing."""
