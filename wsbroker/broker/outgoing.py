"""The frames of a turn and their flush: encoded once, joined once per channel, one write per socket, in order.

The promise: each socket receives everything in the order in which the broker applied it, across its channels and
direct sends. How it is kept while publishing stays O(1):

* Every frame of a turn has a number, its index in `frames`. A *source* is a list of numbers: what was published on
  one channel, or sent to one socket.
* A socket with one dirty source gets the joined bytes that all others with that source get. A socket with several
  gets the sources merged by number; sockets with the same set of channels share the merged bytes.
* Who joined or left a dirty channel within the turn has *ranges* of numbers for it, ``[from, to, from, to, …]``, kept
  on the socket and so found even after it left. `exclude` is a hole in the range.
* A Close frame is a direct frame after which the socket, out of all channels, gets nothing more.
* When a batch reaches its cap the whole turn is flushed, never one channel alone.

While a flush runs nothing here changes: transports may call `pause_writing` from inside a write, which only sets
`is_blocked`; sockets over their limit are collected in `overflowing` for the owner to act on afterwards.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.channel import Channel
from wsbroker.broker.limits import BATCH_BYTES, DISCONNECT, DROP_OLD, TURN_BYTES, Counters, Limits
from wsbroker.broker.socket import CLOSING, GONE, NOWHERE, OPEN_END, Socket

CACHED_SOURCES: Final = 8
"""Merges of up to this many channels are kept for other sockets with the same set; larger sets rarely repeat."""


@final
class Merge:
    """What sockets with the same several channels get in this turn."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frames: Final = frames
        self.joined: Final = b"".join(frames)


@final
class Outgoing:
    """What is on its way out in this turn."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self.limits: Final = limits
        self.counters: Final = counters
        self.frames: list[bytes] = []
        self.turn_bytes: i64 = 0
        self.channels: list[Channel] = []
        """Channels with frames in this turn."""
        self.sockets: list[Socket] = []
        """Sockets with direct frames or ranges in this turn: each is looked at on its own."""
        self.overflowing: list[Socket] = []
        self.emptied: list[Channel] = []
        """Channels that were dirty and have no member left: the owner drops them after the flush."""
        self.turn: i64 = 0
        self.is_flushing = False
        self.merges: dict[tuple[int, ...], Merge] = {}

    # Filling the turn. ------------------------------------------------------------------------------------------

    def send(self, socket: Socket, frame: bytes) -> None:
        """Queues a frame for one socket. O(1)."""
        frames = self.frames
        number = len(frames)
        frames.append(frame)
        size: i64 = len(frame)
        direct = socket.direct
        if direct is None:
            socket.direct = [number]
            if not socket.is_listed:
                socket.is_listed = True
                self.sockets.append(socket)
        else:
            direct.append(number)
        socket.direct_bytes += size
        self.turn_bytes += size
        if socket.direct_bytes >= BATCH_BYTES or self.turn_bytes >= TURN_BYTES:
            self.flush()

    def publish(self, channel: Channel, frame: bytes, excluded: list[Socket] | None) -> None:
        """Queues a frame for the channel's members as they are now, less the excluded ones. O(1 + excluded)."""
        frames = self.frames
        number = len(frames)
        frames.append(frame)
        if channel.index == NOWHERE:
            channel.index = len(self.channels)
            self.channels.append(channel)
        channel.numbers.append(number)
        size: i64 = len(frame)
        channel.batch_bytes += size
        self.turn_bytes += size
        if excluded is not None:
            for socket in excluded:
                if socket.is_member(channel):
                    ranges = self._ranges(socket, channel, True)
                    if ranges[-2] == number:
                        ranges[-2] = number + 1  # excluded again right behind its last hole
                    else:
                        ranges[-1] = number
                        ranges.append(number + 1)
                        ranges.append(OPEN_END)
        if channel.batch_bytes >= BATCH_BYTES or self.turn_bytes >= TURN_BYTES:
            self.flush()

    def joined(self, socket: Socket, channel: Channel) -> None:
        """The socket has just become a member: it gets what is published from now on."""
        if channel.index != NOWHERE:
            ranges = self._ranges(socket, channel, False)
            ranges.append(len(self.frames))
            ranges.append(OPEN_END)

    def left(self, socket: Socket, channel: Channel) -> None:
        """The socket has just ceased to be a member: it keeps what was published until now."""
        if channel.index != NOWHERE:
            self._ranges(socket, channel, True)[-1] = len(self.frames)

    def _ranges(self, socket: Socket, channel: Channel, is_member: bool) -> list[int]:
        by_channel = socket.ranges
        if by_channel is None:
            by_channel = {}
            socket.ranges = by_channel
            if not socket.is_listed:
                socket.is_listed = True
                self.sockets.append(socket)
        ranges = by_channel.get(channel)
        if ranges is None:
            ranges = [0, OPEN_END] if is_member else []
            by_channel[channel] = ranges
        return ranges

    # Flushing. --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Writes the turn out: one write per socket that has anything. O(deliveries)."""
        if self.is_flushing or not self.frames:
            return
        self.is_flushing = True
        channels = self.channels
        sockets = self.sockets
        self.turn += 1
        try:
            if len(channels) == 1 and not sockets:
                self._fan_out(channels[0])
            else:
                self._flush_mixed(channels, sockets)
        finally:  # whatever went wrong (no memory), the turns after this one leave
            self._start_turn(channels, sockets)
            self.is_flushing = False

    def _start_turn(self, channels: list[Channel], sockets: list[Socket]) -> None:
        for channel in channels:
            channel.index = NOWHERE
            channel.numbers = []
            channel.batch_bytes = 0
            channel.frames = None
            channel.joined = b""
            if channel.count == 0:
                self.emptied.append(channel)
        for socket in sockets:
            socket.is_listed = False
            socket.direct = None
            socket.direct_bytes = 0
            socket.ranges = None
        self.frames = []
        self.turn_bytes = 0
        self.channels = []
        self.sockets = []
        if self.merges:
            self.merges = {}

    def _fan_out(self, channel: Channel) -> None:
        # The hot loop of the whole project: 1,000 subscribers are 1,000 turns of it (benchmarks: fan-out).
        frames = self._shared(channel)
        data = channel.joined
        for socket in channel.members:
            if socket is not None:
                if socket.is_blocked:
                    self._hold(socket, frames)
                else:
                    socket.write(data)

    def _flush_mixed(self, channels: list[Channel], sockets: list[Socket]) -> None:
        turn = self.turn
        for socket in sockets:
            socket.mark = turn
        largest = _largest(channels)
        # Who has more than one source? Walk all channels but the largest, whose members need only a look at the mark.
        touched: list[Socket] = []
        for channel in channels:
            if channel is largest:
                continue
            index = channel.index
            shared = self._shared(channel)
            data = channel.joined
            for member in channel.members:
                if member is None:
                    continue
                if member.mark != turn:
                    if member.more is None:  # its only channel: 50 ns instead of 100 (benchmarks: scaling)
                        self._deliver(member, shared, data)
                        continue
                    member.mark = turn
                    member.only = index
                    touched.append(member)
                else:
                    member.only = NOWHERE
        for socket in touched:
            if socket.only == NOWHERE or (largest is not None and socket.is_member(largest)):
                self._deliver_merged(socket)
            else:
                only = channels[socket.only]
                self._deliver(socket, self._shared(only), only.joined)
        for socket in sockets:
            self._deliver_merged(socket)
        if largest is not None and largest.count > 0:
            shared = self._shared(largest)
            data = largest.joined
            for member in largest.members:
                if member is not None and member.mark != turn:
                    self._deliver(member, shared, data)

    def _shared(self, channel: Channel) -> list[bytes]:
        """The channel's frames of this turn; `channel.joined` holds them in one piece."""
        frames = channel.frames
        if frames is None:
            every = self.frames
            frames = [every[number] for number in channel.numbers]
            channel.frames = frames
            channel.joined = frames[0] if len(frames) == 1 else b"".join(frames)
        return frames

    def _deliver_merged(self, socket: Socket) -> None:
        if socket.state == GONE:
            return
        whole = self._whole_sources(socket)
        if socket.direct is not None or socket.ranges is not None:
            self._deliver_own(socket, whole)
        elif len(whole) == 1:
            only = whole[0]
            self._deliver(socket, self._shared(only), only.joined)
        elif whole:
            merge = self._merged(whole)
            self._deliver(socket, merge.frames, merge.joined)

    def _deliver_own(self, socket: Socket, whole: list[Channel]) -> None:
        """To a socket that gets something else than others with its channels do."""
        numbers: list[int] = []
        direct = socket.direct
        if direct is not None:
            numbers.extend(direct)
        ranges = socket.ranges
        if ranges is not None:
            for channel, spans in ranges.items():
                _add_within(numbers, channel.numbers, spans)
        for channel in whole:
            numbers.extend(channel.numbers)
        if not numbers:
            return
        if whole or ranges is not None:
            numbers.sort()  # runs that are in order already: a merge
        every = self.frames
        frames = [every[number] for number in numbers]
        self._deliver(socket, frames, frames[0] if len(frames) == 1 else b"".join(frames))
        if socket.state == CLOSING and not socket.is_blocked:
            socket.finish()

    def _whole_sources(self, socket: Socket) -> list[Channel]:
        """Dirty channels of which the socket gets everything. Walks its subscriptions or the dirty ones, the fewer."""
        found: list[Channel] = []
        ranges = socket.ranges
        more = socket.more
        if more is None or len(more) < len(self.channels):
            first = socket.first
            if first is not None and first.index != NOWHERE and (ranges is None or first not in ranges):
                found.append(first)
            if more is not None:
                for channel in more:
                    if channel.index != NOWHERE and (ranges is None or channel not in ranges):
                        found.append(channel)
        else:
            for channel in self.channels:
                if socket.is_member(channel) and (ranges is None or channel not in ranges):
                    found.append(channel)
        return found

    def _merged(self, channels: list[Channel]) -> Merge:
        # The key has them in the order of joining: to sort it costs more than a second merge here and there.
        key: tuple[int, ...] = ()
        if len(channels) == 2:  # the usual several; 100 ns less than below
            key = (int(channels[0].index), int(channels[1].index))
        elif len(channels) <= CACHED_SOURCES:
            key = tuple([int(channel.index) for channel in channels])
        if key:
            known = self.merges.get(key)
            if known is not None:
                return known
        numbers: list[int] = []
        for channel in channels:
            numbers.extend(channel.numbers)
        numbers.sort()
        every = self.frames
        merge = Merge([every[number] for number in numbers])
        if key:
            self.merges[key] = merge
        return merge

    # One socket. ------------------------------------------------------------------------------------------------

    def _deliver(self, socket: Socket, frames: list[bytes], data: bytes) -> None:
        if socket.is_blocked:
            self._hold(socket, frames)
        else:
            socket.write(data)

    def _hold(self, socket: Socket, frames: list[bytes]) -> None:
        """Keeps whole frames until the transport takes more, within the limit that the policy enforces."""
        if socket.state == GONE:
            return
        outbox = socket.outbox
        if outbox is None:
            outbox = deque()
            socket.outbox = outbox
        below: i64 = socket.transport_bytes()
        for frame in frames:
            if self._has_room(socket, outbox, frame, below):
                outbox.append(frame)
                socket.outbox_bytes += len(frame)
            elif self.limits.slow_consumer == DISCONNECT:
                if socket.state == CLOSING:  # the last of the frames is its Close, which is never dropped
                    close = frames[-1]
                    outbox.append(close)
                    socket.outbox_bytes += len(close)
                self.overflowing.append(socket)
                return
            else:
                self.counters.frames_dropped += 1

    def _has_room(self, socket: Socket, outbox: deque[bytes], frame: bytes, below: i64) -> bool:
        """Whether the frame may wait, after DROP_OLD has made room. What waits already decides: an empty outbox takes
        any one message, and control frames are always taken."""
        size: i64 = len(frame)
        limit: i64 = self.limits.max_queue_bytes
        waiting = socket.outbox_bytes + below
        if waiting == 0 or waiting + size <= limit or _is_control(frame):
            return True
        if self.limits.slow_consumer == DROP_OLD:
            kept: list[bytes] = []
            while outbox and waiting + size > limit:
                oldest = outbox.popleft()
                if _is_control(oldest):
                    kept.append(oldest)
                    continue
                gone: i64 = len(oldest)
                socket.outbox_bytes -= gone
                waiting -= gone
                self.counters.frames_dropped += 1
            outbox.extendleft(reversed(kept))
            return waiting == 0 or waiting + size <= limit
        return False

    def drain(self, socket: Socket) -> None:
        """The transport takes more: hands it what waited, in pieces, until it is full again."""
        socket.is_blocked = False
        outbox = socket.outbox
        while outbox and not socket.is_blocked:
            piece: list[bytes] = []
            size: i64 = 0
            while outbox and size < BATCH_BYTES:
                frame = outbox.popleft()
                piece.append(frame)
                size += len(frame)
            socket.outbox_bytes -= size
            socket.write(piece[0] if len(piece) == 1 else b"".join(piece))
        if not outbox:
            socket.outbox = None
            if socket.state == CLOSING and socket.direct is None and not socket.is_blocked:
                socket.finish()


def _largest(channels: list[Channel]) -> Channel | None:
    found: Channel | None = None
    for channel in channels:
        if found is None or channel.count > found.count:
            found = channel
    return found


def _add_within(numbers: list[int], source: list[int], spans: list[int]) -> None:
    """Adds the numbers of the source that lie in the ranges; both are ascending."""
    at: i64 = 0
    size: i64 = len(spans)
    for number in source:
        while at < size and number >= spans[at + 1]:
            at += 2
        if at >= size:
            return
        if number >= spans[at]:
            numbers.append(number)


def _is_control(frame: bytes) -> bool:
    return frame[0] & 0x08 != 0
