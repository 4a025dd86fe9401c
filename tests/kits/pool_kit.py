"""A pool of real workers of any kind, with a fake core."""

import asyncio
import errno
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final, cast

import pytest

from kits.pool_fakes import LOOPS, FakeCore, run
from wsbroker.errors import WSBrokerError
from wsbroker.pool.local_api import LocalApi
from wsbroker.pool.pool import Pool
from wsbroker.settings.config import Config, Settings, WorkerKind
from wsbroker.wire import commands, events
from wsbroker.worker import api as worker_api

ELSEWHERE: Final[tuple[WorkerKind, ...]] = ("process", "interpreter") if sys.version_info >= (3, 13) else ("process",)
"""The kinds with an interpreter of their own."""
WIRED: Final[tuple[WorkerKind, ...]] = ("thread", *ELSEWHERE)
KINDS: Final[tuple[WorkerKind, ...]] = ("inline", *WIRED)

APPS: Final = "kits.pool_apps:"


class Shop:
    """A pool of real workers with a fake core; its `api` is that of the main interpreter."""

    def __init__(self, spec: object, settings: Settings) -> None:
        self.core = FakeCore()
        self.fatal: list[Exception] = []
        config = Config.of(**settings)
        self.api = LocalApi(self.core, config.command_bytes)
        self.pool = Pool(config, spec, self.core, self.api, self.on_fatal)
        self.core.post_events = self.pool.post_events

    def on_fatal(self, error: Exception) -> None:
        """Keeps the error of a crash loop."""
        self.fatal.append(error)
        self.core.notify_change()

    async def __aenter__(self) -> "Shop":
        self.api.start()
        worker_api.set_default_api(self.api)
        await self.pool.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.stop(5)
        worker_api.set_default_api(None)
        self.api.stop()

    def message(self, socket_id: int, data: str, worker_index: int = 0) -> None:
        """Sends a message event of a socket to a worker."""
        self.pool.post_events(worker_index, [(events.MESSAGE, socket_id, data, 10)])

    async def says(self, socket_id: int, data: str, worker_index: int = 0) -> None:
        """Sends a message event to a worker and waits until its handler has ended."""
        ended = self.handled
        self.message(socket_id, data, worker_index)
        await self.core.wait_until(lambda: self.handled > ended)

    async def asks(self, data: str, worker_index: int = 0) -> str:
        """Sends a message event to a worker; returns the first message that its handler sends."""
        known = len(self.sent)
        self.message(1, data, worker_index)
        await self.core.wait_until(lambda: len(self.sent) > known)
        return str(self.sent[known])

    async def until_running(self, restarts: int) -> None:
        """Waits until this many workers were replaced and all workers run."""
        while True:
            statistics = self.pool.collect_statistics()
            if sum(entry["restarts"] for entry in statistics) >= restarts:
                if all(entry["state"] == "running" for entry in statistics):
                    return
            await asyncio.sleep(0.001)

    @property
    def handled(self) -> int:
        """Number of messages whose handlers have ended."""
        return sum(len(cast(list[object], entry[1])) for entry in self.core.log if entry[0] == commands.HANDLED)

    @property
    def sent(self) -> list[object]:
        """The messages that handlers have sent, in order."""
        return [entry[2] for entry in self.core.log if entry[0] == commands.SEND]


Work = Callable[[Shop], Coroutine[object, object, None]]


def live(spec: object, work: Work, loop: str = "uvloop", **settings: object) -> Shop:
    """Runs a test with a started pool and stops the pool; fails if a thread is left."""

    async def main() -> Shop:
        async with Shop(spec, cast(Settings, {"workers": 1, "worker_kind": "thread", **settings})) as shop:
            await work(shop)
        return shop

    before = set(threading.enumerate())  # some of an earlier test may be about to end
    shop = run(main(), LOOPS[loop])
    assert set(threading.enumerate()) <= before
    return shop


def start_error(spec: object, **settings: object) -> WSBrokerError:
    """Starts a pool that must fail to start; returns the error."""

    async def main() -> WSBrokerError:
        shop = Shop(spec, cast(Settings, {"workers": 1, **settings}))
        with pytest.raises(WSBrokerError) as caught:
            await shop.pool.start()
        await shop.pool.stop(1)
        return caught.value

    return run(main())


class Pipe:
    """A pipe on which an application blocks while it opens it for reading; `worker_arg` is its path."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pipe"
        os.mkfifo(self.path)

    async def release(self) -> None:
        """Lets one blocked reader go on, as soon as there is one, without ever blocking."""
        while True:
            try:
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO, error
                await asyncio.sleep(0.001)
            else:
                return
