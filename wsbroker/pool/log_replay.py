"""Log records of workers with an interpreter of their own, logged in the server as if they were its own records."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from wsbroker.guarded_log import is_package_logger, write_unlogged_line
from wsbroker.wire.commands import Command, read_log
from wsbroker.worker.logs import NS_PER_S

NS_PER_MS: Final = 1_000_000
SLICE_S: Final = 0.001
"""Seconds per loop turn that the records of one worker may take: about 60 records on stderr."""
PAUSE_AT_RECORDS: Final = 1000
"""Number of queued records at which reading from the worker is paused; the worker then blocks where it logs."""
RESUME_AT_RECORDS: Final = 250
"""Number of queued records at which reading from the worker is resumed."""


def replay_record(worker: str, command: Command) -> None:
    """Logs one record of a worker with the server's logger of the same name, if that is enabled. Never raises.

    A filter or handler of the program that raises must cost neither the worker nor the loop: the record is then written
    to stderr.
    """
    level, name, message, exception, stack, time_ns, path, line, function, thread, process = read_log(command)
    try:
        logger = logging.getLogger(name)
        if logger.disabled and is_package_logger(name):
            logger.disabled = False  # see `guarded_log`
        if not logger.isEnabledFor(level):
            return
        record = logger.makeRecord(name, level, path, line, message, (), None, function, None, stack or None)
        record.exc_text = exception or None
        record.created = time_ns / NS_PER_S
        record.msecs = time_ns % NS_PER_S // NS_PER_MS
        record.threadName = thread
        record.processName = worker
        record.process = process
        logger.handle(record)
    except BaseException as problem:
        write_unlogged_line(level, name, f"{message} (worker={worker})", exception, problem)


class LogReplay:
    """The log records of one worker: logged in their order, for at most 1 ms per loop turn.

    Args:
        worker: the worker's name.
        pause: stops the reading of the worker's stream.
        resume: starts that reading again.
        clock: returns monotonic seconds.
    """

    __slots__ = (
        "_clock",
        "_is_slice_scheduled",
        "_is_reading_paused",
        "_pause_reading",
        "_resume_reading",
        "_slice_end",
        "_waiting_records",
        "_worker",
    )

    def __init__(
        self,
        worker: str,
        pause: Callable[[], None],
        resume: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._worker = worker
        self._pause_reading = pause
        self._resume_reading = resume
        self._clock = clock
        self._waiting_records: deque[Command] = deque()
        self._slice_end = 0.0
        self._is_slice_scheduled = False
        self._is_reading_paused = False

    def add_record(self, command: Command) -> None:
        """Logs a record at once if no record waits and this turn has time left; otherwise queues the record."""
        if not self._is_slice_scheduled:
            self._is_slice_scheduled = True
            self._slice_end = self._clock() + SLICE_S
            asyncio.get_running_loop().call_soon(self._replay_slice)
        if not self._waiting_records and self._clock() < self._slice_end:
            replay_record(self._worker, command)
            return
        self._waiting_records.append(command)
        if len(self._waiting_records) >= PAUSE_AT_RECORDS and not self._is_reading_paused:
            self._is_reading_paused = True
            self._pause_reading()

    def _replay_slice(self) -> None:
        """Logs queued records for at most 1 ms. Called by the loop, in each turn while records are left.

        Starts the reading from the worker again once few records are left.
        """
        waiting = self._waiting_records
        self._slice_end = self._clock() + SLICE_S
        while waiting:
            replay_record(self._worker, waiting.popleft())
            if self._clock() >= self._slice_end:
                break
        if self._is_reading_paused and len(waiting) <= RESUME_AT_RECORDS:
            self._is_reading_paused = False
            self._resume_reading()
        self._is_slice_scheduled = bool(waiting)
        if waiting:
            asyncio.get_running_loop().call_soon(self._replay_slice)

    def replay_rest(self) -> None:
        """Logs all queued records at once, so that a worker's own records come before those about its end."""
        waiting = self._waiting_records
        while waiting:
            replay_record(self._worker, waiting.popleft())
