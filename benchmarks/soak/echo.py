"""Round trips of one socket, measured in a process of its own, so that a busy load process does not count."""

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, cast

from benchmarks.soak.report import format_spread
from benchmarks.soak.server import run_in_loop
from wsbroker.bench.client import BenchClient, Target, connect

PAUSE_S: Final = 0.005
PATIENCE_S: Final = 60.0


class EchoProbe:
    """Measures round trips while its ``async with`` block runs; the application answers each question with a message.

    Args:
        target: the server.
        avoided_worker: the name of a worker that must not own the socket; the application has to answer ``who`` with
            the name. None: any worker will do.
        question: the text that is sent.
    """

    def __init__(self, target: Target, avoided_worker: bytes | None = None, question: str = "echo") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, target, avoided_worker, question)
        self._process = context.Process(target=_run_probe, args=arguments, daemon=True)
        self.trips_s: list[float] = []
        """How long each round trip took, in seconds; known after the block."""
        self.overslept_s = 0.0
        """The most that the process overslept between two round trips: what this machine adds to any figure."""
        self._process.start()
        theirs.close()

    async def __aenter__(self) -> "EchoProbe":
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
    def summary(self) -> str:
        """The figures as text."""
        return f"{format_spread(self.trips_s)}; overslept by up to {self.overslept_s * 1e3:.1f} ms itself"


async def measure_trip(client: BenchClient, question: str) -> float:
    """Sends a question and waits for its answer, at most PATIENCE_S; returns the seconds that took."""
    start_s = time.perf_counter()
    client.send_message(question)
    async with asyncio.timeout(PATIENCE_S):
        await client.receive_message()
    return time.perf_counter() - start_s


def _run_probe(pipe: "Connection[Any, Any]", target: Target, avoided_worker: bytes | None, question: str) -> None:
    """Measures until the pipe says stop, then sends the figures. Runs in the probe's process."""
    run_in_loop(_measure_until_told(pipe, target, avoided_worker, question))


async def _measure_until_told(
    pipe: "Connection[Any, Any]", target: Target, avoided_worker: bytes | None, question: str
) -> None:
    """Measures round trips until the pipe says stop, and sends them with the worst oversleeping."""
    client = await _connect_elsewhere(target, avoided_worker)
    trips_s: list[float] = []
    overslept_s = 0.0
    pipe.send(None)
    while not pipe.poll():
        trips_s.append(await measure_trip(client, question))
        end_s = time.perf_counter()
        await asyncio.sleep(PAUSE_S)
        overslept_s = max(overslept_s, time.perf_counter() - end_s - PAUSE_S)
    await client.close()
    pipe.send((trips_s, overslept_s))


async def _connect_elsewhere(target: Target, avoided_worker: bytes | None) -> BenchClient:
    """Opens connections until one belongs to another worker than the avoided one; returns that one."""
    while True:
        client = await connect(target)
        if avoided_worker is None:
            return client
        client.send_message("who")
        if await client.receive_message() != avoided_worker:
            return client
        await client.close()
