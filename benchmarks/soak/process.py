"""Processes beside the load's: the server of a run, and connections whose round trips a busy load must not delay.

They are spawned, not forked, so that their figures are their own. Each ends when its pipe does, or after `LIFE_S`.
"""

import asyncio
import faulthandler
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar, cast

from benchmarks.soak.report import format_spread
from benchmarks.soak.server import Control, Pipe, Snapshot, serve_until_closed
from wsbroker.bench.client import BenchClient, Target, connect
from wsbroker.bench.command import find_loop_factory
from wsbroker.settings.config import Settings

LIFE_S: Final = 900.0
PATIENCE_S: Final = 60.0
PAUSE_S: Final = 0.005
"""Between two round trips of a probe."""

Answer = TypeVar("Answer")


def run_in_loop(main: Coroutine[object, object, None]) -> None:
    """Runs a coroutine to its end, in uvloop where it is installed: a load should cost less than the server."""
    with asyncio.Runner(loop_factory=find_loop_factory()) as runner:
        runner.run(main)


class ChildProcess:
    """Runs a function in a process of its own, with a pipe to it; a context manager that ends the process.

    Args:
        function: called there with the other end of the pipe; must end when the pipe is closed.
        *arguments: more arguments of the function.
    """

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run_child, args=(function, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.pid: Final = self._process.pid or 0

    def send(self, value: object) -> None:
        """Sends a value to the process."""
        self._pipe.send(value)

    def receive(self) -> Any:
        """Waits for a value from the process; after PATIENCE_S has all threads there print their stacks.

        Raises:
            RuntimeError: nothing came, or the process failed.
        """
        if not self._pipe.poll(PATIENCE_S):
            if self._process.is_alive():
                os.kill(self.pid, signal.SIGUSR1)
                time.sleep(1)
            raise RuntimeError(f"a process of the run did not answer for {PATIENCE_S:g} s")
        try:
            value = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the run has ended") from None
        if isinstance(value, RuntimeError):
            raise value
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._pipe.close()
        if kind is not None:
            self._process.kill()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        assert kind or self._process.exitcode == 0, f"a process of the run ended with {self._process.exitcode}"


def _run_child(function: Callable[..., None], pipe: Pipe, *arguments: object) -> None:
    """Calls the function and sends the parent its exception, if any. Runs as the main function of the process."""
    faulthandler.dump_traceback_later(LIFE_S, exit=True)
    faulthandler.register(signal.SIGUSR1)
    try:
        function(pipe, *arguments)
    except Exception as error:
        pipe.send(RuntimeError(repr(error)))
        raise


class ServerProcess(ChildProcess):
    """Starts a server in a process of its own and calls the `Control` there.

    Args:
        application: the class of the handlers.
        settings: the server's settings.
    """

    def __init__(self, application: type, settings: Settings) -> None:
        super().__init__(serve_until_closed, application, settings)
        port, core = cast(tuple[int, str], self.receive())
        self.core: Final = core
        """``compiled`` or ``interpreted``."""
        self.target: Final = Target.from_url(f"ws://127.0.0.1:{port}/")

    async def call(self, method: Callable[..., Answer], *arguments: object) -> Answer:
        """Calls a method of `Control` in the server's process, while the load goes on; one call at a time.

        Raises:
            RuntimeError: the method raised, or did not answer for PATIENCE_S.
        """
        self.send((method, arguments))
        return cast(Answer, await asyncio.to_thread(self.receive))

    async def wait_until_left(self, expected: Counter[str], limit_s: float = 120.0) -> Snapshot:
        """Waits until exactly this is left, at most `limit_s`; returns the last snapshot."""
        deadline = time.monotonic() + limit_s
        while True:
            snapshot = await self.call(Control.take_snapshot)
            if snapshot.left == expected or time.monotonic() > deadline:
                return snapshot
            await asyncio.sleep(0.1)


@dataclass
class Trips:
    """Round trips of one connection.

    Args:
        durations_s: how long each took.
        overslept_s: the most that the probe overslept between two of them: what this machine adds to any figure.
    """

    durations_s: list[float] = field(default_factory=list)
    overslept_s: float = 0.0

    @property
    def worst_s(self) -> float:
        """The longest round trip; infinite if there was none."""
        return max(self.durations_s, default=float("inf"))

    def __str__(self) -> str:
        return f"{format_spread(self.durations_s)}; overslept by up to {self.overslept_s * 1e3:.1f} ms itself"


@asynccontextmanager
async def probe_trips(target: Target, question: str, avoided_worker: bytes | None = None) -> AsyncIterator[Trips]:
    """Measures round trips from a process of its own while the block runs; fills the `Trips` at the block's end.

    Args:
        target: the server.
        question: a message that the application answers with a message.
        avoided_worker: the name of a worker that must not own the socket; the application has to answer ``who`` with
            the name. None: any worker will do.
    """
    trips = Trips()
    with ChildProcess(_measure_until_told, target, question, avoided_worker) as child:
        await asyncio.to_thread(child.receive)
        yield trips
        child.send(None)
        trips.durations_s, trips.overslept_s = await asyncio.to_thread(child.receive)


def _measure_until_told(pipe: Pipe, target: Target, question: str, avoided_worker: bytes | None) -> None:
    """Measures round trips until the pipe has something, then sends the figures. Runs in the probe's process."""

    async def measure() -> None:
        client = await _connect_elsewhere(target, avoided_worker)
        trips = Trips()
        pipe.send(None)
        while not pipe.poll():
            start_s = time.perf_counter()
            async with asyncio.timeout(PATIENCE_S):
                client.send_message(question)
                await client.receive_message()
            end_s = time.perf_counter()
            trips.durations_s.append(end_s - start_s)
            await asyncio.sleep(PAUSE_S)
            trips.overslept_s = max(trips.overslept_s, time.perf_counter() - end_s - PAUSE_S)
        pipe.send((trips.durations_s, trips.overslept_s))

    run_in_loop(measure())


async def _connect_elsewhere(target: Target, avoided_worker: bytes | None) -> BenchClient:
    """Opens sockets until one belongs to another worker than the avoided one; returns that one."""
    while True:
        client = await connect(target)
        if avoided_worker is None:
            return client
        client.send_message("who")
        if await client.receive_message() != avoided_worker:
            return client
        await client.close()
