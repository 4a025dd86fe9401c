"""What waits for one socket because its transport takes nothing, and what that costs.

An outbox exists only from the moment a transport refuses bytes (or a frame is sent before the 101) until everything
that waited has left: an idle connection has none.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.limits import FRAME_OVERHEAD_BYTES


@final
class Outbox:
    """Whole frames that wait for one socket."""

    def __init__(self, turn: i64) -> None:
        self.frames: Final[deque[bytes]] = deque()
        self.cost_bytes: i64 = 0
        """Cost of `frames`: their bytes and FRAME_OVERHEAD_BYTES for each. A frame that waits for many sockets counts
        for each of them."""
        self.transport_bytes: i64 = 0
        """What waited in the transport's own buffer when that was last looked at."""
        self.refused_data: bytes | None = None
        """What was handed to the transport when it refused: it holds this object until all of it has left."""
        self.opened_in_turn: i64 = turn
        """Turn in which the waiting began."""
        self.allowed_bytes: i64 = 0
        """What may wait although it is above `max_queue_bytes`: what one turn has added, less what has left since."""
        self.is_shed = False
        """Dropped because too much waited for all sockets together: only a Close frame may follow."""
        self.is_abort_due = False
        """Given up, and a Close frame would not get through: its connection is dropped."""

    def frame_bytes(self) -> i64:
        """Returns the bytes of the waiting frames, without what they cost beyond."""
        return self.cost_bytes - len(self.frames) * FRAME_OVERHEAD_BYTES
