"""Runs coroutines and functions in other threads than the test's."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kits.raw_peer import PATIENCE_S

_T = TypeVar("_T")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name=name)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._leave = asyncio.Event()
        self._ready.set()
        await self._leave.wait()

    def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Runs a coroutine in the loop, waits for its end, and returns its result."""
        return asyncio.run_coroutine_threadsafe(_in_time(work), self.loop).result()

    def end(self) -> None:
        """Ends the loop and the thread."""
        self.loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


async def _in_time(work: Coroutine[object, object, _T]) -> _T:
    async with asyncio.timeout(PATIENCE_S):
        return await work


def in_a_thread(function: Callable[[], _T]) -> _T:
    """Runs a function in a new thread, waits for its end, and returns its result."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result(PATIENCE_S)
