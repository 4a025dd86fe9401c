"""The broker: registries, commands, lanes. Everything a handler can ask ends in a method of `Broker`.

Called on one thread only (the loop's). No method here does I/O; whatever has to leave is gathered in `outgoing` and in
the lanes until the owner, woken through `TurnScheduler`, flushes the turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, cast, final

from mypy_extensions import i64, mypyc_attr

from wsbroker.broker.channel import Channel
from wsbroker.broker.commands import apply_command
from wsbroker.broker.limits import MESSAGE_OVERHEAD_BYTES, SCARCE_INBOX_BYTES, Counters, Limits
from wsbroker.broker.outgoing import Outgoing
from wsbroker.broker.socket import CLOSED, CLOSING, NO_INDEX, OPEN, OPENING, Socket
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.errors import CommandError
from wsbroker.websocket.frames import check_message, encode_close, encode_message
from wsbroker.wire import commands, events

CALL_INSIDE_FLUSH_ERROR: Final = (
    "this is a finaliser or a signal handler that interrupted the broker while it writes to its sockets: it cannot ask "
    "the broker; subscribe_nowait and the other calls without an answer work"
)


@mypyc_attr(allow_interpreted_subclasses=True)
class TurnScheduler:
    """Whoever owns the loop: told once per turn that there is something to flush."""

    def schedule_turn(self) -> None:
        raise NotImplementedError


@final
class Broker:
    """Who is connected, who listens to what."""

    def __init__(self, limits: Limits, waker: TurnScheduler) -> None:
        self.limits: Final = limits
        self.turn_scheduler: Final = waker
        self.counters: Final = Counters()
        self.outgoing: Final = Outgoing(limits, self.counters)
        self.sockets: Final[dict[int, Socket]] = {}
        self.channels_by_name: Final[dict[bytes, Channel]] = {}
        self.worker_queues: Final[list[WorkerQueue]] = []
        self.dirty_worker_queues: list[WorkerQueue] = []
        self.last_socket_id: int = 0
        self.unhandled_bytes: i64 = 0
        """Cost of the messages of all sockets that were read and are not yet handled (inline: those that are held)."""
        self.is_turn_scheduled = False
        self.deferred_commands: list[tuple[object, ...]] = []
        """Commands from inside a flush, for after it: a finaliser, or a signal handler, interrupted a transport. Those
        of SEND and PUBLISH carry the encoded frame."""
        self.is_applying_deferred = False
        self.deliver_batch: Callable[[int, list[tuple[object, ...]]], None] | None = None
        """Takes a worker's batch at the end of a turn; set by the composition root."""

    def schedule_turn(self) -> None:
        """Makes sure that a flush follows in this turn."""
        if not self.is_turn_scheduled:
            self.is_turn_scheduled = True
            self.turn_scheduler.schedule_turn()

    # Sockets. ---------------------------------------------------------------------------------------------------

    def allocate_socket_id(self) -> int:
        """A socket id never given before."""
        self.last_socket_id += 1
        return self.last_socket_id

    def register_socket(self, socket: Socket) -> None:
        """Puts a new socket in the table: calls about it work and count from here on."""
        self.sockets[socket.id] = socket
        socket.worker_queue.socket_count += 1

    def mark_socket_open(self, socket: Socket) -> None:
        """The 101 is out: what waited behind it may go."""
        self.counters.sockets_opened += 1
        socket.is_accepted = True
        if socket.state == OPENING:
            socket.state = OPEN
        elif socket.inbox:  # closed while it was opening: its close handler is due now
            event = socket.inbox.popleft()
            socket.inbox = None
            self._emit_close_event(socket, event)
        self.outgoing.drain_outbox(socket)

    def discard_socket(self, socket: Socket) -> None:
        """Refused, or gone before the 101: forgotten as if it had never been."""
        self._unregister_socket(socket)
        self._mark_closed(socket)

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes with a handshake, after everything sent before it. Unknown ids are ignored and counted."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.CLOSE, socket_id, code, reason))
            return
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
        else:
            socket.is_discarding_messages = True
            self.close_socket(socket, code, reason, code, reason)

    def close_socket(self, socket: Socket, code: int, reason: str, told_code: int, told_reason: str) -> None:
        """Takes the socket out of the tables and sends a Close frame with `code` as the last it gets.

        Args:
            told_code: what the close handler is told (1005 for a Close without a code, where `code` is 1005 too).
            told_reason: likewise.
        """
        if socket.state >= CLOSING:
            return
        self._unregister_socket(socket)
        socket.state = CLOSING
        self._queue_close_event(socket, told_code, told_reason)
        socket.on_close_queued()
        self.outgoing.send_frame(socket, encode_close(code, reason))
        self.schedule_turn()
        if self.deferred_commands:
            self._apply_deferred_commands()

    def close_after_messages(self, socket: Socket, code: int, reason: str, told_code: int, told_reason: str) -> None:
        """The peer has closed, or broke the protocol: closes once the messages read before have been handled, so that
        the answers to them still go out. Arguments as for `close_socket`."""
        if socket.state >= CLOSING:
            return
        socket.pending_close = (code, reason, told_code, told_reason)
        lane = socket.worker_queue
        if lane.is_inline:
            lane.inline_sockets.append(socket)
            lane.inline_events.append(())
            self._mark_worker_queue_dirty(lane)
        elif socket.unhandled_bytes == 0:
            self.apply_pending_close(socket)

    def apply_pending_close(self, socket: Socket) -> None:
        """No message of this socket waits any more: if it is ending, it ends now."""
        ending = socket.pending_close
        if ending is not None:
            socket.pending_close = None
            self.close_socket(socket, ending[0], ending[1], ending[2], ending[3])

    def close_slow_consumer(self, socket: Socket, code: int, reason: str) -> None:
        """Closes a slow consumer: what waits for it is dropped, a Close frame takes its place."""
        if socket.state < CLOSING:
            self.counters.slow_consumers += 1
            self._close_and_drop_frames(socket, code, reason)

    def _close_and_drop_frames(self, socket: Socket, code: int, reason: str) -> None:
        self._unregister_socket(socket)
        socket.state = CLOSING
        self._queue_close_event(socket, code, reason)
        self._replace_waiting_with_close(socket, encode_close(code, reason))

    def close_overflowed_sockets(self) -> None:
        """Acts on the verdicts of a flush."""
        outgoing = self.outgoing
        while outgoing.overflowed_sockets:
            found = outgoing.overflowed_sockets
            outgoing.overflowed_sockets = []
            for socket in found:
                outbox = socket.outbox
                if socket.state == CLOSING and outbox is not None and len(outbox.frames) > 1:
                    # Closed by somebody else after it had missed something: that Close is the last frame, and stays.
                    self.counters.slow_consumers += 1
                    self._replace_waiting_with_close(socket, outbox.frames[-1])
                else:
                    self.close_slow_consumer(socket, 1013, "slow consumer")

    def close_shed_sockets(self) -> None:
        """Closes the sockets whose outboxes were dropped because too much waited for all sockets together."""
        outgoing = self.outgoing
        found = outgoing.shed_sockets
        outgoing.shed_sockets = []
        for socket in found:
            outbox = socket.outbox
            is_cut = outbox is not None and outbox.is_abort_due
            if socket.state < CLOSING:
                self.counters.overload_closes += 1
                self._close_and_drop_frames(socket, 1013, "server overloaded")
            if is_cut:
                socket.abort()

    def _replace_waiting_with_close(self, socket: Socket, frame: bytes) -> None:
        """Drops what waits for a socket but for this Close frame."""
        self.outgoing.replace_waiting_frames(socket, frame)
        socket.on_overflow()
        if not socket.is_blocked:  # it has taken everything since the verdict: nobody else would drain it
            self.outgoing.drain_outbox(socket)

    def mark_connection_lost(self, socket: Socket, code: int, reason: str) -> None:
        """The connection is gone; a socket that was still in the tables is closed with this code."""
        if socket.state == CLOSED:
            return
        if socket.state < CLOSING:
            self._unregister_socket(socket)
            ending = socket.pending_close
            if ending is not None:
                code, reason = ending[2], ending[3]
            self._queue_close_event(socket, code, reason)
        self._mark_closed(socket)

    def _unregister_socket(self, socket: Socket) -> None:
        """Out of the table and of every channel. O(its own subscriptions)."""
        if self.sockets.pop(socket.id, None) is None:
            return
        socket.worker_queue.socket_count -= 1
        for channel in socket.channel_list():
            self._remove_subscription(socket, channel)

    def _mark_closed(self, socket: Socket) -> None:
        socket.state = CLOSED
        self.outgoing.drop_outbox(socket)

    def _queue_close_event(self, socket: Socket, code: int, reason: str) -> None:
        event = (events.CLOSE, socket.id, socket.token, socket.applied_token_number, code, reason)
        if socket.is_accepted:
            self._emit_close_event(socket, event)
        else:
            socket.inbox = deque([event])  # due if it is accepted after all

    def _emit_close_event(self, socket: Socket, event: tuple[object, ...]) -> None:
        self.counters.sockets_closed += 1
        lane = socket.worker_queue
        if lane.is_inline:
            lane.inline_sockets.append(socket)
            lane.inline_events.append(event)
        else:
            lane.queue_close(socket, event)
        self._mark_worker_queue_dirty(lane)

    # Subscriptions. ---------------------------------------------------------------------------------------------

    def subscribe(self, socket_id: int, name: bytes) -> bool:
        """True if the socket was added; False if it is unknown, subscribed already, or has as many as it may.

        Raises:
            CommandError: a flush is running, whose members must not change.
        """
        if self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
            return False
        return self._add_subscription(socket, name)

    def subscribe_nowait(self, socket_id: int, name: bytes) -> None:
        """Subscribes a socket without saying whether that changed anything; inside a flush, behind it."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.SUBSCRIBE, socket_id, name))
        else:
            self.subscribe(socket_id, name)

    def _add_subscription(self, socket: Socket, name: bytes) -> bool:
        channel = self.channels_by_name.get(name)
        if channel is not None and socket.is_member(channel):
            return False
        if socket.channel_count() >= self.limits.max_channels:
            self.counters.subscriptions_refused += 1
            return False
        if channel is None:
            channel = Channel(name)
            self.channels_by_name[name] = channel
        channel.add_member(socket)
        self.outgoing.record_join(socket, channel)
        return True

    def unsubscribe(self, socket_id: int, name: bytes) -> bool:
        """True if the socket was removed from the channel.

        Raises:
            CommandError: a flush is running, whose members must not change.
        """
        if self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
            return False
        channel = self.channels_by_name.get(name)
        if channel is None or not socket.is_member(channel):
            return False
        self._remove_subscription(socket, channel)
        return True

    def unsubscribe_nowait(self, socket_id: int, name: bytes) -> None:
        """Unsubscribes a socket without saying whether that changed anything; inside a flush, behind it."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.UNSUBSCRIBE, socket_id, name))
        else:
            self.unsubscribe(socket_id, name)

    def _remove_subscription(self, socket: Socket, channel: Channel) -> None:
        self.outgoing.record_leave(socket, channel)
        channel.remove_member(socket)
        if channel.member_count == 0 and channel.dirty_index == NO_INDEX:
            self.channels_by_name.pop(channel.name, None)

    def copy_subscriptions(self, from_name: bytes, to_name: bytes) -> None:
        """Subscribes every present subscriber of one channel to another channel too, in the order of the first one.

        O(subscribers of the first). Sockets that may have no more channels are left out and counted.
        """
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.COPY_SUBSCRIPTIONS, from_name, to_name))
            return
        source = self.channels_by_name.get(from_name)
        if source is None or from_name == to_name:
            return
        for socket in source.members:  # of another channel than the one that grows
            if socket is not None:
                self._add_subscription(socket, to_name)

    # Sending. ---------------------------------------------------------------------------------------------------

    def send(self, socket_id: int, data: object) -> None:
        """Queues a message for one socket; unknown ids are ignored and counted."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.SEND, socket_id, encode_message(data)))
            return
        socket = self.sockets.get(socket_id)
        if socket is None:
            check_message(data)
            self.counters.unroutable += 1
            return
        self.outgoing.send_frame(socket, encode_message(data))
        if not self.is_turn_scheduled:
            self.schedule_turn()
        if self.deferred_commands:
            self._apply_deferred_commands()

    def publish(self, name: bytes, data: object, exclude: tuple[int, ...]) -> None:
        """Queues a message for every subscriber of the channel but the excluded ones. O(1 + excluded)."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.PUBLISH, name, encode_message(data), exclude))
            return
        channel = self.channels_by_name.get(name)
        if channel is None or channel.member_count == 0:
            check_message(data)
            self.counters.unroutable += 1
            return
        self._publish_frame(channel, encode_message(data), exclude)

    def _publish_frame(self, channel: Channel, frame: bytes, exclude: tuple[int, ...]) -> None:
        self.counters.publications += 1
        excluded: list[Socket] | None = None
        if exclude:
            excluded = []
            for socket_id in exclude if len(exclude) == 1 else set(exclude):
                socket = self.sockets.get(socket_id)
                if socket is not None:
                    excluded.append(socket)
        self.outgoing.publish_frame(channel, frame, excluded)
        if not self.is_turn_scheduled:
            self.schedule_turn()
        if self.deferred_commands:
            self._apply_deferred_commands()

    def send_control_frame(self, socket: Socket, frame: bytes) -> None:
        """Queues a control frame behind everything the socket was sent before."""
        if socket.state < CLOSING:
            self.outgoing.send_frame(socket, frame)
            self.schedule_turn()
            if self.deferred_commands:
                self._apply_deferred_commands()

    def flush(self) -> None:
        """Writes the turn out and acts on what the flush found."""
        outgoing = self.outgoing
        outgoing.flush()
        if outgoing.overflowed_sockets:
            self.close_overflowed_sockets()
        if outgoing.shed_sockets:
            self.close_shed_sockets()
        outgoing.loop_turn += 1
        if outgoing.emptied_channels:
            for channel in outgoing.emptied_channels:
                # After a flush in the middle of the turn another channel may have the name already.
                if (
                    channel.member_count == 0
                    and channel.dirty_index == NO_INDEX
                    and self.channels_by_name.get(channel.name) is channel
                ):
                    self.channels_by_name.pop(channel.name)
            outgoing.emptied_channels = []
        if self.deferred_commands:
            self._apply_deferred_commands()

    def _apply_deferred_commands(self) -> None:
        """Applies the commands that came while a flush ran, in their order: right behind the call that caused it."""
        if self.is_applying_deferred:  # one of them has caused a flush in turn: what came in there waits for the others
            return
        self.is_applying_deferred = True
        try:
            while self.deferred_commands:
                late = self.deferred_commands
                self.deferred_commands = []
                for command in late:
                    self._apply_deferred_command(command)
        finally:
            self.is_applying_deferred = False

    def _apply_deferred_command(self, command: tuple[object, ...]) -> None:
        kind = cast(int, command[0])
        if kind == commands.SEND:
            socket = self.sockets.get(cast(int, command[1]))
            if socket is None:
                self.counters.unroutable += 1
            else:
                self.outgoing.send_frame(socket, cast(bytes, command[2]))
                self.schedule_turn()
        elif kind == commands.PUBLISH:
            channel = self.channels_by_name.get(cast(bytes, command[1]))
            if channel is None or channel.member_count == 0:
                self.counters.unroutable += 1
            else:
                self._publish_frame(channel, cast(bytes, command[2]), cast(tuple[int, ...], command[3]))
        elif kind == commands.SET_TOKEN:
            self.set_token(cast(int, command[1]), cast(bytes | None, command[2]))
        else:
            apply_command(self, None, command, [], [])

    # Tokens and questions. --------------------------------------------------------------------------------------

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets the token; the socket's worker is told with the next message, unless it sees the core's own (inline)."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.SET_TOKEN, socket_id, token))
            return
        socket = self.sockets.get(socket_id)
        if socket is None:
            socket = self._find_closed_in_handler(socket_id)
        if socket is None:
            self.counters.unroutable += 1
        else:
            self.store_token(socket, token, NO_INDEX, 0)

    def _find_closed_in_handler(self, socket_id: int) -> Socket | None:
        """Inline: a socket out of the tables whose message handler still runs: its close handler is to come."""
        lane = self.worker_queues[0] if self.worker_queues else None
        if lane is None or not lane.is_inline:
            return None
        current = lane.current_socket
        if current is not None and current.id == socket_id:
            return current
        return lane.busy_sockets.get(socket_id)

    def store_token(self, socket: Socket, token: bytes | None, lane_index: i64, number: int) -> None:
        """Sets a token that this lane's worker caches under `number`; 0: it does not."""
        socket.token = token
        lane = socket.worker_queue
        if lane.is_inline:
            return
        if lane.index == lane_index and number > 0:
            socket.applied_token_number = number
            socket.is_token_stale = False
        else:
            socket.is_token_stale = True

    def get_token(self, socket_id: int) -> bytes | None:
        """The socket's token; None if there is none or the id is unknown."""
        socket = self.sockets.get(socket_id)
        return None if socket is None else socket.token

    def _check_answerable(self) -> None:
        """Refuses a question inside a flush that commands wait for: the answer would not know of them."""
        if self.deferred_commands and self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)

    def is_open(self, socket_id: int) -> bool:
        """Whether the socket is in the table: from before its open handler runs until it begins to close."""
        self._check_answerable()
        return socket_id in self.sockets

    def subscriber_count(self, name: bytes) -> int:
        """How many sockets are subscribed to the channel."""
        self._check_answerable()
        channel = self.channels_by_name.get(name)
        return 0 if channel is None else int(channel.member_count)

    def subscribers(self, name: bytes) -> list[int]:
        """Their ids, in subscription order. O(subscribers)."""
        self._check_answerable()
        channel = self.channels_by_name.get(name)
        return [] if channel is None else channel.member_ids()

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Names of the channels a socket is subscribed to, oldest subscription first; [] for an unknown id."""
        self._check_answerable()
        socket = self.sockets.get(socket_id)
        return [] if socket is None else [channel.name for channel in socket.channel_list()]

    def channels(self) -> list[bytes]:
        """Names of the channels that have a subscriber. O(channels)."""
        self._check_answerable()
        return [name for name, channel in self.channels_by_name.items() if channel.member_count > 0]

    def queued_bytes(self, socket_id: int) -> int:
        """The bytes that wait for the socket: this turn's direct frames, its outbox, its transport's buffer. Frames
        with their heads, without what `max_queue_bytes` counts for each beyond that."""
        self._check_answerable()
        socket = self.sockets.get(socket_id)
        if socket is None:
            return 0
        outbox = socket.outbox
        held: i64 = 0 if outbox is None else outbox.frame_bytes()
        return int(socket.direct_bytes + held) + socket.transport_bytes()

    # Lanes. -----------------------------------------------------------------------------------------------------

    def add_worker_queue(self, index: int, credit_bytes: int, is_inline: bool = False) -> WorkerQueue:
        """Adds the way to one more worker; indexes count from 0."""
        if index != len(self.worker_queues):
            raise ValueError(f"lane {index} does not follow {len(self.worker_queues) - 1}")
        lane = WorkerQueue(index, credit_bytes, is_inline)
        self.worker_queues.append(lane)
        return lane

    def receive_message(self, socket: Socket, data: object, size: i64) -> None:
        """A message came in: on its way to the socket's worker, or into the inbox while there is no credit or the
        socket has its share in flight."""
        self.counters.messages_received += 1
        lane = socket.worker_queue
        if lane.is_inline:
            lane.inline_sockets.append(socket)
            lane.inline_events.append(data)
        else:
            cost = size + MESSAGE_OVERHEAD_BYTES
            socket.unhandled_bytes += cost
            lane.unhandled_bytes += cost
            self.unhandled_bytes += cost
            if (
                not lane.queue_message(socket, (events.MESSAGE, socket.id, data, int(cost)), cost)
                and not lane.is_paused
            ):
                self.counters.mailboxes_full += 1
        if not lane.is_dirty:
            self._mark_worker_queue_dirty(lane)

    def _mark_worker_queue_dirty(self, lane: WorkerQueue) -> None:
        if not lane.is_dirty:
            lane.is_dirty = True
            self.dirty_worker_queues.append(lane)
        if not self.is_turn_scheduled:
            self.schedule_turn()

    def deliver_batches(self) -> None:
        """Hands each worker its batch of this turn; inline lanes are emptied by their runner."""
        while self.dirty_worker_queues:  # one by one: should handing one over fail, the others are still listed
            lane = self.dirty_worker_queues.pop()
            lane.is_dirty = False
            if lane.events and self.deliver_batch is not None:
                batch = lane.events
                lane.events = []
                self.deliver_batch(lane.index, batch)

    def record_handled_messages(self, lane: WorkerQueue, done: list[tuple[int, int]]) -> None:
        """A worker's handlers have ended: credit comes back, readings resume, inboxes move on."""
        count: i64 = len(done)
        lane.in_flight_messages -= count
        lane.handled_messages += count
        total: i64 = 0
        for socket_id, cost in done:
            total += cost
            socket = self.sockets.get(socket_id)
            if socket is not None:
                lane.return_share(socket, cost)
                self.release_inbox_bytes(socket, cost)
            elif (
                lane.sockets_with_inbox
            ):  # it has left the tables: its last messages, and its CLOSE, may still wait for its share
                socket = lane.sockets_with_inbox.get(socket_id)
                if socket is not None:
                    lane.return_share(socket, cost)
        lane.in_flight_bytes -= total
        self._subtract_unhandled_bytes(lane, total)
        if lane.send_waiting_events():
            self._mark_worker_queue_dirty(lane)
        self._subtract_dropped_bytes(lane)

    def _subtract_unhandled_bytes(self, lane: WorkerQueue, cost: i64) -> None:
        """Takes messages worth `cost` off what is unhandled: they were handled, or are lost."""
        lane.unhandled_bytes -= cost
        self.unhandled_bytes -= cost

    def _subtract_dropped_bytes(self, lane: WorkerQueue) -> None:
        if lane.dropped_bytes:
            self._subtract_unhandled_bytes(lane, lane.dropped_bytes)
            lane.dropped_bytes = 0

    def inbox_limit_bytes(self) -> i64:
        """Returns the bytes that one socket may have read and not yet handled, before its reading pauses."""
        limit: i64 = self.limits.inbox_bytes
        if self.unhandled_bytes < self.limits.max_inbox_bytes_total or limit < SCARCE_INBOX_BYTES:
            return limit
        return SCARCE_INBOX_BYTES

    def release_inbox_bytes(self, socket: Socket, cost: i64) -> None:
        """Messages worth `cost` left the inbox; reading resumes once it is half empty."""
        socket.unhandled_bytes -= cost
        if socket.is_reading_paused and socket.unhandled_bytes * 2 <= self.inbox_limit_bytes():
            socket.resume_reading()
        if socket.pending_close is not None and socket.unhandled_bytes <= 0 and not socket.worker_queue.is_inline:
            self.apply_pending_close(socket)

    def mark_worker_lost(self, index: int, code: int, reason: str = "worker restart") -> list[tuple[object, ...]]:
        """A worker died: its sockets are closed with `code`; what it had not said yet will be ignored.

        Returns:
            the CLOSE events whose handler has not run, for another worker (`adopt_closes`).
        """
        lane = self.worker_queues[index]
        lane.generation += 1
        for socket in list(self.sockets.values()):
            if socket.worker_queue is lane:
                self.close_socket(socket, code, reason, code, reason)
        self.counters.messages_lost += lane.count_unhandled_messages()
        self._subtract_unhandled_bytes(lane, lane.unhandled_bytes)
        return lane.drop_all_events()

    def pause_worker_queue(self, index: int) -> None:
        """Lets the worker of a lane run empty; see `WorkerQueue.pause`."""
        self.worker_queues[index].pause()

    def resume_worker_queue(self, index: int) -> None:
        """Lets the messages go on to the same worker."""
        lane = self.worker_queues[index]
        if lane.resume():
            self._mark_worker_queue_dirty(lane)
        self._subtract_dropped_bytes(lane)

    def drop_waiting_messages(self) -> int:
        """Drops the messages that workers have not been given yet, so that the close handlers behind them still run:
        the server stops, and there is no time for both. Returns how many; they are counted as lost."""
        dropped: i64 = 0
        for lane in self.worker_queues:
            dropped += lane.drop_waiting_messages()
            if lane.send_waiting_events():
                self._mark_worker_queue_dirty(lane)
            self._subtract_dropped_bytes(lane)
        self.counters.messages_lost += dropped
        return int(dropped)

    def replace_worker(self, index: int) -> None:
        """Another worker has taken a lane over that was held and has run empty: its sockets stay as they are.

        What the old worker still says is ignored from here on; the new one is told the tokens. O(sockets).
        """
        lane = self.worker_queues[index]
        lane.generation += 1
        self._subtract_unhandled_bytes(lane, lane.in_flight_bytes)
        lane.reset_for_new_worker(self.sockets)
        self.resume_worker_queue(index)

    def adopt_closes(self, index: int, closes: list[tuple[object, ...]]) -> None:
        """Gives the CLOSE events of a dead worker to this one; its own token cache knows nothing of them."""
        lane = self.worker_queues[index]
        for event in closes:
            lane.unhandled_closes[cast(int, event[1])] = event
            lane.events.append(event)
        self._mark_worker_queue_dirty(lane)

    # Commands. --------------------------------------------------------------------------------------------------

    def apply_commands(
        self, lane_index: int, generation: int, batch: list[tuple[object, ...]]
    ) -> list[tuple[object, ...]]:
        """Applies a batch in order.

        Args:
            lane_index: whose commands they are; -1: not a worker's (a thread of the main interpreter).
            generation: of that lane when its worker was started; a batch of an older one is dropped.

        Returns:
            what is not the core's: commands for the pool, and for lane -1 the ANSWER events to its questions.
        """
        rest: list[tuple[object, ...]] = []
        lane: WorkerQueue | None = None
        if lane_index >= 0:
            lane = self.worker_queues[lane_index]
            if lane.generation != generation:
                return rest
        answers: list[tuple[object, ...]] = []
        for command in batch:
            try:
                apply_command(self, lane, command, answers, rest)
            except (TypeError, ValueError, IndexError):
                # The calls normalise, so only a defect of ours gets here; it must not take the batch with it.
                self.counters.commands_refused += 1
        if answers:
            if lane is None:
                rest.extend(answers)
            else:
                lane.events.extend(answers)
                self._mark_worker_queue_dirty(lane)
                if self.deliver_batch is not None:  # a handler is blocked on it: not at the end of the turn, now
                    ready = lane.events
                    lane.events = []
                    self.deliver_batch(lane.index, ready)
        return rest
