"""The second stream of a worker, read and written by its helper thread, so that it works while a handler is busy.

Framed like the wire (`framing`); each batch is a list of tuples ``(KIND, …)``.
"""

from typing import Final

PROBE: Final = 1
"""broker → worker ``(PROBE, number)``: are you there?"""
ALIVE: Final = 2
"""worker → broker ``(ALIVE, number)``: the helper thread runs."""
INTERRUPTED: Final = 3
"""worker → broker ``(INTERRUPTED, handler, socket_id, seconds)``: a sync handler took too long and was interrupted."""
HUNG: Final = 4
"""worker → broker ``(HUNG, handler, socket_id, seconds)``: a handler has not ended `worker_hang_timeout` after its
interruption."""
NOT_UNDERSTOOD: Final = 5
"""worker → broker ``(REFUSED, kind)``: the worker does not understand this kind of message and has skipped one."""
