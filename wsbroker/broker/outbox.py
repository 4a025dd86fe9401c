"""Data only: the frames that wait for one socket because its transport is full, and the memory they take.

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
    """The whole frames that wait for one socket, and the account of their memory."""

    def __init__(self, opened_in_turn: i64) -> None:
        self.frames: Final[deque[bytes]] = deque()
        self.cost_bytes: i64 = 0
        """Cost of `frames`: their bytes and FRAME_OVERHEAD_BYTES for each. A frame shared by many sockets counts in
        full for each of them."""
        self.transport_bytes: i64 = 0
        """Bytes in the transport's own buffer when that was last measured."""
        self.refused_data: bytes | None = None
        """The object handed to the transport when it became full; the transport holds it until all bytes have left."""
        self.opened_in_turn: i64 = opened_in_turn
        """Loop turn in which the first frame waited (`Outgoing.loop_turn`)."""
        self.allowed_bytes: i64 = 0
        """Bytes that may wait beyond `max_queue_bytes`: those that the first turn added, less those that left since."""
        self.is_shed = False
        """Whether the outbox was emptied because too much waited for all sockets; only a Close frame may follow."""
        self.is_abort_due = False
        """Whether the connection is to be aborted, because a Close frame would not get through."""

    def frame_bytes(self) -> i64:
        """Returns the bytes of the waiting frames, without FRAME_OVERHEAD_BYTES."""
        return self.cost_bytes - len(self.frames) * FRAME_OVERHEAD_BYTES
