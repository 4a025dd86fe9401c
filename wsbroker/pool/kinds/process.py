"""Kind `process`: a process of its own, spawned and not forked, so that it can be killed and takes every module."""

import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.kinds.executable import PARENT_VARIABLE
from wsbroker.pool.kinds.host import StartArguments, WorkerHost
from wsbroker.worker.forks import SERVER_SIGNALS
from wsbroker.worker.logs import configured_log_levels

logger = GuardedLog(__name__)

PROCESS_PROGRAM: Final = (
    "import marshal, sys; "
    "sys.path[:], sys.argv[:], start = marshal.loads(sys.stdin.buffer.read()); "
    "from wsbroker.worker.entry import process_main; process_main(*start)"
)
"""What the process runs. The rest comes through its standard input: settings hold secrets, and arguments show in ps."""

KILLED_TEXT: Final = "SIGKILL (nothing of ours: an operator, or the system was out of memory)"


class ProcessHost(WorkerHost):
    """Runs a worker in a process of its own, and waits for its end in this thread.

    The process gets the two streams and the server's stdout and stderr, no other descriptor.
    """

    stuck_outcome = "killed"

    def __init__(self, name: str, start_arguments: StartArguments) -> None:
        super().__init__(name, start_arguments)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def run(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Starts the process and waits for its end."""
        with self._lock:
            if self._is_killed:
                return
            process = self._process = _spawn_process(self.name, [wire_end.fileno(), control_end.fileno()])
        with process:
            self._send_start_arguments(process, wire_end, control_end)
            wire_end.close()
            control_end.close()
            code = process.wait()
        if code and not self._is_killed:
            self.end_reason = describe_exit(code)

    def _send_start_arguments(
        self, process: "subprocess.Popen[bytes]", wire_end: socket.socket, control_end: socket.socket
    ) -> None:
        options = {
            **self.start_arguments.options,
            "name": self.name,
            "owns_interpreter": True,
            "log_levels": configured_log_levels(),
        }
        ends = [_share_socket(wire_end, process.pid), _share_socket(control_end, process.pid)]
        start = (*ends, self.start_arguments.spec, options, self.start_arguments.shutdown_timeout_s)
        assert process.stdin is not None
        try:
            process.stdin.write(marshal.dumps([self.start_arguments.sys_path, sys.argv, start]))
            process.stdin.close()
        except OSError:
            pass  # it has ended already: its exit code says why

    def kill(self) -> bool:
        """Ends the process at once."""
        with self._lock:
            self._is_killed = True
            if self._process is not None:
                try:
                    self._process.kill()
                except OSError as error:  # it has become another user's
                    logger.error("worker process cannot be killed worker=%s: %s", self.name, error)
                    return False
        return True


def _spawn_process(name: str, descriptors: Sequence[int]) -> "subprocess.Popen[bytes]":
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-P", "-c", PROCESS_PROGRAM, f"wsbroker {name}"]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    if sys.platform == "win32":
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    # Its handlers stand only when it has started, and a signal to the whole process group may come before: the process
    # inherits what is blocked here. (In this thread only; it waits for the process and does nothing else.)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SERVER_SIGNALS)
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _share_socket(end: socket.socket, process_id: int) -> int | bytes:
    """What the process finds its end by: the descriptor that it inherits; on Windows a duplicate made for it."""
    if sys.platform == "win32":
        return end.share(process_id)
    return end.fileno()


def describe_exit(code: int) -> str:
    """Says how a process ended: ``"its process was ended by signal SIGSEGV"``, ``"its process exited with code 3"``."""
    if code >= 0:
        return f"its process exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"its process was ended by signal {KILLED_TEXT if name == 'SIGKILL' else name}"
