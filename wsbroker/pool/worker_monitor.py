"""The watch over one worker through its control stream: probes, and reports on handlers that hang."""

import math
from collections.abc import Callable
from time import time
from typing import Final

from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.worker_stream import Batch, WorkerStream
from wsbroker.wire import control
from wsbroker.worker.slowest import SlowestCalls

logger = GuardedLog(__name__)

PROBE_INTERVAL_S: Final = 1.0
"""Seconds between two calls of `WorkerMonitor.check_liveness`."""


class WorkerMonitor:
    """Sends probes to a worker's control thread and processes the worker's control messages.

    Args:
        worker: the worker's name.
        hang_timeout_s: seconds without an answer to a probe until the worker counts as hanging.
        slowest: gets the calls of handlers that hang.
        on_hang: called with the reason when the worker or a handler of it hangs.
        on_unknown: called with a description and the kind of a control message that a receiver does not know.
    """

    __slots__ = (
        "_answered_probe_number",
        "_hang_timeout_s",
        "_on_hang",
        "_on_unknown",
        "_probes_missed",
        "_slowest",
        "_worker",
        "last_probe_number",
        "stream",
    )

    def __init__(
        self,
        worker: str,
        hang_timeout_s: float,
        slowest: SlowestCalls,
        on_hang: Callable[[str], None],
        on_unknown: Callable[[str, object], None],
    ) -> None:
        self.stream: Final = WorkerStream(worker, self._process_control_batch, self._on_stream_lost)
        """The control stream, to be connected and closed by the owner."""
        self.last_probe_number = 0
        self._worker = worker
        self._hang_timeout_s = hang_timeout_s
        self._slowest = slowest
        self._on_hang = on_hang
        self._on_unknown = on_unknown
        self._answered_probe_number = 0
        self._probes_missed = 0

    @property
    def is_probe_unanswered(self) -> bool:
        """Whether the worker has not answered the last probe."""
        return self._answered_probe_number != self.last_probe_number

    def check_liveness(self) -> None:
        """Sends a probe, or counts the last probe as missed once more. Called every `PROBE_INTERVAL_S`.

        An unanswered probe is measured in intervals, not by the clock: a process that was suspended, or a loop that was
        blocked, has missed the clock's time and not yet read the answers that have arrived.
        """
        if self.is_probe_unanswered:
            self._probes_missed += 1
            if self._probes_missed >= math.ceil(self._hang_timeout_s / PROBE_INTERVAL_S):
                self._on_hang(f"it did not answer a probe for {self._hang_timeout_s:g} s")
            return
        self.last_probe_number += 1
        self.stream.write([(control.PROBE, self.last_probe_number)])

    def _process_control_batch(self, batch: Batch) -> None:
        """Processes messages of the worker's control stream: answers to probes, interrupted handlers, hung handlers.

        Called by the control stream for each batch.
        """
        for message in batch:
            kind = message[0]
            if kind == control.ALIVE:
                if message[1] == self.last_probe_number:
                    self._answered_probe_number = self.last_probe_number
                    self._probes_missed = 0
            elif kind == control.INTERRUPTED:
                handler, socket_id, seconds = control.read_running_handler(message)
                text = "handler interrupted worker=%s handler=%s socket=%s seconds=%.1f"
                logger.debug(text, self._worker, handler, socket_id, seconds)  # logged and counted by the worker
            elif kind == control.NOT_UNDERSTOOD:
                self._on_unknown("control message to the worker", message[1])
            elif kind == control.HUNG:
                handler, socket_id, seconds = control.read_running_handler(message)
                self._slowest.add_call(handler, socket_id, seconds, time())
                self._on_hang(f"{handler} (socket {socket_id}) hangs: it has not ended {seconds:.1f} s after its start")
                return
            else:
                self._on_unknown("control message", kind)

    def _on_stream_lost(self, reason: str) -> None:
        """Logs, for debugging, that the control stream has ended; only the event stream's end means a lost worker."""
        logger.debug("control stream ended worker=%s reason=%r", self._worker, reason)
