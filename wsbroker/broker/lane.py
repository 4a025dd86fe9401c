"""A lane: the way from the core to one worker, with its credit.

Events of a turn gather in `events` and leave as one batch. Messages spend credit, which comes back with HANDLED;
without credit they stay in the inbox of their socket, and the sockets take turns (`waiting`) when credit returns.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import Socket


@final
class Lane:
    """The core's side of one worker."""

    def __init__(self, index: int, credit_bytes: int, is_inline: bool) -> None:
        self.index: Final = index
        self.credit_bytes: i64 = credit_bytes
        self.is_inline: Final = is_inline
        self.generation: int = 0
        """Grows when the worker is replaced: what an older one still says is ignored."""
        self.in_flight: i64 = 0
        """Cost of the messages sent and not yet acknowledged as handled."""
        self.events: list[tuple[object, ...]] = []
        """This turn's batch (wire workers)."""
        self.sockets: list[Socket] = []
        """This turn's batch (inline): whose message `data` holds at the same index."""
        self.data: list[object] = []
        """str or bytes; a tuple is a CLOSE event, an empty one where an ending socket's messages end (`Broker.end`)."""
        self.waiting: deque[Socket] = deque()
        """Sockets with events in their inbox, in turn."""
        self.closing: dict[int, tuple[object, ...]] = {}
        """CLOSE events whose handler has not run yet, by socket id; of a held lane, only those that its worker has."""
        self.is_listed = False
        self.is_held = False
        """Messages and closes stay in their inboxes, whatever the credit: its worker is being exchanged."""
        self.socket_count: int = 0
