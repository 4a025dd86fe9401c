"""One worker position of the pool: its current worker, a standby that takes over, retiring workers, replacements.

States of a slot (derived from `worker.state` and the replacement task), events, and the next state:

| state    | worker              | started | lost            | start failed    | standby installed | stop_replacing |
| -------- | ------------------- | ------- | --------------- | --------------- | ----------------- | -------------- |
| empty    | none                | running | –               | empty           | –                 | stopping       |
| running  | RUNNING             | –       | replaced/failed | –               | running           | stopping       |
| replaced | lost, then STARTING | running | –               | replaced/failed | running           | stopping       |
| failed   | lost                | –       | –               | –               | running           | stopping       |
| stopping | any                 | –       | stopping        | stopping        | –                 | stopping       |

* `lost`: ENDED if the worker ended by itself, ABANDONED if it hung or failed in another way.
* `replaced`: the reason of the loss is found out, a delay passes (`RestartPolicy`), and a new worker is started; after
  a failed start that worker is ENDED or ABANDONED until the next delay has passed.
* `failed`: a crash loop; the observer ends the server.
* A standby exists beside any state from `start_standby` on. `switch_to_standby` makes it the current worker; the worker
  before it goes to the retiring workers.

One worker handles the slot's queue at any time, `WorkerSlot.worker`; it changes in one step without an `await`. A loss
before that step is the loss of the old worker or the standby, after it the loss of the new worker.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TypedDict

from wsbroker.errors import WorkerError, WSBrokerError
from wsbroker.guarded_log import GuardedLog, format_error
from wsbroker.pool.interfaces import Core, WorkerQueueView
from wsbroker.pool.kinds.host import WorkerHost
from wsbroker.pool.remote_worker import RemoteWorker
from wsbroker.pool.restart_policy import MAX_DEATHS, WINDOW_S, RestartPolicy
from wsbroker.pool.tasks import PoolTasks, wait_for_any
from wsbroker.pool.worker_states import WorkerState
from wsbroker.pool.worker_stream import ENDED_BY_ITSELF, Batch
from wsbroker.settings.config import Config
from wsbroker.wire.events import Event
from wsbroker.worker.report import ERRORS, TIMEOUTS
from wsbroker.worker.slowest import SlowCall, SlowestCalls

logger = GuardedLog(__name__)

WORKER_RESTART_CODE: Final = 1012
"""The close code of sockets whose worker was lost: the client should reconnect."""


class WorkerStatistics(TypedDict):
    """The statistics of one worker, as plain values; the keys are public."""

    name: str
    state: str
    """``"starting"``, ``"running"``, ``"stopping"``, ``"ended"`` (between a loss and its replacement too)"""
    restarts: int
    sockets: int
    sockets_waiting: int
    """sockets whose messages wait because the mailbox is full"""
    mailbox_messages: int
    """messages on their way or being handled"""
    mailbox_bytes: int
    """bytes of the messages on their way or being handled: the credit in use, of `mailbox_bytes`"""
    mailbox_batches: int
    """batches that wait because the worker reads more slowly than it is sent to"""
    unwritten_bytes: int
    """bytes of batches that the kernel has not taken yet"""
    opens_in_flight: int
    requests_in_flight: int
    asked_bytes: int
    """bytes of the opens and requests in flight"""
    handled: int
    """messages whose handlers have ended"""
    errors: int
    """handlers that raised, returned an illegal value, or were interrupted because they took too long"""
    slowest: list[SlowCall]
    """the slowest calls of handlers, the slowest first"""
    counts: dict[str, int]
    """the worker's own counters: errors, time-outs, long handlers, …; the names stand in `worker.report`"""


def idle_statistics(
    name: str, state: str, sockets: int, counts: dict[str, int], slowest: SlowestCalls
) -> WorkerStatistics:
    """Returns the statistics of a worker with no messages and requests on their way; the caller fills in the others."""
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
    """The owner of the slots: told of events that concern more than one slot. The pool is the only observer."""

    @abstractmethod
    def on_slot_running(self, slot: "WorkerSlot") -> None:
        """Called when a replacement, or a standby worker, has become the slot's running worker."""

    @abstractmethod
    def on_closes_orphaned(self, slot: "WorkerSlot", closes: list[Event]) -> None:
        """Called when the slot's worker is lost: these CLOSE events need another worker."""

    @abstractmethod
    def on_slot_failed(self, error: Exception) -> None:
        """Called when the slot's workers die again and again: the server has to end with this error."""


class WorkerSlot:
    """One worker position of the pool; the module's docstring has its states.

    Args:
        index: the worker index, which is the index of its queue in the core.
        queue: the core's queue to this slot's worker.
        make_host: makes the host of a worker with this name.
        observer: told of losses and replacements.
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
        """The worker started by a reload that is to take over (see `switch_to_standby`)."""
        self._retiring_workers: dict[RemoteWorker, asyncio.Task[None]] = {}
        """Workers that finish their requests and stop, each with the task that retires it."""

    @property
    def is_running(self) -> bool:
        """Whether the slot's worker takes sockets and requests."""
        return self.worker is not None and self.worker.state is WorkerState.RUNNING

    def post_events(self, batch: Batch) -> None:
        """Sends a batch of events to the slot's worker. Never waits, never raises.

        Events for a worker that has ended are lost, and the queue is marked lost.
        """
        worker = self.worker
        if worker is not None and not worker.has_ended:
            worker.post_events(batch)
        else:
            self._close_sockets_if_events_lost()  # events after the loss, such as the open of an accepted socket

    def check_liveness(self) -> None:
        """Sends a probe to every worker of the slot, standby and retiring workers too. Called every second."""
        for worker in (self.worker, self._standby, *self._retiring_workers):
            if worker is not None:
                worker.check_liveness()

    def _make_worker(self) -> RemoteWorker:
        """Creates a new worker for this slot, without starting it; its loss will be passed to `_on_worker_lost`.

        The worker gets the present generation of the slot's queue: its commands count until the worker of that queue is
        lost or replaced.
        """
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
        """Starts the slot's worker; returns the names of its handlers. Raises like `RemoteWorker.start`."""
        worker = self._make_worker()
        self.worker = worker
        names = await worker.start()
        generation = self.queue.generation
        logger.info("worker started worker=%s generation=%d handlers=%s", self.name, generation, ",".join(names))
        return names

    async def stop_replacing(self) -> None:
        """Cancels a replacement that is being started, and stops replacing lost workers: the pool is being stopped."""
        self._is_stopping = True
        if self._loss_reason_task is not None:
            await asyncio.wait([self._loss_reason_task])
        if self._replacement_task is not None:
            self._replacement_task.cancel()
            await asyncio.wait([self._replacement_task])

    async def stop(self, timeout_s: float) -> bool:
        """Stops the current worker and the retiring workers, after `stop_replacing`.

        Args:
            timeout_s: seconds until workers that have not stopped are killed or given up.

        Returns:
            whether no worker of the slot runs any more.
        """
        ends = [
            self._await_retirement(worker, retirement_task, timeout_s)
            for worker, retirement_task in self._retiring_workers.items()
        ]
        if self.worker is not None:
            ends.append(self.worker.stop(timeout_s))
        results = await asyncio.gather(*ends, return_exceptions=True)
        for result in results:  # after all have ended: the failure of one stop does not cut short the others
            if isinstance(result, BaseException):
                raise result
        return all(results)

    # Reload: switching to a standby worker. -----------------------------------------------------------------------

    async def start_standby(self) -> list[str]:
        """Starts a worker beside the running one; returns the names of its handlers. Called by a reload.

        In every case `cancel_standby` or `switch_to_standby` must follow. Raises like `RemoteWorker.start`.
        """
        worker = self._standby = self._make_worker()
        worker.enter_standby()
        return await worker.start()

    def cancel_standby(self) -> None:
        """Retires the standby worker, if there is one, whether it has started or not."""
        standby, self._standby = self._standby, None
        if standby is not None:
            self._start_retirement(standby)

    async def switch_to_standby(self, limit_s: float) -> None:
        """Makes the standby worker the slot's worker; sockets, subscriptions and tokens stay as they are.

        Messages wait in their inboxes until the old worker has handled the messages it has. Its requests, open handlers
        and `handle_worker_stop` are not waited for: the old worker finishes them while it retires. If the old worker
        was lost, or its replacement is being started, the standby takes over at once. Cancelled or failed, the switch
        changes nothing.

        Args:
            limit_s: seconds that messages may wait.

        Raises:
            WorkerError: the old worker did not run empty in time, or the standby worker was lost.
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
        """Waits until the old worker has handled all messages and closes sent to it, or has been lost; for a reload.

        Args:
            standby: the new worker, which must stay alive meanwhile.
            limit_s: seconds that this may take.

        Raises:
            WorkerError: the old worker did not finish in time, or the standby worker was lost.
        """
        deadline = asyncio.get_running_loop().time() + limit_s
        while True:
            if standby.state is not WorkerState.RUNNING:
                raise WorkerError(f"the new worker of {self.name} was lost before it could take over")
            worker = self.worker
            if worker is None or not self.is_running or self._is_queue_empty():
                return
            watches = [worker.watch(self._is_queue_empty), standby.watch(lambda: False)]
            if not await wait_for_any(watches, deadline):
                raise WorkerError(f"{self.name} has not come to the end of its handlers within {limit_s:g} s")

    def _is_queue_empty(self) -> bool:
        """Returns whether the slot's worker has handled all messages and closes that the core has sent to it."""
        return not (self.queue.in_flight_bytes or self.queue.unhandled_closes)

    @property
    def has_unhandled_closes(self) -> bool:
        """Whether the slot's worker runs and has CLOSE events whose handler has not run."""
        return self.is_running and bool(self.queue.unhandled_closes)

    def watch_closes(self) -> asyncio.Future[None]:
        """Returns a future done when all close handlers have run or the worker runs no more; to be cancelled."""
        assert self.worker is not None
        return self.worker.watch(lambda: not self.queue.unhandled_closes)

    def _install_standby(self, standby: RemoteWorker) -> None:
        """Makes the standby worker the slot's worker in one step without an `await`, and retires the old worker.

        Called by `switch_to_standby` when the old worker has handled its messages, or does not run.
        """
        old = self.worker
        if not self.is_running:
            if self._replacement_task is not None:
                self._replacement_task.cancel()  # ends the worker that it is starting too
            self._close_sockets_if_events_lost()  # events that were sent to the cancelled worker already
        self._standby = None
        self.worker = standby
        self._core.replace_worker(self.index)
        standby.take_over_queue(self.queue.generation)
        if old is not None:
            self._start_retirement(old)
        logger.info("worker exchanged worker=%s generation=%d", self.name, self.queue.generation)
        self._observer.on_slot_running(self)

    # Retirement of workers that were replaced. --------------------------------------------------------------------

    def _start_retirement(self, worker: RemoteWorker) -> None:
        """Starts a task that stops an unneeded worker, with time to answer its pending requests first.

        Called for a worker that was replaced, and for a standby that does not take over.
        """
        worker.enter_standby()
        self._retiring_workers[worker] = self._tasks.spawn_task(self._retire_worker(worker), f"{self.name} leaves")

    async def _retire_worker(self, worker: RemoteWorker) -> None:
        """Stops a worker when it has answered its opens and HTTP requests, or has had long enough to.

        Long enough is `http_timeout` and `worker_hang_timeout` together. If the stop raises, declares the worker lost.
        Body of the retirement task.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.http_timeout + self._config.worker_hang_timeout
        try:
            await wait_for_any([worker.watch(lambda: not worker.has_pending_requests)], deadline)
            await worker.stop(self._config.shutdown_timeout)
        except Exception as error:
            logger.exception("worker could not be retired worker=%s", self.name)
            worker.declare_lost(f"it could not be retired: {format_error(error)}")
        finally:
            del self._retiring_workers[worker]

    async def _await_retirement(
        self, worker: RemoteWorker, retirement_task: "asyncio.Task[None]", timeout_s: float
    ) -> bool:
        """Waits for the end of a worker's retirement; after `timeout_s` kills the worker, or gives it up.

        Args:
            worker: the retiring worker.
            retirement_task: its task, of `_start_retirement`.
            timeout_s: seconds to wait.

        Returns:
            True: the task has ended in time, or the worker has ended by the kill.
        """
        await asyncio.wait([retirement_task], timeout=timeout_s)
        if retirement_task.done():
            return True
        retirement_task.cancel()
        await asyncio.wait([retirement_task])
        return await worker.stop(0.0)

    # Loss and replacement. ----------------------------------------------------------------------------------------

    def _on_worker_lost(self, worker: RemoteWorker, reason: str) -> None:
        """Closes all sockets of the slot's lost worker, passes its CLOSE events on, and has the worker replaced.

        Called when a worker of the slot is lost while it runs. Another worker, or the replacement, runs the close
        handlers. The loss of a standby or retiring worker is only logged.
        """
        if worker is not self.worker:
            when = "while it was leaving" if worker in self._retiring_workers else "before it took over"
            logger.error("worker lost %s worker=%s reason=%r", when, self.name, reason)
            return
        now = asyncio.get_running_loop().time()
        closes = self._core.mark_worker_lost(self.index, WORKER_RESTART_CODE)
        self._observer.on_closes_orphaned(self, closes)
        if reason.startswith(ENDED_BY_ITSELF):
            replacing = self._replace_after_reason(worker, reason, len(closes), now)
            self._loss_reason_task = self._tasks.spawn_task(replacing, f"{self.name} loss")
        else:
            self._report_loss_and_replace(worker, reason, len(closes), now)

    def _close_sockets_if_events_lost(self) -> None:
        """Closes all sockets of the slot and passes the CLOSE events on, if events were sent to a worker that is gone.

        Does nothing if no message or close is on its way. Called while no worker runs in the slot: events may have been
        sent after the loss.
        """
        if self.queue.in_flight_bytes or self.queue.unhandled_closes:
            self._observer.on_closes_orphaned(self, self._core.mark_worker_lost(self.index, WORKER_RESTART_CODE))

    async def _replace_after_reason(
        self, worker: RemoteWorker, reason: str, orphaned_count: int, died_at: float
    ) -> None:
        """Waits for the reason why a lost worker ended, then reports the loss and replaces the worker. Run as a task.

        The arguments are those of `_report_loss_and_replace`.
        """
        try:
            reason = await worker.find_loss_reason(reason)
        except Exception:  # the worker is replaced all the same
            logger.exception("cannot find out why a worker was lost worker=%s", self.name)
        self._report_loss_and_replace(worker, reason, orphaned_count, died_at)

    def _report_loss_and_replace(self, worker: RemoteWorker, reason: str, orphaned_count: int, died_at: float) -> None:
        """Logs a worker's loss; has the worker replaced, or reports a crash loop if workers are lost too often.

        Only logs the loss if the slot is being stopped, or has another worker already.

        Args:
            worker: the lost worker.
            reason: why it was lost.
            orphaned_count: number of its CLOSE events whose handler has not run.
            died_at: time of the loop's clock at which it was lost.
        """
        logger.error("worker lost worker=%s reason=%r close_handlers_left=%d", self.name, reason, orphaned_count)
        if self._is_stopping or worker is not self.worker:
            return  # stopping, or already replaced
        delay_s = self._restart_policy.record_death(died_at, died_at - worker.started_at)
        if delay_s is None:
            self._report_crash_loop(reason)
        else:
            self._replacement_task = self._tasks.spawn_task(
                self._start_replacement(delay_s), f"{self.name} replacement"
            )

    async def _start_replacement(self, delay_s: float) -> None:
        """Starts a new worker after a delay, again after each failed start, until one runs or it is a crash loop.

        Body of the replacement task, which is cancelled when a standby worker takes over or the slot stops.

        Args:
            delay_s: seconds before the first start.
        """
        loop = asyncio.get_running_loop()
        while True:
            logger.warning("worker is replaced worker=%s delay_s=%g", self.name, delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self.start()
            except Exception as error:
                text = str(error) if isinstance(error, WSBrokerError) else format_error(error)
                logger.error("replacement failed worker=%s reason=%r", self.name, text, exc_info=error.__cause__)
                self._close_sockets_if_events_lost()
                next_delay_s = self._restart_policy.record_death(loop.time(), 0.0)
                if next_delay_s is None:
                    self._report_crash_loop(text)
                    return
                delay_s = next_delay_s
            else:
                if self.is_running:  # otherwise lost already, and another replacement is being started
                    self._observer.on_slot_running(self)
                return

    def _report_crash_loop(self, reason: str) -> None:
        """Tells the observer, which ends the server, that the slot's workers die again and again.

        Args:
            reason: why the last worker was lost or did not start.
        """
        often = f"more than {MAX_DEATHS} times within {WINDOW_S:g} s"
        self._observer.on_slot_failed(
            WorkerError(f"worker {self.name} was lost {often}, the last time because {reason}")
        )

    def collect_statistics(self) -> WorkerStatistics:
        """Returns the statistics of the slot's current worker, and the counts since the start of the pool."""
        worker = self.worker
        queue = self.queue
        state = WorkerState.ENDED if worker is None else worker.state
        statistics = idle_statistics(
            self.name, state.public_name, queue.socket_count, dict(self._counts), self._slowest
        )
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
