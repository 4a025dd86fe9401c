"""Decides which socket gets which frames, writes them in order, and applies the queue limit and policy to slow sockets.

The promise: each socket receives everything in the order in which the broker applied it, across its channels and
direct sends. How it is kept while publishing stays O(1):

* Every frame of a turn has a number, its index in `frames`. A *source* is a list of numbers: what was published on
  one channel, or sent to one socket. A channel is *dirty* while it has frames since the last flush.
* A socket with one dirty source gets the joined bytes that all others with that source get. A socket with several
  gets the sources merged by number; sockets with the same set of channels share the merged bytes.
* A socket that joined or left a dirty channel within the turn has *ranges* of numbers for that channel,
  ``[from, to, from, to, …]``, kept on the socket and so found even after it left. `exclude` is a hole in the range.
* A Close frame is sent to one socket, which has left all its channels and gets nothing more.
* When a batch reaches its cap the whole turn is flushed, never one channel alone.

While a flush runs nothing here changes: transports may call `pause_writing` from inside a write, which only marks the
socket as blocked; sockets over their limit are collected in `overflowed_sockets` for the broker to act on afterwards.

Frames for sockets whose transport is full wait in outboxes (`wsbroker.broker.outbox`). An outbox is held to its limit
where the client is slow: in the turn in which a transport first refuses bytes, all that waits comes from this turn, and
FIRST_TURN_FACTOR times the limit may wait. All outboxes together have a limit too.

Past 500 lines: the flush and the outboxes of blocked sockets call each other once per frame.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.channel import Channel
from wsbroker.broker.channel_frames import ChannelFrames
from wsbroker.broker.limits import (
    BATCH_BYTES,
    DISCONNECT,
    DROP_OLD,
    FIRST_TURN_FACTOR,
    FRAME_OVERHEAD_BYTES,
    MAX_SKIPPED_MEMORY_CHECKS,
    SHED_HEADROOM_DIVISOR,
    TRANSIENT_REFERENCES,
    TURN_BYTES,
    Counters,
    Limits,
)
from wsbroker.broker.outbox import Outbox
from wsbroker.broker.socket import CLOSED, CLOSING, NO_INDEX, OPEN_END, Socket

MAX_CACHED_CHANNELS: Final = 8
"""Largest number of channels whose merged frames are kept for other sockets with the same channels; larger sets of
channels rarely repeat."""


@final
class MergedFrames:
    """The frames of this turn for sockets with the same several channels, in order, and joined in one piece."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frames: Final = frames
        self.joined: Final = b"".join(frames)


@final
class Outgoing:
    """The frames queued since the last flush, the flush that writes them, and the outboxes of all sockets."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self.limits: Final = limits
        self.counters: Final = counters
        self.frames: list[bytes] = []
        self.turn_bytes: i64 = 0
        self.dirty_channels: list[Channel] = []
        """Channels with frames in this turn; `Channel.dirty_index` is the index in this list."""
        self.dirty_sockets: list[Socket] = []
        """Sockets that were sent frames alone, or get only some frames of a channel (`Socket.number_ranges`), since the
        last flush: the flush collects the frames of each separately."""
        self.overflowed_sockets: list[Socket] = []
        """Sockets whose outbox went over its limit in this flush: the broker closes them after the flush."""
        self.shed_sockets: list[Socket] = []
        """Sockets whose outbox was emptied because too much waited for all: the broker closes them after the flush."""
        self.waiting_sockets: dict[int, Socket] = {}
        """Sockets that have an outbox, by id."""
        self.waiting_bytes: i64 = 0
        """Cost of all outboxes and of the transports' buffers below them; a shared frame counts once per socket."""
        self.next_check_bytes: i64 = 0
        """Value of `waiting_bytes` at which the real memory is measured again; 0: as soon as the limit is passed."""
        self.skipped_checks: i64 = 0
        """Flushes over the limit since the real memory was last measured."""
        self.data_in_write: bytes = b""
        """The bytes being handed to transports; a transport that becomes full keeps this object."""
        self.peak_waiting_bytes: i64 = 0
        """The largest `waiting_bytes` since `server/node.py` last reset this attribute."""
        self.loop_turn: i64 = 0
        """Grows when a turn has ended; one turn may be flushed several times."""
        self.emptied_channels: list[Channel] = []
        """Channels that were dirty and have no member left: the broker drops them after the flush."""
        self.flush_number: i64 = 0
        self.is_flushing = False
        self.merge_cache: dict[tuple[int, ...], MergedFrames] = {}

    # Filling the turn. ------------------------------------------------------------------------------------------

    def send_frame(self, socket: Socket, frame: bytes) -> None:
        """Queues an encoded frame for one socket; flushes at once if BATCH_BYTES or TURN_BYTES are reached. O(1)."""
        frames = self.frames
        number = len(frames)
        frames.append(frame)
        size: i64 = len(frame)
        direct = socket.direct_numbers
        if direct is None:
            socket.direct_numbers = [number]
            if not socket.is_dirty:
                socket.is_dirty = True
                self.dirty_sockets.append(socket)
        else:
            direct.append(number)
        socket.direct_bytes += size
        self.turn_bytes += size + FRAME_OVERHEAD_BYTES
        if socket.direct_bytes >= BATCH_BYTES or self.turn_bytes >= TURN_BYTES:
            self.flush()

    def publish_frame(self, channel: Channel, frame: bytes, excluded: list[Socket] | None) -> None:
        """Queues an encoded frame for the present members of a channel, without the excluded sockets. O(1 + excluded).

        Flushes at once if BATCH_BYTES or TURN_BYTES are reached.
        """
        frames = self.frames
        number = len(frames)
        frames.append(frame)
        if channel.dirty_index == NO_INDEX:
            channel.dirty_index = len(self.dirty_channels)
            self.dirty_channels.append(channel)
        channel.frame_numbers.append(number)
        size: i64 = len(frame)
        channel.batch_bytes += size
        self.turn_bytes += size + FRAME_OVERHEAD_BYTES
        if excluded is not None:
            for socket in excluded:
                if socket.is_member(channel):
                    ranges = self._ensure_number_ranges(socket, channel, True)
                    if ranges[-2] == number:
                        ranges[-2] = number + 1  # excluded again right behind its last hole
                    else:
                        ranges[-1] = number
                        ranges.append(number + 1)
                        ranges.append(OPEN_END)
        if channel.batch_bytes >= BATCH_BYTES or self.turn_bytes >= TURN_BYTES:
            self.flush()

    def record_join(self, socket: Socket, channel: Channel) -> None:
        """Notes from which frame on a socket that just joined a channel gets the channel's frames in the next flush.

        Called right after the joining. Does nothing if no frames of the channel wait for a flush.
        """
        if channel.dirty_index != NO_INDEX:
            ranges = self._ensure_number_ranges(socket, channel, False)
            ranges.append(len(self.frames))
            ranges.append(OPEN_END)

    def record_leave(self, socket: Socket, channel: Channel) -> None:
        """Notes up to which frame a socket that leaves a channel gets the channel's frames in the next flush.

        Called right before the leaving. Does nothing if no frames of the channel wait for a flush.
        """
        if channel.dirty_index != NO_INDEX:
            self._ensure_number_ranges(socket, channel, True)[-1] = len(self.frames)

    def _ensure_number_ranges(self, socket: Socket, channel: ChannelFrames, was_member: bool) -> list[int]:
        """Returns which of a channel's frames a socket gets in the next flush, as a list; makes the list if missing.

        Called when the socket joins or leaves the channel, or is excluded from a publication: without such a list a
        member gets all frames of the channel. The caller changes the list.

        Args:
            channel: has frames that wait for the flush.
            was_member: whether the socket was a member before the first of these frames; a new list then begins with
                all frames, else it is empty.

        Returns:
            ranges of frame numbers ``[from, to, from, to, …]``, each `to` excluded.
        """
        by_channel = socket.number_ranges
        if by_channel is None:
            by_channel = {}
            socket.number_ranges = by_channel
            if not socket.is_dirty:
                socket.is_dirty = True
                self.dirty_sockets.append(socket)
        ranges = by_channel.get(channel)
        if ranges is None:
            ranges = [0, OPEN_END] if was_member else []
            by_channel[channel] = ranges
        return ranges

    # Flushing. --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Writes all queued frames to their sockets, with one write per socket that gets any. O(deliveries).

        Called by `Broker.flush`, and earlier when BATCH_BYTES or TURN_BYTES are reached; ignored inside a flush.
        """
        if self.is_flushing or not self.frames:
            return
        self.is_flushing = True
        channels = self.dirty_channels
        sockets = self.dirty_sockets
        self.flush_number += 1
        try:
            if len(channels) == 1 and not sockets:
                self._fan_out_channel(channels[0])
            else:
                self._flush_mixed(channels, sockets)
        finally:  # after any error (no memory) the next turns must still be flushed
            self._clear_flushed_frames(channels, sockets)
            self.is_flushing = False
        if self.waiting_bytes > self.limits.max_waiting_bytes:
            self._check_total_memory()
        elif self.next_check_bytes:
            self.next_check_bytes = 0

    def _clear_flushed_frames(self, channels: list[Channel], sockets: list[Socket]) -> None:
        """Clears the frames of a flush, and what its channels and sockets have noted about them; called at its end.

        Channels without a member go to `emptied_channels`.

        Args:
            channels: the channels that had frames in the flush.
            sockets: the sockets of `dirty_sockets` in the flush.
        """
        for channel in channels:
            channel.dirty_index = NO_INDEX
            channel.frame_numbers = []
            channel.batch_bytes = 0
            channel.turn_frames = None
            channel.joined_frames = b""
            if channel.member_count == 0:
                self.emptied_channels.append(channel)
        for socket in sockets:
            socket.is_dirty = False
            socket.direct_numbers = None
            socket.direct_bytes = 0
            socket.number_ranges = None
        self.frames = []
        self.turn_bytes = 0
        self.data_in_write = b""
        self.dirty_channels = []
        self.dirty_sockets = []
        if self.merge_cache:
            self.merge_cache = {}

    def _fan_out_channel(self, channel: Channel) -> None:
        """Writes or queues a channel's frames for all its members; called by `flush` when no other frames are queued.

        For a member whose transport is full the frames are queued in its outbox.
        """
        # The hot loop of the whole project: 1,000 subscribers are 1,000 turns of it (benchmarks: fan-out).
        frames = self._join_channel_frames(channel)
        data = channel.joined_frames
        self.data_in_write = data
        for socket in channel.members:
            if socket is not None:
                if socket.is_blocked:
                    self._queue_in_outbox(socket, frames)
                else:
                    socket.write(data)

    def _flush_mixed(self, channels: list[Channel], sockets: list[Socket]) -> None:
        """Writes or queues the frames of several channels or single sockets: each socket gets all its frames in order.

        Called by `flush` unless a single channel has all frames.

        Args:
            channels: all channels that have frames in this flush.
            sockets: the sockets of `dirty_sockets`, whose frames are not simply all those of their channels.
        """
        flush_number = self.flush_number
        for socket in sockets:
            socket.flush_mark = flush_number
        largest = _find_largest_channel(channels)
        # Finds the sockets with several sources: walks all channels but the largest, whose members are found by mark.
        touched: list[Socket] = []
        for channel in channels:
            if channel is largest:
                continue
            index = channel.dirty_index
            shared = self._join_channel_frames(channel)
            data = channel.joined_frames
            for member in channel.members:
                if member is None:
                    continue
                if member.flush_mark != flush_number:
                    if member.more_channels is None:  # its only channel: 50 ns instead of 100 (benchmarks: scaling)
                        self._write_or_queue(member, shared, data)
                        continue
                    member.flush_mark = flush_number
                    member.only_channel_index = index
                    touched.append(member)
                else:
                    member.only_channel_index = NO_INDEX
        for socket in touched:
            if socket.only_channel_index == NO_INDEX or (largest is not None and socket.is_member(largest)):
                self._deliver_to_socket(socket)
            else:
                only = channels[socket.only_channel_index]
                self._write_or_queue(socket, self._join_channel_frames(only), only.joined_frames)
        for socket in sockets:
            self._deliver_to_socket(socket)
        if largest is not None and largest.member_count > 0:
            shared = self._join_channel_frames(largest)
            data = largest.joined_frames
            for member in largest.members:
                if member is not None and member.flush_mark != flush_number:
                    self._write_or_queue(member, shared, data)

    def _join_channel_frames(self, channel: ChannelFrames) -> list[bytes]:
        """Returns the frames that a channel has in this flush, and stores them joined in `channel.joined_frames`.

        Joins at the first call in a flush; further calls return the same list.
        """
        frames = channel.turn_frames
        if frames is None:
            every = self.frames
            frames = [every[number] for number in channel.frame_numbers]
            channel.turn_frames = frames
            channel.joined_frames = frames[0] if len(frames) == 1 else b"".join(frames)
        return frames

    def _deliver_to_socket(self, socket: Socket) -> None:
        """Writes or queues all frames that one socket gets in this flush, of several channels or sent alone, in order.

        Called by `_flush_mixed`. Does nothing for a socket that is closed or gets no frames.
        """
        if socket.state == CLOSED:
            return
        whole = self._find_whole_channels(socket)
        if socket.direct_numbers is not None or socket.number_ranges is not None:
            self._deliver_individually(socket, whole)
        elif len(whole) == 1:
            only = whole[0]
            self._write_or_queue(socket, self._join_channel_frames(only), only.joined_frames)
        elif whole:
            merge = self._merge_channel_frames(whole)
            self._write_or_queue(socket, merge.frames, merge.joined)

    def _deliver_individually(self, socket: Socket, whole: list[ChannelFrames]) -> None:
        """Writes or queues the frames of this flush for a socket that does not simply get all frames of its channels.

        Such a socket was sent frames alone, joined or left a channel, or was excluded from a publication since the last
        flush. Called by `_deliver_to_socket`. Reports a written Close frame to the socket (`on_close_written`).

        Args:
            whole: the channels of which the socket gets all frames (`_find_whole_channels`).
        """
        numbers: list[int] = []
        direct = socket.direct_numbers
        if direct is not None:
            numbers.extend(direct)
        ranges = socket.number_ranges
        if ranges is not None:
            for channel, channel_ranges in ranges.items():
                _extend_within_ranges(numbers, channel.frame_numbers, channel_ranges)
        for channel in whole:
            numbers.extend(channel.frame_numbers)
        if not numbers:
            return
        if whole or ranges is not None:
            numbers.sort()  # of ascending runs: Timsort merges them
        every = self.frames
        frames = [every[number] for number in numbers]
        self._write_or_queue(socket, frames, frames[0] if len(frames) == 1 else b"".join(frames))
        if socket.state == CLOSING and not socket.is_blocked:
            socket.on_close_written()

    def _find_whole_channels(self, socket: Socket) -> list[ChannelFrames]:
        """Returns the channels with frames in this flush of which a socket gets every frame.

        Left out are the channels that have a list in `socket.number_ranges`, of which the socket gets only some frames.
        O(subscriptions of the socket) or O(channels with frames), whichever are fewer.
        """
        whole: list[ChannelFrames] = []
        ranges = socket.number_ranges
        more = socket.more_channels
        if more is None or len(more) < len(self.dirty_channels):
            first = socket.first_channel
            if first is not None and first.dirty_index != NO_INDEX and (ranges is None or first not in ranges):
                whole.append(first)
            if more is not None:
                for channel in more:
                    if channel.dirty_index != NO_INDEX and (ranges is None or channel not in ranges):
                        whole.append(channel)
        else:
            for channel in self.dirty_channels:
                if socket.is_member(channel) and (ranges is None or channel not in ranges):
                    whole.append(channel)
        return whole

    def _merge_channel_frames(self, channels: list[ChannelFrames]) -> MergedFrames:
        """Returns the frames that several channels have in this flush, as one list in the order of sending, and joined.

        Sockets with the same channels (up to MAX_CACHED_CHANNELS) get the same object until the flush ends.
        """
        # The key has the order of joining: sorting the key would cost more than an occasional second merge.
        key: tuple[int, ...] = ()
        if len(channels) == 2:  # the usual case; 100 ns less than below
            key = (int(channels[0].dirty_index), int(channels[1].dirty_index))
        elif len(channels) <= MAX_CACHED_CHANNELS:
            key = tuple([int(channel.dirty_index) for channel in channels])
        if key:
            known = self.merge_cache.get(key)
            if known is not None:
                return known
        numbers: list[int] = []
        for channel in channels:
            numbers.extend(channel.frame_numbers)
        numbers.sort()
        every = self.frames
        merge = MergedFrames([every[number] for number in numbers])
        if key:
            self.merge_cache[key] = merge
        return merge

    # One socket. ------------------------------------------------------------------------------------------------

    def _write_or_queue(self, socket: Socket, frames: list[bytes], data: bytes) -> None:
        """Writes frames to a socket's transport or, while that is full, queues them in the socket's outbox.

        Args:
            frames: the frames to queue.
            data: the same frames joined, to write.
        """
        if socket.is_blocked:
            self._queue_in_outbox(socket, frames)
        else:
            self.data_in_write = data
            socket.write(data)

    def _queue_in_outbox(self, socket: Socket, frames: list[bytes]) -> None:
        """Queues whole frames for a blocked socket; over the limit drops frames or notes the socket to be closed.

        The limit is `max_queue_bytes` (`_make_room_for_frame`); a control frame always fits. DISCONNECT: the socket
        goes to `overflowed_sockets`, which the broker closes after the flush. DROP_NEW and DROP_OLD: the dropped frames
        are counted.

        Nothing is queued for a CLOSED socket. An outbox that was emptied to save memory takes only a Close frame.
        """
        if socket.state == CLOSED:
            return
        outbox = socket.outbox
        if outbox is None:
            outbox = self._open_outbox(socket)
        elif outbox.is_shed:
            self._keep_only_close_frame(socket, outbox, frames)
            return
        self._update_transport_bytes(outbox, socket.transport_bytes())
        is_first_turn = outbox.opened_in_turn == self.loop_turn or not socket.is_accepted
        before = outbox.cost_bytes
        for frame in frames:
            cost: i64 = len(frame) + FRAME_OVERHEAD_BYTES
            if self._make_room_for_frame(outbox, frame, cost, is_first_turn):
                outbox.frames.append(frame)
                outbox.cost_bytes += cost
            elif self.limits.slow_consumer == DISCONNECT:
                if socket.state == CLOSING:  # the last frame is a Close frame, which is never dropped
                    close = frames[-1]
                    outbox.frames.append(close)
                    outbox.cost_bytes += len(close) + FRAME_OVERHEAD_BYTES
                self.overflowed_sockets.append(socket)
                break
            else:
                self.counters.frames_dropped += 1
        self._add_waiting_bytes(outbox.cost_bytes - before)

    def _make_room_for_frame(self, outbox: Outbox, frame: bytes, cost: i64, is_first_turn: bool) -> bool:
        """Returns whether a new frame may wait in an outbox; with DROP_OLD first drops old frames to make it fit.

        The limit is `max_queue_bytes`; in the first turn FIRST_TURN_FACTOR times that and one frame beyond, and with
        DISCONNECT what waited then is still allowed later. If nothing waits, any frame may. A control frame always may,
        and DROP_OLD drops none.

        Args:
            outbox: the caller appends the frame to it.
            cost: bytes of the frame, with FRAME_OVERHEAD_BYTES.
            is_first_turn: whether the transport refused nothing before this turn. The bytes in the transport come from
                this turn then and are not counted.
        """
        limit: i64 = self.limits.max_queue_bytes
        waiting = outbox.cost_bytes
        if is_first_turn:
            limit *= FIRST_TURN_FACTOR
            if waiting <= limit or _is_control_frame(frame):
                outbox.allowed_bytes = waiting + cost + outbox.transport_bytes
                return True
        else:
            waiting += outbox.transport_bytes
            if outbox.allowed_bytes > limit and self.limits.slow_consumer == DISCONNECT:
                limit = outbox.allowed_bytes
            if waiting == 0 or waiting + cost <= limit:
                outbox.allowed_bytes = waiting + cost
                return True
            if _is_control_frame(frame):
                return True
        if self.limits.slow_consumer == DROP_OLD:
            kept: list[bytes] = []
            frames = outbox.frames
            while frames and waiting + cost > limit:
                oldest = frames.popleft()
                if _is_control_frame(oldest):
                    kept.append(oldest)
                    continue
                dropped: i64 = len(oldest) + FRAME_OVERHEAD_BYTES
                outbox.cost_bytes -= dropped
                waiting -= dropped
                self.counters.frames_dropped += 1
            frames.extendleft(reversed(kept))
            return waiting == 0 or waiting + cost <= limit
        return False

    def _keep_only_close_frame(self, socket: Socket, outbox: Outbox, frames: list[bytes]) -> None:
        """Drops new frames for a socket whose outbox was emptied to save memory, except for a Close frame.

        Called by `_queue_in_outbox`. A closing socket's Close frame is the last of its frames and replaces the frames
        that wait, unless the connection is to be aborted.
        """
        if socket.state == CLOSING:
            self._replace_frames(outbox, frames[-1])

    def prepend_to_outbox(self, socket: Socket, data: bytes) -> None:
        """Puts the 101 response in front of a socket's waiting frames; called when an upgrade is accepted."""
        outbox = socket.outbox
        if outbox is None:
            outbox = self._open_outbox(socket)
        outbox.opened_in_turn = self.loop_turn  # the transport has refused nothing so far
        outbox.frames.appendleft(data)
        cost: i64 = len(data) + FRAME_OVERHEAD_BYTES
        outbox.cost_bytes += cost
        self._add_waiting_bytes(cost)

    def mark_blocked(self, socket: Socket) -> None:
        """Marks a socket as blocked: all its frames wait in its outbox until `drain_outbox`.

        Called when the transport is full (`pause_writing`), possibly from inside a write of the flush.
        """
        socket.is_blocked = True
        if socket.state == CLOSED:
            return
        outbox = socket.outbox
        if outbox is None:
            outbox = self._open_outbox(socket)
        outbox.refused_data = self.data_in_write if self.data_in_write else None  # b"" is one object for all
        self._update_transport_bytes(outbox, socket.transport_bytes())

    def drain_outbox(self, socket: Socket) -> None:
        """Writes a socket's waiting frames in pieces until the transport is full again; called when it has room.

        Drops the outbox once it is empty, and reports a written Close frame to the socket (`on_close_written`).
        """
        socket.is_blocked = False
        outbox = socket.outbox
        if outbox is not None:
            self._update_transport_bytes(outbox, 0)
            frames = outbox.frames
            while frames and not socket.is_blocked:
                piece: list[bytes] = []
                size: i64 = 0
                while frames and size < BATCH_BYTES:
                    frame = frames.popleft()
                    piece.append(frame)
                    size += len(frame)
                size += len(piece) * FRAME_OVERHEAD_BYTES
                outbox.cost_bytes -= size
                self.waiting_bytes -= size
                self.data_in_write = piece[0] if len(piece) == 1 else b"".join(piece)
                socket.write(self.data_in_write)
            self.data_in_write = b""
            if frames:
                return
            if not socket.is_blocked:
                self.drop_outbox(socket)
        if socket.state == CLOSING and socket.direct_numbers is None and not socket.is_blocked:
            socket.on_close_written()

    def replace_waiting_frames(self, socket: Socket, frame: bytes) -> None:
        """Replaces all frames that wait for a socket by one encoded Close frame."""
        outbox = socket.outbox
        if outbox is None:
            outbox = self._open_outbox(socket)
        self._replace_frames(outbox, frame)

    def drop_outbox(self, socket: Socket) -> None:
        """Drops the outbox of a socket with all frames in it, if the socket has one."""
        outbox = socket.outbox
        if outbox is not None:
            self.waiting_bytes -= outbox.cost_bytes + outbox.transport_bytes
            socket.outbox = None
            self.waiting_sockets.pop(socket.id, None)

    def _open_outbox(self, socket: Socket) -> Outbox:
        """Makes an empty outbox for a socket that has none, and returns it."""
        outbox = Outbox(self.loop_turn)
        socket.outbox = outbox
        self.waiting_sockets[socket.id] = socket
        return outbox

    def _replace_frames(self, outbox: Outbox, frame: bytes) -> None:
        """Replaces an outbox's frames by an encoded Close frame; does nothing if the connection is to be aborted."""
        if outbox.is_abort_due:
            return
        outbox.frames.clear()
        outbox.frames.append(frame)
        before = outbox.cost_bytes
        outbox.cost_bytes = len(frame) + FRAME_OVERHEAD_BYTES
        self._add_waiting_bytes(outbox.cost_bytes - before)

    def _update_transport_bytes(self, outbox: Outbox, size: i64) -> None:
        """Stores in an outbox how many bytes the transport's buffer holds, and adds the change to `waiting_bytes`."""
        if size != outbox.transport_bytes:
            self._add_waiting_bytes(size - outbox.transport_bytes)
            outbox.transport_bytes = size

    def _add_waiting_bytes(self, change: i64) -> None:
        """Adds a change (possibly negative) to `waiting_bytes`, and updates the peak."""
        self.waiting_bytes += change
        if self.waiting_bytes > self.peak_waiting_bytes:
            self.peak_waiting_bytes = self.waiting_bytes

    # All sockets. -----------------------------------------------------------------------------------------------

    def _check_total_memory(self) -> None:
        """Measures the memory of all outboxes and empties the largest ones if that is over `max_waiting_bytes`.

        Called after each flush while `waiting_bytes`, which counts shared frames once per socket, is over the limit;
        most of these calls return at once (MAX_SKIPPED_MEMORY_CHECKS).
        """
        limit: i64 = self.limits.max_waiting_bytes
        step = limit // SHED_HEADROOM_DIVISOR
        self.skipped_checks += 1
        if self.waiting_bytes < self.next_check_bytes and self.skipped_checks < MAX_SKIPPED_MEMORY_CHECKS:
            if self.waiting_bytes + step < self.next_check_bytes:
                self.next_check_bytes = self.waiting_bytes + step
            return
        self.skipped_checks = 0
        self._empty_largest_outboxes(limit, limit - step)
        self.next_check_bytes = self.waiting_bytes + step

    def _empty_largest_outboxes(self, limit_bytes: i64, goal_bytes: i64) -> None:
        """Empties the largest outboxes until all together take at most `goal_bytes`; does nothing up to `limit_bytes`.

        A publication that waits for a thousand sockets is in memory once: each socket counts a thousandth of it. The
        memory is free at once; the broker closes the sockets afterwards (`shed_sockets`). A connection that is closing
        already, or whose transport holds much, is to be aborted, because a Close frame would free nothing. O(frames
        that wait).
        """
        baseline = _measure_baseline_references()
        total: i64 = 0
        sizes: list[tuple[int, int]] = []
        for socket in self.waiting_sockets.values():
            outbox = socket.outbox
            if outbox is not None:
                self._update_transport_bytes(outbox, socket.transport_bytes())
                size = _measure_outbox_memory(outbox, baseline)
                total += size
                sizes.append((int(size), socket.id))
        if total <= limit_bytes:
            return
        sizes.sort(reverse=True)
        for outbox_bytes, socket_id in sizes:
            if total <= goal_bytes:
                return
            total -= i64(outbox_bytes)
            socket = self.waiting_sockets[socket_id]
            outbox = socket.outbox
            if outbox is not None:
                self._empty_outbox(socket, outbox)

    def _empty_outbox(self, socket: Socket, outbox: Outbox) -> None:
        """Empties an outbox, except for a Close frame, to save memory; the broker then closes or aborts the socket.

        The connection is to be aborted (`is_abort_due`) if the outbox was emptied before, if the transport holds more
        than BATCH_BYTES, or if the socket is closing and its Close frame is not in the outbox.
        """
        close = outbox.frames[-1] if outbox.frames and socket.state == CLOSING else b""
        must_abort = outbox.is_shed or outbox.transport_bytes > BATCH_BYTES or (socket.state == CLOSING and not close)
        outbox.is_shed = True
        self.shed_sockets.append(socket)
        self.waiting_bytes -= outbox.cost_bytes
        outbox.cost_bytes = 0
        outbox.frames.clear()
        if must_abort:
            outbox.is_abort_due = True
            self._update_transport_bytes(outbox, 0)
            self.waiting_sockets.pop(socket.id, None)
        elif close:
            self._replace_frames(outbox, close)


def _measure_baseline_references() -> i64:
    """Measures what `getrefcount` gives for a frame that waits in one outbox only, and returns that number.

    The compiled and the interpreted build have different counts. Called before the memory of outboxes is measured.
    """
    outbox = Outbox(0)
    outbox.frames.append(b"\x00" * FRAME_OVERHEAD_BYTES)
    for frame in outbox.frames:
        return i64(getrefcount(frame))
    return 1


def _measure_outbox_memory(outbox: Outbox, baseline: i64) -> i64:
    """Returns the bytes of memory that an outbox takes; a frame that waits in n outboxes counts about one n-th.

    The bytes in the transport's buffer are included, divided likewise. O(frames that wait).

    Args:
        baseline: from `_measure_baseline_references`: references to a frame that no other outbox has.
    """
    share: i64 = 0
    for frame in outbox.frames:
        holders = i64(getrefcount(frame)) - baseline + 1 - TRANSIENT_REFERENCES
        cost: i64 = len(frame)
        share += FRAME_OVERHEAD_BYTES + (cost // holders if holders > 1 else cost)
    transport_share = outbox.transport_bytes
    unsent = outbox.refused_data
    if unsent is not None and transport_share > 0:
        # Two references for each socket: one of the outbox, one of the transport.
        holders = (i64(getrefcount(unsent)) - baseline + 1 - TRANSIENT_REFERENCES) // 2
        if holders > 1:
            transport_share //= holders
    share += transport_share
    return share


def _find_largest_channel(channels: list[Channel]) -> Channel | None:
    """Returns the channel with the most members; None of an empty list."""
    found: Channel | None = None
    for channel in channels:
        if found is None or channel.member_count > found.member_count:
            found = channel
    return found


def _extend_within_ranges(numbers: list[int], source: list[int], ranges: list[int]) -> None:
    """Appends to `numbers` those frame numbers of `source` that lie in one of the ranges.

    Args:
        numbers: the list to extend.
        source: frame numbers, ascending.
        ranges: ``[from, to, from, to, …]``, ascending; `to` is not included.
    """
    at: i64 = 0
    size: i64 = len(ranges)
    for number in source:
        while at < size and number >= ranges[at + 1]:
            at += 2
        if at >= size:
            return
        if number >= ranges[at]:
            numbers.append(number)


def _is_control_frame(frame: bytes) -> bool:
    """Returns whether an encoded frame is a control frame: close, ping or pong (RFC 6455 section 5.5)."""
    return frame[0] & 0x08 != 0
