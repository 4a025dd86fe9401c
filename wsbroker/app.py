"""Starting and stopping: `start`, `run`, `serve`, `register_worker`, and the `Server` they return.

The broker itself is a `Node`; this module gives it an event loop (of its own thread, of the main thread, or the
caller's), signals, and a way to be stopped from anywhere.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, TypeVar, Unpack

from wsbroker.addresses import Address, parse_addresses
from wsbroker.config import Config, Settings
from wsbroker.errors import CommandError, ConfigError, WSBrokerError
from wsbroker.leaving import leave_within
from wsbroker.node import Node
from wsbroker.reload import check_available, folders_of, watch
from wsbroker.worker import port
from wsbroker.worker.options import TO_THREAD

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

ANSWER_S: Final = 10.0
"""How long other threads wait for the event loop to tell its statistics."""

SWITCH_INTERVAL_S: Final = 0.0002
"""While the loop's thread is busy, other threads wait for the interpreter lock up to this long at a time; at the
default of 5 ms a busy loop starves them for seconds."""

STOPPED_MEANWHILE: Final = "the server has stopped meanwhile"
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

LOOP_END_S: Final = 1.0
"""How long what is left in the event loop may take to end once it is cancelled, when the server has stopped."""
SIGHUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)


class WorkerHandle:
    """What `register_worker` returns: the handlers that the next server runs.

    Attributes:
        spec: what was registered.
    """

    def __init__(self, spec: object) -> None:
        self.spec = spec

    def unregister(self) -> None:
        """Takes the registration back; a running server keeps its handlers."""
        global _registered
        with _lock:
            if _registered is self:
                _registered = None

    def __repr__(self) -> str:
        return f"<WorkerHandle {self.spec!r}>"


_lock: Final = threading.Lock()
_registered: WorkerHandle | None = None
_running: "Server | None" = None


def register_worker(worker: object) -> WorkerHandle:
    """Says which handlers the server runs.

    Args:
        worker: ``"pkg.mod"``, ``"pkg.mod:obj"``, a module, a class (instantiated in each worker) or a live object,
            with any of the handlers.

    Raises:
        ValueError: another worker is registered already. There is one per server, run in `workers` instances.
        TypeError: `None` or a number: nothing that could have handlers.
    """
    if worker is None or isinstance(worker, (bool, int, float, bytes)):
        raise TypeError(
            f"a worker is a name such as 'pkg.mod' or 'pkg.mod:obj', a module, a class or an object with handlers, "
            f"not {worker!r}"
        )
    global _registered
    with _lock:
        if _registered is None:
            _registered = WorkerHandle(worker)
        elif _registered.spec is not worker and _registered.spec != worker:
            raise ValueError(
                f"{_registered.spec!r} is registered already, and a server runs one worker (in as many instances as "
                f"'workers' says): put the handlers of {worker!r} into one module, or unregister the first"
            )
        return _registered


class Server:
    """A running server. Made by `start` and `serve`; a context manager that stops it at the end."""

    def __init__(self, config: Config, spec: object) -> None:
        self._config = config
        self._spec = spec
        self._node: Node | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._stop_asked: asyncio.Event | None = None
        self._is_stop_asked = False  # perhaps before there is a loop, or the event
        self._stop_asked_at = 0.0
        self._stop_timeout_s = config.shutdown_timeout
        self._stopped = threading.Event()
        self._is_forked = False
        self._stopped_async: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._interval_s: float | None = None
        """The thread switch interval to restore at the end, in seconds."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: list[Path] = []
        self._asked: set[Future[Any]] = set()
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
        self._ask_to_stop(timeout_s)
        if threading.get_ident() == self._loop_thread or port.current.get() is not None:
            return
        self._stopped.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the server has stopped; False if `timeout_s` seconds went by first.

        Raises:
            WorkerError: the workers failed for good and took the server with them.
            RuntimeError: called on the event loop's thread, where it would wait for itself.
        """
        if threading.get_ident() == self._loop_thread:
            raise CommandError("wait() would block the event loop it waits for: use 'await server.wait_closed()'")
        if not self._stopped.wait(timeout_s):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    async def wait_closed(self) -> None:
        """The same for a coroutine on the server's own loop (`serve`).

        Raises:
            WorkerError: the workers failed for good and took the server with them.
        """
        if self._stopped_async is not None:
            await self._stopped_async.wait()
        if self._failure is not None:
            raise self._failure

    def reload(self, timeout_s: float | None = None) -> None:
        """Exchanges the workers for new ones with the code as it is now; no socket closes, no message is lost.

        Only for workers of kind `interpreter` and `process`, which have modules of their own. If the new code cannot
        be loaded, the old workers stay. On the event loop's thread, or in a handler, it asks for that and returns at
        once; the log says how it ended.

        Args:
            timeout_s: how long to wait for the end, in seconds; None: as long as it takes.

        Raises:
            ConfigError: the kind of worker does not allow it, or the new code cannot be loaded.
            WorkerError: a new worker could not be started, or an old one did not come to the end of its handlers.
            TimeoutError: it goes on, but `timeout_s` is over.
            RuntimeError: the server has stopped.
        """
        loop, node = self._loop, self._node
        if loop is None or node is None or self._stopped.is_set():
            raise CommandError("the server has stopped: there are no workers to exchange")
        if threading.get_ident() == self._loop_thread or port.current.get() is not None:
            self._ask_to_reload()
        else:
            answer: Future[None] = Future()
            self._on_loop(loop, lambda: self._begin_reload_for(node, answer), answer)
            self._wait_for(answer, timeout_s)

    def statistics(self) -> dict[str, object]:
        """Counters and sizes of the core, and under ``"workers"`` a list with those of each worker. Safe on any thread.

        Of each worker: `name`, `state`, `restarts`, `sockets`; `mailbox_messages` and `mailbox_bytes` that are on their
        way or being handled, `mailbox_batches` and `unwritten_bytes` that it has not read, `sockets_waiting` because
        its mailbox is full; `opens_in_flight` and `requests_in_flight`, together of `asked_bytes`; messages `handled`;
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
            return _statistics(node)
        answer: Future[dict[str, object]] = Future()
        self._on_loop(loop, lambda: _tell_statistics(node, answer), answer)
        try:
            return self._wait_for(answer, ANSWER_S)
        except TimeoutError:
            text = f"the event loop has been busy for {ANSWER_S:g} s: there are no statistics now"
            raise CommandError(text) from None

    def _on_loop(self, loop: asyncio.AbstractEventLoop, work: Callable[[], object], answer: "Future[_T]") -> None:
        """Has the loop do something, in a thread that will wait for the answer. The end of the server cancels that."""
        self._asked.add(answer)
        try:
            loop.call_soon_threadsafe(work)
        except RuntimeError:  # it is closed
            answer.cancel()
        if self._stopped.is_set():  # perhaps after those that were listed had been cancelled
            answer.cancel()

    def _wait_for(self, answer: "Future[_T]", timeout_s: float | None) -> _T:
        try:
            return answer.result(timeout_s)
        except CancelledError:
            raise CommandError(STOPPED_MEANWHILE) from None
        finally:
            self._asked.discard(answer)

    def _begin_reload_for(self, node: Node, answer: "Future[None]") -> None:
        """Reloads, and tells the thread that waits for it."""

        def ended(task: "asyncio.Task[None]") -> None:
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
            task.add_done_callback(ended)

    def _watch_files(self) -> None:
        if isinstance(self._spec, str):
            self._watched = folders_of(self._spec)
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

    async def _live(self, addresses: Sequence[Address], on_open: Callable[[], None]) -> None:
        """Runs from start to stop in the current loop; raises what kept it from starting."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stop_asked = asyncio.Event()
        self._stopped_async = asyncio.Event()
        if self._is_stop_asked:
            self._stop_asked.set()
        try:
            node = self._node = Node(self._config, self._spec, self._fail)
            if not await _opened(node, addresses, self._stop_asked):
                if self._failure is not None:
                    raise self._failure
                logger.info("stopped before it had started")
                return
            try:
                self._addresses = node.addresses
                logger.info("serving on %s", ", ".join(str(address) for address in self._addresses))
                on_open()
                if self._watched:
                    self._tasks.add(
                        self._loop.create_task(watch(self._watched, self._on_change), name="wsbroker watch")
                    )
                await self._stop_asked.wait()
            finally:  # its task may be cancelled too
                logger.info("stopping")
                await self._end_tasks()
                await node.close(self._stop_timeout_s)
                logger.info("stopped")
        finally:
            self._end()

    def _end(self) -> None:
        global _running
        with _lock:
            if _running is self:
                _running = None
        self._loop_thread = 0
        if self._interval_s is not None:  # before anybody who waits for the end goes on
            _restore_switch_interval(self._interval_s)
            self._interval_s = None
        self._stopped.set()
        for answer in self._asked.copy():
            answer.cancel()
        if self._stopped_async is not None:
            self._stopped_async.set()

    def _forget(self) -> None:
        """In a child process: the server is the parent's."""
        self._is_forked = True
        self._loop = self._node = None
        self._loop_thread = 0
        self._stopped = threading.Event()  # another thread may have held the lock of the old one
        self._stopped.set()

    def _fail(self, error: BaseException) -> None:
        """The broker cannot go on."""
        logger.error("fatal: %s", error)
        self._failure = error
        self._ask_to_stop(None)

    def _ask_to_reload(self) -> None:
        """From any thread, and from signal handlers."""
        if self._loop is not None and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._begin_reload)

    def _begin_reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_and_log(), name="wsbroker reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_and_log(self) -> None:
        node = self._node
        if node is None:
            return
        try:
            await node.reload()
        except WSBrokerError as error:
            logger.error("not reloaded, the running workers stay: %s", error)
            logger.debug("why it was not reloaded", exc_info=error)
        except Exception:
            logger.exception("not reloaded, the running workers stay")
        else:
            logger.info("reloaded")

    async def _on_change(self) -> None:
        """Files have changed: exchange the workers, or, where they share our modules, restart the process."""
        node = self._node
        if node is None:
            return
        if node.pool.kind in ("interpreter", "process"):
            await self._reload_and_log()
        else:
            logger.info("restarting: workers of kind %s share the server's modules", node.pool.kind)
            self.wants_restart = True
            self._ask_to_stop(None)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ask_to_stop(self, timeout_s: float | None) -> None:
        """From any thread, and from signal handlers."""
        if timeout_s is not None:
            self._stop_timeout_s = timeout_s
        if not self._is_stop_asked:
            self._stop_asked_at = time.monotonic()
        self._is_stop_asked = True
        loop, asked = self._loop, self._stop_asked
        if loop is None or asked is None or self._stopped.is_set():
            return
        try:
            loop.call_soon_threadsafe(asked.set)
        except RuntimeError:
            logger.debug("the loop has ended already")


async def _opened(node: Node, addresses: Sequence[Address], stop_asked: asyncio.Event) -> bool:
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


def _tell_statistics(node: Node, answer: "Future[dict[str, object]]") -> None:
    if answer.set_running_or_notify_cancel():  # from here on nobody can cancel it
        answer.set_result(_statistics(node))


def _statistics(node: Node) -> dict[str, object]:
    return {**node.statistics(), "workers": node.pool.statistics()}


def start(
    bind: str | Sequence[str],
    *,
    worker: object = None,
    config: Config | None = None,
    handle_signals: bool = True,
    **settings: Unpack[Settings],
) -> Server:
    """Starts a server in a thread of its own and returns once it listens.

    The thread is not a daemon: a script that ends with ``start(…)`` stays alive until SIGINT, SIGTERM or `Server.stop`.

    Args:
        bind: where to listen, one address or several: ``"127.0.0.1:3000"``, ``":3000"`` (all interfaces),
            ``"[::1]:3000"``, ``"unix:/path"``; port 0 takes a free one, see `Server.addresses`.
        worker: the handlers, as for `register_worker`, which need not be called then.
        config: all settings as one object, instead of `settings`.
        handle_signals: called from the main thread, SIGINT and SIGTERM stop the server if nobody else handles them.
        **settings: any field of `Config`.

    Raises:
        RuntimeError: a server runs in this process already, or no worker is registered.
        ConfigError: a setting, an address or the worker cannot work; the text says what to do. It is a ValueError.
        WorkerError: a worker did not start.
        OSError: an address cannot be bound; the text says which and why.
    """
    server, addresses = _prepare(bind, worker, config, settings)
    opened = threading.Event()
    failures: list[BaseException] = []

    def main() -> None:
        try:
            _run_loop(server._live(addresses, opened.set))
        except BaseException as error:  # handed to the caller of start(), or logged below
            if opened.is_set():
                logger.exception("the server ended by an error")
                server._failure = error
            failures.append(error)
        finally:
            server._end()
            opened.set()

    takes_signals = handle_signals and threading.current_thread() is threading.main_thread()
    interval = server._interval_s = _set_switch_interval()
    thread = threading.Thread(target=main, name="wsbroker", daemon=False)
    try:
        thread.start()
        opened.wait()
        if failures:
            thread.join()
            raise failures[0]
        restore = _take_signals(server, _second_signal_by_default) if takes_signals else None
        if restore is not None:
            threading.Thread(target=_let_go, args=(server, restore), name="wsbroker-end", daemon=True).start()
    except BaseException:
        # It failed, there is no room for another thread, or a KeyboardInterrupt came: nobody else has this server.
        server._ask_to_stop(0)
        if thread.ident is None:
            server._end()
        _restore_switch_interval(interval)
        raise
    return server


def _let_go(server: Server, signals: "_Signals") -> None:
    server._stopped.wait()
    signals.ended = True


def run(
    bind: str | Sequence[str],
    *,
    worker: object = None,
    config: Config | None = None,
    reload: bool = False,
    **settings: Unpack[Settings],
) -> None:
    """Serves until SIGINT, SIGTERM or `Server.stop`, in the calling thread; for programs that do nothing else.

    It changes the process: signal handlers, garbage collector (`gc.freeze` after the start), limit of open files,
    switch interval; a second signal ends the process at once with status 128 + its number. A program that ends after it
    waits for what handlers have left to `asyncio.to_thread` no longer than `shutdown_timeout` from the stop on.

    Args:
        bind: see `start`.
        worker: see `start`.
        config: see `start`.
        reload: exchange the workers when the application's files change (kinds `interpreter` and `process`), or
            restart the process (the others); for development. SIGHUP exchanges them at any time.
        **settings: any field of `Config`.

    Raises:
        RuntimeError, ConfigError, WorkerError, OSError: as `start`. WorkerError also later, if the workers fail.
    """
    from wsbroker.config import raise_fd_limit

    _refuse_inside_a_loop()
    if reload:
        check_available()
    raise_fd_limit()
    server, addresses = _prepare(bind, worker, config, settings)
    if reload:
        server._watch_files()
    interval = _set_switch_interval()
    is_main = threading.current_thread() is threading.main_thread()
    signals = _take_signals(server, _second_signal_exits, always=True) if is_main else None
    try:
        _run_loop(server._live(addresses, _freeze))
    finally:
        server._end()
        gc.unfreeze()
        _restore_switch_interval(interval)
        if signals is not None:
            signals.restore()
        if is_main:
            leave_within(max(LOOP_END_S, server._stop_timeout_s - (time.monotonic() - server._stop_asked_at)))
    if server._failure is not None:
        raise server._failure
    if server.wants_restart:
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _refuse_inside_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CommandError(
        "run() would block the event loop that runs in this thread: use 'async with wsbroker.serve(…)' in its place"
    )


def _freeze() -> None:
    """Everything loaded so far stays: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


def serve(
    bind: str | Sequence[str],
    *,
    worker: object = None,
    config: Config | None = None,
    **settings: Unpack[Settings],
) -> AbstractAsyncContextManager[Server]:
    """Serves inside a program's own event loop: ``async with serve(…) as server``.

    It takes no signals and changes nothing of the process but the switch interval, which it restores. Leaving the block
    stops the server; `await server.wait_closed()` waits for a stop asked for elsewhere.

    Args:
        bind: see `start`.
        worker: see `start`.
        config: see `start`.
        **settings: any field of `Config`.

    Raises:
        RuntimeError, ConfigError, WorkerError, OSError: as `start`, on entering the block.
    """
    return _serve(bind, worker, config, settings)


@asynccontextmanager
async def _serve(
    bind: str | Sequence[str], worker: object, config: Config | None, settings: Settings
) -> AsyncIterator[Server]:
    server, addresses = _prepare(bind, worker, config, settings)
    interval = _set_switch_interval()
    opened = asyncio.Event()
    life = asyncio.get_running_loop().create_task(server._live(addresses, opened.set), name="wsbroker")
    life.add_done_callback(lambda _: opened.set())
    try:
        try:
            await opened.wait()
            if life.done():
                await life  # raises what kept it from starting
            yield server
        finally:
            server._ask_to_stop(None)
            await _ended(life)
    finally:
        server._end()
        _restore_switch_interval(interval)
    if server._failure is not None:
        raise server._failure


async def _ended(life: "asyncio.Task[None]") -> None:
    """Waits until the server has ended, also when it is cancelled meanwhile: nothing of it may outlive the block."""
    try:
        await asyncio.shield(life)
    except asyncio.CancelledError:
        await asyncio.wait((life,))
        raise


def _prepare(
    bind: str | Sequence[str], worker: object, config: Config | None, settings: Settings
) -> tuple[Server, list[Address]]:
    """Checks everything that can be checked without a loop, and takes the one place for a running server."""
    global _running
    if config is not None and settings:
        raise ConfigError(f"give 'config' or single settings ({', '.join(settings)}), not both")
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config must be a wsbroker.Config, such as Config.of(workers=2), not {type(config).__name__}")
    checked = Config.of(**settings) if config is None else config
    addresses = parse_addresses(bind)
    spec = worker
    with _lock:
        if _running is not None:
            raise CommandError(f"a server runs in this process already: {_running!r}; stop it first")
        if spec is None:
            if _registered is None:
                raise CommandError("no worker is registered: call wsbroker.register_worker('pkg.mod') before start()")
            spec = _registered.spec
        server = Server(checked, spec)
        _running = server
    return server, addresses


def _run_loop(main: Coroutine[object, object, None]) -> None:
    """Runs `main` in a new loop. What the application has left in it has a moment to end.

    Not by `asyncio.Runner`, which waits for ever for a task that catches its cancellation, and for a thread of
    `asyncio.to_thread`; its `run` would also take SIGINT for itself, and ours are set already.
    """
    loop = (_loop_factory() or asyncio.new_event_loop)()
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=TO_THREAD))
    life = loop.create_task(main, name="wsbroker")
    try:
        loop.run_until_complete(life)
    finally:
        try:
            loop.run_until_complete(_end_what_is_left(life))
        finally:
            loop.close()


async def _end_what_is_left(life: "asyncio.Task[None]") -> None:
    if not life.done():  # the application stopped the loop under it
        life.cancel()
        await asyncio.wait([life])
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    left.add(loop.create_task(loop.shutdown_asyncgens(), name="end of the async generators"))
    _, stuck = await asyncio.wait(left, timeout=LOOP_END_S)
    if stuck:
        logger.error("tasks that do not end when cancelled are left behind: %s", ", ".join(map(_named, stuck)))


def _named(task: "asyncio.Task[object]") -> str:
    frames = task.get_stack(limit=1)
    where = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()}{where}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, winloop on Windows, asyncio's own loop where neither is installed."""
    try:
        if sys.platform == "win32":
            import winloop

            return winloop.new_event_loop
        import uvloop

        return uvloop.new_event_loop
    except ImportError:
        logger.info("uvloop is not installed: asyncio's own event loop runs, which is slower")
        return None


def _set_switch_interval() -> float:
    before = sys.getswitchinterval()
    if before > SWITCH_INTERVAL_S:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        logger.debug("thread switch interval from_s=%g to_s=%g", before, SWITCH_INTERVAL_S)
    return before


def _restore_switch_interval(before: float) -> None:
    if before > SWITCH_INTERVAL_S:
        sys.setswitchinterval(before)


class _Signals:
    """The signals a server has taken, and who handled them before.

    Python-level handlers (not the loop's), so that a handler stuck in pure Python code on the loop's thread cannot keep
    the second signal from being heard.
    """

    def __init__(self, server: Server, on_second: Callable[["_Signals", int], None]) -> None:
        self.server = server
        self.on_second = on_second
        self.before: dict[int, object] = {}
        self.count = 0
        self.ended = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.ended or self.server._is_forked:  # it has stopped, or is not ours: as if we had never been here
            self.restore()
            signal.raise_signal(number)
            return
        if number == SIGHUP:
            self.server._ask_to_reload()
            return
        self.count += 1
        if self.count == 1:
            self.server._ask_to_stop(None)
        else:
            self.on_second(self, number)

    def restore(self) -> None:
        for number, handler in self.before.items():
            if signal.getsignal(number) is self:
                signal.signal(number, handler)  # type: ignore[arg-type]
        self.before.clear()


def _forked() -> None:
    """In the child of a fork there is no loop and no worker, so a call would wait for ever: as if nothing ran here."""
    global _running
    server, _running = _running, None
    _lock.release()
    port.set_default(None)
    port.current.set(None)  # a handler that forks would speak on its worker's wire, together with the worker
    if server is not None:
        server._forget()


if sys.platform != "win32":
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)


def _take_signals(server: Server, on_second: Callable[[_Signals, int], None], *, always: bool = False) -> _Signals:
    """Takes SIGINT and SIGTERM, those at their defaults or all."""
    signals = _Signals(server, on_second)
    for number in (*STOP_SIGNALS, SIGHUP) if always and SIGHUP is not None else STOP_SIGNALS:
        handler = signal.getsignal(number)
        if always or handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(handler, _Signals):
            signals.before[number] = signal.SIG_DFL if isinstance(handler, _Signals) else handler
            signal.signal(number, signals)
    if isinstance(signals.before.get(signal.SIGINT), int) and signals.before[signal.SIGINT] == signal.SIG_DFL:
        signals.before[signal.SIGINT] = signal.default_int_handler
    return signals


def _second_signal_exits(signals: _Signals, number: int) -> None:
    logger.warning("second signal: exiting at once")
    os._exit(128 + number)


def _second_signal_by_default(signals: _Signals, number: int) -> None:
    signals.restore()
    signal.raise_signal(number)
