"""Carriers: what carries one worker, whatever its kind.

Every kind has a daemon thread on the broker's side. For `thread` the handlers run in it; another kind runs its
interpreter in it, or waits in it for its process. So starting, noticing the end and leaving behind what is stuck are
the same for all.
"""

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from wsbroker.errors import ConfigError, WorkerError, WSBrokerError
from wsbroker.guarded_log import GuardedLog, format_error, format_repr

START_HANDLER: Final = "handle_worker_start"

logger = GuardedLog(__name__)


@dataclass(frozen=True, slots=True)
class StartArguments:
    """What a worker is started with: the arguments of `worker_main` that are the same for all of a pool."""

    sys_path: list[str]
    spec: object
    options: Mapping[str, object]
    shutdown_timeout_s: float = 30.0
    """How long a worker may stay when the server is gone."""


class WorkerHost(ABC):
    """One worker's carrier; used for one start.

    Class attributes:
        fate: what becomes of a stuck one, for the log.

    Args:
        name: of the thread and in the log.
        work: what to run.
    """

    stuck_outcome = "left behind"

    def __init__(self, name: str, start_arguments: StartArguments) -> None:
        self.name = name
        self.start_arguments = start_arguments
        self.end_reason = ""
        """How it ended, for the log: empty while it runs and after a proper end. Valid after `wait_until_ended`."""
        self._loop = asyncio.get_running_loop()
        self._end_event = asyncio.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def run(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Runs the worker to its end on these ends of its streams. In the carrier's thread."""

    def kill(self) -> bool:
        """Ends a stuck worker by force, where the kind can do that; False: it is left behind."""
        return False

    def make_start_error(self, text: str, detail: str) -> WSBrokerError:
        """Returns what a start fails with that the worker has called off.

        Args:
            text: what it says to the user.
            detail: a traceback, or "".
        """
        # A handler that fails (its database is down) is no wrong setting; the text begins with its name then.
        return WorkerError(text) if text.startswith(START_HANDLER) else ConfigError(text)

    @final
    def start(self) -> tuple[socket.socket, socket.socket]:
        """Starts it.

        Returns:
            the broker's ends of the wire and of the control stream.

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
            raise WorkerError(f"worker {self.name} cannot be started: {error}") from error
        self._thread = thread
        return our_wire, our_control

    @final
    async def wait_until_ended(self) -> None:
        """Waits until nothing of the worker runs any more."""
        await self._end_event.wait()
        if self._thread is not None:
            self._thread.join()  # past its last line already

    @final
    def _run_in_thread(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        try:
            self.run(wire_end, control_end)
        except SystemExit as end:
            self.end_reason = f"SystemExit({format_repr(end.code)})"
        except BaseException as error:
            self.end_reason = format_error(error)
            logger.exception("worker ended by an exception worker=%s", self.name)
        finally:
            wire_end.close()
            control_end.close()
            try:
                self._loop.call_soon_threadsafe(self._end_event.set)
            except RuntimeError:
                logger.debug("worker ended after its loop worker=%s", self.name)
