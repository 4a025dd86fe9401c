"""A running server: from its start to its end in one event loop, asked from any thread meanwhile.

One runs at a time in a process; a child of a fork has none.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, TypeVar

from wsbroker.errors import CommandError, WSBrokerError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.pool import ReloadUnfinished
from wsbroker.server.event_loop import restore_switch_interval
from wsbroker.server.node import Node
from wsbroker.server.redefinition import current_definitions, is_redefined
from wsbroker.server.reload import find_watched_folders, watch_python_files
from wsbroker.settings.addresses import Address, BindAddress
from wsbroker.settings.config import Config
from wsbroker.worker import api as worker_api

logger = GuardedLog(__name__)

_T = TypeVar("_T")

STATISTICS_TIMEOUT_S: Final = 10.0
"""How long other threads wait for the event loop to tell its statistics."""

WAIT_SLICE_S: Final = 0.5
"""How long a thread waits for a lock at a time: its signals come no later."""

STOPPED_MEANWHILE: Final = "the server has stopped meanwhile"

server_lock: Final = threading.Lock()
"""Held while the running server, or what is registered for the next one, changes; never locked in a forked child."""

_running_server: "Server | None" = None
_is_end_wait_registered = False


class Server:
    """A running server. Made by `start` and `serve`; a context manager that stops it at the end."""

    def __init__(self, config: Config, spec: object) -> None:
        self._config = config
        self._spec = spec
        self._loaded_definitions = current_definitions(spec)
        self._node: Node | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._stop_requested: asyncio.Event | None = None
        self._is_stop_requested = False  # perhaps before there is a loop, or the event
        self._stop_requested_at = 0.0
        self._stop_timeout_s = config.shutdown_timeout
        self._stopped = threading.Event()
        self._stopped_in_loop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._previous_switch_interval_s: float | None = None
        """The thread switch interval to restore at the end, in seconds."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched_folders: list[Path] = []
        self._pending_answers: set[Future[Any]] = set()
        """Answers of the loop that other threads wait for."""
        self.wants_restart = False
        """Set when `--reload` has stopped it in order to start the process anew."""
        self._addresses: list[Address] = []

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, with the real port where 0 was asked for; ``str()`` of one is its URL."""
        return list(self._addresses)

    @property
    def is_running(self) -> bool:
        """True until it has stopped."""
        return not self._stopped.is_set()

    def stop(self, timeout_s: float | None = None) -> None:
        """Stops: sockets are closed with 1001, handlers end, then this returns. A second call waits for the first.

        Called by a handler, or on the event loop's thread, it asks for the stop and returns at once.

        Args:
            timeout_s: how long a clean stop may take, in seconds; None: the setting `shutdown_timeout`; 0: drop
                everything now.

        Raises:
            TypeError: `timeout_s` is no number.
            ValueError: a negative `timeout_s`.
        """
        if timeout_s is not None and (isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float)):
            raise TypeError(f"timeout_s must be a number of seconds or None, not {type(timeout_s).__name__}")
        if timeout_s is not None and not timeout_s >= 0:
            raise ValueError(f"timeout_s is {timeout_s!r}; a stop takes 0 seconds or more")
        self._request_stop(timeout_s)
        if threading.get_ident() == self._loop_thread or worker_api.context_api.get() is not None:
            return
        wait_until_set(self._stopped)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the server has stopped; False if `timeout_s` seconds went by first.

        Raises:
            WorkerError: the workers failed for good and took the server with them.
            RuntimeError: called on the event loop's thread, where it would wait for itself.
        """
        if threading.get_ident() == self._loop_thread:
            raise CommandError("wait() would block the event loop it waits for: use 'await server.wait_closed()'")
        if not wait_until_set(self._stopped, timeout_s):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    async def wait_closed(self) -> None:
        """The same for a coroutine on the server's own loop (`serve`).

        Raises:
            WorkerError: the workers failed for good and took the server with them.
        """
        if self._stopped_in_loop is not None:
            await self._stopped_in_loop.wait()
        if self._failure is not None:
            raise self._failure

    def reload(self, timeout_s: float | None = None) -> None:
        """Exchanges the workers for new ones with the code as it is now; no socket closes, no message is lost.

        Only for workers of kind `interpreter` and `process`, which have modules of their own. If the new code cannot
        be loaded, the old workers stay. Another reload calls off one that goes on, and so does the stop of the server.
        On the event loop's thread, or in a handler, it asks for that and returns at once; the log says how it ended.

        Args:
            timeout_s: how long to wait for the end, in seconds; None: as long as it takes.

        Raises:
            ConfigError: the kind of worker does not allow it, or the new code cannot be loaded.
            WorkerError: a new worker could not be started, an old one did not come to the end of its handlers (the
                text says how many have the new code), or the reload was called off.
            TimeoutError: it goes on, but `timeout_s` is over.
            RuntimeError: the server has stopped.
        """
        loop, node = self._loop, self._node
        if loop is None or node is None or self._stopped.is_set():
            raise CommandError("the server has stopped: there are no workers to exchange")
        if threading.get_ident() == self._loop_thread or worker_api.context_api.get() is not None:
            self._request_reload()
        else:
            answer: Future[None] = Future()
            self._call_on_loop(loop, lambda: self._start_awaited_reload(node, answer), answer)
            self._wait_for_answer(answer, timeout_s)

    def statistics(self) -> dict[str, object]:
        """Counters and sizes of the core, and under ``"workers"`` a list with those of each worker. Safe on any thread.

        Of each worker: `name`, `state`, `restarts`, `sockets`; `mailbox_messages` and `mailbox_bytes` that are on their
        way or being handled, `mailbox_batches` and `unwritten_bytes` that it has not read, `sockets_waiting` because
        its mailbox is full; `opens_in_flight` and `requests_in_flight`, together of `pending_request_bytes`; messages `handled`;
        `errors`, handlers that raised, returned what they may not, or were interrupted; `slowest`, the five slowest
        calls of handlers since the start, each with `handler`, `socket_id` (0: an HTTP request), `seconds` and the time
        `at` which it ended; and under `counts` what the worker counts by name, such as `long_handlers`, the calls
        that took longer than a tenth of `handler_timeout`.

        Raises:
            RuntimeError: it has stopped.
        """
        loop, node = self._loop, self._node
        if loop is None or node is None or self._stopped.is_set():
            raise CommandError("the server has stopped: there are no statistics any more")
        if threading.get_ident() == self._loop_thread:
            return _collect_statistics(node)
        answer: Future[dict[str, object]] = Future()
        self._call_on_loop(loop, lambda: _answer_statistics(node, answer), answer)
        try:
            return self._wait_for_answer(answer, STATISTICS_TIMEOUT_S)
        except TimeoutError:
            text = f"the event loop has been busy for {STATISTICS_TIMEOUT_S:g} s: there are no statistics now"
            raise CommandError(text) from None

    def _call_on_loop(self, loop: asyncio.AbstractEventLoop, work: Callable[[], object], answer: "Future[_T]") -> None:
        """Has the loop do something, in a thread that will wait for the answer. The end of the server cancels that."""
        self._pending_answers.add(answer)
        try:
            loop.call_soon_threadsafe(work)
        except RuntimeError:  # it is closed
            answer.cancel()
        if self._stopped.is_set():  # perhaps after those that were listed had been cancelled
            answer.cancel()

    def _wait_for_answer(self, answer: "Future[_T]", timeout_s: float | None) -> _T:
        try:
            wait_in_slices(partial(_is_done_within, answer), timeout_s)
            return answer.result(0)
        except CancelledError:
            raise CommandError(STOPPED_MEANWHILE) from None
        finally:
            self._pending_answers.discard(answer)

    def _start_awaited_reload(self, node: Node, answer: "Future[None]") -> None:
        """Reloads, and tells the thread that waits for it."""

        def on_reload_done(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            error = CommandError(STOPPED_MEANWHILE) if task.cancelled() else task.exception()
            if not answer.set_running_or_notify_cancel():
                pass  # nobody waits any more
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(None)

        if not answer.done():
            task = asyncio.get_running_loop().create_task(node.reload(), name="wsbroker reload")
            self._tasks.add(task)
            task.add_done_callback(on_reload_done)

    def _set_watched_folders(self) -> None:
        if isinstance(self._spec, str):
            self._watched_folders = find_watched_folders(self._spec)
        else:
            logger.warning("nothing is watched: reload needs an application named by a text such as 'pkg.mod'")

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"<Server {state} {' '.join(str(address) for address in self._addresses)}>"

    # The life of it. --------------------------------------------------------------------------------------------

    async def _run_until_stopped(self, addresses: Sequence[BindAddress], on_open: Callable[[], None]) -> None:
        """Runs from start to stop in the current loop; raises what kept it from starting."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stop_requested = asyncio.Event()
        self._stopped_in_loop = asyncio.Event()
        if self._is_stop_requested:
            self._stop_requested.set()
        try:
            node = self._node = Node(self._config, self._spec, self._stop_after_failure)
            if not await _open_unless_stopped(node, addresses, self._stop_requested):
                if self._failure is not None:
                    raise self._failure
                logger.info("stopped before it had started")
                return
            try:
                self._addresses = node.addresses
                logger.info("serving on %s", ", ".join(str(address) for address in self._addresses))
                on_open()
                if self._watched_folders:
                    watching = self._loop.create_task(
                        watch_python_files(self._watched_folders, self._on_files_changed), name="wsbroker watch"
                    )
                    self._tasks.add(watching)
                    watching.add_done_callback(_on_file_watch_ended)
                await self._stop_requested.wait()
            finally:  # its task may be cancelled too
                logger.info("stopping")
                await self._cancel_tasks()
                await node.close(self._stop_timeout_s)
                logger.info("stopped")
        finally:
            self._mark_stopped()

    def _mark_stopped(self) -> None:
        global _running_server
        with server_lock:
            if _running_server is self:
                _running_server = None
        self._loop_thread = 0
        if self._previous_switch_interval_s is not None:  # before anybody who waits for the end goes on
            restore_switch_interval(self._previous_switch_interval_s)
            self._previous_switch_interval_s = None
        self._stopped.set()
        for answer in self._pending_answers.copy():
            answer.cancel()
        if self._stopped_in_loop is not None:
            self._stopped_in_loop.set()

    def _runs_older_definition(self, worker: object) -> bool:
        """Whether its handlers are an older definition of this worker."""
        if self._spec is worker or isinstance(worker, str) and self._spec == worker:
            return any(
                before is not now
                for before, now in zip(self._loaded_definitions, current_definitions(worker), strict=True)
            )
        return is_redefined(self._spec, worker)

    def _is_awaited_in_stack(self, frame: FrameType | None) -> bool:
        """Whether a thread that stands at this frame waits for a server's end, or has come to its own."""
        while frame is not None:
            if frame.f_code in _WAITING_CODE:
                return True
            frame = frame.f_back
        return False

    def _detach_in_child(self) -> None:
        """In a child process: the server is the parent's."""
        self._loop = self._node = None
        self._loop_thread = 0
        self._stopped = threading.Event()  # another thread may have held the lock of the old one
        self._stopped.set()

    def _stop_after_failure(self, error: BaseException) -> None:
        """The broker cannot go on."""
        self._failure = error
        self._request_stop(None)
        logger.error("fatal: %s", error)

    def _request_reload(self) -> None:
        """From any thread, and from signal handlers."""
        if self._loop is not None and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._start_reload_task)

    def _start_reload_task(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_and_log(), name="wsbroker reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_and_log(self) -> None:
        node = self._node
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

    async def _on_files_changed(self) -> None:
        """Files have changed: exchange the workers, or, where they share our modules, restart the process.

        Nobody waits for the end of it: code that hangs in its import may be mended meanwhile.
        """
        node = self._node
        if node is None or self._is_stop_requested:
            return
        if node.pool.kind in ("interpreter", "process"):
            self._start_reload_task()
        else:
            logger.info("restarting: workers of kind %s share the server's modules", node.pool.kind)
            self.wants_restart = True
            self._request_stop(None)

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _request_stop(self, timeout_s: float | None) -> None:
        """From any thread, and from signal handlers."""
        if timeout_s is not None:
            self._stop_timeout_s = timeout_s
        if not self._is_stop_requested:
            self._stop_requested_at = time.monotonic()
        self._is_stop_requested = True
        loop, asked = self._loop, self._stop_requested
        if loop is None or asked is None or self._stopped.is_set():
            return
        try:
            loop.call_soon_threadsafe(asked.set)
        except RuntimeError:
            logger.debug("the loop has ended already")


_WAITING_CODE: Final = (Server.wait.__code__, Server.stop.__code__, threading._shutdown.__code__)  # type: ignore[attr-defined]
"""What runs in a thread that waits for a server's end; the last one when a program has come to its own."""


async def _open_unless_stopped(node: Node, addresses: Sequence[BindAddress], stop_asked: asyncio.Event) -> bool:
    """Opens the node; False if a stop was asked for first: a worker that does not come up keeps nobody waiting."""
    if stop_asked.is_set():
        return False
    opening = asyncio.ensure_future(node.open(addresses))
    asked = asyncio.ensure_future(stop_asked.wait())
    try:
        await asyncio.wait((opening, asked), return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait((opening,))
    if opening.cancelled():
        return False
    opening.result()
    return True


def _on_file_watch_ended(watching: "asyncio.Task[None]") -> None:
    """Only the stop of the server ends it in silence."""
    if not watching.cancelled():
        logger.error(
            "files are not watched any more, send SIGHUP to reload or restart the server: %s",
            watching.exception() or "the watcher has ended",
            exc_info=watching.exception(),
        )


def _answer_statistics(node: Node, answer: "Future[dict[str, object]]") -> None:
    if answer.set_running_or_notify_cancel():  # from here on nobody can cancel it
        answer.set_result(_collect_statistics(node))


def _collect_statistics(node: Node) -> dict[str, object]:
    return {**node.collect_statistics(), "workers": node.pool.collect_statistics()}


def wait_until_set(event: threading.Event, timeout_s: float | None = None) -> bool:
    """Waits for an event as `Event.wait` does, and misses no signal; returns whether it is set."""
    return wait_in_slices(event.wait, timeout_s)


def wait_in_slices(wait_for: Callable[[float], bool], timeout_s: float | None = None) -> bool:
    """Waits as long as it takes, or `timeout_s`, in slices.

    A signal that comes between the last look for one and the beginning of a wait for a lock does not end that wait, so
    its handler, which may be what all wait for, would not run before it ends.

    Args:
        wait_for: waits for so many seconds; returns whether that for which it waits is there.
        timeout_s: seconds; None: no limit.

    Returns:
        whether it is there.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = WAIT_SLICE_S if deadline is None else deadline - time.monotonic()
        if wait_for(max(0.0, min(left_s, WAIT_SLICE_S))):
            return True
        if deadline is not None and left_s <= WAIT_SLICE_S:
            return False


def wait_at_program_end() -> None:
    """Has the main thread, when it has come to its end, wait for the server that runs then, before all else.

    Python would wait for the server's thread too, but only after it has shut down `concurrent.futures`, so that
    `asyncio.to_thread` fails in handlers from then on; and in a wait that may miss a signal.
    """
    import concurrent.futures.thread  # noqa: F401  it registers its own end, and who comes last is called first

    global _is_end_wait_registered
    with server_lock:
        if not _is_end_wait_registered:
            threading._register_atexit(_wait_for_running_server)  # type: ignore[attr-defined]
            _is_end_wait_registered = True


def _wait_for_running_server() -> None:
    server = _running_server
    if server is not None and server._previous_switch_interval_s is not None:  # it has a thread of its own
        wait_until_set(server._stopped)


def _is_done_within(answer: "Future[Any]", seconds: float) -> bool:
    try:
        answer.exception(seconds)
    except TimeoutError:
        return answer.done()
    except CancelledError:
        pass
    return True


def set_running_server(server: Server) -> None:
    """Takes the one place for a running server. Under `server_lock`.

    Raises:
        CommandError: another one runs.
    """
    global _running_server
    if _running_server is not None:
        raise CommandError(f"a server runs in this process already: {_running_server!r}; stop it first")
    _running_server = server


def refuse_redefined_worker(worker: object) -> None:
    """Raises if the running server has an older definition of this worker. Under `server_lock`.

    Raises:
        CommandError: it has.
    """
    if _running_server is not None and _running_server._runs_older_definition(worker):
        raise CommandError(
            f"{worker!r} was defined anew, and the running server has the definition before: stop() that server first, "
            "then register the new one (a module's code is also exchanged by its reload(), with the worker kinds "
            "interpreter and process)"
        )


def _detach_server_in_child() -> None:
    """In the child of a fork there is no loop and no worker, so a call would wait for ever: as if nothing ran here."""
    global _running_server
    server, _running_server = _running_server, None
    server_lock.release()
    if server is not None:
        server._detach_in_child()


if sys.platform != "win32":
    os.register_at_fork(
        before=server_lock.acquire, after_in_parent=server_lock.release, after_in_child=_detach_server_in_child
    )
