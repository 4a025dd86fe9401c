"""A WebSocket connection: the asyncio protocol that a transport is handed to after the 101.

It is a plain native class (deriving from `asyncio.Protocol` would give every connection a dict), one object per
connection: protocol, broker's socket and timer in one. A decoder it has only while it is in the middle of something.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import CLOSED, CLOSING, Socket
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.websocket.decoder import BINARY, CLOSE, FAILED, NEED_DATA, PING, TEXT, Decoder
from wsbroker.websocket.frames import PONG as PONG_FRAME
from wsbroker.websocket.frames import encode_frame

if TYPE_CHECKING:
    from wsbroker.connections.connections import Connections

EMPTY_PING: Final = b"\x89\x00"


@final
class Connection(Socket):
    """One client's connection."""

    def __init__(self, socket_id: int, lane: WorkerQueue, owner: Connections) -> None:
        super().__init__(socket_id, lane)
        self.connections: Final = owner
        self.transport: asyncio.Transport | None = None
        self.decoder: Decoder | None = None
        """There while something has been read and is not decoded, or a message is not whole."""
        self.last_heard_tick: i64 = 0
        """Tick at which the peer was last heard, or its pong deadline last suspended."""
        self.waiting_since_tick: i64 = 0
        """Tick since which the transport has made no progress, a pong is awaited, or our Close waits or is out."""
        self.lowest_transport_bytes: i64 = 0
        """What the transport's buffer had shrunk to then."""
        self.read_turn: i64 = 0
        self.read_bytes: i64 = 0
        self.pending_pong: bytes | None = None
        """The newest pong, while the transport takes nothing."""
        self.is_awaiting_pong = False
        self.is_throttled = False
        """It has read its share of this turn and goes on in the next."""
        self.is_close_timer_started = False
        """Time is running for what was sent before our Close, and for that, to leave."""
        self.is_close_written = False
        """The Close frame has been handed to the transport."""
        self.is_peer_closed = False
        self.is_input_ignored = False

    @property
    def worker_index(self) -> int:
        """Which worker it belongs to."""
        return self.worker_queue.index

    # From the transport. ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Never called by `set_protocol`; here because the protocol interface has it."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer, split anywhere."""
        if self.state == CLOSED or self.is_input_ignored:
            return
        owner = self.connections
        self.last_heard_tick = owner.timer_wheel.current_tick
        self.is_awaiting_pong = False
        decoder = self.decoder
        if decoder is None:
            decoder = owner.acquire_decoder()
            self.decoder = decoder
        decoder.receive_data(data)
        if self.read_turn != owner.turn_number:
            self.read_turn = owner.turn_number
            self.read_bytes = 0
        self.read_bytes += len(data)
        if not self.is_reading_paused and not self.is_throttled:
            self.read()
            if self.read_bytes >= owner.read_budget_bytes and not self.is_throttled:
                owner.defer_reading(self)

    def eof_received(self) -> bool:
        """The peer has closed its side: the transport closes too."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport is gone, whoever ended it."""
        self.connections.remove_lost_connection(self)
        self.transport = None
        self.pending_pong = None

    def pause_writing(self) -> None:
        """The peer takes nothing more. Comes from inside `write`: marks only. A closing connection's clock runs on."""
        self.connections.broker.outgoing.mark_blocked(self)
        if self.state < CLOSING:
            self.lowest_transport_bytes = self.transport_bytes()
            self.waiting_since_tick = self.connections.timer_wheel.current_tick
            self.connections.timer_wheel.set_deadline(self, self.connections.write_ticks)

    def resume_writing(self) -> None:
        """The transport's buffer is empty again."""
        if self.state == CLOSED:
            return
        self.connections.broker.outgoing.drain_outbox(self)
        pong = self.pending_pong
        if pong is not None and not self.is_blocked:
            self.pending_pong = None
            self.connections.broker.send_control_frame(self, pong)

    # Reading. ---------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Decodes what has arrived, as far as the turn's budget and the inbox allow."""
        owner = self.connections
        decoder = self.decoder
        if decoder is None:
            return
        broker = owner.broker
        stop = decoder.frame_count + owner.read_budget_frames
        inbox_bytes = broker.inbox_limit_bytes()
        # Inline messages count only once they are held, which is after this turn's reading.
        is_scarce = inbox_bytes < broker.limits.inbox_bytes and self.worker_queue.is_inline
        taken: i64 = 0
        while True:
            kind = decoder.next_event()
            if kind == NEED_DATA:
                if decoder.is_idle:
                    self.decoder = None
                    owner.spare_decoder = decoder
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
                owner.defer_reading(self)
                return

    def _read_control_frame(self, kind: int, decoder: Decoder) -> None:
        """A control frame, or the end of all decoding. PONG and FRAGMENTS ask for nothing."""
        broker = self.connections.broker
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
        """Our Close is on its way: only the peer's matters now (RFC 6455 section 5.5.1)."""
        if kind == CLOSE or kind == FAILED:
            self.is_peer_closed = True
            self.is_input_ignored = True  # nothing after it is looked at
            if self.is_close_written:
                self._close_transport()

    def pause_reading(self) -> None:
        """The inbox is full."""
        if not self.is_reading_paused and self.transport is not None:
            self.is_reading_paused = True
            self.connections.broker.counters.inboxes_full += 1
            self.transport.pause_reading()
            if self.decoder is not None:  # a read of 256 KiB may be held by one last frame in it
                self.decoder.drop_decoded()

    def resume_reading(self) -> None:
        """The inbox has room: first what has been read already, in the next turn."""
        self.is_reading_paused = False
        self.last_heard_tick = self.connections.timer_wheel.current_tick
        self.is_awaiting_pong = False
        self.connections.defer_reading(self)

    def throttle_reading(self) -> None:
        """Stops reading until the next turn."""
        self.is_throttled = True
        if self.transport is not None:
            self.transport.pause_reading()

    def continue_reading(self) -> None:
        """The next turn has come."""
        self.is_throttled = False
        if self.transport is None or self.is_reading_paused:
            return
        self.read_turn = self.connections.turn_number
        self.read_bytes = 0
        if not self.is_input_ignored:
            self.read()
        if not self.is_throttled and not self.is_reading_paused and self.transport is not None:
            self.transport.resume_reading()

    # Writing. ---------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """One write of whole frames."""
        transport = self.transport
        if transport is not None:
            transport.write(data)

    def transport_bytes(self) -> int:
        """What waits in the transport's buffer."""
        transport = self.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def on_close_written(self) -> None:
        """The Close frame is out: wait for the peer's, or, if that is here or cannot be read any more, end."""
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
            self.connections.defer_reading(self)
        if self.is_input_ignored and transport.can_write_eof():
            # Closing now would reset the connection under unread bytes, and the Close frame with it: half-close, and
            # read on (discarding) until the peer is done or close_timeout has passed.
            transport.write_eof()

    def on_close_queued(self) -> None:
        """Our Close waits behind what was sent before it: `close_timeout` for all of it to leave."""
        self._start_close_timer()

    def on_overflow(self) -> None:
        """Given up as a slow consumer; the Close frame waits in the outbox."""
        self._start_close_timer()
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.connections.defer_reading(self)

    def _start_close_timer(self) -> None:
        """Gives what waits `close_timeout` to leave: once, whatever happens to it meanwhile, and from the 101 on. The
        Close frame, when it is out, has another one to be answered (`on_close_written`)."""
        if self.transport is not None and not self.is_close_timer_started:
            self.is_close_timer_started = True
            self._set_close_deadline()

    def _set_close_deadline(self) -> None:
        wheel = self.connections.timer_wheel
        self.waiting_since_tick = wheel.current_tick
        wheel.set_deadline(self, self.connections.close_ticks)

    def _close_transport(self) -> None:
        """Both Close frames are through: the server closes first (RFC 6455 section 7.1.1). The timer stays, for a peer
        that does not even take what is still in the buffer."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drops the connection without a word."""
        if self.transport is not None:
            self.transport.abort()

    # Time. ------------------------------------------------------------------------------------------------------

    def on_timer(self) -> None:
        """Its deadline on the wheel has come, or came early: look which one it was, and set the next."""
        owner = self.connections
        now = owner.timer_wheel.current_tick
        if self.state >= CLOSING:
            left = self.waiting_since_tick + owner.close_ticks - now
            if left <= 0:
                self.abort()
                left = owner.close_ticks
            owner.timer_wheel.set_deadline(self, left)
            return
        wait = owner.idle_ticks
        if self.is_blocked:
            wait = self._check_write_progress(now)
            if wait <= 0:
                owner.broker.close_slow_consumer(self, 1013, "no progress within write_timeout")
                self.abort()
                return
        elif owner.ping_ticks > 0:
            wait = self._check_peer_alive(now)
            if wait <= 0:
                owner.broker.mark_connection_lost(self, 1006, "no pong within pong_timeout")
                self.abort()
                return
        owner.timer_wheel.set_deadline(self, wait)

    def _check_write_progress(self, now: i64) -> i64:
        """Ticks until the transport must have made progress; 0 when that is over."""
        waiting: i64 = self.transport_bytes()
        if waiting < self.lowest_transport_bytes:
            self.lowest_transport_bytes = waiting
            self.waiting_since_tick = now
        return self.waiting_since_tick + self.connections.write_ticks - now

    def _check_peer_alive(self, now: i64) -> i64:
        """Ticks until this peer is looked at again; 0 when it is dead. Sends the ping that is due."""
        owner = self.connections
        if self.is_reading_paused or self.pending_close is not None:  # its pong may be there, unread; or will never be
            self.last_heard_tick = now
            self.waiting_since_tick = now
        if self.is_awaiting_pong:
            return self.waiting_since_tick + owner.pong_ticks - now
        left = self.last_heard_tick + owner.ping_ticks - now
        if left > 0:
            return left
        self.is_awaiting_pong = True
        self.waiting_since_tick = now
        owner.broker.send_control_frame(self, EMPTY_PING)
        return owner.pong_ticks
