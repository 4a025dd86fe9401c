"""Data only: limits, counters and constants of the core; the user's settings are in `settings/config.py`."""

from typing import Final

DISCONNECT: Final = 0
DROP_NEW: Final = 1
DROP_OLD: Final = 2

MESSAGE_OVERHEAD_BYTES: Final = 128
"""Memory that a waiting message takes beyond its payload, for the objects around it. If this were not counted, a flood
of empty messages would never reach a limit in bytes."""

FRAME_OVERHEAD_BYTES: Final = 64
"""Memory that a frame waiting for a client takes beyond its bytes: the bytes object (33, and up to 15 to the next
multiple of 16) and its place in a deque (8.25). If this were not counted, a client that leaves one-byte answers unread
would hold 19 times the limit."""

FIRST_TURN_FACTOR: Final = 3
"""Multiple of `max_queue_bytes` (and one frame beyond) that may wait for a socket in the turn in which its transport
first refuses bytes. A factor of 1 is too little for a client that reads: of 2.5 MiB published at once the kernel took
0.26 MiB on a busy machine, and the client had no chance to take more before the turn was over."""

SCARCE_INBOX_BYTES: Final = 16 * 1024
"""Limit for the unhandled messages of one socket while those of all sockets together are over their limit. It allows a
round trip of small messages, so that an honest client is served beside a thousand that flood stuck handlers."""

SHARE_UNITS: Final = 64
"""Share of one socket in flight to its worker: this many messages, and 1/16 of the worker queue's credit. One small
number per socket counts messages and bytes: a message takes one unit, or as many as it costs 64ths of those bytes."""

CREDIT_DIVISOR: Final = 16
"""Divisor of a worker queue's credit that gives the share of one socket; any room in that share takes any message."""

CROWDED_FROM_MESSAGES: Final = 512
"""Number of messages in flight to one worker from which each socket has only CROWDED_SHARE_UNITS: 20 sockets that flood
handlers of 0.3 ms then delay another socket by 0.15 s, not by 0.4 (benchmarks: soak flood). The worker stays busy."""

CROWDED_SHARE_UNITS: Final = 16
"""Share of one socket while its worker is crowded. Less would cost a pipelined echo of 16 messages its batches."""

BATCH_BYTES: Final = 128 * 1024
"""Size at which the frames of one source (a channel, or direct sends to one socket) cause a flush of the whole turn."""

TURN_BYTES: Final = 4 * 1024 * 1024
"""Size at which all frames of a turn together, each counted with FRAME_OVERHEAD_BYTES, cause a flush: the most memory
that a handler publishing in a loop can hold."""

MAX_SKIPPED_MEMORY_CHECKS: Final = 64
"""Flushes in which the memory of all outboxes is not measured (measuring costs 60 ns per waiting frame), while the sum
that counts shared frames once per socket is over the limit. A growth of 1/SHED_HEADROOM_DIVISOR of the limit has the
memory measured earlier."""

TRANSIENT_REFERENCES: Final = 4
"""References to a frame that running calls may hold: a frame shared by fewer sockets counts in full for each."""

SHED_HEADROOM_DIVISOR: Final = 16
"""Divisor of the limit for all outboxes that gives the memory to free beyond it when outboxes are dropped, so that the
search for the largest is not repeated every turn."""


class Limits:
    """The limits of the core, constant after the start.

    Args:
        max_queue_bytes: bytes that may wait for one socket, its transport's buffer included, each frame counted with
            FRAME_OVERHEAD_BYTES.
        slow_consumer: the policy at that limit: DISCONNECT, DROP_NEW or DROP_OLD.
        inbox_bytes: cost of the messages of one socket read and not yet handled at which its reading pauses.
        max_channels: the most subscriptions of one socket.
        max_waiting_bytes: bytes that may wait for all sockets together, before the largest outboxes are dropped.
        max_inbox_bytes_total: cost of the messages of all sockets read and not yet handled from which
            SCARCE_INBOX_BYTES replaces `inbox_bytes`.
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
    """Counts of the core's events since the start; read by `Server.statistics`."""

    def __init__(self) -> None:
        self.sockets_opened: int = 0
        self.sockets_closed: int = 0
        self.messages_received: int = 0
        self.messages_lost: int = 0
        """messages not reported as handled when their worker was lost, and those dropped while the server stopped"""
        self.publications: int = 0
        self.unroutable: int = 0
        """publications without a subscriber, and commands for an unknown or closed socket"""
        self.frames_dropped: int = 0
        """frames dropped by the policies DROP_NEW and DROP_OLD"""
        self.slow_consumers: int = 0
        """sockets closed because too much waited for them"""
        self.overload_closes: int = 0
        """sockets closed because too much waited for all sockets together, and most of that for these"""
        self.subscriptions_refused: int = 0
        """subscriptions refused because the socket had `max_channels_per_socket`"""
        self.commands_refused: int = 0
        """commands of workers that were not understood"""
        self.inboxes_full: int = 0
        """how often the reading of a socket was paused because its handlers were behind"""
        self.mailboxes_full: int = 0
        """messages that waited in an inbox because their worker was behind"""
