"""One client's WebSocket connection: reads and writes its transport; pings, closing handshake, time limits.

It is a plain native class (deriving from `asyncio.Protocol` would give every connection a dict), one object per
connection: protocol, broker's socket and timer in one. It has a decoder only while a message or frame is incomplete.

The states are those of `broker.socket`; the sending of our Close frame divides CLOSING into three.

================  ==============  =====================  ======================  =====================  ==============
state             101 queued      broker closes          peer's CLOSE read       FAILED (peer broke     deadline due
                                                                                 the protocol) read
================  ==============  =====================  ======================  =====================  ==============
OPENING           OPEN            Close waits            –                       –                      –
OPEN              –               Close waits [1]_       OPEN; after its         the same; later        ping, or
                                                         messages: Close waits   bytes are ignored      abort [2]_
Close waits       timer starts    –                      later bytes ignored     later bytes ignored    abort
Close written     –               –                      transport closes        transport closes       abort
transport closes  –               –                      –                       –                      abort
================  ==============  =====================  ======================  =====================  ==============

"Close waits" becomes "Close written" when the transport has taken our Close frame (`on_close_written`), and at once
"transport closes" if the peer's CLOSE was read before. When the transport is lost every state becomes CLOSED.

.. [1] Closed by the application, the server's stop, a lost worker, or as a slow consumer.
.. [2] Abort after `write_timeout` without progress of a full transport, or `pong_timeout` without a pong.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import CLOSED, CLOSING, Socket
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.connections.turn import Turn
from wsbroker.websocket.decoder import BINARY, CLOSE, FAILED, NEED_DATA, PING, TEXT, Decoder
from wsbroker.websocket.frames import PONG as PONG_FRAME
from wsbroker.websocket.frames import encode_frame

EMPTY_PING: Final = b"\x89\x00"


@final
class Connection(Socket):
    """One client's WebSocket connection: asyncio protocol, socket of the broker and timer. Loop thread only."""

    def __init__(self, socket_id: int, worker_queue: WorkerQueue, turn: Turn) -> None:
        super().__init__(socket_id, worker_queue)
        self.turn: Final = turn
        self.transport: asyncio.Transport | None = None
        self.decoder: Decoder | None = None
        """Holds the bytes that were read and are not decoded, and an incomplete message; None if there are none."""
        self.last_heard_tick: i64 = 0
        """Tick at which the peer last sent bytes, or its pong deadline was last suspended."""
        self.waiting_since_tick: i64 = 0
        """Tick since which the transport has made no progress, a pong is awaited, or we are closing."""
        self.lowest_transport_bytes: i64 = 0
        """Size of the transport's buffer at `waiting_since_tick`, in bytes."""
        self.read_turn: i64 = 0
        self.read_bytes: i64 = 0
        self.pending_pong: bytes | None = None
        """The newest pong frame that waits while the transport is full."""
        self.is_awaiting_pong = False
        self.is_throttled = False
        """Whether reading has used up its budget of this turn and goes on in the next."""
        self.is_close_timer_started = False
        """Whether the time for our Close frame, and the frames before it, to leave has begun."""
        self.is_close_written = False
        """Whether our Close frame has been handed to the transport."""
        self.is_peer_closed = False
        """Whether the peer's Close frame, or a protocol error while we closed, has been read."""
        self.is_input_ignored = False
        """Whether all further bytes from the peer are discarded."""

    @property
    def worker_index(self) -> int:
        """The index of the worker that handles this connection's messages."""
        return self.worker_queue.index

    # From the transport. ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Stores the transport; required by asyncio's protocol interface, not called by `set_protocol`."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Takes bytes from the peer, split anywhere, and reads messages from them; called by the transport.

        Beyond the byte budget of a turn, reading goes on in the next turn. Ignores bytes after a protocol error.
        """
        if self.state == CLOSED or self.is_input_ignored:
            return
        turn = self.turn
        self.last_heard_tick = turn.timer_wheel.current_tick
        self.is_awaiting_pong = False
        decoder = self.decoder
        if decoder is None:
            decoder = turn.acquire_decoder()
            self.decoder = decoder
        decoder.receive_data(data)
        if self.read_turn != turn.turn_number:
            self.read_turn = turn.turn_number
            self.read_bytes = 0
        self.read_bytes += len(data)
        if not self.is_reading_paused and not self.is_throttled:
            self.read()
            if self.read_bytes >= turn.read_budget_bytes and not self.is_throttled:
                turn.defer_reading(self)

    def eof_received(self) -> bool:
        """Returns False, so that the transport closes; called by the transport when the peer has closed its side."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Removes this connection from the server; called by the transport once it has closed, for any reason."""
        self.turn.remove_lost_connection(self)
        self.transport = None
        self.pending_pong = None

    def pause_writing(self) -> None:
        """Marks this connection as blocked and starts `write_timeout`; called by the transport when its buffer fills.

        Possibly called from inside `write`, during a flush. The deadline of a closing connection is not changed.
        """
        self.turn.broker.outgoing.mark_blocked(self)
        if self.state < CLOSING:
            self.lowest_transport_bytes = self.transport_bytes()
            self.waiting_since_tick = self.turn.timer_wheel.current_tick
            self.turn.timer_wheel.set_deadline(self, self.turn.write_ticks)

    def resume_writing(self) -> None:
        """Writes the frames that waited, then a pong that waited; called by the transport when its buffer is empty."""
        if self.state == CLOSED:
            return
        self.turn.broker.outgoing.drain_outbox(self)
        pong = self.pending_pong
        if pong is not None and not self.is_blocked:
            self.pending_pong = None
            self.turn.broker.send_control_frame(self, pong)

    # Reading. ---------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Decodes the received bytes into messages for the broker, until a budget of this turn or the inbox is full."""
        turn = self.turn
        decoder = self.decoder
        if decoder is None:
            return
        broker = turn.broker
        stop = decoder.frame_count + turn.read_budget_frames
        inbox_bytes = broker.inbox_limit_bytes()
        # Inline messages count only once they are in the inbox, which is after this turn's reading.
        is_scarce = inbox_bytes < broker.limits.inbox_bytes and self.worker_queue.is_inline
        taken: i64 = 0
        while True:
            kind = decoder.next_event()
            if kind == NEED_DATA:
                if decoder.is_idle:
                    self.decoder = None
                    turn.spare_decoder = decoder
                return
            if self.state >= CLOSING:
                self._read_while_closing(kind)
                if self.is_input_ignored or self.state == CLOSED:
                    return
            elif kind == TEXT:
                broker.receive_message(self, decoder.text, decoder.payload_bytes)
            elif kind == BINARY:
                broker.receive_message(self, decoder.data, decoder.payload_bytes)
            else:
                self._read_control_frame(kind, decoder)
            if self.unhandled_bytes >= inbox_bytes and self.state < CLOSING:
                self.pause_reading()
                return
            if is_scarce:
                taken += decoder.payload_bytes
            if decoder.frame_count >= stop or taken >= inbox_bytes:
                turn.defer_reading(self)
                return

    def _read_control_frame(self, kind: int, decoder: Decoder) -> None:
        """Handles a decoded control frame or protocol error: answers a PING, begins to close on CLOSE and FAILED.

        Called by `read` while no Close frame of ours is queued.

        Args:
            kind: the event of the decoder; PONG and FRAGMENTS need no action.
            decoder: has the payload, or the close code and reason, of that event.
        """
        broker = self.turn.broker
        if kind == PING:
            pong = encode_frame(PONG_FRAME, decoder.data)
            if self.is_blocked:
                self.pending_pong = pong
            else:
                broker.send_control_frame(self, pong)
        elif kind == CLOSE:
            self.is_peer_closed = True
            broker.close_after_messages(self, decoder.close_code, "", decoder.close_code, decoder.close_reason)
        elif kind == FAILED:
            self.is_input_ignored = True
            broker.close_after_messages(
                self, decoder.close_code, decoder.close_reason, decoder.close_code, decoder.close_reason
            )

    def _read_while_closing(self, kind: int) -> None:
        """Handles a decoded event that comes after our Close frame was queued; ignores all events but CLOSE and FAILED.

        After one of these all input is ignored, and the transport is closed if our Close frame has been written.

        Args:
            kind: the event of the decoder.

        Source: RFC 6455 section 5.5.1.
        """
        if kind == CLOSE or kind == FAILED:
            self.is_peer_closed = True
            self.is_input_ignored = True
            if self.is_close_written:
                self._close_transport()

    def pause_reading(self) -> None:
        """Pauses reading from the transport, until `resume_reading`; called when the inbox is full."""
        if not self.is_reading_paused and self.transport is not None:
            self.is_reading_paused = True
            self.turn.broker.counters.inboxes_full += 1
            self.transport.pause_reading()
            if self.decoder is not None:  # one last frame would keep a whole read of 256 KiB in memory
                self.decoder.drop_decoded()

    def resume_reading(self) -> None:
        """Resumes reading in the next turn, with the bytes received before; called when the inbox has room again."""
        self.is_reading_paused = False
        self.last_heard_tick = self.turn.timer_wheel.current_tick
        self.is_awaiting_pong = False
        self.turn.defer_reading(self)

    def throttle_reading(self) -> None:
        """Pauses reading from the transport until the next turn (`continue_reading`)."""
        self.is_throttled = True
        if self.transport is not None:
            self.transport.pause_reading()

    def continue_reading(self) -> None:
        """Goes on reading with a new budget; called at the start of the turn after `throttle_reading`."""
        self.is_throttled = False
        if self.transport is None or self.is_reading_paused:
            return
        self.read_turn = self.turn.turn_number
        self.read_bytes = 0
        if not self.is_input_ignored:
            self.read()
        if not self.is_throttled and not self.is_reading_paused and self.transport is not None:
            self.transport.resume_reading()

    # Writing. ---------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Writes whole encoded frames to the transport; drops them if the transport is gone."""
        transport = self.transport
        if transport is not None:
            transport.write(data)

    def transport_bytes(self) -> int:
        """Returns the number of bytes in the transport's write buffer."""
        transport = self.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def on_close_written(self) -> None:
        """Starts `close_timeout` for the peer's Close frame; closes the transport if that frame was read before.

        Called when our Close frame has been handed to the transport; a second call does nothing.
        """
        if self.is_close_written:
            return
        self.is_close_written = True
        self._set_close_deadline()
        transport = self.transport
        if transport is None:
            return
        if self.is_peer_closed:
            self._close_transport()
            return
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.turn.defer_reading(self)
        if self.is_input_ignored and transport.can_write_eof():
            # Closing now would reset the connection under unread bytes, and the Close frame with it: half-close, and
            # read on (discarding) until the peer is done or close_timeout has passed.
            transport.write_eof()

    def on_close_queued(self) -> None:
        """Starts `close_timeout` for all frames up to our Close frame to be written. Called when that is queued."""
        self._start_close_timer()

    def on_overflow(self) -> None:
        """Starts `close_timeout` and resumes reading; called when a Close frame has replaced all waiting frames."""
        self._start_close_timer()
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.turn.defer_reading(self)

    def _start_close_timer(self) -> None:
        """Starts `close_timeout` for the waiting frames to be written, once only; does nothing before the 101 response.

        A second `close_timeout`, for the peer's answer, begins in `on_close_written`.
        """
        if self.transport is not None and not self.is_close_timer_started:
            self.is_close_timer_started = True
            self._set_close_deadline()

    def _set_close_deadline(self) -> None:
        """Sets this connection's deadline to `close_timeout` from now, after which `on_timer` aborts the connection."""
        wheel = self.turn.timer_wheel
        self.waiting_since_tick = wheel.current_tick
        wheel.set_deadline(self, self.turn.close_ticks)

    def _close_transport(self) -> None:
        """Has the transport close once its buffer is written; called when our Close frame and the peer's have passed.

        A protocol error of the peer counts as its Close frame. The deadline stays, for a peer that does not read the
        rest of the buffer. Source: RFC 6455 section 7.1.1, the server closes first.
        """
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drops the connection without a Close frame, and the bytes in the transport's buffer."""
        if self.transport is not None:
            self.transport.abort()

    # Time. ------------------------------------------------------------------------------------------------------

    def on_timer(self) -> None:
        """Checks the time limits of this connection and sets its next deadline; called when its deadline comes due.

        Aborts the connection after `close_timeout`, `write_timeout` or `pong_timeout`; sends a ping that is due.
        """
        turn = self.turn
        now = turn.timer_wheel.current_tick
        if self.state >= CLOSING:
            left = self.waiting_since_tick + turn.close_ticks - now
            if left <= 0:
                self.abort()
                left = turn.close_ticks
            turn.timer_wheel.set_deadline(self, left)
            return
        wait = turn.idle_ticks
        if self.is_blocked:
            wait = self._check_write_progress(now)
            if wait <= 0:
                turn.broker.close_slow_consumer(self, 1013, "no progress within write_timeout")
                self.abort()
                return
        elif turn.ping_ticks > 0:
            wait = self._check_peer_alive(now)
            if wait <= 0:
                turn.broker.mark_connection_lost(self, 1006, "no pong within pong_timeout")
                self.abort()
                return
        turn.timer_wheel.set_deadline(self, wait)

    def _check_write_progress(self, now: i64) -> i64:
        """Returns the ticks until `write_timeout`, counted anew when a full transport has sent bytes; 0 or less: over.

        Called when the deadline of a blocked connection comes due.

        Args:
            now: the current tick of the timer wheel.
        """
        waiting: i64 = self.transport_bytes()
        if waiting < self.lowest_transport_bytes:
            self.lowest_transport_bytes = waiting
            self.waiting_since_tick = now
        return self.waiting_since_tick + self.turn.write_ticks - now

    def _check_peer_alive(self, now: i64) -> i64:
        """Returns the ticks until the next check of the peer, 0 or less if no pong came in time; sends a due ping.

        Called when the deadline of a connection that is not blocked comes due, if pings are on. Any bytes of the peer
        count as a pong.

        Args:
            now: the current tick of the timer wheel.
        """
        turn = self.turn
        if self.is_reading_paused or self.pending_close is not None:  # a pong may be unread, or will never be read
            self.last_heard_tick = now
            self.waiting_since_tick = now
        if self.is_awaiting_pong:
            return self.waiting_since_tick + turn.pong_ticks - now
        left = self.last_heard_tick + turn.ping_ticks - now
        if left > 0:
            return left
        self.is_awaiting_pong = True
        self.waiting_since_tick = now
        turn.broker.send_control_frame(self, EMPTY_PING)
        return turn.pong_ticks
