"""One place in the pool: the worker that fills it now, the one that stands by to take it over, those that leave it, and
the replacement of one that is lost.

One worker speaks for the place's lane at any time, `WorkerSlot.worker`: a change of it is one step without an `await`. So a
loss before that step is the old worker's or the standby's, after it the new one's, and never falls between.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TypedDict

from wsbroker.errors import WorkerError, WSBrokerError
from wsbroker.guarded_log import GuardedLog, format_error
from wsbroker.pool.interfaces import Core, WorkerQueueView
from wsbroker.pool.kinds.host import WorkerHost
from wsbroker.pool.remote_worker import RemoteWorker, WorkerState
from wsbroker.pool.restart_policy import MAX_DEATHS, WINDOW_S, RestartPolicy
from wsbroker.pool.tasks import PoolTasks
from wsbroker.pool.worker_stream import ENDED_BY_ITSELF, Batch
from wsbroker.settings.config import Config
from wsbroker.wire.events import Event
from wsbroker.worker.report import ERRORS, TIMEOUTS
from wsbroker.worker.slowest import SlowCall, SlowestCalls

logger = GuardedLog(__name__)

SWITCH_POLL_S: Final = 0.005
RETIREMENT_POLL_S: Final = 0.02
WORKER_RESTART_CODE: Final = 1012
"""The close code of sockets whose worker was lost: the client should reconnect."""


class WorkerStatistics(TypedDict):
    """What one worker does, as plain numbers."""

    name: str
    state: str
    """``"starting"``, ``"running"``, ``"stopping"``, ``"ended"`` (between a loss and its replacement too)"""
    restarts: int
    sockets: int
    sockets_waiting: int
    """those of them whose messages wait, because the mailbox is full"""
    mailbox_messages: int
    """messages on their way or being handled"""
    mailbox_bytes: int
    """their bytes: the credit in use, of `mailbox_bytes`"""
    mailbox_batches: int
    """batches that wait because the worker reads more slowly than it is sent to"""
    unwritten_bytes: int
    """bytes of batches that the kernel has not taken yet"""
    opens_in_flight: int
    requests_in_flight: int
    asked_bytes: int
    """bytes of those two"""
    handled: int
    """messages whose handlers have ended"""
    errors: int
    """handlers that raised, returned what they may not, or were interrupted because they took too long"""
    slowest: list[SlowCall]
    """the slowest calls of handlers, the slowest first"""
    counts: dict[str, int]
    """what the worker counts itself: errors, time-outs, long handlers, …; the names stand in `worker.report`"""


def idle_statistics(
    name: str, state: str, sockets: int, counts: dict[str, int], slowest: SlowestCalls
) -> WorkerStatistics:
    """Those of a worker that nothing is on its way to."""
    return {
        "name": name,
        "state": state,
        "restarts": 0,
        "sockets": sockets,
        "sockets_waiting": 0,
        "mailbox_messages": 0,
        "mailbox_bytes": 0,
        "mailbox_batches": 0,
        "unwritten_bytes": 0,
        "opens_in_flight": 0,
        "requests_in_flight": 0,
        "asked_bytes": 0,
        "handled": 0,
        "errors": counts.get(ERRORS, 0) + counts.get(TIMEOUTS, 0),
        "slowest": slowest.to_dicts(),
        "counts": counts,
    }


class SlotObserver(ABC):
    """Who has places: told of what concerns more than one of them."""

    @abstractmethod
    def on_slot_running(self, slot: "WorkerSlot") -> None:
        """A replacement has started."""

    @abstractmethod
    def on_closes_orphaned(self, slot: "WorkerSlot", closes: list[Event]) -> None:
        """The place's worker is lost: these CLOSE events need another one."""

    @abstractmethod
    def on_slot_failed(self, error: Exception) -> None:
        """A crash loop: the server has to end."""


class WorkerSlot:
    """One place in the pool.

    Args:
        index: of its queue.
        queue: its queue.
        make_host: makes the carrier of a worker of this name.
    """

    def __init__(
        self,
        index: int,
        queue: WorkerQueueView,
        make_host: Callable[[str], WorkerHost],
        core: Core,
        config: Config,
        tasks: PoolTasks,
        observer: SlotObserver,
    ) -> None:
        self.index: Final = index
        self.queue: Final = queue
        self.name: Final = f"worker-{index}"
        self.worker: RemoteWorker | None = None
        self._make_host = make_host
        self._core = core
        self._config = config
        self._tasks = tasks
        self._observer = observer
        self._counts: dict[str, int] = {}
        self._slowest = SlowestCalls()
        self._restart_policy = RestartPolicy()
        self._loss_reason_task: asyncio.Task[None] | None = None
        self._replacement_task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._standby: RemoteWorker | None = None
        """The worker that is to take over (see `switch_to_standby`)."""
        self._retiring_workers: dict[RemoteWorker, asyncio.Task[None]] = {}
        """Workers that do not speak for the lane any more, or never did, and what sees each of them out."""

    @property
    def is_running(self) -> bool:
        """Whether its worker takes sockets and requests."""
        return self.worker is not None and self.worker.state is WorkerState.RUNNING

    def post_events(self, batch: Batch) -> None:
        """Takes events for the worker. Never waits, never raises."""
        worker = self.worker
        if worker is not None and worker.state is not WorkerState.ENDED:
            worker.post_events(batch)
        else:
            self._mark_queue_lost()  # something came in after the loss, such as the 101 of a socket that it had accepted

    def check_liveness(self) -> None:
        """Asks every worker here whether it is alive."""
        for worker in (self.worker, self._standby, *self._retiring_workers):
            if worker is not None:
                worker.check_liveness()

    def _make_worker(self) -> RemoteWorker:
        worker = RemoteWorker(
            self._make_host(self.name),
            self.index,
            self.queue.generation,
            self._core,
            self._config,
            self._tasks,
            self._counts,
            self._slowest,
            lambda reason: self._on_worker_lost(worker, reason),
        )
        return worker

    async def start(self) -> list[str]:
        """Starts a worker here; returns the names of its handlers. Raises what `RemoteWorker.start` does."""
        worker = self._make_worker()
        self.worker = worker
        names = await worker.start()
        generation = self.queue.generation
        logger.info("worker started worker=%s generation=%d handlers=%s", self.name, generation, ",".join(names))
        return names

    async def stop_replacing(self) -> None:
        """From here on a lost worker is not replaced."""
        self._is_stopping = True
        if self._loss_reason_task is not None:
            await asyncio.wait([self._loss_reason_task])
        if self._replacement_task is not None:
            self._replacement_task.cancel()
            await asyncio.wait([self._replacement_task])

    async def stop(self, timeout_s: float) -> bool:
        """Ends what is here, after `stop_replacing`; returns whether nothing of it runs any more."""
        ends = [
            self._await_retirement(worker, retirement_task, timeout_s)
            for worker, retirement_task in self._retiring_workers.items()
        ]
        if self.worker is not None:
            ends.append(self.worker.stop(timeout_s))
        results = await asyncio.gather(*ends, return_exceptions=True)
        for result in results:  # when all have ended: one that fails does not keep the others
            if isinstance(result, BaseException):
                raise result
        return all(results)

    # Exchange. --------------------------------------------------------------------------------------------------

    async def start_standby(self) -> list[str]:
        """Starts a worker beside the one that runs; returns its handlers' names. Raises as `RemoteWorker.start`.

        In any case `cancel_standby` or `switch_to_standby` follows.
        """
        worker = self._standby = self._make_worker()
        worker.enter_standby()
        return await worker.start()

    def cancel_standby(self) -> None:
        """Has the worker that stands by leave, if one does, whether it has started or not."""
        standby, self._standby = self._standby, None
        if standby is not None:
            self._start_retirement(standby)

    async def switch_to_standby(self, limit_s: float) -> None:
        """Lets the worker that stands by take over; sockets, subscriptions and tokens stay where they are.

        Messages wait with their sockets until the old worker has handled what it has. Requests, open handlers and
        `handle_worker_stop` keep nobody waiting: it ends them after that, beside the new one. If it was lost, or a
        replacement is on its way, the new one fills the place at once. Cancelled, or failed, all stays as it was.

        Args:
            limit_s: how long messages may wait.

        Raises:
            WorkerError: the old worker did not run empty, or the new one is gone.
        """
        standby = self._standby
        assert standby is not None
        self._core.pause_worker_queue(self.index)
        try:
            await self._wait_until_queue_empty(standby, limit_s)
        except BaseException:
            self._core.resume_worker_queue(self.index)
            raise
        self._install_standby(standby)

    async def _wait_until_queue_empty(self, standby: RemoteWorker, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        queue = self.queue
        while True:
            if standby.state is not WorkerState.RUNNING:
                raise WorkerError(f"the new worker of {self.name} was lost before it could take over")
            if not self.is_running or not (queue.in_flight_bytes or queue.unhandled_closes):
                return
            if loop.time() > deadline:
                raise WorkerError(f"{self.name} has not come to the end of its handlers within {limit_s:g} s")
            await asyncio.sleep(SWITCH_POLL_S)

    def _install_standby(self, standby: RemoteWorker) -> None:
        """One step: from here on the other worker is this place's, and the one before leaves."""
        old = self.worker
        if not self.is_running:
            if self._replacement_task is not None:
                self._replacement_task.cancel()  # with the worker that it is starting
            self._mark_queue_lost()  # what such a one was sent already
        self._standby = None
        self.worker = standby
        self._core.replace_worker(self.index)
        standby.take_over_queue(self.queue.generation)
        if old is not None:
            self._start_retirement(old)
        logger.info("worker exchanged worker=%s generation=%d", self.name, self.queue.generation)
        self._observer.on_slot_running(self)

    # Leaving. ---------------------------------------------------------------------------------------------------

    def _start_retirement(self, worker: RemoteWorker) -> None:
        """It does not speak for the queue: it ends what it was asked, and itself."""
        worker.enter_standby()
        self._retiring_workers[worker] = self._tasks.spawn_task(self._retire_worker(worker), f"{self.name} leaves")

    async def _retire_worker(self, worker: RemoteWorker) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.http_timeout + self._config.worker_hang_timeout
        try:
            while worker.has_pending_requests and loop.time() < deadline:
                await asyncio.sleep(RETIREMENT_POLL_S)
            await worker.stop(self._config.shutdown_timeout)
        except Exception as error:
            logger.exception("worker could not be retired worker=%s", self.name)
            worker.declare_lost(f"it could not be retired: {format_error(error)}")
        finally:
            del self._retiring_workers[worker]

    async def _await_retirement(
        self, worker: RemoteWorker, retirement_task: "asyncio.Task[None]", timeout_s: float
    ) -> bool:
        """Waits for its end; by force when the time is over."""
        await asyncio.wait([retirement_task], timeout=timeout_s)
        if retirement_task.done():
            return True
        retirement_task.cancel()
        await asyncio.wait([retirement_task])
        return await worker.stop(0.0)

    # Loss. ------------------------------------------------------------------------------------------------------

    def _on_worker_lost(self, worker: RemoteWorker, reason: str) -> None:
        """The worker ended by itself, or was given up."""
        if worker is not self.worker:
            when = "while it was leaving" if worker in self._retiring_workers else "before it took over"
            logger.error("worker lost %s worker=%s reason=%r", when, self.name, reason)
            return
        now = asyncio.get_running_loop().time()
        closes = self._core.mark_worker_lost(self.index, WORKER_RESTART_CODE)
        self._observer.on_closes_orphaned(self, closes)
        if reason.startswith(ENDED_BY_ITSELF):
            asking = self._replace_after_reason(worker, reason, len(closes), now)
            self._loss_reason_task = self._tasks.spawn_task(asking, f"{self.name} loss")
        else:
            self._report_loss_and_replace(worker, reason, len(closes), now)

    def _mark_queue_lost(self) -> None:
        """Nobody will handle what the lane has sent: as after a loss."""
        if self.queue.in_flight_bytes or self.queue.unhandled_closes:
            self._observer.on_closes_orphaned(self, self._core.mark_worker_lost(self.index, WORKER_RESTART_CODE))

    async def _replace_after_reason(
        self, worker: RemoteWorker, reason: str, orphaned_count: int, died_at: float
    ) -> None:
        """Its sockets are closed already; why it ended takes a moment to know."""
        try:
            reason = await worker.find_loss_reason(reason)
        except Exception:  # it is replaced all the same
            logger.exception("cannot find out why a worker was lost worker=%s", self.name)
        self._report_loss_and_replace(worker, reason, orphaned_count, died_at)

    def _report_loss_and_replace(self, worker: RemoteWorker, reason: str, orphaned_count: int, died_at: float) -> None:
        """Says that it was lost, and has it replaced."""
        logger.error("worker lost worker=%s reason=%r close_handlers_left=%d", self.name, reason, orphaned_count)
        if self._is_stopping or worker is not self.worker:
            return  # nobody is to come, or somebody has
        delay_s = self._restart_policy.record_death(died_at, died_at - worker.started_at)
        if delay_s is None:
            self._report_crash_loop(reason)
        else:
            self._replacement_task = self._tasks.spawn_task(
                self._start_replacement(delay_s), f"{self.name} replacement"
            )

    async def _start_replacement(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            logger.warning("worker is replaced worker=%s delay_s=%g", self.name, delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self.start()
            except Exception as error:
                text = str(error) if isinstance(error, WSBrokerError) else format_error(error)
                logger.error("replacement failed worker=%s reason=%r", self.name, text, exc_info=error.__cause__)
                self._mark_queue_lost()
                next_delay_s = self._restart_policy.record_death(loop.time(), 0.0)
                if next_delay_s is None:
                    self._report_crash_loop(text)
                    return
                delay_s = next_delay_s
            else:
                if self.is_running:  # else lost already, and another replacement is on its way
                    self._observer.on_slot_running(self)
                return

    def _report_crash_loop(self, reason: str) -> None:
        often = f"more than {MAX_DEATHS} times within {WINDOW_S:g} s"
        self._observer.on_slot_failed(
            WorkerError(f"worker {self.name} was lost {often}, the last time because {reason}")
        )

    def collect_statistics(self) -> WorkerStatistics:
        """What happens here now, and has been counted since the start of the pool."""
        worker = self.worker
        queue = self.queue
        state = WorkerState.ENDED if worker is None else worker.state
        statistics = idle_statistics(self.name, state.value, queue.socket_count, dict(self._counts), self._slowest)
        statistics["restarts"] = self._restart_policy.restart_count
        statistics["sockets_waiting"] = len(queue.waiting_sockets)
        statistics["mailbox_messages"] = queue.in_flight_messages
        statistics["mailbox_bytes"] = queue.in_flight_bytes
        statistics["handled"] = queue.handled_messages
        if worker is not None:
            statistics["mailbox_batches"] = worker.waiting_batches
            statistics["unwritten_bytes"] = worker.unwritten_bytes
            statistics["opens_in_flight"] = worker.opens_in_flight
            statistics["requests_in_flight"] = worker.requests_in_flight
            statistics["asked_bytes"] = worker.pending_request_bytes
        return statistics
