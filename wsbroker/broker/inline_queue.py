"""Data only: the events of this turn for handlers that run in the event loop itself (worker kind inline)."""

from __future__ import annotations

from typing import Final, final

from wsbroker.broker.socket import Socket


@final
class InlineQueue:
    """The events of this turn for inline handlers, and the sockets whose inline handlers run.

    Filled by the broker, emptied once per turn by `connections.InlineRunner`. Unused with workers on a wire.
    """

    def __init__(self) -> None:
        self.sockets: list[Socket] = []
        """The socket of the event in `events` at the same index."""
        self.events: list[object] = []
        """A message (str or bytes), a CLOSE event (tuple), or an empty tuple behind the last message of a socket whose
        close was postponed (`Broker.close_after_messages`)."""
        self.busy_sockets: Final[dict[int, Socket]] = {}
        """Sockets with an async handler running, by id."""
        self.current_socket: Socket | None = None
        """The socket whose message handler is being called."""
