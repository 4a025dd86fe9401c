"""Runs a thread, interpreter or process worker from start to end: its API, logging, control thread and runtime."""

import sys
from collections.abc import Callable, Mapping
from threading import current_thread
from typing import TYPE_CHECKING, Final

from wsbroker.errors import ConfigError
from wsbroker.guarded_log import format_error, format_traceback
from wsbroker.process_exit import exit_forked_child
from wsbroker.wire import commands
from wsbroker.worker import api as worker_api
from wsbroker.worker import forks
from wsbroker.worker.async_runtime import AsyncRuntime
from wsbroker.worker.control_thread import ControlThread
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.loader import load_handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.report import HandlerReport
from wsbroker.worker.sync_runtime import SyncRuntime, UnfinishedCall
from wsbroker.worker.wire_api import WireApi

if TYPE_CHECKING:
    from socket import socket

CHECKS_PER_LIMIT: Final = 4
"""How often the control thread checks within the shortest limit: a step of an async handler may begin shortly before
its deadline, and the control thread is not woken for that step."""


def worker_main(
    wire: "socket",
    control: "socket",
    sys_path: list[str],
    spec: object,
    options: Mapping[str, object],
    on_orphaned: Callable[[], None] | None = None,
) -> None:
    """Runs a worker in this thread, until the broker stops the worker or the other end of the wire is gone.

    Args:
        wire: the worker's end: events come in, commands go out. Closed at the end.
        control: the worker's end of the control stream. Closed at the end.
        sys_path: the server's `sys.path`; entries that this interpreter does not have are added.
        spec: names or is the application that has the handlers, as for `load_handlers`.
        options: the arguments of `HandlerOptions`.
        on_orphaned: called on the control thread if the broker goes away before the worker has ended.
    """
    handler_options = HandlerOptions.from_mapping(options)
    name = handler_options.name or current_thread().name
    wire.settimeout(None)
    control_thread = ControlThread(control, name, on_orphaned)
    limits_s = (handler_options.handler_timeout, handler_options.http_timeout)
    timer = HandlerTimer(
        min(limits_s) / CHECKS_PER_LIMIT,
        handler_options.worker_hang_timeout,
        control_thread.send_interrupted,
        control_thread.send_hung,
    )
    api = WireApi(wire, timer)
    token = worker_api.context_api.set(api)

    def detach_in_child() -> None:
        """Cuts the worker's API off and closes its streams. Called in a forked child, which would keep them open."""
        api.detach_in_child()
        wire.close()
        control.close()

    forks.register_child_action(detach_in_child)
    try:
        if handler_options.owns_interpreter:
            current_thread().name = name
            worker_api.set_default_api(api)
            worker_api.is_worker_interpreter = True
            from wsbroker.worker.logs import set_up_logging

            set_up_logging(handler_options.log_levels, api, name)
        _extend_sys_path(sys_path)
        control_thread.start(timer, api.io.mark_abandoned)
        _run_runtime(spec, handler_options, name, api, timer, control_thread, wire)
    finally:
        if api.is_forked:
            exit_forked_child(sys.exception())
        forks.unregister_child_action(detach_in_child)
        control_thread.stop()
        api.mark_ended()
        worker_api.context_api.reset(token)
        if worker_api.default_api is api:
            worker_api.set_default_api(None)
        try:
            wire.shutdown(2)  # SHUT_RDWR: the broker learns of the end, whatever process still holds a copy of this
        except OSError:
            pass  # the other end is gone
        wire.close()
        control.close()


def _run_runtime(
    spec: object,
    handler_options: HandlerOptions,
    name: str,
    api: WireApi,
    timer: HandlerTimer,
    control_thread: ControlThread,
    wire: "socket",
) -> None:
    """Loads the handlers and runs the worker to its end, in an event loop if one is needed; reports a failed start.

    Args:
        spec: names or is the application that has the handlers.
        handler_options: how handlers are run.
        name: the worker's name.
        api: the worker's API.
        timer: keeps the time limits of handlers.
        control_thread: tells the broker of handlers that hang.
        wire: the socket that `api` reads from.
    """
    report = HandlerReport(name, lambda statistic, amount: api.append_command(commands.make_counted(statistic, amount)))
    runtime: SyncRuntime | None = None
    try:
        handlers = load_handlers(spec)
        if api.is_forked:
            exit_forked_child(None)
        unfinished: UnfinishedCall | None = None
        if not handlers.is_async:
            runtime = SyncRuntime(handlers, api, timer, report, handler_options)
            runtime.start()
            unfinished = runtime.run()
            if unfinished is None:
                return
        runtime = AsyncRuntime(
            handlers, api, timer, report, handler_options, wire, control_thread.send_hung, unfinished
        )
        runtime.run()
    except BaseException as error:
        if api.is_forked:
            exit_forked_child(error)
        if runtime is not None and (runtime.is_started or api.io.is_ended):
            raise
        is_config_error = runtime is None or isinstance(error, ConfigError)
        if isinstance(error, ConfigError):
            text, cause = str(error), error.__cause__
        else:
            step = "loading the handlers" if runtime is None else f"handle_worker_start of {handlers.source}"
            text, cause = f"{step} failed: {format_error(error)}", error
        api.schedule_flush = None
        api.append_command(commands.make_start_failed(text, _format_cause(cause), is_config_error))
        api.flush()


def _format_cause(cause: BaseException | None) -> str:
    """Returns the traceback of the exception that made the worker's start fail, as text; "" for None."""
    return "" if cause is None else format_traceback(cause)


def _extend_sys_path(sys_path: list[str]) -> None:
    """Adds the server's `sys.path` entries that this interpreter does not have, each at the same index.

    A subinterpreter or a new process begins with a path of its own.
    """
    if sys.path != sys_path:
        for index, folder in enumerate(sys_path):
            if folder not in sys.path:
                sys.path.insert(index, folder)
