"""The broker's side of one thread, interpreter or process worker: start, stop, loss, events, commands, mailbox."""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

import anyio

from wsbroker.errors import WorkerError
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import HttpResponse
from wsbroker.pool.interfaces import NO_WORKER, Core
from wsbroker.pool.kinds.host import WorkerHost
from wsbroker.pool.log_replay import LogReplay
from wsbroker.pool.pending_requests import OpenVerdict, PendingRequests, answer_with_timeout
from wsbroker.pool.start_reminder import StartReminder
from wsbroker.pool.tasks import PoolTasks
from wsbroker.pool.worker_monitor import WorkerMonitor
from wsbroker.pool.worker_states import TRANSITIONS, WorkerEvent, WorkerState
from wsbroker.pool.worker_stream import ENDED_BY_ITSELF, Batch, WorkerStream, connect_stream
from wsbroker.settings.config import Config
from wsbroker.wire import commands, events
from wsbroker.wire.commands import Command
from wsbroker.worker.slowest import SlowestCalls

logger = GuardedLog(__name__)

MAX_MERGED_EVENTS: Final = 256
"""Batches of the mailbox are written together, up to about this many events: one `marshal`, one wake-up."""
COMMANDS_REFUSED: Final = "commands_refused"
"""Statistic: commands of workers that the pool does not know and has skipped."""
CONTROL_REFUSED: Final = "control_messages_refused"
"""Statistic: messages of the control stream that their receiver does not know and has skipped."""
OUTCOME_WAIT_S: Final = 1.0
"""Seconds that a worker whose event stream has ended may take to end, which tells the reason; then it is killed."""
KILL_WAIT_S: Final = 1.0
"""Seconds that a killed worker may take to end."""


class RemoteWorker:
    """The broker's side of one worker, for its whole life; a replacement is a new object. States: `worker_states`.

    Args:
        host: starts, kills and names the worker.
        index: the index of the worker's slot and queue.
        generation: the present generation of that queue.
        core: applies the worker's commands.
        tasks: runs the mailbox task.
        counts: statistics of the slot, by name; the worker's counts are added.
        slowest: slowest handler calls of the slot; the worker's calls are added.
        on_lost: called once with the reason if the worker is lost while it runs.
    """

    def __init__(
        self,
        host: WorkerHost,
        index: int,
        generation: int,
        core: Core,
        config: Config,
        tasks: PoolTasks,
        counts: dict[str, int],
        slowest: SlowestCalls,
        on_lost: Callable[[str], None],
    ) -> None:
        self.name: Final = host.name
        self.state = WorkerState.STARTING
        self.started_at = 0.0
        """Time of the loop's clock at which the worker reported STARTED."""
        self._host = host
        self._queue_index = index
        self._generation: int | None = generation
        """Generation of the worker queue whose events this worker handles; None: standby or retiring."""
        self._apply = core.apply_commands
        self._config = config
        self._tasks = tasks
        self._counts = counts
        self._slowest = slowest
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._start_result: asyncio.Future[list[str] | Exception] = self._loop.create_future()
        self._stopped_event = asyncio.Event()
        self._event_stream = WorkerStream(self.name, self._apply_batch, self._on_stream_lost)
        self._log_replay = LogReplay(self.name, self._event_stream.pause_reading, self._event_stream.resume_reading)
        self._monitor = WorkerMonitor(
            self.name,
            config.worker_hang_timeout,
            slowest,
            self.declare_lost,
            lambda subject, kind: self._report_unknown(CONTROL_REFUSED, subject, kind),
        )
        self._mailbox_sender, self._mailbox_receiver = anyio.create_memory_object_stream[Batch](math.inf)
        self._waiting_batch_count = 0
        self._mailbox_task: asyncio.Task[None] | None = None
        self._pending: Final = PendingRequests(self.name)
        self._last_request_number = 0
        self._loss_reason_while_stopping = ""
        self._watches: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        """The conditions given to `watch`, tested after each batch of commands, each with the future to complete."""
        self._logged_unknown_subjects: set[str] = set()
        """Subjects of `_report_unknown` that were logged already."""

    @property
    def has_ended(self) -> bool:
        """Whether the worker's streams are closed for good."""
        return self.state is WorkerState.ENDED or self.state is WorkerState.ABANDONED

    @property
    def requests_in_flight(self) -> int:
        """Number of HTTP requests that the worker has not answered, those after their time-out included."""
        return self._pending.request_count

    @property
    def opens_in_flight(self) -> int:
        """Number of opens that the worker has not answered, those after their time-out included."""
        return self._pending.open_count

    @property
    def pending_request_bytes(self) -> int:
        """Size of the unanswered opens and HTTP requests."""
        return self._pending.size_bytes

    @property
    def has_pending_requests(self) -> bool:
        """Whether the worker runs and has opens or HTTP requests to answer."""
        return self.state is WorkerState.RUNNING and len(self._pending) > 0

    @property
    def waiting_batches(self) -> int:
        """Number of batches in the mailbox; more than 0 only while the worker reads more slowly than events come."""
        return self._waiting_batch_count

    @property
    def unwritten_bytes(self) -> int:
        """Bytes of batches that have left the mailbox and that the kernel has not taken yet."""
        return self._event_stream.unwritten_bytes

    # Start and end. ---------------------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        """Starts the worker; returns when its handlers are imported and `handle_worker_start` has returned.

        Returns:
            the names of the handlers found.

        Raises:
            ConfigError: the application cannot work, as the worker's text explains.
            WorkerError: the worker could not be started, or `handle_worker_start` failed.
        """
        try:
            wire_end, control_end = self._host.start()
            try:
                await connect_stream(wire_end, self._event_stream)
            except BaseException:
                control_end.close()
                raise
            await connect_stream(control_end, self._monitor.stream)
            self._mailbox_task = self._tasks.spawn_task(self._drain_mailbox(), f"{self.name} mailbox")
            with StartReminder(self.name):
                outcome = await self._start_result
            if isinstance(outcome, Exception):
                if isinstance(outcome, _EndedBeforeStarted):
                    reason = await self.find_loss_reason(str(outcome))
                    outcome = WorkerError(f"worker {self.name} ended before it had started: {reason}")
                raise outcome
        except BaseException:
            self._close_and_answer_pending(WorkerEvent.CLOSED)
            raise
        return outcome

    async def find_loss_reason(self, reason: str) -> str:
        """Waits up to 1 s for the end of a worker whose event stream has ended, and kills it if it still runs.

        Returns:
            the host's reason of the end, if there is one; else `reason`.
        """
        if not await self._wait_until_ended(self._loop.time() + OUTCOME_WAIT_S):
            self._host.kill()
        return self._host.end_reason or reason

    async def stop(self, timeout_s: float) -> bool:
        """Stops the worker: it handles earlier events, runs `handle_worker_stop`; kills or gives up a stuck worker.

        Args:
            timeout_s: seconds that the worker may take.

        Returns:
            whether the worker has ended.
        """
        deadline = self._loop.time() + timeout_s
        was_running = self.state is WorkerState.RUNNING
        if was_running:
            self._change_state(WorkerEvent.STOP_SENT)
            self.post_events([(events.STOP,)])
            try:
                async with asyncio.timeout_at(deadline):
                    await self._stopped_event.wait()
            except TimeoutError:
                level = logging.ERROR if timeout_s > 0 else logging.INFO
                text = "worker did not stop in time, %s worker=%s timeout_s=%g"
                logger.log(level, text, self._host.stuck_outcome, self.name, timeout_s)
        has_stopped = self._stopped_event.is_set()
        self._close_and_answer_pending(WorkerEvent.CLOSED)
        if self.state is WorkerState.ABANDONED or (was_running and not has_stopped):
            has_ended = False
            deadline = self._loop.time()
        elif has_stopped:
            has_ended = await self._wait_until_ended(deadline)
            if not has_ended:
                text = "worker stopped and did not end, %s worker=%s timeout_s=%g"
                logger.error(text, self._host.stuck_outcome, self.name, timeout_s)
        else:
            # The worker has not started and is about to end: it has reported why, or notices the closed streams.
            has_ended = await self._wait_until_ended(min(deadline, self._loop.time() + OUTCOME_WAIT_S))
        if not has_ended and self._host.kill():
            deadline = max(deadline, self._loop.time() + KILL_WAIT_S)
        has_ended = has_ended or await self._wait_until_ended(deadline)
        if self._loss_reason_while_stopping:
            reason = self._host.end_reason or self._loss_reason_while_stopping
            logger.error("worker lost while stopping worker=%s reason=%r", self.name, reason)
        return has_ended

    async def _wait_until_ended(self, deadline: float) -> bool:
        """Waits until the worker's thread or process has ended, at most until `deadline`; returns whether it has ended.

        Args:
            deadline: a time of the loop's clock.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._host.wait_until_ended()
        except TimeoutError:
            return False
        return True

    def declare_lost(self, reason: str) -> None:
        """Kills the worker if its kind allows that, ignores its further commands, and answers its pending requests."""
        if not self.has_ended:
            self._on_stream_lost(reason)

    def _on_stream_lost(self, reason: str) -> None:
        """Closes this worker, which hangs or failed or whose event stream has ended; reports the loss of a running one.

        Called by the event stream, and by `declare_lost`.

        Args:
            reason: begins with `ENDED_BY_ITSELF`; otherwise the worker is killed, if its kind can be killed.
        """
        before = self.state
        if not reason.startswith(ENDED_BY_ITSELF):
            self._host.kill()
            self._close_and_answer_pending(WorkerEvent.DECLARED_LOST)
        elif before is not WorkerState.STOPPED:
            self._close_and_answer_pending(WorkerEvent.CLOSED)
        if before is WorkerState.STARTING and not self._start_result.done():
            self._start_result.set_result(_EndedBeforeStarted(reason))
        elif before is WorkerState.RUNNING:
            self._on_lost(reason)
        elif before is WorkerState.STOPPING:
            self._loss_reason_while_stopping = reason
            self._stopped_event.set()

    def _change_state(self, event: WorkerEvent) -> None:
        """Changes the worker's state after an event, as `TRANSITIONS` says, and completes the futures of `watch`."""
        self.state = TRANSITIONS[self.state].get(event, self.state)
        if self._watches:
            self._complete_watches()

    def _close_and_answer_pending(self, event: WorkerEvent) -> None:
        """Changes the state, closes streams and mailbox, answers pending opens with 503 and HTTP requests with 500.

        Args:
            event: the event that ends the worker's life, for `TRANSITIONS`.
        """
        self._change_state(event)
        self._log_replay.replay_rest()
        self._event_stream.close()
        self._monitor.stream.close()
        if self._mailbox_task is not None:
            self._mailbox_task.cancel()
        self._mailbox_sender.close()
        self._mailbox_receiver.close()
        self._pending.answer_all_as_lost()

    def watch(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """Returns a future that is done when the condition holds, or when the worker is not RUNNING.

        The condition is tested now, and after each batch of the worker's commands while the future is not done or
        cancelled: the caller cancels the future when it stops waiting. No cost while no watch is set.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._watches.append((condition, future))
        self._event_stream.on_batch = self._apply_batch_and_complete_watches
        self._complete_watches()
        return future

    def _apply_batch_and_complete_watches(self, batch: Batch) -> None:
        """Applies a batch of the worker's commands, then completes the futures of `watch` that are due.

        Called by the event stream in place of `_apply_batch` while a future of `watch` is not done.
        """
        self._apply_batch(batch)
        self._complete_watches()

    def _complete_watches(self) -> None:
        """Completes the futures of `watch` whose condition holds, or all if the worker is not RUNNING.

        Called by `watch` and, while futures of `watch` wait, after each batch of commands and each change of the state.
        Done and cancelled futures are removed.
        """
        is_running = self.state is WorkerState.RUNNING
        for condition, future in self._watches:
            if not future.done() and (not is_running or condition()):
                future.set_result(None)
        self._watches = [watch for watch in self._watches if not watch[1].done()]
        if not self._watches:
            self._event_stream.on_batch = self._apply_batch

    # To the worker. ---------------------------------------------------------------------------------------------

    def post_events(self, batch: Batch) -> None:
        """Sends a batch of events to the worker, through the mailbox if the worker is behind. Never waits or raises.

        While the mailbox is empty a batch goes straight to the transport. The mailbox costs each batch two more turns
        of the loop and 30 to 40 µs of its CPU: a round trip of 97 instead of 28 µs (uvloop).
        """
        if self._waiting_batch_count or self._event_stream.is_writing_paused:
            if batch[-1][0] == events.ANSWER:
                batch = self._write_trailing_answers(batch)
                if not batch:
                    return
            self._waiting_batch_count += 1
            try:
                self._mailbox_sender.send_nowait(batch)
            except anyio.ClosedResourceError:
                text = "batch dropped worker=%s state=%s events=%d"
                logger.debug(text, self.name, self.state.public_name, len(batch))
            return
        self._write_batch(batch)

    def _write_trailing_answers(self, batch: Batch) -> Batch:
        """Writes the ANSWER events at the end of a batch to the worker at once; returns the events before them.

        Called when other batches wait: a handler is blocked until its answer comes. The core puts answers last; the
        events before keep their order.
        """
        first = len(batch)
        while first and batch[first - 1][0] == events.ANSWER:
            first -= 1
        self._write_batch(batch[first:])
        return batch[:first]

    def _write_batch(self, batch: Batch) -> None:
        """Writes a batch of events to the worker's stream; if a field cannot be packed, declares the worker lost."""
        try:
            self._event_stream.write(batch)
        except ValueError as error:
            logger.exception("batch refused by the wire worker=%s", self.name)
            # In the next turn: the core is in the middle of its own.
            self._loop.call_soon(self.declare_lost, f"an event could not be sent to it: {error}")

    async def _drain_mailbox(self) -> None:
        """Writes the mailbox's batches of events to the stream as fast as the worker reads. Body of the mailbox task.

        Several small batches become one. If that raises, declares the worker lost.
        """
        stream = self._event_stream
        receiver = self._mailbox_receiver
        try:
            while True:
                batch = await receiver.receive()
                merged_count = 1
                if stream.is_writing_paused:
                    await stream.drain()
                if merged_count < self._waiting_batch_count:
                    batch = list(batch)
                    while merged_count < self._waiting_batch_count and len(batch) < MAX_MERGED_EVENTS:
                        batch += receiver.receive_nowait()
                        merged_count += 1
                self._write_batch(batch)
                self._waiting_batch_count -= merged_count  # only now: `post_events` must not overtake the batch in hand
        except Exception as error:
            logger.exception("mailbox broken worker=%s", self.name)
            self.declare_lost(f"its mailbox broke: {error!r}")

    async def run_open_handler(self, socket_id: int, fields: tuple[object, ...], size_bytes: int) -> OpenVerdict:
        """Sends the open of a socket to the worker and waits for the verdict.

        Returns:
            None or an `Accept`: accepted; else the response to send instead of the 101: the handler's response, 504
            after `handshake_timeout`, 503 if the worker is lost.
        """
        opening = self._pending.add_open(socket_id, size_bytes)
        timer = self._loop.call_later(self._config.handshake_timeout, answer_with_timeout, opening)
        is_accepted = False
        try:
            self.post_events([(events.OPEN, socket_id, fields)])
            answer = await opening
            is_accepted = not isinstance(answer, HttpResponse)
            return answer
        finally:
            timer.cancel()
            if not is_accepted:
                self.drop_unopened_socket(socket_id)

    def drop_unopened_socket(self, socket_id: int) -> None:
        """Tells the worker that a socket never opened: refused, or gone before its 101 was sent."""
        if self.state is WorkerState.RUNNING:
            self.post_events([(events.DROP_UNOPENED, socket_id)])

    async def run_http_handler(self, fields: tuple[object, ...], size_bytes: int) -> HttpResponse:
        """Sends an HTTP request to the worker and waits for the response.

        Returns:
            the handler's response; 504 after `http_timeout`, 500 if the worker is lost: its handler may have acted.
        """
        number = self._last_request_number = self._last_request_number + 1
        request = self._pending.add_request(number, size_bytes)
        timer = self._loop.call_later(self._config.http_timeout, answer_with_timeout, request)
        try:
            self.post_events([(events.HTTP, number, fields)])
            return await request
        finally:
            timer.cancel()

    # From the worker. -------------------------------------------------------------------------------------------

    def enter_standby(self) -> None:
        """Detaches this worker from its worker queue; called before a standby starts, and when a worker is retired.

        The worker's commands are applied and its questions answered as those of a thread of the server.
        """
        self._generation = None

    def take_over_queue(self, generation: int) -> None:
        """Attaches this worker to its worker queue, as the worker of this generation; called when it takes over.

        Args:
            generation: the present `generation` of the queue, which the worker's commands carry from now on.
        """
        self._generation = generation

    def _apply_batch(self, batch: Batch) -> None:
        """Applies a batch of the worker's commands, by the core or in this object. Called by the event stream."""
        generation = self._generation
        if generation is None:
            self._apply_standby_batch(batch)
            return
        for command in self._apply(self._queue_index, generation, batch):
            self._process_command(command)

    def _apply_standby_batch(self, batch: Batch) -> None:
        """Applies a batch of commands of a worker that has no queue (standby or retiring), and writes the answers.

        Those are the answers to the worker's questions; a worker with a queue gets them through the queue.
        """
        results = self._apply(NO_WORKER, 0, batch)
        answers = [item for item in results if item[0] == events.ANSWER]
        if answers:
            self._write_batch(answers)
        for command in results:
            if command[0] != events.ANSWER:
                self._process_command(command)

    def _process_command(self, command: Command) -> None:
        """Processes a command meant for the pool: a result, a count, a start or stop report, or a log record."""
        kind = command[0]
        if kind == commands.OPEN_RESULT:
            self._pending.answer_open(*commands.read_open_result(command))
        elif kind == commands.RESPONSE:
            self._pending.answer_request(*commands.read_response(command))
        elif kind == commands.COUNTED:
            self._add_to_counter(*commands.read_counted(command))
        elif kind in (commands.STARTED, commands.START_FAILED) and self._start_result.done():
            logger.debug("start was called off already worker=%s", self.name)
        elif kind == commands.STARTED:
            self._change_state(WorkerEvent.STARTED)
            self.started_at = self._loop.time()
            self._start_result.set_result(commands.read_started(command))
        elif kind == commands.START_FAILED:
            text, detail, is_config_error = commands.read_start_failed(command)
            failure = self._host.make_start_error(text, detail, is_config_error)
            if detail:  # the traceback in the worker, to be shown where this error is shown
                failure.__cause__ = WorkerError(f"in worker {self.name}:\n{detail}")
            self._start_result.set_result(failure)
        elif kind == commands.STOPPED:
            self._change_state(WorkerEvent.STOPPED)
            self._stopped_event.set()
        elif kind == commands.LOG:
            self._log_replay.add_record(command)
        elif kind == commands.SLOWEST:
            self._slowest.add_call(*commands.read_slowest(command))
        else:
            self._report_unknown(COMMANDS_REFUSED, "command", kind)

    def _report_unknown(self, statistic: str, subject: str, kind: object) -> None:
        """Counts a command or message of an unknown kind that was skipped; logs the first one of each `subject`.

        Args:
            statistic: the name of the counter.
            subject: "command" or a description of the control message, for the log.
        """
        self._add_to_counter(statistic, 1)
        if subject not in self._logged_unknown_subjects:
            self._logged_unknown_subjects.add(subject)
            logger.error(
                "%s not understood and skipped, please report this worker=%s kind=%r", subject, self.name, kind
            )

    def _add_to_counter(self, name: str, amount: int) -> None:
        """Adds an amount to the slot's statistic of this name."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def check_liveness(self) -> None:
        """Sends a probe to a worker that runs or stops, unless the last probe is unanswered. Called every second."""
        if self.state is WorkerState.RUNNING or self.state is WorkerState.STOPPING:
            self._monitor.check_liveness()


class _EndedBeforeStarted(WorkerError):
    """The event stream ended before the worker had reported STARTED. Only passed on within `start`."""
