"""How a worker begins that has an interpreter of its own. Called by a few lines that have made `sys.path` the server's.

The user's `__main__` is never imported here: what it defines exists in the server's interpreter only.
"""

import os
import signal
import sys
from collections.abc import Mapping
from socket import dup, socket

from wsbroker import process_exit
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

    SIGINT is ignored: a Ctrl-C goes to all processes of a terminal, and the server stops its workers itself. When the
    server is gone, so is the other end of the wire, and the worker ends as after a stop.

    Args:
        wire: descriptor of the wire's end, now this process's; on Windows what `socket.share` has made of it.
        control: likewise of the control stream.
        spec: of the handlers.
        options: as for `worker_main`.
        limit_s: how long it may stay when the server is gone or its own end has begun: a handler may be stuck, or a
            thread that it has started. A server that is there does not wait longer itself.
    """
    os.environ.pop("WSBROKER_WORKER_OF", None)  # see pool/executable.py: a program that a handler starts is no copy
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    ends = _adopted(wire), _adopted(control)
    if sys.platform != "win32":
        # A process that a handler forks must not keep the wire open, or nobody learns of this one's end.
        for end in ends:
            os.register_at_fork(after_in_child=end.close)
    try:
        worker_main(*ends, sys.path, spec, options, lambda: _leave_within(limit_s))
    finally:
        _leave_within(limit_s)


def _adopted(end: int | bytes) -> socket:
    if sys.platform == "win32":
        from socket import fromshare

        assert isinstance(end, bytes)
        return fromshare(end)
    assert isinstance(end, int)
    os.set_inheritable(end, False)
    return socket(fileno=end)


def _leave_within(limit_s: float) -> None:
    text = f"worker process {os.getpid()} did not end within {limit_s:g} s: it exits now"
    process_exit.exit_within(limit_s, process_exit.STAYED, text)
