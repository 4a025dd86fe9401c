"""A worker's second thread: answers the broker's probes, runs the checks of `interruption`, while a handler is busy."""

from collections.abc import Callable
from threading import Lock, Thread
from time import sleep
from typing import TYPE_CHECKING, Final

from wsbroker.wire import control as messages
from wsbroker.wire.framing import BatchUnpacker, pack_batch
from wsbroker.worker.interruption import HandlerTimer

if TYPE_CHECKING:
    from socket import socket

READ_BYTES: Final = 4096
"""Bytes that one call of `recv` reads at most."""
MIN_WAIT_S: Final = 0.001
"""Seconds between two checks of the deadlines, at least."""
MAX_WAIT_S: Final = 0.1
"""Seconds between two checks of the deadlines, at most, once the broker is gone."""


class ControlThread:
    """Serves the worker's end of the control stream.

    Args:
        control: the stream; it belongs to this thread until `stop` returns.
        name: the worker's name.
        on_orphaned: called on this thread when the broker is gone and the worker still runs.
    """

    __slots__ = ("_control", "_is_stopped", "_lock", "_name", "_on_orphaned", "_thread")

    def __init__(self, control: "socket", name: str, on_orphaned: Callable[[], None] | None = None) -> None:
        self._control = control
        self._name = name
        self._on_orphaned = on_orphaned
        self._lock = Lock()
        self._is_stopped = False
        self._thread: Thread | None = None

    def start(self, timer: HandlerTimer, on_abandoned: Callable[[], None]) -> None:
        """Starts the thread.

        Args:
            timer: keeps the time limits of the worker's handlers.
            on_abandoned: called on this thread when the broker is gone, or has given this worker up, and the
                worker still runs.
        """
        name = f"{self._name} helper"
        try:
            thread = Thread(target=self._run_thread, args=(timer, on_abandoned), name=name, daemon=True)
            thread.start()
        except RuntimeError:  # an isolated subinterpreter has no daemon threads
            thread = Thread(target=self._run_thread, args=(timer, on_abandoned), name=name)
            thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        from socket import SHUT_RDWR

        self._is_stopped = True
        try:
            self._control.shutdown(SHUT_RDWR)
        except OSError:
            pass  # the other end is gone, and the thread with it
        if self._thread is not None:
            self._thread.join()

    def send_interrupted(self, handler: str, socket_id: int, seconds: float) -> None:
        """Tells the broker that a handler was interrupted."""
        self._send_message((messages.INTERRUPTED, handler, socket_id, seconds))

    def send_hung(self, handler: str, socket_id: int, seconds: float) -> None:
        """Tells the broker that a handler does not end; called on any thread."""
        self._send_message((messages.HUNG, handler, socket_id, seconds))

    def _send_message(self, message: tuple[object, ...]) -> None:
        """Sends one message on the control stream; does nothing if the broker is gone. Called on any thread."""
        try:
            with self._lock:
                self._control.sendall(pack_batch([message]))
        except OSError:
            pass  # the broker is gone or does not read; if it is there, it notices that its probes stay unanswered

    def _run_thread(self, timer: HandlerTimer, on_abandoned: Callable[[], None]) -> None:
        """Serves the control stream to its end; then, unless `stop` was called, calls `on_abandoned` and `on_orphaned`.

        Body of the control thread. With an `on_orphaned`, deadlines of handlers are checked on, until `stop` is called.
        """
        self._serve_control_stream(timer)
        if self._is_stopped:
            return
        on_abandoned()
        if self._on_orphaned is not None:
            self._on_orphaned()
            while not self._is_stopped:  # the limits of handlers hold to the end
                sleep(min(timer.check_deadline() or MAX_WAIT_S, MAX_WAIT_S))

    def _serve_control_stream(self, timer: HandlerTimer) -> None:
        """Answers probes and checks the running handler's deadline, until the stream's end or a call of `stop`."""
        unpacker = BatchUnpacker()
        control = self._control
        while not self._is_stopped:
            wait_s = timer.check_deadline()
            try:
                control.settimeout(None if wait_s is None else max(wait_s, MIN_WAIT_S))
                data = control.recv(READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            for batch in unpacker.feed(data):
                for message in batch:
                    if message[0] == messages.PROBE:
                        self._send_message((messages.ALIVE, message[1]))
                    else:
                        self._send_message((messages.NOT_UNDERSTOOD, message[0]))
