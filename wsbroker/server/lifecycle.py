"""The life of one server: what runs in its event loop, and the requests to it that other threads may make.

`Server` is the face of a `Lifecycle` for applications; `api` and `signals` use the `Lifecycle` itself. One server runs
at a time in a process; a child of a fork has none.

The states, and the state that each event leads to ("–": cannot happen):

    state      while                             loop begins  node is open  stop requested        task in the loop ends
    created    no loop runs the server yet       starting     –             created (remembered)  stopped (no loop)
    starting   workers start, sockets are bound  –            serving       stopping (no node)    stopped (failed)
    serving    connections are accepted          –            –             stopping              stopped (cancelled)
    stopping   connections close, workers stop   –            –             stopping (new limit)  stopped
    stopped    the process lasts                 –            –             stopped               stopped

A fatal error of the workers is a stop request with a `failure`. In a forked child every state becomes "stopped".
"Created", "starting" and "serving" differ in `loop` and `node`; "stopping" has `_is_stop_requested`; in state "stopped"
the event `stopped` is set.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, Final, TypeVar

from wsbroker.errors import CommandError, WSBrokerError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.pool import ReloadUnfinished
from wsbroker.server.event_loop import restore_switch_interval
from wsbroker.server.node import Node
from wsbroker.server.redefinition import current_definitions, is_redefined
from wsbroker.server.reload import find_load_error, find_watched_folders, watch_python_files
from wsbroker.server.waiting import wait_until_done, wait_until_set
from wsbroker.settings.addresses import Address, BindAddress
from wsbroker.settings.config import Config
from wsbroker.worker import api as worker_api

logger = GuardedLog(__name__)

_T = TypeVar("_T")

STATISTICS_TIMEOUT_S: Final = 10.0
"""How long other threads wait for the event loop to collect its statistics."""

STOPPED_MEANWHILE: Final = "the server has stopped meanwhile"

server_lock: Final = threading.Lock()
"""Held while the running server, or the worker registered for the next one, changes; never locked in a forked child."""

_running_lifecycle: "Lifecycle | None" = None
_is_end_wait_registered = False


class Lifecycle:
    """One server from its creation to its end. Methods may be called by any thread unless their docstring says less.

    Args:
        config: all settings.
        worker: the registered worker: the name of a module or object, or a live module, class or object.
    """

    def __init__(self, config: Config, worker: object) -> None:
        self._config = config
        self._worker = worker
        self._loaded_definitions = current_definitions(worker)
        self.node: Node | None = None
        """The broker and its workers; None before the loop runs and in a forked child."""
        self.addresses: list[Address] = []
        """The addresses where the server listens, with real ports; empty before it serves."""
        self.failure: BaseException | None = None
        """The error that ended the server; None if there is none."""
        self.wants_restart = False
        """Whether the program is to be started anew after the stop, because its files have changed."""
        self.stopped = threading.Event()
        """Set at the end of the server."""
        self.restored_switch_interval_s: float | None = None
        """The thread switch interval to restore at the end, in seconds; only of a server with its own thread."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The server's event loop; None before it runs and in a forked child."""
        self._loop_thread = 0
        self._stop_requested: asyncio.Event | None = None
        self._is_stop_requested = False  # perhaps before there is a loop, or the event
        self._stop_requested_at = 0.0
        self._stop_timeout_s = config.shutdown_timeout
        self._stopped_in_loop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """Running reloads and the watching of files, to be cancelled at the stop."""
        self._restart_task: asyncio.Task[None] | None = None
        """The task that restarts the program if its new code can be loaded; None if there was none."""
        self._restart_folder = ""
        """The working directory in which the program is going to be restarted."""
        self.watched_folders: list[Path] = []
        """The folders whose files are watched; empty: none."""
        self.pending_answers: set[Future[Any]] = set()
        """Answers of the loop for which other threads wait."""

    def __repr__(self) -> str:
        state = "stopped" if self.stopped.is_set() else "running"
        return f"<Server {state} {' '.join(str(address) for address in self.addresses)}>"

    # What runs in the loop. ------------------------------------------------------------------------------------------

    async def run_until_stopped(self, addresses: Sequence[BindAddress], on_open: Callable[[], None]) -> None:
        """Starts the broker, serves, and stops the broker once that is requested. Called once, in the server's loop.

        Args:
            addresses: where to listen.
            on_open: called when all addresses are bound.

        Raises:
            ConfigError, WorkerError, OSError: the server could not start.
        """
        self.loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stop_requested = asyncio.Event()
        self._stopped_in_loop = asyncio.Event()
        if self._is_stop_requested:
            self._stop_requested.set()
        try:
            node = self.node = Node(self._config, self._worker, self._stop_after_failure)
            if not await _open_unless_stopped(node, addresses, self._stop_requested):
                self.raise_failure()
                logger.info("stopped before it had started")
                return
            try:
                self.addresses = node.addresses
                logger.info("serving on %s", ", ".join(str(address) for address in self.addresses))
                on_open()
                self._start_watching_files()
                await self._stop_requested.wait()
            finally:  # this task may be cancelled too
                logger.info("stopping")
                await self.cancel_tasks()
                await node.close(self._stop_timeout_s)
                logger.info("stopped")
        finally:
            self.mark_stopped()

    def _stop_after_failure(self, error: BaseException) -> None:
        """Requests the stop of the server and stores the error that made its workers fail for good.

        Called by the pool, in the loop.
        """
        self.failure = error
        self.request_stop(None)
        logger.error("fatal: %s", error)

    def _start_watching_files(self) -> None:
        """Starts the task that watches the application's files, if `watch_application_files` was called."""
        if self.watched_folders:
            watching = asyncio.get_running_loop().create_task(
                watch_python_files(self.watched_folders, self.on_files_changed, self.cancel_restart),
                name="wsbroker watch",
            )
            self._tasks.add(watching)
            watching.add_done_callback(_log_end_of_file_watch)

    async def on_files_changed(self) -> None:
        """Reloads the workers, or restarts the program where workers share its modules. Called by the file watch.

        Returns before the reload or restart has ended: new code that hangs in its import may be corrected meanwhile.
        """
        node = self.node
        if node is None or self._is_stop_requested:
            return
        if node.pool.kind in ("interpreter", "process"):
            self._start_reload_task()
        else:
            self._start_restart_task(node.pool.kind)

    def _start_restart_task(self, kind: str) -> None:
        """Starts a task that restarts the program if its new code can be loaded; cancels the last such task.

        Args:
            kind: the kind of the workers, for the log.
        """
        self.cancel_restart()
        task = asyncio.get_running_loop().create_task(self._restart_if_app_loads(kind), name="wsbroker restart")
        self._restart_task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel_restart(self) -> None:
        """Cancels the task that restarts the program, if its check of the code is still running.

        Called when a file has changed since: that check is of older code.
        """
        if self._restart_task is not None:
            self._restart_task.cancel()

    async def _restart_if_app_loads(self, kind: str) -> None:
        """Requests a stop after which the program is restarted, or logs why the new code cannot be loaded.

        Args:
            kind: the kind of the workers, for the log.
        """
        assert isinstance(self._worker, str)  # or no files would be watched
        mistake = await find_load_error(self._worker, self._restart_folder)
        if mistake:
            logger.error("not restarted, the running server stays: %s", mistake)
        elif not self._is_stop_requested:
            logger.info("restarting: workers of kind %s share the server's modules", kind)
            self.wants_restart = True
            self.request_stop(None)

    def _start_reload_task(self) -> None:
        """Starts a task that replaces the workers by new ones and logs the outcome. In the loop only."""
        task = asyncio.get_running_loop().create_task(self.reload_and_log(), name="wsbroker reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload_and_log(self) -> None:
        """Replaces the workers by new ones with the present code and logs the outcome. In the loop only."""
        node = self.node
        if node is None:
            return
        try:
            await node.reload()
        except ReloadUnfinished as unfinished:
            logger.warning("reload not finished: %s", unfinished)
        except WSBrokerError as error:
            logger.error("not reloaded, the running workers stay: %s", error)
            logger.debug("why it was not reloaded", exc_info=error)
        except Exception:
            logger.exception("not reloaded, the running workers stay")
        else:
            logger.info("reloaded")

    def _start_awaited_reload(self, node: Node, answer: "Future[None]") -> None:
        """Starts a task that replaces the workers, and resolves `answer` with the outcome. In the loop only.

        Args:
            node: the broker whose workers are replaced.
            answer: the future for which another thread waits.
        """

        def on_reload_done(task: "asyncio.Task[None]") -> None:
            """Resolves `answer` with the outcome of the reload."""
            self._tasks.discard(task)
            error = CommandError(STOPPED_MEANWHILE) if task.cancelled() else task.exception()
            if not answer.set_running_or_notify_cancel():
                pass  # the thread does not wait any more
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(None)

        if not answer.done():
            task = asyncio.get_running_loop().create_task(node.reload(), name="wsbroker reload")
            self._tasks.add(task)
            task.add_done_callback(on_reload_done)

    async def cancel_tasks(self) -> None:
        """Cancels running reloads and the watching of files, and waits for their end. In the loop only."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def mark_stopped(self) -> None:
        """Brings the server into state "stopped" and wakes every thread and task that waits for that.

        Called at the end of `run_until_stopped`, and by `api` where that could not run or has ended; a second call does
        nothing new.
        """
        global _running_lifecycle
        with server_lock:
            if _running_lifecycle is self:
                _running_lifecycle = None
        self._loop_thread = 0
        if self.restored_switch_interval_s is not None:  # before threads that wait for the end go on
            restore_switch_interval(self.restored_switch_interval_s)
            self.restored_switch_interval_s = None
        self.stopped.set()
        for answer in self.pending_answers.copy():
            answer.cancel()
        if self._stopped_in_loop is not None:
            self._stopped_in_loop.set()

    # Requests by other threads. --------------------------------------------------------------------------------------

    def request_stop(self, timeout_s: float | None) -> None:
        """Requests the stop of the server and returns at once. Also for signal handlers.

        Args:
            timeout_s: how long the stop may take, in seconds; None: that of an earlier request, or `shutdown_timeout`.
        """
        if timeout_s is not None:
            self._stop_timeout_s = timeout_s
        if not self._is_stop_requested:
            self._stop_requested_at = time.monotonic()
        self._is_stop_requested = True
        loop, stop_requested = self.loop, self._stop_requested
        if loop is None or stop_requested is None or self.stopped.is_set():
            return
        try:
            loop.call_soon_threadsafe(stop_requested.set)
        except RuntimeError:
            logger.debug("the loop has ended already")

    def request_reload(self) -> None:
        """Requests a reload whose outcome is logged, and returns at once. Also for signal handlers."""
        if self.loop is not None and not self.stopped.is_set():
            self.loop.call_soon_threadsafe(self._start_reload_task)

    def reload_workers(self, timeout_s: float | None) -> None:
        """Replaces the workers by new ones with the present code; raises as `Server.reload`.

        Waits for the end of the reload; in the loop's thread and in handlers it only requests the reload.
        """
        loop, node = self.loop, self.node
        if loop is None or node is None or self.stopped.is_set():
            raise CommandError("the server has stopped: there are no workers to exchange")
        if self.may_not_wait:
            self.request_reload()
        else:
            answer: Future[None] = Future()
            self._call_in_loop(loop, lambda: self._start_awaited_reload(node, answer), answer)
            self._wait_for_answer(answer, timeout_s)

    def collect_statistics(self) -> dict[str, object]:
        """Returns the statistics of the broker and its workers; raises as `Server.statistics`."""
        loop, node = self.loop, self.node
        if loop is None or node is None or self.stopped.is_set():
            raise CommandError("the server has stopped: there are no statistics any more")
        if self.is_loop_thread:
            return _collect_node_statistics(node)
        answer: Future[dict[str, object]] = Future()
        self._call_in_loop(loop, lambda: _answer_statistics(node, answer), answer)
        try:
            return self._wait_for_answer(answer, STATISTICS_TIMEOUT_S)
        except TimeoutError:
            text = f"the event loop has been busy for {STATISTICS_TIMEOUT_S:g} s: there are no statistics now"
            raise CommandError(text) from None

    def _call_in_loop(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object], answer: "Future[_T]"
    ) -> None:
        """Has the loop call `callback`, which resolves `answer`; the end of the server cancels `answer`.

        Called by other threads than the loop's, which wait for `answer` then.
        """
        self.pending_answers.add(answer)
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed
            answer.cancel()
        if self.stopped.is_set():  # perhaps after the pending answers had been cancelled
            answer.cancel()

    def _wait_for_answer(self, answer: "Future[_T]", timeout_s: float | None) -> _T:
        """Waits for an answer of the loop, as requested by `_call_in_loop`; returns its result, or raises its error.

        Args:
            answer: the future that the loop resolves.
            timeout_s: seconds to wait; None: no limit.

        Raises:
            CommandError: the server has stopped meanwhile.
            TimeoutError: there is no answer after `timeout_s` seconds.
        """
        try:
            wait_until_done(answer, timeout_s)
            return answer.result(0)
        except CancelledError:
            raise CommandError(STOPPED_MEANWHILE) from None
        finally:
            self.pending_answers.discard(answer)

    # Facts. ----------------------------------------------------------------------------------------------------------

    @property
    def is_loop_thread(self) -> bool:
        """Whether the calling thread is the one that runs the server's loop."""
        return threading.get_ident() == self._loop_thread

    @property
    def may_not_wait(self) -> bool:
        """Whether the calling thread must not wait for the server: it runs the server's loop or a handler."""
        return self.is_loop_thread or worker_api.context_api.get() is not None

    def remaining_stop_s(self) -> float:
        """Returns the seconds that are left of the stop's time limit, counted from its request; may be negative."""
        return self._stop_timeout_s - (time.monotonic() - self._stop_requested_at)

    def raise_failure(self) -> None:
        """Raises the error that ended the server, if there is one."""
        if self.failure is not None:
            raise self.failure

    async def wait_until_stopped(self) -> None:
        """Waits until the server has stopped, in a task of its own loop; returns at once if it never ran."""
        if self._stopped_in_loop is not None:
            await self._stopped_in_loop.wait()

    def watch_application_files(self, folder: str) -> None:
        """Has the server watch the application's files and reload when they change. Called before it runs.

        Args:
            folder: the working directory in which the program is restarted, if a change needs that.
        """
        self._restart_folder = folder
        if isinstance(self._worker, str):
            self.watched_folders = find_watched_folders(self._worker)
        else:
            logger.warning("nothing is watched: reload needs an application named by a text such as 'pkg.mod'")

    def runs_older_definition(self, worker: object) -> bool:
        """Returns whether the server runs an older definition of this worker."""
        if self._worker is worker or isinstance(worker, str) and self._worker == worker:
            return any(
                loaded is not current
                for loaded, current in zip(self._loaded_definitions, current_definitions(worker), strict=True)
            )
        return is_redefined(self._worker, worker)

    def detach_in_child(self) -> None:
        """Brings the server into state "stopped" in a forked child; the parent's server goes on."""
        self.loop = self.node = None
        self._loop_thread = 0
        self.stopped = threading.Event()  # another thread may have held the lock of the old one
        self.stopped.set()


async def _open_unless_stopped(node: Node, addresses: Sequence[BindAddress], stop_requested: asyncio.Event) -> bool:
    """Opens the node and returns True; returns False, with the node closed, if a stop is requested before it is open.

    So a worker whose start hangs does not delay the stop. Raises the error of a node that cannot be opened. Called when
    the server starts.
    """
    if stop_requested.is_set():
        return False
    opening = asyncio.ensure_future(node.open(addresses))
    stopping = asyncio.ensure_future(stop_requested.wait())
    try:
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait((opening,))
    if opening.cancelled():
        return False
    opening.result()
    return True


def _log_end_of_file_watch(watching: "asyncio.Task[None]") -> None:
    """Logs that files are no longer watched, unless the stop of the server has cancelled the watching.

    Called when the task that watches the application's files has ended.
    """
    if not watching.cancelled():
        logger.error(
            "files are not watched any more, send SIGHUP to reload or restart the server: %s",
            watching.exception() or "the watcher has ended",
            exc_info=watching.exception(),
        )


def _answer_statistics(node: Node, answer: "Future[dict[str, object]]") -> None:
    """Resolves `answer` with the statistics, unless the thread that asked has stopped waiting. In the loop only."""
    if answer.set_running_or_notify_cancel():  # from here on the answer cannot be cancelled
        answer.set_result(_collect_node_statistics(node))


def _collect_node_statistics(node: Node) -> dict[str, object]:
    """Returns the broker's counters, and under ``"workers"`` a list with those of each worker. In the loop only."""
    return {**node.collect_statistics(), "workers": node.pool.collect_statistics()}


# The end of the program. ----------------------------------------------------------------------------------------------


def wait_at_program_end() -> None:
    """Registers a wait for the running server, which the main thread does first of all when it has come to its end.

    Python would wait for the server's thread too, but only after it has shut down `concurrent.futures`, so that
    `asyncio.to_thread` fails in handlers from then on; and in a wait that may miss a signal.
    """
    import concurrent.futures.thread  # noqa: F401  it registers its own end, and the last to register is called first

    global _is_end_wait_registered
    with server_lock:
        if not _is_end_wait_registered:
            threading._register_atexit(_wait_for_running_server)  # type: ignore[attr-defined]
            _is_end_wait_registered = True


def _wait_for_running_server() -> None:
    """Waits for the end of a server that runs in its own thread. Called when the main thread has ended."""
    lifecycle = _running_lifecycle
    if lifecycle is not None and lifecycle.restored_switch_interval_s is not None:  # the server has a thread of its own
        wait_until_set(lifecycle.stopped)


# The one running server of a process. ---------------------------------------------------------------------------------


def set_running_lifecycle(lifecycle: Lifecycle) -> None:
    """Registers a server as the one that runs in this process. Under `server_lock`.

    Raises:
        CommandError: another server runs.
    """
    global _running_lifecycle
    refuse_second_server()
    _running_lifecycle = lifecycle


def refuse_second_server() -> None:
    """Raises CommandError if a server runs in this process. Under `server_lock`."""
    if _running_lifecycle is not None:
        raise CommandError(f"a server runs in this process already: {_running_lifecycle!r}; stop it first")


def refuse_redefined_worker(worker: object) -> None:
    """Raises CommandError if the running server has an older definition of this worker. Under `server_lock`.

    Raises:
        CommandError: the running server has an older definition.
    """
    if _running_lifecycle is not None and _running_lifecycle.runs_older_definition(worker):
        raise CommandError(
            f"{worker!r} was defined anew, and the running server has the definition before: stop() that server first, "
            "then register the new one (a module's code is also exchanged by its reload(), with the worker kinds "
            "interpreter and process)"
        )


def _detach_server_in_child() -> None:
    """Unregisters the running server in a forked child, which has neither its loop nor its workers.

    Also releases `server_lock`, which the fork has acquired. Otherwise a call of the API in the child would wait for
    ever. Called by Python in the child after each fork.
    """
    global _running_lifecycle
    lifecycle, _running_lifecycle = _running_lifecycle, None
    server_lock.release()
    if lifecycle is not None:
        lifecycle.detach_in_child()


if sys.platform != "win32":
    os.register_at_fork(
        before=server_lock.acquire, after_in_parent=server_lock.release, after_in_child=_detach_server_in_child
    )
