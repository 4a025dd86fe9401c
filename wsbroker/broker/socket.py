"""A socket as the broker sees it: an id, subscriptions, a token, an outbox and an inbox.

The server's `Connection` derives from it and adds the transport; the methods at the end are what it fills in.
There is one object per connection, so every field is counted: lists and dicts are made when they are needed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64, mypyc_attr, u8

if TYPE_CHECKING:
    from wsbroker.broker.channel import Channel
    from wsbroker.broker.outbox import Outbox
    from wsbroker.broker.worker_queue import WorkerQueue

OPENING: Final = 0
"""known, its calls count, its frames wait behind the 101"""
OPEN: Final = 1
CLOSING: Final = 2
"""out of the tables; a Close frame is on its way behind everything sent before it"""
CLOSED: Final = 3
"""the connection is no more"""

NO_INDEX: Final = -1

OPEN_END: Final = 1 << 60
"""the end of a range of frame numbers that goes on"""


@mypyc_attr(allow_interpreted_subclasses=True)
class Socket:
    """The broker's addressable endpoint."""

    def __init__(self, socket_id: int, lane: WorkerQueue) -> None:
        self.id: Final = socket_id
        self.worker_queue: Final = lane
        self.state: i64 = OPENING
        self.token: bytes | None = None
        self.applied_token_number: int = 0
        """number of the last SET_TOKEN of its own worker that was applied"""
        # Subscriptions, oldest first: `first_channel`, then those of `more_channels`. Most sockets have one or none: a dict (232 bytes)
        # is made for the second, and given up with the last but one.
        self.first_channel: Channel | None = None
        self.first_member_index: i64 = 0
        self.more_channels: dict[Channel, int] | None = None
        self.outbox: Outbox | None = None
        """what waits because the transport is full or the 101 is not out yet"""
        # This turn (see outgoing.py).
        self.flush_mark: i64 = 0
        self.only_channel_index: i64 = NO_INDEX
        self.direct_numbers: list[int] | None = None
        self.direct_bytes: i64 = 0
        self.number_ranges: dict[Channel, list[int]] | None = None
        self.pending_close: tuple[int, str, int, str] | None = None
        """the peer has closed or broke the protocol: code and reason to send, and to tell, behind its messages"""
        # Inbox: messages read whose handler is not yet free.
        self.unhandled_bytes: i64 = 0
        self.inbox: deque[tuple[object, ...]] | None = None
        # The timer wheel's slot and the place in it.
        self.timer_slot: i64 = NO_INDEX
        self.timer_index: i64 = 0
        # Side by side: a flag takes one byte beside another one, and eight between two numbers.
        self.is_accepted = False
        self.is_blocked = True
        """the transport is full, or the 101 is not out yet"""
        self.is_dirty = False
        """it has frames or ranges of its own in this turn"""
        self.is_token_stale = False
        """somebody else has set the token since its worker was told"""
        self.is_busy = False
        """inline: its events wait in its inbox, for an async handler of it runs or it has had its share of the turn"""
        self.is_discarding_messages = False
        """the application closed it: messages read but not yet handled are dropped"""
        self.is_reading_paused = False
        self.in_flight_units: u8 = 0
        """its messages with its worker, in units of its share (`WorkerQueue.share_units`); a byte beside the flags costs nothing"""

    def is_member(self, channel: Channel) -> bool:
        """Whether this socket is subscribed to the channel."""
        if self.first_channel is channel:
            return True
        more = self.more_channels
        return more is not None and channel in more

    def channel_count(self) -> i64:
        """Returns how many channels this socket is subscribed to."""
        more = self.more_channels
        return (0 if self.first_channel is None else 1) + (0 if more is None else len(more))

    def channel_list(self) -> list[Channel]:
        """Returns the channels that this socket is subscribed to, oldest subscription first."""
        first = self.first_channel
        found: list[Channel] = []
        if first is not None:
            found.append(first)
        more = self.more_channels
        if more is not None:
            found.extend(more)
        return found

    def set_member_index(self, channel: Channel, index: i64) -> None:
        """Remembers the index of this socket in the channel's member list."""
        more = self.more_channels
        if self.first_channel is channel:
            self.first_member_index = index
        elif more is not None and channel in more:  # it moves within the list: it may be there only once
            more[channel] = int(index)
        elif self.first_channel is None and more is None:
            self.first_channel = channel
            self.first_member_index = index
        else:
            if more is None:
                more = {}
                self.more_channels = more
            more[channel] = int(index)

    def get_member_index(self, channel: Channel) -> i64:
        """The index in the channel's member list, or NOWHERE."""
        if self.first_channel is channel:
            return self.first_member_index
        more = self.more_channels
        if more is None:
            return NO_INDEX
        index = more.get(channel)
        if index is None:
            return NO_INDEX
        return i64(index)

    def clear_member_index(self, channel: Channel) -> None:
        """Forgets the index in the channel's member list."""
        more = self.more_channels
        if self.first_channel is channel:
            self.first_channel = None
        elif more is not None:
            more.pop(channel, None)
        if more is None:
            return
        if not more:
            self.more_channels = None
        elif (
            len(more) == 1 and self.first_channel is None
        ):  # no dict for one: 232 bytes of each socket that has moved on
            for last, index in more.items():
                self.first_channel = last
                self.first_member_index = index
            self.more_channels = None

    # What the connection fills in.

    def write(self, data: bytes) -> None:
        """Hands whole frames to the transport; may set `is_blocked`, must not raise."""
        raise NotImplementedError

    def transport_bytes(self) -> int:
        """What waits in the transport's own buffer."""
        return 0

    def on_close_written(self) -> None:
        """The Close frame, the last there is, has been handed to `write`. May come more than once."""

    def pause_reading(self) -> None:
        """The inbox is full: read nothing more until `resume_reading`."""

    def resume_reading(self) -> None:
        """There is room in the inbox again."""

    def on_close_queued(self) -> None:
        """A Close frame was queued behind everything sent before it: time is running for all of that to leave."""

    def on_overflow(self) -> None:
        """The slow consumer policy gave this socket up: a Close frame waits in its outbox, time is running."""

    def abort(self) -> None:
        """Drops the connection without a word, and with it what its transport holds."""
