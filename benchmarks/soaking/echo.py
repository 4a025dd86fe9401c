"""Round trips of one socket, from a process of its own: what the load's process is busy with does not count."""

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, cast

from benchmarks.client import Address, Client, connect
from benchmarks.soaking.loops import run_in_loop
from benchmarks.soaking.report import spread

PAUSE_S: Final = 0.005
PATIENCE_S: Final = 60.0


class Echo:
    """Measures while its ``async with`` block runs; the application has to send back what it gets.

    Args:
        address: of the server.
        avoids: the name of a worker; the socket is one of another. The application has to answer ``who`` with the name.
        question: what is sent.
    """

    def __init__(self, address: Address, avoids: bytes | None = None, question: str = "echo") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, address, avoids, question), daemon=True)
        self.trips_s: list[float] = []
        """How long each took, in seconds; known after the block."""
        self.overslept_s = 0.0
        """By how much the process slept too long between two of them, at most: what this machine adds to any figure."""
        self._process.start()
        theirs.close()

    async def __aenter__(self) -> "Echo":
        if not await asyncio.to_thread(self._pipe.poll, PATIENCE_S):
            raise RuntimeError("the echo's process did not start")
        self._pipe.recv()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._pipe.send(None)
                if not await asyncio.to_thread(self._pipe.poll, PATIENCE_S):
                    raise RuntimeError("the echo's process did not end: its socket got no answer")
                self.trips_s, self.overslept_s = cast("tuple[list[float], float]", self._pipe.recv())
        finally:
            self._pipe.close()
            if kind is not None:
                self._process.kill()
            await asyncio.to_thread(self._process.join, PATIENCE_S)

    @property
    def text(self) -> str:
        """The figures."""
        return f"{spread(self.trips_s)}; overslept by up to {self.overslept_s * 1e3:.1f} ms itself"


def _main(pipe: "Connection[Any, Any]", address: Address, avoids: bytes | None, question: str) -> None:
    run_in_loop(_measure(pipe, address, avoids, question))


async def _measure(pipe: "Connection[Any, Any]", address: Address, avoids: bytes | None, question: str) -> None:
    client = await _connect(address, avoids)
    trips_s: list[float] = []
    overslept_s = 0.0
    pipe.send(None)
    while not pipe.poll():
        start_s = time.perf_counter()
        client.send(question)
        await client.receive()
        end_s = time.perf_counter()
        trips_s.append(end_s - start_s)
        await asyncio.sleep(PAUSE_S)
        overslept_s = max(overslept_s, time.perf_counter() - end_s - PAUSE_S)
    await client.close()
    pipe.send((trips_s, overslept_s))


async def _connect(address: Address, avoids: bytes | None) -> Client:
    while True:
        client = await connect(address)
        if avoids is None:
            return client
        client.send("who")
        if await client.receive() != avoids:
            return client
        await client.close()
