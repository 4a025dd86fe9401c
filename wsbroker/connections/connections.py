"""All connections of a server: their admission, the loop turn that moves their messages, timers, the server's stop.

A turn is scheduled by the first frame or event that waits, and runs once the loop has read from all sockets that were
ready: throttled connections go on reading, handlers in the loop run, the workers get their batches, and then all frames
are flushed with one write per socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast, final

from wsbroker.broker.limits import Limits
from wsbroker.broker.socket import CLOSING, Socket
from wsbroker.connections.connection import Connection
from wsbroker.connections.turn import ConnectionSettings as ConnectionSettings
from wsbroker.connections.turn import Turn

if TYPE_CHECKING:
    from wsbroker.connections.inline_runner import InlineRunner


@final
class Connections(Turn):
    """All WebSocket connections of one server, the loop turn and the timer wheel. Loop thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, settings: ConnectionSettings) -> None:
        super().__init__(limits, settings)
        self.loop: Final = loop
        self.max_connections: Final = settings.max_connections
        self.flush_interval_s: Final = settings.flush_interval
        self.is_flush_due = False
        """Whether a flush is scheduled, `flush_interval` after the first frame since the last flush."""
        self.connection_count: int = 0
        """Connections between `admit_connection` and their loss or discard, closing ones included."""
        self.deferred_connections: list[Connection] = []
        """Throttled connections, which read on in the next turn."""
        self.inline_runner: InlineRunner | None = None
        self.is_stopped = False

    # Coming and going. ------------------------------------------------------------------------------------------

    def admit_connection(self, worker_index: int) -> Connection | None:
        """Makes a connection and registers its socket, before its open handler runs.

        Args:
            worker_index: of the worker that gets the connection's messages.

        Returns:
            the connection; None if there are `max_connections` already or the server stops.
        """
        if self.connection_count >= self.max_connections or self.is_stopped:
            return None
        broker = self.broker
        connection = Connection(broker.allocate_socket_id(), broker.worker_queues[worker_index], self)
        broker.register_socket(connection)
        self.connection_count += 1
        return connection

    def accept_upgrade(
        self, connection: Connection, transport: asyncio.Transport, head: bytes, early_data: bytes
    ) -> None:
        """Hands a transport to its admitted connection, sends the 101 response and opens the socket.

        Args:
            transport: of the HTTP connection that was upgraded.
            head: the whole 101 response.
            early_data: bytes that the client has sent behind its request already.
        """
        connection.transport = transport
        transport.set_protocol(cast(asyncio.BaseProtocol, connection))
        if not transport.is_closing():
            # Frames that the peer does not take wait in the outbox, not in the transport: a transport keeps up to
            # 64 KiB by default, and uvloop's needs 700 bytes for each write, 14 MiB if those are one-byte answers.
            transport.set_write_buffer_limits(0)
        # In front of the waiting frames: the 101 response may fill the transport, and those frames must wait then.
        self.broker.outgoing.prepend_to_outbox(connection, head)
        connection.last_heard_tick = self.timer_wheel.current_tick
        if connection.state < CLOSING:
            self.timer_wheel.set_deadline(connection, self.ping_ticks if self.ping_ticks > 0 else self.idle_ticks)
        else:
            connection.on_close_queued()  # the Close frame was queued before the 101: it can leave from now on
        self.broker.mark_socket_open(connection)
        if early_data:
            connection.data_received(early_data)

    def discard_connection(self, connection: Connection) -> None:
        """Removes an admitted connection that was refused, or lost before the 101 response."""
        self.connection_count -= 1
        self.timer_wheel.cancel_deadline(connection)
        self.broker.discard_socket(connection)

    def remove_lost_connection(self, connection: Socket) -> None:
        """Removes a connection whose transport has closed, and closes its socket with code 1006 if that is open."""
        self.connection_count -= 1
        self.timer_wheel.cancel_deadline(connection)
        self.broker.mark_connection_lost(connection, 1006, "")

    # Turns. -----------------------------------------------------------------------------------------------------

    def schedule_turn(self) -> None:
        """Schedules `run_turn` in the event loop; called by the broker at most once per turn."""
        self.loop.call_soon(self.run_turn)

    def defer_reading(self, connection: Socket) -> None:
        """Pauses reading of a connection until the next turn, which reads on."""
        throttled = cast(Connection, connection)
        throttled.throttle_reading()
        self.deferred_connections.append(throttled)
        self.broker.schedule_turn()

    def run_turn(self) -> None:
        """Runs one loop turn: reads on, runs handlers, hands out batches, flushes. O(messages + deliveries)."""
        self.turn_number += 1
        try:
            self._run_turn_steps()
        finally:
            # After any error the next turn must still come: until here `is_turn_scheduled` has kept it from being
            # scheduled.
            self.broker.is_turn_scheduled = False
            if self._has_work():
                self.broker.schedule_turn()

    def _run_turn_steps(self) -> None:
        """Runs one loop turn: continues deferred reads, runs inline handlers, hands batches to workers, flushes frames.

        Called by `run_turn`. With a `flush_interval` the flush is scheduled for the end of that interval. Inline
        handlers that were deferred run after the flush.
        """
        if self.deferred_connections:
            unread = self.deferred_connections
            self.deferred_connections = []
            for connection in unread:
                connection.continue_reading()
        inline = self.inline_runner
        if inline is not None:
            inline.run()
        self.broker.deliver_batches()
        if self.flush_interval_s <= 0:
            self.broker.flush()
        elif self.broker.outgoing.frames:
            if not self.is_flush_due:
                self.is_flush_due = True
                self.loop.call_later(self.flush_interval_s, self._flush_after_interval)
        else:  # a cap has caused the flush already: the broker closes the sockets that went over their limits in it
            self.broker.flush()
        if inline is not None:
            inline.run_deferred_sockets()  # after the answers to all other sockets

    def _flush_after_interval(self) -> None:
        """Flushes the frames collected during a `flush_interval`; called by the loop when that interval ends."""
        self.is_flush_due = False
        self.broker.flush()

    def _has_work(self) -> bool:
        """Returns whether deferred reads, events or frames wait for another turn; called at the end of a turn."""
        broker = self.broker
        if (
            self.deferred_connections
            or broker.dirty_worker_queues
            or (broker.outgoing.frames and not self.is_flush_due)
        ):
            return True
        inline = self.inline_runner
        return inline is not None and (len(broker.inline_queue.sockets) > 0 or len(inline.deferred_sockets) > 0)

    # Time. ------------------------------------------------------------------------------------------------------

    def advance_timers(self) -> None:
        """Advances the timer wheel by one tick and checks the connections that are due; calls itself every `tick_s`.

        Ends once the server is stopped and the last connection is gone.

        Raises:
            Exception: the last one that a connection's check raised; all checks are made before.
        """
        if self.is_stopped and self.connection_count == 0:
            return
        self.loop.call_later(self.tick_s, self.advance_timers)
        failure: Exception | None = None
        for socket in self.timer_wheel.advance_tick():
            try:
                cast(Connection, socket).on_timer()
            except Exception as error:  # the deadlines of the other connections must not be lost
                failure = error
        if failure is not None:
            raise failure

    # Stopping. --------------------------------------------------------------------------------------------------

    def close_oldest_sockets(self, limit: int, code: int, reason: str) -> int:
        """Begins to close up to `limit` sockets, oldest first; returns how many sockets stay open.

        Called repeatedly while the server shuts down, in batches.
        """
        broker = self.broker
        chosen: list[Socket] = []
        for socket in broker.sockets.values():
            if len(chosen) == limit:
                break
            chosen.append(socket)
        for socket in chosen:
            broker.close_socket(socket, code, reason, code, reason)
        return len(broker.sockets)

    def stop(self) -> None:
        """Refuses all new connections from now on; the timer wheel stops with the last connection."""
        self.is_stopped = True

    def abort_connections(self) -> int:
        """Aborts all remaining connections; returns how many. Called at the end of the server's stop."""
        dropped = 0
        for slot in self.timer_wheel.slots:
            for socket in list(slot):
                cast(Connection, socket).abort()
                dropped += 1
        return dropped
