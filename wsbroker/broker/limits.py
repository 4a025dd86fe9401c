"""The numbers the core works with, handed over once at the start."""

from typing import Final

DISCONNECT: Final = 0
DROP_NEW: Final = 1
DROP_OLD: Final = 2

MESSAGE_OVERHEAD_BYTES: Final = 128
"""What a waiting message costs beyond its payload: the objects that hold it. Without it a flood of empty messages
would never reach a limit in bytes."""

FRAME_OVERHEAD_BYTES: Final = 64
"""What a frame that waits for a client costs beyond its bytes: the bytes object (33, and up to 15 to the next multiple
of 16) and its place in a deque (8.25). Without it a client that leaves one-byte answers unread holds 19 times the
limit."""

FIRST_TURN_FACTOR: Final = 3
"""So many times `max_queue_bytes`, and one frame beyond, may wait for a socket in the turn in which its transport first
refuses bytes. Once is too little for a client that reads: of 2.5 MiB published at once the kernel took 0.26 MiB on a
busy machine, and the client had no chance to take more before the turn was over."""

SCARCE_INBOX_BYTES: Final = 16 * 1024
"""What one socket may have read and not yet handled while all sockets together have too much: enough for a round trip
of small messages, so that an honest client beside a thousand that flood stuck handlers is served on."""

SHARE_UNITS: Final = 64
"""What one socket may have in flight to its worker: this many messages, and 1/16 of the lane's credit. One small number
per socket counts both: a message is one unit, or as many as the 64ths of those bytes that it costs."""

CREDIT_DIVISOR: Final = 16
"""One socket's messages in flight cost about this part of its lane's credit; what is left of it takes any message."""

CROWDED_FROM_MESSAGES: Final = 512
"""While a lane has this many messages in flight, a socket may have CROWD_UNITS only: 20 sockets that flood handlers of
0.3 ms keep another one waiting for 0.15 s and not for 0.4 (benchmarks: soak flood). The worker has enough to do all the
same."""

CROWDED_SHARE_UNITS: Final = 16
"""Not less: a pipelined echo with 16 messages in flight would lose its batches."""

BATCH_BYTES: Final = 128 * 1024
"""One source (channel or direct sends to one socket) that gathers this much in a turn has the whole turn flushed."""

TURN_BYTES: Final = 4 * 1024 * 1024
"""The same for all frames of a turn together, each counted with FRAME_OVERHEAD_BYTES: what a handler that publishes in
a loop can hold at most."""

MAX_SKIPPED_MEMORY_CHECKS: Final = 64
"""While more than the limit waits for all sockets, if what is shared counts for each of them, it is looked how much
memory that is in one flush of so many (60 ns for a frame that waits), and whenever a SPARE_SHARE more has come."""

TRANSIENT_REFERENCES: Final = 4
"""So many references to a frame may be those of calls that are going on: what few sockets share counts for each."""

SHED_HEADROOM_DIVISOR: Final = 16
"""When too much waits for all sockets together, so many outboxes go that one part in this many of the limit is free
again: the search for the largest is not to be repeated every turn."""


class Limits:
    """Limits of the core.

    Args:
        max_queue_bytes: what may wait for one socket, its transport's buffer included, each frame counted with
            FRAME_OVERHEAD_BYTES.
        slow_consumer: DISCONNECT, DROP_NEW or DROP_OLD: what happens at that limit.
        inbox_bytes: messages of one socket read and not yet handled, before its reading pauses.
        max_channels: subscriptions of one socket.
        max_waiting_bytes: what may wait for all sockets together, before the largest are closed.
        max_inbox_bytes_total: messages of all sockets read and not yet handled, before SCARCE_INBOX_BYTES are the
            `inbox_bytes` of each.
    """

    def __init__(
        self,
        max_queue_bytes: int = 1024 * 1024,
        slow_consumer: int = DISCONNECT,
        inbox_bytes: int = 256 * 1024,
        max_channels: int = 128,
        max_waiting_bytes: int = 1 << 40,
        max_inbox_bytes_total: int = 1 << 40,
    ) -> None:
        self.max_queue_bytes: Final = max_queue_bytes
        self.slow_consumer: Final = slow_consumer
        self.inbox_bytes: Final = inbox_bytes
        self.max_channels: Final = max_channels
        self.max_waiting_bytes: Final = max_waiting_bytes
        self.max_inbox_bytes_total: Final = max_inbox_bytes_total


class Counters:
    """What happened so far, as plain numbers; read by `Server.statistics`."""

    def __init__(self) -> None:
        self.sockets_opened: int = 0
        self.sockets_closed: int = 0
        self.messages_received: int = 0
        self.messages_lost: int = 0
        """those that a worker had not handled, or not said so, when it was lost"""
        self.publications: int = 0
        self.unroutable: int = 0
        """publications and sends to nobody: no subscriber, or an unknown or closed socket"""
        self.frames_dropped: int = 0
        """frames the drop policies dropped"""
        self.slow_consumers: int = 0
        """sockets closed because too much waited for them"""
        self.overload_closes: int = 0
        """sockets closed because too much waited for all of them together, and most for these"""
        self.subscriptions_refused: int = 0
        """subscriptions over `max_channels_per_socket`"""
        self.commands_refused: int = 0
        """commands from a wire that were not understood"""
        self.inboxes_full: int = 0
        """times the reading of a socket paused because its handlers are behind"""
        self.mailboxes_full: int = 0
        """messages that waited in their inbox because their worker is behind"""
