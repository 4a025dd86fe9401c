"""Kind `process`: a process for each worker, spawned and not forked. It can be killed and takes every module."""

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
"""The program of the process. Its data comes through standard input: settings hold secrets, arguments show in ps."""

KILLED_TEXT: Final = "SIGKILL (nothing of ours: an operator, or the system was out of memory)"


class ProcessHost(WorkerHost):
    """Starts a worker in a process of its own, and waits in this thread for the end of the process.

    The process gets the two streams and the server's stdout and stderr, no other descriptor.
    """

    stuck_outcome = "killed"

    def __init__(self, name: str, start_arguments: StartArguments) -> None:
        super().__init__(name, start_arguments)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def run(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Starts the worker's process and waits for its end; returns at once if the worker was killed before."""
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
        """Writes the worker's start arguments and its stream ends to the standard input of the new process."""
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
            pass  # the process has ended already: its exit code says why

    def kill(self) -> bool:
        """Kills the worker's process at once; returns False if the system refuses that."""
        with self._lock:
            self._is_killed = True
            if self._process is not None:
                try:
                    self._process.kill()
                except OSError as error:  # the process has changed its user
                    logger.error("worker process cannot be killed worker=%s: %s", self.name, error)
                    return False
        return True


def make_python_command(program: str, title: str) -> list[str]:
    """Returns the command that runs the text of a program with this Python and its flags.

    Args:
        program: the text.
        title: a further argument, by which lists of processes show what the process is for.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-P", "-c", program, title]


def make_child_environment() -> dict[str, str]:
    """Returns the environment of a process that loads the application for this server (`PARENT_VARIABLE`)."""
    return {**os.environ, PARENT_VARIABLE: str(os.getpid())}


def _spawn_process(name: str, descriptors: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Starts a Python process that runs `PROCESS_PROGRAM`, with the server's signals blocked in it."""
    command, environment = make_python_command(PROCESS_PROGRAM, f"wsbroker {name}"), make_child_environment()
    if sys.platform == "win32":
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    # The process has its signal handlers only after its start, and a signal to the whole process group may come before:
    # it inherits the signals blocked here. (Blocked in this thread only, which just waits for the process.)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SERVER_SIGNALS)
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _share_socket(end: socket.socket, process_id: int) -> int | bytes:
    """Returns the value by which the worker's process opens a stream end: the descriptor; on Windows, share bytes."""
    if sys.platform == "win32":
        return end.share(process_id)
    return end.fileno()


def describe_exit(code: int) -> str:
    """Returns a text for an exit code, such as ``"its process was ended by signal SIGSEGV"``."""
    if code >= 0:
        return f"its process exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"its process was ended by signal {KILLED_TEXT if name == 'SIGKILL' else name}"
