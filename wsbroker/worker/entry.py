"""The first functions that run in a subinterpreter or worker process: they open its streams and set its signals.

The few lines that call these functions have set `sys.path` to the server's. The user's `__main__` is never imported
here: what it defines exists in the server's interpreter only.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from socket import dup, socket
from types import FrameType
from typing import NoReturn

from wsbroker import process_exit
from wsbroker.errors import ConfigError
from wsbroker.guarded_log import format_error
from wsbroker.worker import api as worker_api
from wsbroker.worker import forks
from wsbroker.worker.loader import load_handlers
from wsbroker.worker.main import worker_main


def interpreter_main(wire: int, control: int, spec: str, options: Mapping[str, object]) -> None:
    """Runs a worker in this subinterpreter.

    Args:
        wire: the descriptor of the worker's end of the wire; the caller keeps it open. All interpreters of a process
            share descriptors, so this one uses a duplicate.
        control: the descriptor of the worker's end of the control stream; duplicated likewise.
        spec: names the application that has the handlers.
        options: as for `worker_main`.
    """
    worker_main(socket(fileno=dup(wire)), socket(fileno=dup(control)), sys.path, spec, options)


def process_main(
    wire: int | bytes, control: int | bytes, spec: str, options: Mapping[str, object], limit_s: float
) -> None:
    """Runs a worker in this process.

    The signals that stop the server do nothing here: they often go to all processes of a group (a terminal's Ctrl-C or
    hang-up, `timeout`, systemd), and the server stops its workers itself. When the server is gone, so is the other end
    of the wire, and the worker ends as after a stop.

    Args:
        wire: the descriptor of the worker's end of the wire, now this process's; on Windows bytes of `socket.share`.
        control: the same for the control stream.
        spec: names the application that has the handlers.
        options: as for `worker_main`.
        limit_s: seconds this process may stay when the server is gone or the worker has ended: a handler, or a thread
            of the application, may be stuck. A running server does not wait longer itself.
    """
    _install_noop_handlers()
    os.environ.pop("WSBROKER_WORKER_OF", None)  # a program that a handler starts is not a copy of this worker
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    ends = _open_inherited_socket(wire), _open_inherited_socket(control)
    try:
        worker_main(*ends, sys.path, spec, options, lambda: _exit_within(limit_s))
    finally:
        _exit_within(limit_s)


def check_main(spec: str) -> NoReturn:
    """Loads an application's handlers in this process, which then exits: with 0, or with 1 after an error text.

    The text goes to stdout; what the application itself writes there is dropped. Threads that the application has
    started are not waited for.

    Args:
        spec: names the application, as for `load_handlers`.
    """
    os.environ.pop("WSBROKER_WORKER_OF", None)
    worker_api.is_worker_interpreter = True
    answer = os.dup(1)
    threading.Thread(target=_exit_at_end_of_input, args=(os.dup(0),), name="wsbroker parent", daemon=True).start()
    with open(os.devnull, "r+b", buffering=0) as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    text = ""
    try:
        load_handlers(spec)
    except ConfigError as error:
        text = str(error)
    except BaseException as error:
        text = f"loading the handlers failed: {format_error(error)}"
    os.write(answer, text.encode("utf-8", "backslashreplace"))
    process_exit.exit_now(process_exit.STATUS_FORCED if text else 0)


def _exit_at_end_of_input(descriptor: int) -> None:
    """Waits for the end of a pipe, which the server holds open, and ends this process then: the server has died."""
    while os.read(descriptor, 4096):
        pass
    process_exit.exit_now(process_exit.STATUS_FORCED)


def _install_noop_handlers() -> None:
    """Installs a handler that does nothing for the server's signals, and unblocks them; at a worker process's start.

    The server has blocked them before it started this process. They are not ignored: each program that a handler starts
    would ignore them too, and could not be ended. A signal that is ignored already stays so (SIGHUP after `nohup`).
    """
    numbers = [number for number in forks.SERVER_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    forks.install_signal_handlers(numbers, _ignore_signal, _restore_default_signals)
    if sys.platform != "win32":
        for number in numbers:
            signal.siginterrupt(number, False)  # so that calls in C of libraries are not interrupted either
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forks.SERVER_SIGNALS)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """Does nothing: a worker process's handler of the signals that are meant for the server."""


def _restore_default_signals() -> None:
    """Gives the server's signals their default handlers back. Called in a child process that a handler has forked."""
    for number in forks.SERVER_SIGNALS:
        if signal.getsignal(number) is _ignore_signal:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _open_inherited_socket(end: int | bytes) -> socket:
    """Returns the socket of a stream end that the server has passed to this process.

    Args:
        end: the inherited descriptor; on Windows the bytes of `socket.share`.
    """
    if sys.platform == "win32":
        from socket import fromshare

        assert isinstance(end, bytes)
        return fromshare(end)
    assert isinstance(end, int)
    os.set_inheritable(end, False)
    return socket(fileno=end)


def _exit_within(limit_s: float) -> None:
    """Starts a timer that exits this process after `limit_s` seconds, with a line on stderr. Returns at once.

    Called when the worker has ended, and when the server is gone while it still runs.
    """
    text = f"worker process {os.getpid()} did not end within {limit_s:g} s: it exits now"
    process_exit.exit_after_timeout(limit_s, process_exit.STATUS_FORCED, text)
