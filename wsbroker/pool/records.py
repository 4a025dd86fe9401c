"""Log records of workers that have an interpreter of their own: they are handled here as if they were ours."""

import logging
import traceback
from typing import Final, cast

from wsbroker.wire.commands import Command
from wsbroker.worker.logs import NS

Fields = tuple[int, int, str, str, str, str, int, str, int, str, str, int]
MS: Final = 1_000_000


def replay(worker: str, command: Command) -> None:
    """Hands a record to the logger of its name, if that one wants it.

    A filter or handler of the program that raises must cost neither the worker nor the loop.
    """
    _, level, name, message, exception, stack, time_ns, path, line, function, thread, process = cast(Fields, command)
    logger = logging.getLogger(name)
    try:
        if not logger.isEnabledFor(level):
            return
        record = logger.makeRecord(name, level, path, line, message, (), None, function, None, stack or None)
        record.exc_text = exception or None
        record.created = time_ns / NS
        record.msecs = time_ns % NS // MS
        record.threadName = thread
        record.processName = worker
        record.process = process
        logger.handle(record)
    except Exception:
        traceback.print_exc()
