"""All workers of a server: start, stop and reload, and which worker gets a socket, request or close event."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from wsbroker.errors import ConfigError, WorkerError
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse
from wsbroker.pool.interfaces import Core, WorkerQueueView
from wsbroker.pool.kinds.choice import HOST_CLASSES, IMPORTING_KINDS, choose_kind, inspect_platform, is_free_threaded
from wsbroker.pool.kinds.host import StartArguments, WorkerHost
from wsbroker.pool.kinds.inline import InlineWorker
from wsbroker.pool.kinds.interpreter import ModuleRefused
from wsbroker.pool.local_api import LocalApi
from wsbroker.pool.orphaned_closes import OrphanedCloses
from wsbroker.pool.pending_requests import OpenVerdict, make_unavailable_response
from wsbroker.pool.remote_worker import RemoteWorker
from wsbroker.pool.slot import SlotObserver, WorkerSlot, WorkerStatistics, idle_statistics
from wsbroker.pool.tasks import PoolTasks, wait_for_any
from wsbroker.pool.worker_monitor import PROBE_INTERVAL_S
from wsbroker.pool.worker_stream import Batch
from wsbroker.settings.config import Config, WorkerKind
from wsbroker.settings.folders import sys_path_with_links
from wsbroker.wire.events import Event
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.outcomes import no_handler_response
from wsbroker.worker.report import MESSAGES_DROPPED

logger = GuardedLog(__name__)

REQUEST_OVERHEAD_BYTES: Final = 512
"""Bytes that a waiting request takes beyond its text: the objects that hold it."""
HANDLERS_SHARE: Final = 0.7
"""Part of the stop timeout in which handlers may end; the rest is for close handlers and `handle_worker_stop`."""
CLOSE_SHARE: Final = 0.2
"""Part of the stop timeout in which close handlers may run after the messages before them were dropped."""
FAILED_START_STOP_S: Final = 5.0
"""Seconds that the other workers may take to stop after a worker could not be started."""


class ReloadUnfinished(WorkerError):
    """A reload that did not replace all workers: the text says how many have the new code, or why it was called off."""


class Pool(SlotObserver):
    """The workers of one server. Adds its worker queues to the core.

    Args:
        config: all settings.
        spec: the argument of `register_worker`.
        core: the broker.
        api: the broker's API in the main interpreter, for inline handlers.
        on_fatal: called once if the workers cannot be kept alive: the server has to end with this error.
        make_host: makes the host of a worker; None: the host class of the chosen kind.

    Raises:
        ConfigError: this kind of worker is not available.
    """

    def __init__(
        self,
        config: Config,
        spec: object,
        core: Core,
        api: LocalApi,
        on_fatal: Callable[[Exception], None],
        make_host: Callable[[str, StartArguments], WorkerHost] | None = None,
    ) -> None:
        choice = choose_kind(config, spec, inspect_platform())
        self.kind: WorkerKind = choice.kind
        """The kind of the workers. With `auto` the kind may change during `start`."""
        self.size: Final = choice.worker_count
        logger.info("workers kind=%s count=%d reason=%r", self.kind, self.size, choice.reason)
        self._config = config
        self._core = core
        self._kind_choice = choice
        self._make_host = make_host
        self._on_fatal = on_fatal
        self._tasks = PoolTasks()
        self._check_timer: asyncio.TimerHandle | None = None
        self._next_slot_index = 0
        self._is_stopping = False
        self._has_failed = False
        self._has_stopped = False
        self._reload_task: asyncio.Task[None] | None = None
        """The newest reload. Another reload, or the stop of the pool, cancels it."""
        self._start_event = asyncio.Event()
        """Set when all workers have started for the first time; a reload waits for this event."""
        self._reload_lock = asyncio.Lock()
        """Held by the running reload until its standby workers are cancelled or installed."""
        self.handlers_found: frozenset[str] = frozenset()
        """Names of the handlers that the application has; known after `start`."""
        self.has_open_handler = True
        """Whether `run_open_handler` must be called before a 101: there is an open handler, or a worker is down."""
        self.has_http_handler = False
        self._has_open_handler = False
        is_inline = self.kind == "inline"
        self.queues: Final[Sequence[WorkerQueueView]] = [
            core.add_worker_queue(index, config.mailbox_bytes, is_inline) for index in range(self.size)
        ]
        options = HandlerOptions.from_mapping(make_worker_options(config))
        self.inline_worker: Final = InlineWorker(config, spec, api, options) if is_inline else None
        self._slots: list[WorkerSlot] = []
        self._orphaned_closes = OrphanedCloses(core, self._slots)
        if not is_inline:
            self._make_slots()

    def _make_slots(self) -> None:
        """Creates one slot for each worker queue, for workers of the kind `self.kind`; replaces earlier slots."""
        config = self._config
        make = self._make_host or HOST_CLASSES[self.kind]
        start_arguments = StartArguments(
            sys_path_with_links(sys.path), self._kind_choice.spec, make_worker_options(config), config.shutdown_timeout
        )
        self._slots[:] = [
            WorkerSlot(index, queue, lambda name: make(name, start_arguments), self._core, config, self._tasks, self)
            for index, queue in enumerate(self.queues)
        ]

    # Start and stop. ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts all workers at the same time; returns when `handle_worker_start` has returned in each.

        Raises:
            ConfigError: the application cannot work; the text says what was found, what is expected and what to do.
            WorkerError: a worker could not be started.
        """
        if self.inline_worker is not None:
            names = await self.inline_worker.start()
        else:
            names = await self._start_slots_or_change_kind()
        self._set_handlers_found(names)
        self._start_event.set()
        if self._slots:
            self._schedule_liveness_check()
        if self._kind_choice.needs_free_threads and not is_free_threaded():
            logger.warning(
                "a module that the handlers import has switched the interpreter lock on again: threads do not run at "
                "the same time, set worker_kind=process to use all cores"
            )

    async def _start_slots_or_change_kind(self) -> list[str]:
        """Starts the workers of all slots, of the fallback kind if a module refuses subinterpreters; returns handlers.

        Stops the pool if the start fails.

        Returns:
            the names of the application's handlers.

        Raises:
            ConfigError: the application cannot work with this kind of worker.
            WorkerError: a worker could not be started.
        """
        try:
            try:
                return await self._start_slots()
            except ModuleRefused as refused:
                if self._kind_choice.fallback_kind is None:
                    raise
                self.kind = self._kind_choice.fallback_kind
                text = "all workers move to kind %s (worker_kind=%s does so at once): %s"
                logger.warning(text, self.kind, self.kind, refused.problem)
                self._make_slots()
                return await self._start_slots()
        except BaseException:
            await self.stop(FAILED_START_STOP_S)
            raise

    async def _start_slots(self) -> list[str]:
        """Starts the workers of all slots and returns the names of their handlers.

        If a start fails, or the caller is cancelled, stops all workers and raises the error.
        """
        slots = list(self._slots)
        starts = [asyncio.ensure_future(slot.start()) for slot in slots]
        try:
            await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
            return [start.result() for start in starts if start.done()][-1]
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self._stop_slots(FAILED_START_STOP_S)
            raise

    async def _stop_slots(self, timeout_s: float) -> int:
        """Stops the workers of all slots at the same time; returns the number of slots in which a worker may still run.

        Args:
            timeout_s: seconds that each worker may take before it is killed or given up.
        """
        results = await asyncio.gather(*(slot.stop(timeout_s) for slot in self._slots), return_exceptions=True)
        for slot, result in zip(self._slots, results, strict=True):
            if isinstance(result, BaseException):
                logger.error("worker could not be stopped worker=%s", slot.name, exc_info=result)
        return sum(result is not True for result in results)

    def _update_needs_open_verdict(self) -> None:
        """Sets `has_open_handler`: True also while a worker does not run, so that the pool is asked first.

        Called when the handlers or the workers that run have changed.
        """
        all_run = all(slot.is_running for slot in self._slots) and not self._is_stopping
        self.has_open_handler = self._has_open_handler or not all_run

    async def stop(self, timeout_s: float) -> None:
        """Stops all workers: events posted before are handled, `handle_worker_stop` runs, stuck workers are left.

        Args:
            timeout_s: seconds that the whole stop may take.
        """
        if self._has_stopped:
            return
        self._is_stopping = True
        self._update_needs_open_verdict()
        if self._reload_task is not None:
            self._reload_task.cancel()
        async with self._reload_lock:
            pass  # the cancelled reload has ended
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self.inline_worker is not None:
            await self.inline_worker.stop(timeout_s)
        for slot in self._slots:
            await slot.stop_replacing()
        await self._wait_for_close_handlers(loop.time() + timeout_s * HANDLERS_SHARE)
        if any(slot.has_unhandled_closes for slot in self._slots):
            dropped = self._core.drop_waiting_messages()
            if dropped:
                logger.warning(MESSAGES_DROPPED, dropped)
            await self._wait_for_close_handlers(loop.time() + timeout_s * CLOSE_SHARE)
        left_behind = await self._stop_slots(max(0.0, deadline - loop.time()))
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        await self._tasks.cancel_all()
        self._orphaned_closes.drop_unassigned()
        self._has_stopped = True
        logger.info("workers stopped count=%d left_behind=%d", self.size, left_behind)

    async def reload(self) -> None:
        """Replaces all workers by new ones that import the code as it is now; connections do not notice.

        All new workers are started first; if one start fails, the old workers stay. Then the slots are switched one
        after the other. The reload is a task of its own: the caller may be cancelled. A second reload, and `stop`, call
        it off.

        Raises:
            ConfigError: this kind of worker shares its modules with the server, or the new code cannot work.
            ReloadUnfinished: an old worker did not run empty, or the reload was called off.
            WorkerError: a new worker could not be started, or the pool is being stopped.
        """
        if self.kind not in IMPORTING_KINDS:
            raise ConfigError(
                f"workers of kind {self.kind} share the server's modules, so their code cannot be exchanged: "
                "use worker_kind interpreter or process, or restart the server"
            )
        if self._is_stopping:
            raise WorkerError("the workers are being stopped")
        if self._reload_task is not None:
            self._reload_task.cancel()
        reload_task = self._reload_task = asyncio.get_running_loop().create_task(
            self._replace_all_workers(), name="reload"
        )
        reload_task.add_done_callback(_retrieve_exception)
        await asyncio.wait([reload_task])
        if reload_task.cancelled():
            why = "the server stops" if self._is_stopping else "another one has begun"
            raise ReloadUnfinished(f"it was called off, {why}")
        reload_task.result()

    async def _replace_all_workers(self) -> None:
        """Starts a new worker beside the old one in every slot, then lets the new ones take over. Body of a reload.

        If one does not start, all old workers stay.

        Raises:
            ReloadUnfinished: some old workers did not finish their messages in time and stay; the others were replaced.
            Exception: a new worker did not start.
        """
        async with self._reload_lock:
            await self._start_event.wait()  # a slot whose first worker has not started cannot be switched
            slots = list(self._slots)
            try:
                async with asyncio.TaskGroup() as group:
                    starts = [group.create_task(slot.start_standby()) for slot in slots]
                names = starts[0].result()
                # While workers of both versions run: the handlers of both.
                self._set_handlers_found([*names, *self.handlers_found])
                await self._switch_slots_in_turn(slots)
                self._set_handlers_found(names)
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
            finally:
                for slot in slots:
                    slot.cancel_standby()

    async def _switch_slots_in_turn(self, slots: Sequence[WorkerSlot]) -> None:
        """Lets the new worker of each slot take over, one slot after the other: messages wait for one worker at a time.

        Raises:
            ReloadUnfinished: some old workers did not finish their messages in time; the other slots were switched.
        """
        limit_s = self._config.handler_timeout + self._config.worker_hang_timeout
        failures: list[str] = []
        for slot in slots:
            try:
                await slot.switch_to_standby(limit_s)
            except WorkerError as error:
                failures.append(str(error))
        if failures:
            done = len(slots) - len(failures)
            text = f"{done} of {len(slots)} workers have the new code, reload again for the others"
            raise ReloadUnfinished(f"{text}: {'; '.join(failures)}")

    def _set_handlers_found(self, names: Iterable[str]) -> None:
        """Stores the names of the application's handlers, and whether it has an open handler and an HTTP handler.

        Called after a start, and during a reload with the handlers of both versions.
        """
        self.handlers_found = frozenset(names)
        self.has_http_handler = "handle_http_request" in self.handlers_found
        self._has_open_handler = "handle_socket_open" in self.handlers_found
        self._update_needs_open_verdict()

    async def _wait_for_close_handlers(self, deadline: float) -> None:
        """Waits until the running workers have run all close handlers, or the deadline has passed. Called by `stop`.

        The core may still keep events in inboxes until earlier events are handled (`mailbox_bytes`), and a worker takes
        no event after STOP. CLOSE is the last event of a socket: when no CLOSE is left, no event is left.

        Args:
            deadline: a time of the loop's clock.
        """
        loop = asyncio.get_running_loop()
        while loop.time() < deadline:
            slots = [slot for slot in self._slots if slot.has_unhandled_closes]
            if not slots:
                return
            await wait_for_any([slot.watch_closes() for slot in slots], deadline)

    def _schedule_liveness_check(self) -> None:
        """Starts the timer of the next call of `_check_all_liveness`: one timer for all workers."""
        self._check_timer = asyncio.get_running_loop().call_later(PROBE_INTERVAL_S, self._check_all_liveness)

    def _check_all_liveness(self) -> None:
        """Sends a probe to every worker, to notice one that hangs, and starts the timer again.

        Called every PROBE_INTERVAL_S seconds.
        """
        self._schedule_liveness_check()
        for slot in self._slots:
            slot.check_liveness()

    # Called by the core and the front. ----------------------------------------------------------------------------

    def post_events(self, worker_index: int, batch: Batch) -> None:
        """Sends a batch of events to a worker. Called by the core at the end of a turn; never waits, never raises."""
        self._slots[worker_index].post_events(batch)

    def choose_worker_index(self) -> int:
        """Returns the index of the worker for a new socket, as the setting `balance` says: a running one, if any."""
        slots = self._slots
        count = len(slots)
        if count < 2:
            return 0
        first = self._next_slot_index
        if self._config.balance == "least-connections":
            running = [slot for slot in slots if slot.is_running]
            if running:
                # Equal counts take turns, so that a burst of sockets not counted yet does not go to one worker.
                chosen = min(running, key=lambda slot: (slot.queue.socket_count, (slot.index - first) % count))
                self._next_slot_index = (chosen.index + 1) % count
                return chosen.index
        for step in range(count):
            index = (first + step) % count
            if slots[index].is_running:
                self._next_slot_index = (index + 1) % count
                return index
        self._next_slot_index = (first + 1) % count
        return first

    async def run_open_handler(self, socket_id: int, worker_index: int, request: HttpRequest) -> OpenVerdict:
        """Runs the open handler of a socket in its worker. The front cancels this call when the client has gone.

        Args:
            socket_id: the socket that is opening.
            worker_index: its worker.
            request: the upgrade request.

        Returns:
            None or an `Accept`: accepted; otherwise the response to send instead of the 101.
        """
        if self.inline_worker is not None:
            size_bytes = estimate_request_bytes(request)
            if self._is_stopping or not self._has_room_for_request(self.inline_worker, size_bytes):
                return make_unavailable_response()
            return await self.inline_worker.run_open_handler(socket_id, request, size_bytes)
        slot = self._slots[worker_index]
        worker = slot.worker
        if self._is_stopping or worker is None or not slot.is_running:
            return make_unavailable_response()
        if not self._has_open_handler:
            return None
        size_bytes = estimate_request_bytes(request)
        if not self._has_room_for_request(worker, size_bytes):
            return make_unavailable_response()
        return await worker.run_open_handler(socket_id, request.fields(), size_bytes)

    def drop_unopened_socket(self, socket_id: int, worker_index: int) -> None:
        """Tells a socket's worker that the socket was accepted by the open handler and lost before its 101 was sent."""
        if self.inline_worker is None and self._has_open_handler:
            worker = self._slots[worker_index].worker
            if worker is not None:
                worker.drop_unopened_socket(socket_id)

    async def run_http_handler(self, request: HttpRequest) -> HttpResponse:
        """Runs the HTTP handler in the running worker with the fewest requests in flight; returns its response."""
        if not self.has_http_handler:
            return no_handler_response(request.headers)
        size_bytes = estimate_request_bytes(request)
        if self.inline_worker is not None:
            if self._is_stopping or not self._has_room_for_request(self.inline_worker, size_bytes):
                return make_unavailable_response()
            return await self.inline_worker.run_http_handler(request, size_bytes)
        best: WorkerSlot | None = None
        fewest = 0
        for slot in self._slots:
            worker = slot.worker
            if worker is None or not slot.is_running or self._is_stopping:
                continue
            if not self._has_room_for_request(worker, size_bytes):
                continue
            if best is None or worker.requests_in_flight < fewest:
                best, fewest = slot, worker.requests_in_flight
        if best is None or best.worker is None:
            return make_unavailable_response()
        return await best.worker.run_http_handler(request.fields(), size_bytes)

    def _has_room_for_request(self, worker: InlineWorker | RemoteWorker, size_bytes: int) -> bool:
        """Returns whether a worker may get one more open or HTTP request of this size in bytes.

        Requests of `mailbox_bytes` together may wait; a worker without a request may get a request of any size.
        """
        return (
            not worker.pending_request_bytes or worker.pending_request_bytes + size_bytes <= self._config.mailbox_bytes
        )

    def collect_statistics(self) -> list[WorkerStatistics]:
        """Returns the statistics of all workers, one entry for each."""
        if self.inline_worker is not None:
            inline = self.inline_worker
            sockets = self.queues[0].socket_count
            statistics = idle_statistics(
                "inline", inline.state, sockets, inline.get_counters(), inline.get_slowest_calls()
            )
            statistics["handled"] = inline.count_handled_messages()
            return [statistics]
        return [slot.collect_statistics() for slot in self._slots]

    # Called by the slots. -----------------------------------------------------------------------------------------

    def on_slot_running(self, slot: WorkerSlot) -> None:
        """Has orphaned closes handled by running workers, as a replacement or standby runs now. Called by its slot."""
        self._update_needs_open_verdict()
        self._orphaned_closes.assign_closes()

    def on_closes_orphaned(self, slot: WorkerSlot, closes: list[Event]) -> None:
        """Has the unfinished close handlers of a lost worker run by another worker. Called by the slot."""
        self._update_needs_open_verdict()
        self._orphaned_closes.add_closes(slot, closes)

    def on_slot_failed(self, error: Exception) -> None:
        """Reports a crash loop through `on_fatal`, once, unless the pool is stopping. Called by the slot."""
        if not self._has_failed and not self._is_stopping:
            self._has_failed = True
            logger.critical("workers cannot be kept alive: %s", error)
            self._on_fatal(error)


def _retrieve_exception(reload_task: "asyncio.Task[None]") -> None:
    """Reads the exception of an ended reload task, so that asyncio does not log it as never retrieved.

    The caller that waited for the task may have been cancelled.
    """
    if not reload_task.cancelled():
        reload_task.exception()


def estimate_request_bytes(request: HttpRequest) -> int:
    """Returns the memory in bytes that a request takes while it waits for its handler."""
    return REQUEST_OVERHEAD_BYTES + len(request.url) + request.head_bytes() + len(request.body)


def make_worker_options(config: Config) -> dict[str, object]:
    """Returns the settings that a worker needs, as plain values for the wire; see `worker.options.HandlerOptions`."""
    return {
        "handler_timeout": config.handler_timeout,
        "http_timeout": config.http_timeout,
        "worker_hang_timeout": config.worker_hang_timeout,
        "on_handler_error": config.on_handler_error,
        "worker_arg": config.worker_arg,
    }
