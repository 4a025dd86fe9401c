"""How a worker begins that has an interpreter of its own. Called by a few lines that have made `sys.path` the server's.

The user's `__main__` is never imported here: what it defines exists in the server's interpreter only.
"""

import os
import signal
import sys
from collections.abc import Mapping
from socket import dup, socket
from types import FrameType

from wsbroker import process_exit
from wsbroker.worker import forks
from wsbroker.worker.main import worker_main


def interpreter_main(wire: int, control: int, spec: str, options: Mapping[str, object]) -> None:
    """Runs a worker in this subinterpreter.

    Args:
        wire: descriptor of the wire's end, which stays the caller's. All interpreters of a process share descriptors,
            so that this one uses a duplicate, which it closes itself.
        control: likewise of the control stream.
        spec: of the handlers.
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
        wire: descriptor of the wire's end, now this process's; on Windows what `socket.share` has made of it.
        control: likewise of the control stream.
        spec: of the handlers.
        options: as for `worker_main`.
        limit_s: how long it may stay when the server is gone or its own end has begun: a handler may be stuck, or a
            thread that it has started. A server that is there does not wait longer itself.
    """
    _install_noop_handlers()
    os.environ.pop("WSBROKER_WORKER_OF", None)  # see pool/executable.py: a program that a handler starts is no copy
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    ends = _open_inherited_socket(wire), _open_inherited_socket(control)
    try:
        worker_main(*ends, sys.path, spec, options, lambda: _exit_within(limit_s))
    finally:
        _exit_within(limit_s)


def _install_noop_handlers() -> None:
    """Has the signals that stop the server do nothing. Until now they were blocked, by the server before the start.

    They are not ignored: that would hold for each program that a handler starts, which could not be ended then. One
    that is ignored already is to stay so, for those too (SIGHUP after `nohup`).
    """
    numbers = [number for number in forks.SERVER_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    forks.install_signal_handlers(numbers, _ignore_signal, _restore_default_signals)
    if sys.platform != "win32":
        for number in numbers:
            signal.siginterrupt(number, False)  # nor does a call in C of some library notice
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forks.SERVER_SIGNALS)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """Ignores a signal that is meant for the server."""


def _restore_default_signals() -> None:
    """In a forked child, which is not the server's business."""
    for number in forks.SERVER_SIGNALS:
        if signal.getsignal(number) is _ignore_signal:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _open_inherited_socket(end: int | bytes) -> socket:
    if sys.platform == "win32":
        from socket import fromshare

        assert isinstance(end, bytes)
        return fromshare(end)
    assert isinstance(end, int)
    os.set_inheritable(end, False)
    return socket(fileno=end)


def _exit_within(limit_s: float) -> None:
    text = f"worker process {os.getpid()} did not end within {limit_s:g} s: it exits now"
    process_exit.exit_after_timeout(limit_s, process_exit.STATUS_FORCED, text)
