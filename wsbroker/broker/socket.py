"""A socket as the broker sees it: its state, id, subscriptions, token, outbox and inbox.

`connections.Connection` derives from `Socket` and adds the transport; it overrides the methods at the end.
There is one object per connection, so every field is counted: lists and dicts are made when they are needed.

=======  ==============================  ==============================  =============================
state    mark_socket_open                close_socket, slow consumer     connection lost, discarded
=======  ==============================  ==============================  =============================
OPENING  OPEN                            CLOSING (frames wait for 101)   CLOSED
OPEN     –                               CLOSING                         CLOSED
CLOSING  CLOSING (close event is due)    –                               CLOSED
CLOSED   –                               –                               –
=======  ==============================  ==============================  =============================
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64, mypyc_attr

from wsbroker.broker.channel_frames import NO_INDEX as NO_INDEX
from wsbroker.broker.channel_frames import ChannelFrames
from wsbroker.broker.inbox import SocketInbox
from wsbroker.broker.outbox import Outbox
from wsbroker.broker.worker_queue import WorkerQueue

OPENING: Final = 0
"""registered: calls find the socket, its frames wait for the 101 response"""
OPEN: Final = 1
CLOSING: Final = 2
"""unregistered; a Close frame is queued behind all frames sent before it"""
CLOSED: Final = 3
"""the connection is lost, or was refused"""

OPEN_END: Final = 1 << 60
"""the end of a range of frame numbers that goes on"""


@mypyc_attr(allow_interpreted_subclasses=True)
class Socket(SocketInbox):
    """One client's socket: its state, subscriptions, frames and messages that wait, and flags."""

    def __init__(self, socket_id: int, worker_queue: WorkerQueue) -> None:
        super().__init__(socket_id)
        # The flags first, beside those of SocketInbox.
        self.is_accepted = False
        """whether the 101 response has been queued"""
        self.is_blocked = True
        """whether the transport is full, or the 101 response not out yet"""
        self.is_dirty = False
        """whether the socket is in `Outgoing.dirty_sockets`"""
        self.is_busy = False
        """inline: whether events must wait in the inbox, because an async handler of the socket runs or the socket has
        used up its part of the turn"""
        self.is_reading_paused = False
        self.worker_queue: Final = worker_queue
        self.state: i64 = OPENING
        self.unhandled_bytes: i64 = 0
        """cost of the messages read whose handlers have not ended (inline: of those in the inbox)"""
        # Subscriptions, oldest first: `first_channel`, then those of `more_channels`. Most sockets have one or none: a
        # dict (232 bytes) is made for the second, and dropped with the last but one.
        self.first_channel: ChannelFrames | None = None
        self.first_member_index: i64 = 0
        self.more_channels: dict[ChannelFrames, int] | None = None
        self.outbox: Outbox | None = None
        """the frames that wait because the transport is full or the 101 response is not out yet"""
        self.pending_close: tuple[int, str, int, str] | None = None
        """code and reason to send, code and reason to report, once the messages read before have been handled: the
        peer has closed or broke the protocol"""
        # Since the last flush (see outgoing.py).
        self.flush_mark: i64 = 0
        self.only_channel_index: i64 = NO_INDEX
        self.direct_numbers: list[int] | None = None
        """numbers of the frames that were sent to this socket alone"""
        self.direct_bytes: i64 = 0
        self.number_ranges: dict[ChannelFrames, list[int]] | None = None
        """``[from, to, …]`` for each channel of which this socket gets only the frames with such numbers"""
        # The slot of the timer wheel, and the index within it.
        self.timer_slot: i64 = NO_INDEX
        self.timer_index: i64 = 0

    def is_member(self, channel: ChannelFrames) -> bool:
        """Returns whether this socket is subscribed to a channel."""
        if self.first_channel is channel:
            return True
        more = self.more_channels
        return more is not None and channel in more

    def channel_count(self) -> i64:
        """Returns how many channels this socket is subscribed to."""
        more = self.more_channels
        return (0 if self.first_channel is None else 1) + (0 if more is None else len(more))

    def channel_list(self) -> list[ChannelFrames]:
        """Returns the channels that this socket is subscribed to, oldest subscription first, as a new list."""
        first = self.first_channel
        found: list[ChannelFrames] = []
        if first is not None:
            found.append(first)
        more = self.more_channels
        if more is not None:
            found.extend(more)
        return found

    def set_member_index(self, channel: ChannelFrames, index: i64) -> None:
        """Stores the index of this socket in a channel's member list; called by the channel when that index changes."""
        more = self.more_channels
        if self.first_channel is channel:
            self.first_member_index = index
        elif more is not None and channel in more:  # the socket moves within the list of members
            more[channel] = int(index)
        elif self.first_channel is None and more is None:
            self.first_channel = channel
            self.first_member_index = index
        else:
            if more is None:
                more = {}
                self.more_channels = more
            more[channel] = int(index)

    def get_member_index(self, channel: ChannelFrames) -> i64:
        """Returns the index of this socket in a channel's member list; NO_INDEX if the socket is no member."""
        if self.first_channel is channel:
            return self.first_member_index
        more = self.more_channels
        if more is None:
            return NO_INDEX
        index = more.get(channel)
        if index is None:
            return NO_INDEX
        return i64(index)

    def clear_member_index(self, channel: ChannelFrames) -> None:
        """Forgets the index of this socket in a channel's member list; called by the channel when the socket leaves."""
        more = self.more_channels
        if self.first_channel is channel:
            self.first_channel = None
        elif more is not None:
            more.pop(channel, None)
        if more is None:
            return
        if not more:
            self.more_channels = None
        elif len(more) == 1 and self.first_channel is None:
            # No dict for a single subscription: 232 bytes for each socket that has changed its channel.
            for last, index in more.items():
                self.first_channel = last
                self.first_member_index = index
            self.more_channels = None

    # Overridden by `Connection`.

    def write(self, data: bytes) -> None:
        """Hands whole frames to the transport; may set `is_blocked`, must not raise."""
        raise NotImplementedError

    def transport_bytes(self) -> int:
        """Returns the number of bytes in the transport's own write buffer."""
        return 0

    def on_close_written(self) -> None:
        """Does nothing here. Called when the Close frame has been handed to `write`; possibly more than once.

        `Connection` starts the time for the peer's Close frame.
        """

    def pause_reading(self) -> None:
        """Does nothing here. Called when the inbox is full: `Connection` pauses reading until `resume_reading`."""

    def resume_reading(self) -> None:
        """Does nothing here. Called when the inbox has room again: `Connection` resumes reading from the client."""

    def on_close_queued(self) -> None:
        """Does nothing here. Called when a Close frame is queued; `Connection` starts `close_timeout`."""

    def on_overflow(self) -> None:
        """Does nothing here. Called when a Close frame has replaced the waiting frames (`Connection.on_overflow`)."""

    def abort(self) -> None:
        """Does nothing here. `Connection` drops the connection without a Close frame, and the bytes in its buffer."""
