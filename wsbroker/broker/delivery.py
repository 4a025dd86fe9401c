"""Layer 2 of the broker: sends, publishes, flushes, closes; slow clients and overload are closed here with 1013.

The middle layer of the broker (`Registry`, `Delivery`, `Broker`). No method here does I/O: frames gather in `outgoing`
and CLOSE events in the worker queues until the owner of the loop, asked through `TurnScheduler`, flushes the turn.
"""

from __future__ import annotations

from collections import deque
from typing import cast

from wsbroker.broker.channel import Channel
from wsbroker.broker.registry import Registry
from wsbroker.broker.socket import CLOSED, CLOSING, NO_INDEX, OPEN, OPENING, Socket
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.websocket.frames import check_message, encode_close, encode_message
from wsbroker.wire import commands, events


class Delivery(Registry):
    """Sends messages to sockets and channels, closes sockets and flushes the turn. Loop thread only."""

    # Opening and closing. ---------------------------------------------------------------------------------------------

    def mark_socket_open(self, socket: Socket) -> None:
        """Marks a socket as accepted and sends its waiting frames; called once the 101 response is queued.

        For a socket that was closed while it was opening, its CLOSE event is queued now.
        """
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
        """Unregisters a socket that was refused, or lost before the 101 response; no close event is queued."""
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
            self.inline_queue.sockets.append(socket)
            self.inline_queue.events.append(())
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
        """Closes a slow consumer: replaces its socket's waiting frames by a Close frame, and counts the slow consumer.

        Does nothing for a socket that is closing already.
        """
        if socket.state < CLOSING:
            self.counters.slow_consumers += 1
            self._close_and_drop_frames(socket, code, reason)

    def _close_and_drop_frames(self, socket: Socket, code: int, reason: str) -> None:
        """Unregisters a socket over a limit, queues its close event, replaces its waiting frames by a Close frame."""
        self._unregister_socket(socket)
        socket.state = CLOSING
        self._queue_close_event(socket, code, reason)
        self._replace_waiting_with_close(socket, encode_close(code, reason))

    def close_overflowed_sockets(self) -> None:
        """Closes sockets over `max_queue_bytes` with 1013; sockets that are closing already keep only the Close frame.

        Called by `flush` with the sockets that `Outgoing` has noted; counts them as slow consumers.
        """
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
        """Closes the sockets whose outboxes were emptied because all together took too much memory (1013).

        Called by `flush` with the sockets that `Outgoing` has noted. Aborts those connections whose Close frame could
        not free the memory (`Outbox.is_abort_due`).
        """
        outgoing = self.outgoing
        shed = outgoing.shed_sockets
        outgoing.shed_sockets = []
        for socket in shed:
            outbox = socket.outbox
            must_abort = outbox is not None and outbox.is_abort_due
            if socket.state < CLOSING:
                self.counters.overload_closes += 1
                self._close_and_drop_frames(socket, 1013, "server overloaded")
            if must_abort:
                socket.abort()

    def _replace_waiting_with_close(self, socket: Socket, frame: bytes) -> None:
        """Replaces all frames that wait for a socket by a Close frame; writes it if the transport is not full.

        Starts `close_timeout` unless it has begun already. Nothing is replaced if the connection is to be aborted.

        Args:
            socket: the socket.
            frame: the encoded Close frame.
        """
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

    def _mark_closed(self, socket: Socket) -> None:
        """Sets the state of a socket whose connection is gone to CLOSED, and drops the frames that wait for it."""
        socket.state = CLOSED
        self.outgoing.drop_outbox(socket)

    def _queue_close_event(self, socket: Socket, code: int, reason: str) -> None:
        """Queues a socket's CLOSE event for its worker; before the 101 response, keeps the event in the inbox.

        The worker's close handler gets code and reason. Called once per socket, when it begins to close or is lost.
        """
        event = (events.CLOSE, socket.id, socket.token, socket.applied_token_number, code, reason)
        if socket.is_accepted:
            self._emit_close_event(socket, event)
        else:
            socket.inbox = deque([event])  # due if the upgrade is accepted after all

    def _emit_close_event(self, socket: Socket, event: tuple[object, ...]) -> None:
        """Counts a closed socket, puts its CLOSE event into the queue of its worker and schedules a turn."""
        self.counters.sockets_closed += 1
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            self.inline_queue.sockets.append(socket)
            self.inline_queue.events.append(event)
        else:
            worker_queue.queue_close(socket, event)
        self._mark_worker_queue_dirty(worker_queue)

    def _mark_worker_queue_dirty(self, worker_queue: WorkerQueue) -> None:
        """Notes that a worker queue has events to deliver in this turn, and schedules a turn if none is scheduled."""
        if not worker_queue.is_dirty:
            worker_queue.is_dirty = True
            self.dirty_worker_queues.append(worker_queue)
        if not self.is_turn_scheduled:
            self.schedule_turn()

    # Sending. ---------------------------------------------------------------------------------------------------------

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
        """Queues an encoded frame for all members of a channel but the excluded socket ids; counts the publication."""
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

        Called once per loop turn. Then drops channels without members, and applies the commands given inside the flush.
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
        """Applies the commands given while a flush ran, in order; called at the end of each call that may flush.

        Does nothing if called while commands are being applied here: the outer call applies the new ones too.
        """
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
        """Applies a command that was given while a flush ran; data of SEND and PUBLISH is an encoded frame already.

        A command of unknown kind is skipped and counted.
        """
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
        elif kind == commands.SUBSCRIBE:
            self.subscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
        elif kind == commands.UNSUBSCRIBE:
            self.unsubscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
        elif kind == commands.COPY_SUBSCRIPTIONS:
            self.copy_subscriptions(cast(bytes, command[1]), cast(bytes, command[2]))
        elif kind == commands.CLOSE:
            self.close(cast(int, command[1]), cast(int, command[2]), cast(str, command[3]))
        else:
            self.counters.commands_refused += 1
