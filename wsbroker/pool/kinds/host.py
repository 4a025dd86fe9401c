"""Hosts of thread, interpreter and process workers: the thread and the streams of one worker, its start and end.

Every kind has a daemon thread on the broker's side. For `thread` the handlers run in this thread; another kind runs its
interpreter in it, or waits in it for its process. So a worker's start, its end, and giving up a stuck worker are the
same for all kinds.
"""

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from wsbroker.errors import ConfigError, WorkerError, WSBrokerError
from wsbroker.guarded_log import GuardedLog, format_error, format_repr
from wsbroker.settings.descriptors import shortage_advice

logger = GuardedLog(__name__)


@dataclass(frozen=True, slots=True)
class StartArguments:
    """The arguments of `worker_main` that are the same for all workers of a pool."""

    sys_path: list[str]
    spec: object
    options: Mapping[str, object]
    shutdown_timeout_s: float = 30.0
    """Seconds that a worker may go on after the server is gone."""


class WorkerHost(ABC):
    """The thread in which one worker runs, or which waits for the worker's process; used for one start.

    Class attributes:
        stuck_outcome: what happens to a worker that does not end, for the log: "left behind" or "killed".

    Args:
        name: the worker's name: of the thread, and in the log.
        start_arguments: passed to the worker.
    """

    stuck_outcome = "left behind"

    def __init__(self, name: str, start_arguments: StartArguments) -> None:
        self.name = name
        self.start_arguments = start_arguments
        self.end_reason = ""
        """How the worker ended, for the log: "" after a proper end. Valid after `wait_until_ended`."""
        self._loop = asyncio.get_running_loop()
        self._end_event = asyncio.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def run(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Runs the worker to its end with the worker's ends of its two streams. Called in the host's thread."""

    def kill(self) -> bool:
        """Ends a stuck worker; returns False if this kind of worker cannot be ended: its thread then runs on."""
        return False

    def make_start_error(self, text: str, detail: str, is_config_error: bool) -> WSBrokerError:
        """Makes the exception of a start that the worker has reported as failed.

        Args:
            text: the worker's message for the user.
            detail: a traceback, or "".
            is_config_error: whether the application cannot work; False: its start handler has raised (database down).
        """
        return ConfigError(text) if is_config_error else WorkerError(text)

    @final
    def start(self) -> tuple[socket.socket, socket.socket]:
        """Makes the two streams and starts the host's thread.

        Returns:
            the broker's ends of the event stream and of the control stream.

        Raises:
            WorkerError: the system has no descriptors or threads left.
        """
        opened: list[socket.socket] = []
        try:
            opened.extend(socket.socketpair())
            opened.extend(socket.socketpair())
            our_wire, wire_end, our_control, control_end = opened
            thread = threading.Thread(
                target=self._run_in_thread, args=(wire_end, control_end), name=self.name, daemon=True
            )
            thread.start()
        except (OSError, RuntimeError) as error:
            for end in opened:
                end.close()
            self._end_event.set()  # there is nothing to wait for
            advice = shortage_advice(error)
            raise WorkerError(f"worker {self.name} cannot be started: {error}{advice}") from error
        self._thread = thread
        return our_wire, our_control

    @final
    async def wait_until_ended(self) -> None:
        """Waits until the worker and its thread have ended."""
        await self._end_event.wait()
        if self._thread is not None:
            self._thread.join()  # has passed its last line already

    @final
    def _run_in_thread(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Calls `run`, stores the reason of a failure, and tells the loop of the end. Body of the host's thread."""
        try:
            self.run(wire_end, control_end)
        except SystemExit as end:
            self.end_reason = f"SystemExit({format_repr(end.code)})"
        except BaseException as error:
            self.end_reason = f"{format_error(error)}{shortage_advice(error)}"
            logger.exception("worker ended by an exception worker=%s", self.name)
        finally:
            wire_end.close()
            control_end.close()
            try:
                self._loop.call_soon_threadsafe(self._end_event.set)
            except RuntimeError:
                logger.debug("worker ended after its loop worker=%s", self.name)
