"""One place in the pool: the worker that fills it now, and the replacement of one that is lost."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TypedDict

from wsbroker.config import Config
from wsbroker.errors import WorkerError, WSBrokerError
from wsbroker.pool.carrier import Carrier
from wsbroker.pool.core import Core, LaneView
from wsbroker.pool.restarts import MAX_DEATHS, WINDOW_S, Restarts
from wsbroker.pool.tasks import Tasks
from wsbroker.pool.wire_worker import HANDLED, State, WireWorker
from wsbroker.wire.events import Event

logger = logging.getLogger(__name__)

WORKER_RESTART: Final = 1012
"""The close code of sockets whose worker was lost: the client should reconnect."""


class WorkerStatistics(TypedDict):
    """What one worker does, as plain numbers."""

    name: str
    state: str
    """``"starting"``, ``"running"``, ``"stopping"``, ``"ended"`` (between a loss and its replacement too)"""
    restarts: int
    sockets: int
    mailbox_batches: int
    mailbox_bytes: int
    """bytes of messages on their way or being handled: the credit in use"""
    unwritten_bytes: int
    """bytes of batches that the kernel has not taken yet"""
    opens_in_flight: int
    requests_in_flight: int
    asked_bytes: int
    """bytes of those two"""
    handled: int
    """messages whose handlers have ended"""
    counts: dict[str, int]
    """what the worker counts itself: errors, time-outs, …; the names stand in `worker.report`"""


def idle_statistics(name: str, state: str, sockets: int, counts: dict[str, int]) -> WorkerStatistics:
    """Those of a worker that nothing is on its way to."""
    return {
        "name": name,
        "state": state,
        "restarts": 0,
        "sockets": sockets,
        "mailbox_batches": 0,
        "mailbox_bytes": 0,
        "unwritten_bytes": 0,
        "opens_in_flight": 0,
        "requests_in_flight": 0,
        "asked_bytes": 0,
        "handled": 0,
        "counts": counts,
    }


class Owner(ABC):
    """Who has places: told of what concerns more than one of them."""

    @abstractmethod
    def place_runs(self, place: "Place") -> None:
        """A replacement has started."""

    @abstractmethod
    def closes_left(self, place: "Place", closes: list[Event]) -> None:
        """The place's worker is lost: these CLOSE events need another one."""

    @abstractmethod
    def place_failed(self, error: Exception) -> None:
        """A crash loop: the server has to end."""


class Place:
    """One place in the pool.

    Args:
        index: of its lane.
        lane: its lane.
        carrier_for: makes the carrier of a worker of this name.
    """

    def __init__(
        self,
        index: int,
        lane: LaneView,
        carrier_for: Callable[[str], Carrier],
        core: Core,
        config: Config,
        tasks: Tasks,
        owner: Owner,
    ) -> None:
        self.index: Final = index
        self.lane: Final = lane
        self.name: Final = f"worker-{index}"
        self.worker: WireWorker | None = None
        self._carrier_for = carrier_for
        self._core = core
        self._config = config
        self._tasks = tasks
        self._owner = owner
        self._counts: dict[str, int] = {}
        self._restarts = Restarts()
        self._replacing: asyncio.Task[None] | None = None
        self._is_stopping = False

    @property
    def is_running(self) -> bool:
        """Whether its worker takes sockets and requests."""
        return self.worker is not None and self.worker.state is State.RUNNING

    async def start(self) -> list[str]:
        """Starts a worker here; returns the names of its handlers. Raises what `WireWorker.start` does."""
        worker = WireWorker(
            self._carrier_for(self.name),
            self.index,
            self.lane.generation,
            self._core,
            self._config,
            self._tasks,
            self._counts,
            self._worker_lost,
        )
        self.worker = worker
        names = await worker.start()
        generation = self.lane.generation
        logger.info("worker started worker=%s generation=%d handlers=%s", self.name, generation, ",".join(names))
        return names

    async def stop_replacing(self) -> None:
        """From here on a lost worker is not replaced."""
        self._is_stopping = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])

    async def stop(self, timeout_s: float) -> bool:
        """Ends what is here, after `stop_replacing`; returns whether nothing of it runs any more."""
        return self.worker is None or await self.worker.stop(timeout_s)

    def _worker_lost(self, reason: str) -> None:
        """The worker ended by itself, or was given up."""
        worker = self.worker
        assert worker is not None
        now = asyncio.get_running_loop().time()
        closes = self._core.lane_lost(self.index, WORKER_RESTART)
        self._owner.closes_left(self, closes)
        mourning = self._mourn(worker, reason, len(closes), now)
        self._replacing = self._tasks.spawn(mourning, f"{self.name} replacement")

    async def _mourn(self, worker: WireWorker, reason: str, closes_left: int, died_at: float) -> None:
        """Says why it was lost, which takes a moment to know, and replaces it."""
        try:
            reason = await worker.why_lost(reason)
        finally:
            logger.error("worker lost worker=%s reason=%r close_handlers_left=%d", self.name, reason, closes_left)
        if self._is_stopping:
            return
        delay_s = self._restarts.died(died_at, died_at - worker.started_at)
        if delay_s is None:
            self._give_up(reason)
        else:
            await self._replace(delay_s)

    async def _replace(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            logger.warning("worker is replaced worker=%s delay_s=%g", self.name, delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self.start()
            except Exception as error:
                text = str(error) if isinstance(error, WSBrokerError) else repr(error)
                logger.error("replacement failed worker=%s reason=%r", self.name, text, exc_info=error.__cause__)
                next_delay_s = self._restarts.died(loop.time(), 0.0)
                if next_delay_s is None:
                    self._give_up(text)
                    return
                delay_s = next_delay_s
            else:
                if self.is_running:  # else lost already, and another replacement is on its way
                    self._owner.place_runs(self)
                return

    def _give_up(self, reason: str) -> None:
        often = f"more than {MAX_DEATHS} times within {WINDOW_S:g} s"
        self._owner.place_failed(WorkerError(f"worker {self.name} was lost {often}, the last time because {reason}"))

    def statistics(self) -> WorkerStatistics:
        """What happens here now, and has been counted since the start of the pool."""
        worker = self.worker
        lane = self.lane
        state = State.ENDED if worker is None else worker.state
        counts = dict(self._counts)
        handled = counts.pop(HANDLED, 0)
        statistics = idle_statistics(self.name, state.value, lane.socket_count, counts)
        statistics["restarts"] = self._restarts.count
        statistics["mailbox_bytes"] = lane.in_flight
        statistics["handled"] = handled
        if worker is not None:
            statistics["mailbox_batches"] = worker.waiting_batches
            statistics["unwritten_bytes"] = worker.unwritten_bytes
            statistics["opens_in_flight"] = worker.opens_in_flight
            statistics["requests_in_flight"] = worker.requests_in_flight
            statistics["asked_bytes"] = worker.asked_bytes
        return statistics
