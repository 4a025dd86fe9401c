"""The functions that make a server: `start`, `run`, `serve`, and `register_worker`.

They give a `Lifecycle` its event loop (of a thread of its own, of the calling thread, or the caller's loop) and the
process's signals.
"""

import asyncio
import gc
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Unpack

from wsbroker.errors import CommandError, ConfigError
from wsbroker.guarded_log import GuardedLog, format_error, write_to_stderr
from wsbroker.process_exit import limit_thread_wait
from wsbroker.server.event_loop import REMAINING_TASKS_TIMEOUT_S, restore_switch_interval, run_loop, set_switch_interval
from wsbroker.server.lifecycle import (
    Lifecycle,
    refuse_redefined_worker,
    refuse_second_server,
    server_lock,
    set_running_lifecycle,
    wait_at_program_end,
)
from wsbroker.server.redefinition import is_redefined
from wsbroker.server.reload import check_reload_available
from wsbroker.server.server import Server as Server
from wsbroker.server.signals import ServerSignals, exit_on_second_signal, install_server_signals, reraise_second_signal
from wsbroker.server.standard_streams import open_standard_streams
from wsbroker.server.waiting import wait_until_set
from wsbroker.settings import descriptors, open_sockets
from wsbroker.settings.addresses import BindAddress, UnixAddress, group_id_of, parse_addresses
from wsbroker.settings.config import Config, Settings
from wsbroker.settings.folders import working_directory
from wsbroker.worker.options import TO_THREAD_PREFIX

logger = GuardedLog(__name__)


class WorkerHandle:
    """The registration of a worker, whose handlers the next server runs. Returned by `register_worker`.

    Attributes:
        spec: the registered worker, in its newest definition.
    """

    def __init__(self, spec: object) -> None:
        self.spec = spec

    def unregister(self) -> None:
        """Removes the registration; a running server keeps its handlers."""
        global _registered_worker
        with server_lock:
            if _registered_worker is self:
                _registered_worker = None

    def __repr__(self) -> str:
        return f"<WorkerHandle {self.spec!r}>"


_registered_worker: WorkerHandle | None = None
"""The worker for the next server. Changes under `server_lock`."""


def register_worker(worker: object) -> WorkerHandle:
    """Registers the worker whose handlers the next server runs.

    A new definition of the registered worker (a notebook's cell run again, a reloaded module) replaces the old one, if
    no server runs.

    Args:
        worker: ``"pkg.mod"``, ``"pkg.mod:obj"``, a module, a class (instantiated in each worker) or a live object,
            with any of the handlers.

    Raises:
        RuntimeError: a server runs the definition before this one: `Server.stop` it first.
        ValueError: another worker is registered already. There is one per server, run in `workers` instances.
        TypeError: `None` or a number: nothing that could have handlers.
    """
    if worker is None or isinstance(worker, (bool, int, float, bytes)):
        raise TypeError(
            f"a worker is a name such as 'pkg.mod' or 'pkg.mod:obj', a module, a class or an object with handlers, "
            f"not {worker!r}"
        )
    global _registered_worker
    with server_lock:
        refuse_redefined_worker(worker)
        if _registered_worker is None:
            _registered_worker = WorkerHandle(worker)
        elif is_redefined(_registered_worker.spec, worker):
            _registered_worker.spec = worker
        elif _registered_worker.spec is not worker and _registered_worker.spec != worker:
            raise ValueError(
                f"{_registered_worker.spec!r} is registered already, and a server runs one worker (in as many "
                f"instances as 'workers' says): put the handlers of {worker!r} into one module, or unregister the first"
            )
        return _registered_worker


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
            ``"[::1]:3000"``, ``"unix:/path"``, ``"fd://3"`` or ``"fd://NAME"`` (a listening socket that is open, or
            that systemd has handed in by that name); port 0 takes a free one, see `Server.addresses`.
        worker: the handlers, as for `register_worker`, which need not be called then.
        config: all settings as one object, instead of `settings`.
        handle_signals: SIGINT and SIGTERM stop the server, if this is called on the main thread and the program has
            no handlers of its own for them. The first SIGINT (Ctrl-C) also raises KeyboardInterrupt in the main thread,
            so that a loop of the program ends; not while that thread waits in `Server.wait` or `Server.stop`, or has
            ended. SIGTERM stops the server only. A second signal has the effect that it has without the server.
        **settings: any field of `Config`.

    Raises:
        RuntimeError: a server runs in this process already, or no worker is registered.
        ConfigError: a setting, an address or the worker cannot work; the text says what to do. It is a ValueError.
        WorkerError: a worker did not start.
        OSError: an address cannot be bound; the text says which and why.
    """
    lifecycle, addresses = prepare_server(bind, worker, config, settings)
    opened = threading.Event()
    failures: list[BaseException] = []

    def run_server_thread() -> None:
        """Runs the server's loop until the server has stopped. The target of the server's thread."""
        try:
            run_loop(lifecycle.run_until_stopped(addresses, opened.set))
        except BaseException as error:  # raised in the thread that called start(), or logged here
            if opened.is_set():
                lifecycle.failure = error
                logger.exception("the server ended by an error")
            failures.append(error)
        finally:
            lifecycle.mark_stopped()
            opened.set()

    takes_signals = handle_signals and threading.current_thread() is threading.main_thread()
    interval = lifecycle.restored_switch_interval_s = set_switch_interval()
    thread = threading.Thread(target=run_server_thread, name="wsbroker", daemon=False)
    try:
        wait_at_program_end()
        thread.start()
        wait_until_set(opened)
        if failures:
            wait_until_set(lifecycle.stopped)
            thread.join()  # until its last log lines are written
            raise failures[0]
        signals = install_server_signals(lifecycle, reraise_second_signal) if takes_signals else None
        if signals is not None:
            threading.Thread(
                target=_mark_signals_ended, args=(lifecycle, signals), name="wsbroker-end", daemon=True
            ).start()
    except BaseException:
        # The start failed, no thread could be made, or a KeyboardInterrupt came: the caller never gets this server.
        lifecycle.request_stop(0)
        if thread.ident is None:
            lifecycle.mark_stopped()
        restore_switch_interval(interval)
        raise
    return Server(lifecycle)


def _mark_signals_ended(lifecycle: Lifecycle, signals: ServerSignals) -> None:
    """Waits until the server has stopped, then has its signal handlers pass signals on to the previous handlers.

    The target of a thread that `start` begins.
    """
    lifecycle.stopped.wait()
    signals.is_ended = True
    signals.release_server()


def run(
    bind: str | Sequence[str],
    *,
    worker: object = None,
    config: Config | None = None,
    reload: bool = False,
    **settings: Unpack[Settings],
) -> None:
    """Serves until SIGINT, SIGTERM or `Server.stop`, in the calling thread; for programs that do nothing else.

    Changes the process: signal handlers, garbage collector (`gc.freeze` after the start), limit of open files,
    switch interval, standard streams that are closed (they become the null device, as they do for `start`). A second
    signal, half a second after the first or later, ends the process at once with status 128 + its number. At its end
    the program waits for threads of `asyncio.to_thread` in which handlers still run, but no longer than
    `shutdown_timeout` after the stop.

    Args:
        bind: see `start`.
        worker: see `start`.
        config: see `start`.
        reload: replace the workers when the application's files change (kinds `interpreter` and `process`), or
            restart the process (the other kinds); for development. SIGHUP replaces the workers at any time, unless
            SIGHUP was ignored when the program started (`nohup`).
        **settings: any field of `Config`.

    Raises:
        RuntimeError, ConfigError, WorkerError, OSError: as `start`. WorkerError also later, if the workers fail.
    """
    _refuse_running_loop()
    folder = ""
    if reload:
        check_reload_available()
        folder = working_directory()
    descriptors.raise_fd_limit()
    lifecycle, addresses = prepare_server(bind, worker, config, settings)
    if reload:
        lifecycle.watch_application_files(folder)
    interval = set_switch_interval()
    is_main = threading.current_thread() is threading.main_thread()
    signals = install_server_signals(lifecycle, exit_on_second_signal, takes_handled_signals=True) if is_main else None
    try:
        run_loop(lifecycle.run_until_stopped(addresses, _freeze_loaded_objects))
    finally:
        lifecycle.mark_stopped()
        gc.unfreeze()
        restore_switch_interval(interval)
        if signals is not None:
            signals.restore_after_stop()
        if is_main:
            limit_thread_wait(max(REMAINING_TASKS_TIMEOUT_S, lifecycle.remaining_stop_s()), TO_THREAD_PREFIX)
    lifecycle.raise_failure()
    if lifecycle.wants_restart:
        _restart_program(folder)


def _restart_program(folder: str) -> None:
    """Replaces this process by a new run of the same command line, in `folder`. Called by `run` for ``--reload``.

    If `folder` does not exist any more, the new run begins in the present working directory.

    Args:
        folder: the path of the working directory, in which symbolic links are not resolved: the new run follows them as
            they are now.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        logger.warning("the program stays in the folder that it was started in: %s", error)
    open_sockets.systemd_sockets.restore_for_exec()
    _flush_logs()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _flush_logs() -> None:
    """Flushes and closes all logging handlers before the program restarts; their errors are written to stderr."""
    try:
        logging.shutdown()
    except BaseException as error:
        write_to_stderr(f"wsbroker: logging could not be shut down: {format_error(error)}\n")


def _refuse_running_loop() -> None:
    """Raises CommandError if an event loop runs in the calling thread, which `run` would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CommandError(
        "run() would block the event loop that runs in this thread: use 'async with wsbroker.serve(…)' in its place"
    )


def _freeze_loaded_objects() -> None:
    """Exempts all objects loaded so far from garbage collection. Called when the server listens; `run` undoes it."""
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

    Handles no signals and changes nothing of the process but the switch interval, which is restored at the end.
    Leaving the block stops the server; `await server.wait_closed()` waits for a stop that other code requests.

    Args:
        bind: see `start`.
        worker: see `start`.
        config: see `start`.
        **settings: any field of `Config`.

    Raises:
        RuntimeError, ConfigError, WorkerError, OSError: as `start`, on entering the block.
    """
    return _serve_in_running_loop(bind, worker, config, settings)


@asynccontextmanager
async def _serve_in_running_loop(
    bind: str | Sequence[str], worker: object, config: Config | None, settings: Settings
) -> AsyncIterator[Server]:
    """Serves in the running event loop while the block of ``async with serve(…)`` runs, then stops the server.

    The arguments are those of `serve`. Raises the error that kept the server from starting, or that has ended it.
    """
    lifecycle, addresses = prepare_server(bind, worker, config, settings)
    interval = set_switch_interval()
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()
    server_task = loop.create_task(lifecycle.run_until_stopped(addresses, opened.set), name="wsbroker")
    server_task.add_done_callback(lambda _: opened.set())
    try:
        try:
            await opened.wait()
            if server_task.done():
                await server_task  # raises the error that kept the server from starting
            yield Server(lifecycle)
        finally:
            lifecycle.request_stop(None)
            await _wait_for_server_task(server_task)
    finally:
        lifecycle.mark_stopped()
        restore_switch_interval(interval)
    lifecycle.raise_failure()


async def _wait_for_server_task(server_task: "asyncio.Task[None]") -> None:
    """Waits until the server's task has ended, even if the calling task is cancelled meanwhile.

    No part of the server may outlive the block of `serve`.

    Raises:
        CancelledError: the calling task was cancelled.
        Exception: the error of the server's task.
    """
    try:
        await asyncio.shield(server_task)
    except asyncio.CancelledError:
        await asyncio.wait((server_task,))
        raise


def prepare_server(
    bind: str | Sequence[str], worker: object, config: Config | None, settings: Settings
) -> tuple[Lifecycle, list[BindAddress]]:
    """Checks the arguments as far as that needs no loop, and registers the server as the one of this process.

    First of all it opens the null device as standard streams that are closed: no socket may get their numbers.

    Returns:
        the server's lifecycle, not begun yet, and the addresses to listen on.
    """
    open_standard_streams()
    if config is not None and settings:
        raise ConfigError(f"give 'config' or single settings ({', '.join(settings)}), not both")
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config must be a wsbroker.Config, such as Config.of(workers=2), not {type(config).__name__}")
    checked = Config.of(**settings) if config is None else config
    addresses = parse_addresses(bind)
    open_sockets.check_inherited_sockets(addresses)
    _check_unix_access(checked, addresses)
    spec = worker
    with server_lock:
        refuse_second_server()
        if spec is None:
            if _registered_worker is None:
                raise CommandError("no worker is registered: call wsbroker.register_worker('pkg.mod') before start()")
            spec = _registered_worker.spec
        lifecycle = Lifecycle(checked, spec)
        set_running_lifecycle(lifecycle)
    return lifecycle, addresses


def _check_unix_access(config: Config, addresses: Sequence[BindAddress]) -> None:
    """Raises ConfigError if there is no group `unix_group`; warns if no address needs the settings for Unix sockets."""
    if config.unix_group is not None:
        group_id_of(config.unix_group)
    is_set = config.unix_mode is not None or config.unix_group is not None
    if is_set and not any(isinstance(address, UnixAddress) for address in addresses):
        logger.warning("unix_mode and unix_group are for the files of Unix sockets, and none is made: bind=unix:/PATH")
