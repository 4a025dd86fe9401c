"""Control messages between the broker and a worker: probes, and reports on interrupted or hung handlers.

They have a stream of their own, which the worker's control thread serves also while a handler is busy. They are
framed like the wire (`framing`); each batch is a list of tuples ``(KIND, …)``.
"""

from typing import Final, TypeAlias, cast

PROBE: Final = 1
"""broker → worker ``(PROBE, number)``: asks whether the worker's process runs; answered by ALIVE."""
ALIVE: Final = 2
"""worker → broker ``(ALIVE, number)``: the control thread runs; the number is that of the probe."""
INTERRUPTED: Final = 3
"""worker → broker ``(INTERRUPTED, handler, socket_id, seconds)``: a sync handler took too long and was interrupted."""
HUNG: Final = 4
"""worker → broker ``(HUNG, handler, socket_id, seconds)``: a handler has not ended `worker_hang_timeout` after its
interruption."""
NOT_UNDERSTOOD: Final = 5
"""worker → broker ``(NOT_UNDERSTOOD, kind)``: the worker has skipped a control message of this unknown kind."""

Message: TypeAlias = tuple[object, ...]
"""One control message: its kind, then the fields that its kind's comment above lists."""
RunningHandler: TypeAlias = tuple[str, int, float]
"""The fields of INTERRUPTED and HUNG: handler, socket id, seconds since the start of the call."""


def read_running_handler(message: Message) -> RunningHandler:
    """Returns the fields of an INTERRUPTED or HUNG message."""
    return cast("RunningHandler", message[1:])
