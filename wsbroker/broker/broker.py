"""The broker: the registries of sockets and channels, and every call that a handler can make on them.

Called on one thread only (the loop's). No method here does I/O: frames gather in `outgoing` and events in the worker
queues until the owner of the loop, asked through `TurnScheduler`, flushes the turn.
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
    """The owner of the event loop, as the broker sees that: it runs one turn when the broker has something to flush."""

    def schedule_turn(self) -> None:
        """Schedules one loop turn, which must call `Broker.deliver_batches` and `Broker.flush`.

        Called by the broker at most once per turn (`Broker.is_turn_scheduled`).
        """
        raise NotImplementedError


@final
class Broker:
    """Registers sockets and channels, sends and publishes, and routes messages to the workers. Loop thread only."""

    def __init__(self, limits: Limits, turn_scheduler: TurnScheduler) -> None:
        self.limits: Final = limits
        self.turn_scheduler: Final = turn_scheduler
        self.counters: Final = Counters()
        self.outgoing: Final = Outgoing(limits, self.counters)
        self.sockets: Final[dict[int, Socket]] = {}
        self.channels_by_name: Final[dict[bytes, Channel]] = {}
        self.worker_queues: Final[list[WorkerQueue]] = []
        self.dirty_worker_queues: list[WorkerQueue] = []
        self.last_socket_id: int = 0
        self.unhandled_bytes: i64 = 0
        """Cost of the messages of all sockets read and not yet handled (inline: only those in inboxes)."""
        self.is_turn_scheduled = False
        self.deferred_commands: list[tuple[object, ...]] = []
        """Commands given inside a flush, applied after it: a finaliser or a signal handler has interrupted a transport.
        SEND and PUBLISH commands carry the encoded frame here."""
        self.is_applying_deferred = False
        self.deliver_batch: Callable[[int, list[tuple[object, ...]]], None] | None = None
        """``(worker_index, events)``: hands a worker its batch of events at the end of a turn; set by
        `server/node.py`."""

    def schedule_turn(self) -> None:
        """Schedules a loop turn that flushes, unless a turn is scheduled already."""
        if not self.is_turn_scheduled:
            self.is_turn_scheduled = True
            self.turn_scheduler.schedule_turn()

    # Sockets. ---------------------------------------------------------------------------------------------------

    def allocate_socket_id(self) -> int:
        """Returns a new socket id; ids count up from 1 and are never used again."""
        self.last_socket_id += 1
        return self.last_socket_id

    def register_socket(self, socket: Socket) -> None:
        """Puts a new socket in the table of sockets: from here on calls find the socket by its id."""
        self.sockets[socket.id] = socket
        socket.worker_queue.socket_count += 1

    def mark_socket_open(self, socket: Socket) -> None:
        """Marks a socket as accepted and sends its waiting frames; called once the 101 response is queued."""
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
        """Forgets a socket that was refused, or lost before the 101 response; no close event is queued."""
        self._unregister_socket(socket)
        self._mark_closed(socket)

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes a socket for the application, behind everything sent before; drops its unhandled messages.

        An unknown id is ignored and counted as unroutable.
        """
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.CLOSE, socket_id, code, reason))
            return
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
        else:
            socket.is_discarding_messages = True
            self.close_socket(socket, code, reason, code, reason)

    def close_socket(self, socket: Socket, code: int, reason: str, reported_code: int, reported_reason: str) -> None:
        """Unregisters a socket, queues its close event and sends a Close frame as its last frame.

        Args:
            code: the close code in the frame.
            reason: the close reason in the frame.
            reported_code: the close code that the close handler gets (1005 for a peer's Close frame without a code).
            reported_reason: the close reason that the close handler gets.
        """
        if socket.state >= CLOSING:
            return
        self._unregister_socket(socket)
        socket.state = CLOSING
        self._queue_close_event(socket, reported_code, reported_reason)
        socket.on_close_queued()
        self.outgoing.send_frame(socket, encode_close(code, reason))
        self.schedule_turn()
        if self.deferred_commands:
            self._apply_deferred_commands()

    def close_after_messages(
        self, socket: Socket, code: int, reason: str, reported_code: int, reported_reason: str
    ) -> None:
        """Closes a socket once the messages read before have been handled, so that their answers still go out.

        Called when the peer has sent a Close frame or has broken the protocol. Arguments as for `close_socket`.
        """
        if socket.state >= CLOSING:
            return
        socket.pending_close = (code, reason, reported_code, reported_reason)
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            worker_queue.inline_sockets.append(socket)
            worker_queue.inline_events.append(())
            self._mark_worker_queue_dirty(worker_queue)
        elif socket.unhandled_bytes == 0:
            self.apply_pending_close(socket)

    def apply_pending_close(self, socket: Socket) -> None:
        """Closes a socket whose close was postponed by `close_after_messages`; does nothing for any other socket.

        Called once all messages of the socket have been handled.
        """
        pending_close = socket.pending_close
        if pending_close is not None:
            socket.pending_close = None
            self.close_socket(socket, pending_close[0], pending_close[1], pending_close[2], pending_close[3])

    def close_slow_consumer(self, socket: Socket, code: int, reason: str) -> None:
        """Closes a slow consumer: replaces the frames that wait for its socket by a Close frame, and counts it."""
        if socket.state < CLOSING:
            self.counters.slow_consumers += 1
            self._close_and_drop_frames(socket, code, reason)

    def _close_and_drop_frames(self, socket: Socket, code: int, reason: str) -> None:
        """Unregisters a socket, queues its close event and replaces its waiting frames by a Close frame."""
        self._unregister_socket(socket)
        socket.state = CLOSING
        self._queue_close_event(socket, code, reason)
        self._replace_waiting_with_close(socket, encode_close(code, reason))

    def close_overflowed_sockets(self) -> None:
        """Closes the sockets that went over `max_queue_bytes` during a flush, as slow consumers with code 1013."""
        outgoing = self.outgoing
        while outgoing.overflowed_sockets:
            overflowed = outgoing.overflowed_sockets
            outgoing.overflowed_sockets = []
            for socket in overflowed:
                outbox = socket.outbox
                if socket.state == CLOSING and outbox is not None and len(outbox.frames) > 1:
                    # Closed for another reason after frames were lost: the Close frame of that is the last, and stays.
                    self.counters.slow_consumers += 1
                    self._replace_waiting_with_close(socket, outbox.frames[-1])
                else:
                    self.close_slow_consumer(socket, 1013, "slow consumer")

    def close_shed_sockets(self) -> None:
        """Closes the sockets whose outboxes were dropped because too much waited for all sockets together (1013)."""
        outgoing = self.outgoing
        shed = outgoing.shed_sockets
        outgoing.shed_sockets = []
        for socket in shed:
            outbox = socket.outbox
            is_cut = outbox is not None and outbox.is_abort_due
            if socket.state < CLOSING:
                self.counters.overload_closes += 1
                self._close_and_drop_frames(socket, 1013, "server overloaded")
            if is_cut:
                socket.abort()

    def _replace_waiting_with_close(self, socket: Socket, frame: bytes) -> None:
        """Replaces all frames that wait for a socket by one encoded Close frame; sends that frame if possible."""
        self.outgoing.replace_waiting_frames(socket, frame)
        socket.on_overflow()
        if not socket.is_blocked:  # the transport has taken everything meanwhile: nothing else would drain the outbox
            self.outgoing.drain_outbox(socket)

    def mark_connection_lost(self, socket: Socket, code: int, reason: str) -> None:
        """Marks a socket as closed after its connection was lost; queues its close event unless that was done before.

        Args:
            code: the close code that the close handler gets, unless a postponed close has another one.
            reason: the close reason, likewise.
        """
        if socket.state == CLOSED:
            return
        if socket.state < CLOSING:
            self._unregister_socket(socket)
            pending_close = socket.pending_close
            if pending_close is not None:
                code, reason = pending_close[2], pending_close[3]
            self._queue_close_event(socket, code, reason)
        self._mark_closed(socket)

    def _unregister_socket(self, socket: Socket) -> None:
        """Removes a socket from the table of sockets and from all its channels. O(subscriptions of the socket)."""
        if self.sockets.pop(socket.id, None) is None:
            return
        socket.worker_queue.socket_count -= 1
        for channel in socket.channel_list():
            self._remove_subscription(socket, channel)

    def _mark_closed(self, socket: Socket) -> None:
        """Sets the state of a socket to CLOSED and drops the frames that wait for the socket."""
        socket.state = CLOSED
        self.outgoing.drop_outbox(socket)

    def _queue_close_event(self, socket: Socket, code: int, reason: str) -> None:
        """Queues the CLOSE event of a socket for its worker; before the 101 the socket's inbox keeps the event."""
        event = (events.CLOSE, socket.id, socket.token, socket.applied_token_number, code, reason)
        if socket.is_accepted:
            self._emit_close_event(socket, event)
        else:
            socket.inbox = deque([event])  # due if the upgrade is accepted after all

    def _emit_close_event(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Counts a closed socket and puts its CLOSE event into the queue of its worker."""
        self.counters.sockets_closed += 1
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            worker_queue.inline_sockets.append(socket)
            worker_queue.inline_events.append(event)
        else:
            worker_queue.queue_close(socket, event)
        self._mark_worker_queue_dirty(worker_queue)

    # Subscriptions. ---------------------------------------------------------------------------------------------

    def subscribe(self, socket_id: int, name: bytes) -> bool:
        """Subscribes a socket to a channel.

        Returns:
            True if the subscription is new; False if the socket is unknown, is subscribed already, or has
            `max_channels` subscriptions.

        Raises:
            CommandError: a flush is running, during which no channel may gain or lose members.
        """
        if self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
            return False
        return self._add_subscription(socket, name)

    def subscribe_nowait(self, socket_id: int, name: bytes) -> None:
        """Subscribes a socket to a channel without an answer; inside a flush, once that flush has ended."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.SUBSCRIBE, socket_id, name))
        else:
            self.subscribe(socket_id, name)

    def _add_subscription(self, socket: Socket, name: bytes) -> bool:
        """Adds a socket to a channel, which is made if it does not exist; returns False if nothing was added."""
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
        """Unsubscribes a socket from a channel; returns whether the socket was subscribed.

        Raises:
            CommandError: a flush is running, during which no channel may gain or lose members.
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
        """Unsubscribes a socket from a channel without an answer; inside a flush, once that flush has ended."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.UNSUBSCRIBE, socket_id, name))
        else:
            self.unsubscribe(socket_id, name)

    def _remove_subscription(self, socket: Socket, channel: Channel) -> None:
        """Removes a member from a channel, and the channel from the table if that was the last member."""
        self.outgoing.record_leave(socket, channel)
        channel.remove_member(socket)
        if channel.member_count == 0 and channel.dirty_index == NO_INDEX:
            self.channels_by_name.pop(channel.name, None)

    def copy_subscriptions(self, from_name: bytes, to_name: bytes) -> None:
        """Subscribes all present subscribers of one channel to another channel too, in the order of the first one.

        O(subscribers of the first). Sockets that have `max_channels` subscriptions are left out and counted.
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
        """Queues a message (`str`: text, `bytes`: binary) for one socket; an unknown id is ignored and counted."""
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
        """Queues a message for all subscribers of a channel but the excluded socket ids. O(1 + excluded)."""
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
        """Queues an encoded frame for all members of a channel but the excluded socket ids, and counts it."""
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
        """Queues an encoded control frame (ping, pong) for a socket that is not closing, in order with its messages."""
        if socket.state < CLOSING:
            self.outgoing.send_frame(socket, frame)
            self.schedule_turn()
            if self.deferred_commands:
                self._apply_deferred_commands()

    def flush(self) -> None:
        """Writes the frames of this turn to the sockets, then closes the sockets that went over a limit meanwhile.

        Called once per loop turn. Applies the commands that were given inside the flush last.
        """
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
        """Applies the commands given inside a flush, in order; called at the end of each call that may have flushed."""
        if self.is_applying_deferred:  # a deferred command has caused a flush: the loop below takes its commands too
            return
        self.is_applying_deferred = True
        try:
            while self.deferred_commands:
                deferred = self.deferred_commands
                self.deferred_commands = []
                for command in deferred:
                    self._apply_deferred_command(command)
        finally:
            self.is_applying_deferred = False

    def _apply_deferred_command(self, command: tuple[object, ...]) -> None:
        """Applies one command of `deferred_commands`, whose SEND and PUBLISH carry encoded frames."""
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
        """Sets or clears (None) the token of a socket; the socket's worker gets the token with its next message.

        A socket that has closed is found as long as an inline message handler of it runs. Any other unknown id is
        ignored and counted.
        """
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
        """Returns the closed socket of this id if an inline handler of it still runs, else None."""
        worker_queue = self.worker_queues[0] if self.worker_queues else None
        if worker_queue is None or not worker_queue.is_inline:
            return None
        current = worker_queue.current_socket
        if current is not None and current.id == socket_id:
            return current
        return worker_queue.busy_sockets.get(socket_id)

    def store_token(self, socket: Socket, token: bytes | None, worker_index: i64, number: int) -> None:
        """Stores the token of a socket and notes whether the socket's worker knows that token.

        Args:
            worker_index: of the worker that gave the SET_TOKEN command; NO_INDEX: no worker did.
            number: of the command in that worker's token cache; 0: the worker does not cache the token.
        """
        socket.token = token
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            return
        if worker_queue.index == worker_index and number > 0:
            socket.applied_token_number = number
            socket.is_token_stale = False
        else:
            socket.is_token_stale = True

    def _check_answerable(self) -> None:
        """Raises CommandError inside a flush with deferred commands: an answer would not take account of those."""
        if self.deferred_commands and self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)

    def is_open(self, socket_id: int) -> bool:
        """Returns whether a socket is registered: from before its open handler runs until it begins to close."""
        self._check_answerable()
        return socket_id in self.sockets

    def subscriber_count(self, name: bytes) -> int:
        """Returns how many sockets are subscribed to a channel; 0 for an unknown name."""
        self._check_answerable()
        channel = self.channels_by_name.get(name)
        return 0 if channel is None else int(channel.member_count)

    def subscribers(self, name: bytes) -> list[int]:
        """Returns the ids of the sockets subscribed to a channel, in subscription order. O(subscribers)."""
        self._check_answerable()
        channel = self.channels_by_name.get(name)
        return [] if channel is None else channel.member_ids()

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Returns the names of a socket's channels, oldest subscription first; [] for an unknown id."""
        self._check_answerable()
        socket = self.sockets.get(socket_id)
        return [] if socket is None else [channel.name for channel in socket.channel_list()]

    def channels(self) -> list[bytes]:
        """Returns the names of all channels that have a subscriber. O(channels)."""
        self._check_answerable()
        return [name for name, channel in self.channels_by_name.items() if channel.member_count > 0]

    def queued_bytes(self, socket_id: int) -> int:
        """Returns the bytes that wait for a socket: direct frames of this turn, outbox and transport's buffer.

        Frames count with their headers, without the overhead that `max_queue_bytes` adds for each.
        """
        self._check_answerable()
        socket = self.sockets.get(socket_id)
        if socket is None:
            return 0
        outbox = socket.outbox
        outbox_bytes: i64 = 0 if outbox is None else outbox.frame_bytes()
        return int(socket.direct_bytes + outbox_bytes) + socket.transport_bytes()

    # Worker queues. ---------------------------------------------------------------------------------------------

    def add_worker_queue(self, worker_index: int, credit_bytes: int, is_inline: bool = False) -> WorkerQueue:
        """Adds the queue of one more worker and returns that queue; indexes count from 0."""
        if worker_index != len(self.worker_queues):
            raise ValueError(f"lane {worker_index} does not follow {len(self.worker_queues) - 1}")
        worker_queue = WorkerQueue(worker_index, credit_bytes, is_inline)
        self.worker_queues.append(worker_queue)
        return worker_queue

    def receive_message(self, socket: Socket, data: object, size_bytes: i64) -> None:
        """Queues a client's message for the socket's worker, or in the socket's inbox while the worker is behind.

        Called by the connection for each decoded message.

        Args:
            data: `str` of a text message, `bytes` of a binary one.
            size_bytes: the payload on the wire.
        """
        self.counters.messages_received += 1
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            worker_queue.inline_sockets.append(socket)
            worker_queue.inline_events.append(data)
        else:
            cost_bytes = size_bytes + MESSAGE_OVERHEAD_BYTES
            socket.unhandled_bytes += cost_bytes
            worker_queue.unhandled_bytes += cost_bytes
            self.unhandled_bytes += cost_bytes
            if (
                not worker_queue.queue_message(socket, (events.MESSAGE, socket.id, data, int(cost_bytes)), cost_bytes)
                and not worker_queue.is_paused
            ):
                self.counters.mailboxes_full += 1
        if not worker_queue.is_dirty:
            self._mark_worker_queue_dirty(worker_queue)

    def _mark_worker_queue_dirty(self, worker_queue: WorkerQueue) -> None:
        if not worker_queue.is_dirty:
            worker_queue.is_dirty = True
            self.dirty_worker_queues.append(worker_queue)
        if not self.is_turn_scheduled:
            self.schedule_turn()

    def deliver_batches(self) -> None:
        """Hands each worker its batch of events of this turn; called once per turn. The inline runner takes its own."""
        while self.dirty_worker_queues:  # popped singly: if handing a batch over fails, the other queues stay listed
            worker_queue = self.dirty_worker_queues.pop()
            worker_queue.is_dirty = False
            if worker_queue.events and self.deliver_batch is not None:
                batch = worker_queue.events
                worker_queue.events = []
                self.deliver_batch(worker_queue.index, batch)

    def record_handled_messages(self, worker_queue: WorkerQueue, handled: list[tuple[int, int]]) -> None:
        """Takes a worker's report of handled messages: returns their credit, resumes reading, sends waiting events.

        Args:
            handled: (socket id, cost in bytes) for each message whose handler has ended.
        """
        count: i64 = len(handled)
        worker_queue.in_flight_messages -= count
        worker_queue.handled_messages += count
        total: i64 = 0
        for socket_id, cost_bytes in handled:
            total += cost_bytes
            socket = self.sockets.get(socket_id)
            if socket is not None:
                worker_queue.return_share(socket, cost_bytes)
                self.release_inbox_bytes(socket, cost_bytes)
            elif worker_queue.sockets_with_inbox:
                # Unregistered: the socket's last messages and its CLOSE event may still wait for its share.
                socket = worker_queue.sockets_with_inbox.get(socket_id)
                if socket is not None:
                    worker_queue.return_share(socket, cost_bytes)
        worker_queue.in_flight_bytes -= total
        self._subtract_unhandled_bytes(worker_queue, total)
        if worker_queue.send_waiting_events():
            self._mark_worker_queue_dirty(worker_queue)
        self._subtract_dropped_bytes(worker_queue)

    def _subtract_unhandled_bytes(self, worker_queue: WorkerQueue, cost_bytes: i64) -> None:
        """Subtracts the cost of messages that were handled or lost from the worker queue's and the broker's sums."""
        worker_queue.unhandled_bytes -= cost_bytes
        self.unhandled_bytes -= cost_bytes

    def _subtract_dropped_bytes(self, worker_queue: WorkerQueue) -> None:
        """Subtracts the cost of the messages that a worker queue has dropped from inboxes since the last call."""
        if worker_queue.dropped_bytes:
            self._subtract_unhandled_bytes(worker_queue, worker_queue.dropped_bytes)
            worker_queue.dropped_bytes = 0

    def inbox_limit_bytes(self) -> i64:
        """Returns the bytes that one socket may have read and not yet handled, before its reading pauses."""
        limit: i64 = self.limits.inbox_bytes
        if self.unhandled_bytes < self.limits.max_inbox_bytes_total or limit < SCARCE_INBOX_BYTES:
            return limit
        return SCARCE_INBOX_BYTES

    def release_inbox_bytes(self, socket: Socket, cost_bytes: i64) -> None:
        """Subtracts handled messages from the unhandled bytes of a socket; resumes its reading at half the limit.

        Called once per handled message. A close postponed until the last message is applied here.
        """
        socket.unhandled_bytes -= cost_bytes
        if socket.is_reading_paused and socket.unhandled_bytes * 2 <= self.inbox_limit_bytes():
            socket.resume_reading()
        if socket.pending_close is not None and socket.unhandled_bytes <= 0 and not socket.worker_queue.is_inline:
            self.apply_pending_close(socket)

    def mark_worker_lost(
        self, worker_index: int, code: int, reason: str = "worker restart"
    ) -> list[tuple[object, ...]]:
        """Closes all sockets of a worker that died and empties its queue; later commands of that worker are ignored.

        Args:
            code: the close code for the sockets.

        Returns:
            the CLOSE events whose handler has not run, for another worker (`adopt_closes`).
        """
        worker_queue = self.worker_queues[worker_index]
        worker_queue.generation += 1
        for socket in list(self.sockets.values()):
            if socket.worker_queue is worker_queue:
                self.close_socket(socket, code, reason, code, reason)
        self.counters.messages_lost += worker_queue.count_unhandled_messages()
        self._subtract_unhandled_bytes(worker_queue, worker_queue.unhandled_bytes)
        return worker_queue.drop_all_events()

    def pause_worker_queue(self, worker_index: int) -> None:
        """Pauses the queue of a worker, so that the worker runs empty before its replacement (`WorkerQueue.pause`)."""
        self.worker_queues[worker_index].pause()

    def resume_worker_queue(self, worker_index: int) -> None:
        """Resumes a paused worker queue: the messages that waited go to the worker."""
        worker_queue = self.worker_queues[worker_index]
        if worker_queue.resume():
            self._mark_worker_queue_dirty(worker_queue)
        self._subtract_dropped_bytes(worker_queue)

    def drop_waiting_messages(self) -> int:
        """Drops the messages that still wait for workers, so that the close handlers behind them run in time.

        Called when the server stops and has no time for all messages.

        Returns:
            how many messages were dropped; they are counted as lost.
        """
        dropped: i64 = 0
        for worker_queue in self.worker_queues:
            dropped += worker_queue.drop_waiting_messages()
            if worker_queue.send_waiting_events():
                self._mark_worker_queue_dirty(worker_queue)
            self._subtract_dropped_bytes(worker_queue)
        self.counters.messages_lost += dropped
        return int(dropped)

    def replace_worker(self, worker_index: int) -> None:
        """Connects a paused, empty worker queue to a new worker and resumes the queue; its sockets stay open.

        Later commands of the old worker are ignored; the new worker gets the tokens with the messages. O(sockets).
        """
        worker_queue = self.worker_queues[worker_index]
        worker_queue.generation += 1
        self._subtract_unhandled_bytes(worker_queue, worker_queue.in_flight_bytes)
        worker_queue.reset_for_new_worker(self.sockets)
        self.resume_worker_queue(worker_index)

    def adopt_closes(self, worker_index: int, closes: list[tuple[object, ...]]) -> None:
        """Queues the CLOSE events of a dead worker (from `mark_worker_lost`) for this worker."""
        worker_queue = self.worker_queues[worker_index]
        for event in closes:
            worker_queue.unhandled_closes[cast(int, event[1])] = event
            worker_queue.events.append(event)
        self._mark_worker_queue_dirty(worker_queue)

    # Commands. --------------------------------------------------------------------------------------------------

    def apply_commands(
        self, worker_index: int, generation: int, batch: list[tuple[object, ...]]
    ) -> list[tuple[object, ...]]:
        """Applies a batch of commands in order.

        Args:
            worker_index: of the worker that gave the commands; -1: a thread of the main interpreter did.
            generation: of the worker queue when that worker was started; a batch of an older worker is dropped.

        Returns:
            the commands that are the pool's to apply, and for worker -1 the ANSWER events to its questions.
        """
        pool_commands: list[tuple[object, ...]] = []
        worker_queue: WorkerQueue | None = None
        if worker_index >= 0:
            worker_queue = self.worker_queues[worker_index]
            if worker_queue.generation != generation:
                return pool_commands
        answers: list[tuple[object, ...]] = []
        for command in batch:
            try:
                apply_command(self, worker_queue, command, answers, pool_commands)
            except (TypeError, ValueError, IndexError):
                # The API checks its arguments, so only a defect of ours gets here; the other commands must be applied.
                self.counters.commands_refused += 1
        if answers:
            if worker_queue is None:
                pool_commands.extend(answers)
            else:
                worker_queue.events.extend(answers)
                self._mark_worker_queue_dirty(worker_queue)
                if self.deliver_batch is not None:  # a handler is blocked until the answer: sent now, not with the turn
                    ready = worker_queue.events
                    worker_queue.events = []
                    self.deliver_batch(worker_queue.index, ready)
        return pool_commands
