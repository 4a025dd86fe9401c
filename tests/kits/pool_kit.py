"""A pool of real workers of any kind; the core is a fake."""

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
    """A pool, its port being the main interpreter's."""

    def __init__(self, spec: object, settings: Settings) -> None:
        self.core = FakeCore()
        self.fatal: list[Exception] = []
        config = Config.of(**settings)
        self.port = LocalApi(self.core, config.command_bytes)
        self.pool = Pool(config, spec, self.core, self.port, self.on_fatal)
        self.core.post_events = self.pool.post_events

    def on_fatal(self, error: Exception) -> None:
        """The pool gives up."""
        self.fatal.append(error)
        self.core.notify_change()

    async def __aenter__(self) -> "Shop":
        self.port.start()
        worker_api.set_default_api(self.port)
        await self.pool.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.stop(5)
        worker_api.set_default_api(None)
        self.port.stop()

    def message(self, socket_id: int, data: str, worker_index: int = 0) -> None:
        """A message comes in."""
        self.pool.post_events(worker_index, [(events.MESSAGE, socket_id, data, 10)])

    async def says(self, socket_id: int, data: str, worker_index: int = 0) -> None:
        """A message, and the wait until its handler has ended."""
        ended = self.handled
        self.message(socket_id, data, worker_index)
        await self.core.wait_until(lambda: self.handled > ended)

    async def asks(self, data: str, worker_index: int = 0) -> str:
        """A message, and what comes back."""
        known = len(self.sent)
        self.message(1, data, worker_index)
        await self.core.wait_until(lambda: len(self.sent) > known)
        return str(self.sent[known])

    async def until_running(self, restarts: int) -> None:
        """Waits until so many workers were replaced and all run."""
        while True:
            statistics = self.pool.collect_statistics()
            if sum(entry["restarts"] for entry in statistics) >= restarts:
                if all(entry["state"] == "running" for entry in statistics):
                    return
            await asyncio.sleep(0.001)

    @property
    def handled(self) -> int:
        """Messages whose handlers have ended."""
        return sum(len(cast(list[object], entry[1])) for entry in self.core.log if entry[0] == commands.HANDLED)

    @property
    def sent(self) -> list[object]:
        """What handlers have sent."""
        return [entry[2] for entry in self.core.log if entry[0] == commands.SEND]


Work = Callable[[Shop], Coroutine[object, object, None]]


def live(spec: object, work: Work, loop: str = "uvloop", **settings: object) -> Shop:
    """Starts, works, stops; nothing may be left."""

    async def main() -> Shop:
        async with Shop(spec, cast(Settings, {"workers": 1, "worker_kind": "thread", **settings})) as shop:
            await work(shop)
        return shop

    before = set(threading.enumerate())  # some of an earlier test may be about to end
    shop = run(main(), LOOPS[loop])
    assert set(threading.enumerate()) <= before
    return shop


def start_error(spec: object, **settings: object) -> WSBrokerError:
    """What a start fails with."""

    async def main() -> WSBrokerError:
        shop = Shop(spec, cast(Settings, {"workers": 1, **settings}))
        with pytest.raises(WSBrokerError) as caught:
            await shop.pool.start()
        await shop.pool.stop(1)
        return caught.value

    return run(main())


class Pipe:
    """What an application blocks on that opens it for reading (`worker_arg` names it), until somebody writes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pipe"
        os.mkfifo(self.path)

    async def release(self) -> None:
        """Lets one reader go on, as soon as there is one. Never blocks: nothing could end a thread that does."""
        while True:
            try:
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO, error
                await asyncio.sleep(0.001)
            else:
                return
