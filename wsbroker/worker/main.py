"""A worker from its start to its end: the same for every kind that has a wire."""

import sys
from collections.abc import Callable, Mapping
from threading import current_thread
from typing import TYPE_CHECKING, Final

from wsbroker.errors import ConfigError
from wsbroker.guarded_log import shown_error, shown_trace
from wsbroker.process_exit import exit_forked
from wsbroker.wire import commands
from wsbroker.worker import api as ports
from wsbroker.worker import forks
from wsbroker.worker.async_runtime import LoopRuntime
from wsbroker.worker.control_thread import ControlThread
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.loader import load
from wsbroker.worker.options import Options
from wsbroker.worker.report import Report
from wsbroker.worker.sync_runtime import Unfinished, WireRuntime
from wsbroker.worker.wire_api import WireApi

if TYPE_CHECKING:
    from socket import socket

LOOKS_PER_LIMIT: Final = 4
"""How often the helper looks within the shortest limit: a step of an async handler may begin shortly before its
deadline, and nobody wakes the helper for it."""


def worker_main(
    wire: "socket",
    control: "socket",
    sys_path: list[str],
    spec: object,
    options: Mapping[str, object],
    on_alone: Callable[[], None] | None = None,
) -> None:
    """Runs a worker in this thread, until it is told to stop or the other end of its wire is gone.

    Args:
        wire: the worker's end: events come in, commands go out. Closed at the end.
        control: the worker's end of the stream of its helper thread. Closed at the end.
        sys_path: where modules are imported from; what is missing in this interpreter's is added.
        spec: of the handlers, as for `load`.
        options: the arguments of `Options`.
        on_alone: called in the helper's thread if the broker goes away before the worker has ended.
    """
    how = Options.from_plain(options)
    name = how.name or current_thread().name
    wire.settimeout(None)
    helper = ControlThread(control, name, on_alone)
    limits_s = (how.handler_timeout, how.http_timeout)
    watch = HandlerTimer(min(limits_s) / LOOKS_PER_LIMIT, how.worker_hang_timeout, helper.interrupted, helper.hung)
    port = WireApi(wire, watch)
    token = ports.current.set(port)

    def become_child() -> None:
        """A child must not keep the wire open, or nobody learns of this worker's end."""
        port.become_child()
        wire.close()
        control.close()

    forks.in_child(become_child)
    try:
        if how.owns_interpreter:
            current_thread().name = name
            ports.set_default(port)
            ports.is_worker = True
            from wsbroker.worker.logs import set_up

            set_up(how.log_levels, port, name)
        _extend_path(sys_path)
        helper.start(watch, port.abandon)
        _run(spec, how, name, port, watch, helper, wire)
    finally:
        if port.is_forked:
            exit_forked(sys.exception())
        forks.unregister_child_action(become_child)
        helper.stop()
        port.end()
        ports.current.reset(token)
        if ports.default is port:
            ports.set_default(None)
        try:
            wire.shutdown(2)  # SHUT_RDWR: the broker learns of the end, whatever process still holds a copy of this
        except OSError:
            pass  # the other end is gone
        wire.close()
        control.close()


def _run(
    spec: object, how: Options, name: str, port: WireApi, watch: HandlerTimer, helper: ControlThread, wire: "socket"
) -> None:
    report = Report(name, lambda statistic, amount: port.tell((commands.COUNTED, statistic, amount)))
    runtime: WireRuntime | None = None
    try:
        handlers = load(spec)
        if port.is_forked:
            exit_forked(None)
        unfinished: Unfinished | None = None
        if not handlers.is_async:
            runtime = WireRuntime(handlers, port, watch, report, how)
            runtime.start()
            unfinished = runtime.run()
            if unfinished is None:
                return
        runtime = LoopRuntime(handlers, port, watch, report, how, wire, helper.hung, unfinished)
        runtime.run()
    except BaseException as error:
        if port.is_forked:
            exit_forked(error)
        if runtime is not None and (runtime.is_started or port.is_ended):
            raise
        if isinstance(error, ConfigError):
            text, cause = str(error), error.__cause__
        else:
            where = "loading the handlers" if runtime is None else f"handle_worker_start of {handlers.where}"
            text, cause = f"{where} failed: {shown_error(error)}", error
        port.arm = None
        port.tell((commands.START_FAILED, text, _shown(cause)))
        port.flush()


def _shown(cause: BaseException | None) -> str:
    """The traceback of what the application raised; "" if it was nothing of its."""
    return "" if cause is None else shown_trace(cause)


def _extend_path(sys_path: list[str]) -> None:
    """Adds what this interpreter does not have, each at its place: another one begins with a path of its own."""
    if sys.path != sys_path:
        for index, place in enumerate(sys_path):
            if place not in sys.path:
                sys.path.insert(index, place)
