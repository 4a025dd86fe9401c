"""Decodes the client's bytes into messages, pings, pongs and closes; any violation of RFC 6455 becomes one FAILED.

Pull style: `receive_data` takes the bytes that were read, `next_event` returns the next event, so that the caller may
stop after some frames and go on in a later turn. A decoder has 112 bytes while nothing waits; all other objects are
made when a message arrives in pieces, and dropped with its end. Between two messages (`is_idle`) a decoder has no state
of its connection and may be used for any other.

Memory, and its bounds: the payload of a frame that has begun goes into its message as it arrives (checked against
`max_message_size` when its header is read), so at most `max_message_size` bytes, in one growing buffer for any number
of fragments (empty ones leave no trace; the buffer's capacity may be twice its content); the start of a header or
control frame, at most 130 bytes; and the bytes received and not yet decoded (`buffered_bytes`, bounded by the caller).
"""

from typing import Final, final

from librt.strings import BytesWriter, read_i64_be
from mypy_extensions import i32, i64, mypyc_attr

from wsbroker.websocket.closing import INVALID_TEXT, MESSAGE_TOO_BIG, NO_STATUS, PROTOCOL_ERROR, is_receivable
from wsbroker.websocket.frames import BINARY as BINARY
from wsbroker.websocket.frames import CLOSE as CLOSE
from wsbroker.websocket.frames import CONTINUATION, MAX_CONTROL_BYTES
from wsbroker.websocket.frames import PING as PING
from wsbroker.websocket.frames import PONG as PONG
from wsbroker.websocket.frames import TEXT as TEXT
from wsbroker.websocket.masking import read_key, rotate_key, unmask
from wsbroker.websocket.utf8 import Utf8Validator, decode_utf8

# Events. Those that bring a payload have the number of their opcode, so that there is one set of names.
NEED_DATA: Final = 0
"""Nothing more can be decoded before the next `Decoder.receive_data` (or ever, after CLOSE and FAILED)."""
FAILED: Final = 16
"""The client broke the protocol: close with `Decoder.close_code` and `Decoder.close_reason`."""
FRAGMENTS: Final = 17
"""No message yet: many fragments were decoded and more may follow, so check your budget (`Decoder.frame_count`)."""

_NO_EVENT: Final = -1  # an inner step without an event
_MAX_FRAGMENTS_PER_CALL: Final = 64  # then the caller has its turn
_MAX_TAIL_BYTES: Final = 6 + MAX_CONTROL_BYTES  # the longest start of a frame that waits as it came


@final
@mypyc_attr(acyclic=True)
class Decoder:
    """Decodes the frames of one client.

    After each event its payload stands in the attributes named with it; NEED_DATA clears `text` and `data`, so that
    an idle connection does not keep its last message.

    ===========  ======================================================================
    TEXT         `text`, `payload_bytes`
    BINARY       `data`, `payload_bytes`
    PING, PONG   `data`, `payload_bytes`
    CLOSE        `close_code` (1005: the frame was empty), `close_reason`, `payload_bytes`
    FAILED       `close_code` (1002, 1007 or 1009), `close_reason` for our own Close frame
    FRAGMENTS    –
    ===========  ======================================================================

    After CLOSE and FAILED nothing more is decoded: later bytes are dropped (RFC 6455 sections 1.4 and 7.1.7).

    Args:
        max_message_size: the most bytes of payload of a message, over all its fragments.

    Attributes:
        payload_bytes: size of the message or control frame (a text's UTF-8, not its characters).
        frame_count: frames decoded so far, with fragments and control frames.
    """

    def __init__(self, max_message_size: int) -> None:
        self.text = ""
        self.data = b""
        self.payload_bytes: i64 = 0
        self.close_reason = ""
        self.frame_count: i64 = 0
        self._max_message_size: i64 = max_message_size
        self._buffer = b""
        self._position: i64 = 0  # up to here `_buffer` is decoded: nothing is cut off it frame by frame
        self._later_data: BytesWriter | None = None  # what came while `_buffer` was not used up
        self._message: _PartialMessage | None = None
        self.close_code: i32 = 0  # beside the flag, with which it shares eight bytes
        self._is_stopped = False

    @property
    def buffered_bytes(self) -> i64:
        """Bytes received and not yet decoded, without those of an incomplete message."""
        later = self._later_data
        waiting: i64 = len(self._buffer) - self._position
        if later is not None:
            waiting += len(later)
        return waiting

    @property
    def is_idle(self) -> bool:
        """Whether all received bytes are decoded and no message is incomplete."""
        return len(self._buffer) == 0 and self._later_data is None and self._message is None and not self._is_stopped

    def receive_data(self, data: bytes) -> None:
        """Takes the next bytes from the client, for `next_event` to decode.

        Cost: O(1) when all earlier bytes are decoded. Otherwise bytes are copied twice before they are decoded, in
        however many calls they came.
        """
        if self._is_stopped:
            return
        later = self._later_data
        if later is not None:
            later.write(data)
            return
        waiting: i64 = len(self._buffer) - self._position
        if waiting == 0:
            self._buffer = data
            self._position = 0
        elif waiting <= _MAX_TAIL_BYTES:
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
        else:
            later = BytesWriter()
            later.write(data)
            self._later_data = later

    def drop_decoded(self) -> None:
        """Frees the memory of the decoded bytes; called before a long pause. Cost: a copy of the undecoded bytes."""
        if self._position > 0:
            self._buffer = self._buffer[self._position :]
            self._position = 0

    def next_event(self) -> int:
        """Decodes up to the next event and returns the event; the class's table names the attributes of each.

        Fragments are decoded without an event, so one call may use up many frames (`frame_count` counts them);
        FRAGMENTS comes after every 64, so that a flood of empty ones (40,000 in a read, 60 ns each) cannot keep the
        caller.

        Cost: 110 ns for a text of 64 B, 60 for a binary message (benchmarks/micro/test_websocket.py). Never raises for
        anything that a client sends.
        """
        last: i64 = self.frame_count + _MAX_FRAGMENTS_PER_CALL
        while True:
            message = self._message
            if message is not None and message.missing_bytes > 0:
                event = self._decode_payload_piece(message)
            else:
                event = self._decode_frame()
            if event != _NO_EVENT:
                return event
            if self.frame_count >= last:
                return FRAGMENTS

    def _decode_frame(self) -> int:
        """Decodes one frame from its first byte on: a whole message, a control frame, or the start of a long payload.

        Called by `next_event`, not inside a payload.

        Returns:
            an event, or _NO_EVENT if `next_event` goes on.

        Source: RFC 6455 section 5.2.
        """
        buffer = self._buffer
        at: i64 = self._position
        available: i64 = len(buffer) - at
        if available < 2:
            return self._refill_or_need_data()
        first: i64 = buffer[at]
        length: i64 = buffer[at + 1]
        if first & 0x70:  # "MUST be 0 unless an extension is negotiated"; permessage-deflate will take the first
            return self._fail_connection(PROTOCOL_ERROR, "reserved bits are set")
        if length < 0x80:  # section 5.1: "a client MUST mask all frames"
            return self._fail_connection(PROTOCOL_ERROR, "frame is not masked")
        length -= 0x80
        if first & 0x08:
            return self._decode_control_frame(first, length)
        # "The minimal number of bytes MUST be used": a rule for senders. A longer form has one meaning and does no
        # harm, other servers in Python accept it and Autobahn has no case for it: to refuse it would only lose clients.
        head: i64 = 6
        if length == 126:
            if available < 8:
                return self._refill_or_need_data()
            high: i64 = buffer[at + 2]
            low: i64 = buffer[at + 3]
            length = (high << 8) | low
            head = 8
        elif length == 127:
            if available < 14:
                return self._refill_or_need_data()
            length = read_i64_be(buffer, at + 2)
            if length < 0:  # "the most significant bit MUST be 0"
                return self._fail_connection(PROTOCOL_ERROR, "length has its top bit set")
            head = 14
        elif available < 6:
            return self._refill_or_need_data()

        opcode: i64 = first & 0x0F
        if opcode > BINARY:
            return self._fail_connection(PROTOCOL_ERROR, "reserved opcode")
        message = self._message
        if message is None:
            if opcode == CONTINUATION:
                return self._fail_connection(PROTOCOL_ERROR, "continuation of nothing")
            if length > self._max_message_size:
                return self._fail_connection(MESSAGE_TOO_BIG, "message is too big")
            if first & 0x80 and available - head >= length:
                self._position = at + head + length
                self.frame_count += 1
                payload = unmask(buffer, at + head, length, read_key(buffer, at + head - 4))
                return self._complete_message(opcode == TEXT, payload)
            message = _PartialMessage(opcode == TEXT)
            self._message = message
        else:
            if opcode != CONTINUATION:
                return self._fail_connection(PROTOCOL_ERROR, "new message inside a fragmented one")
            if length > self._max_message_size - message.received_bytes:
                return self._fail_connection(MESSAGE_TOO_BIG, "message is too big")
        self._position = at + head
        message.is_final_frame = first & 0x80 != 0
        message.missing_bytes = length
        message.mask_key = read_key(buffer, at + head - 4)
        return self._decode_payload_piece(message)

    def _decode_payload_piece(self, message: "_PartialMessage") -> int:
        """Decodes the received part of the current frame's payload into its incomplete message; called by `next_event`.

        Returns:
            TEXT or BINARY for a message that is complete now, NEED_DATA, FAILED, or _NO_EVENT if `next_event` goes on.
        """
        at: i64 = self._position
        piece_size: i64 = len(self._buffer) - at
        if piece_size > message.missing_bytes:
            piece_size = message.missing_bytes
        if piece_size > 0:
            self._position = at + piece_size
            if not message.add_piece(unmask(self._buffer, at, piece_size, message.mask_key)):
                return self._fail_connection(INVALID_TEXT, "text is not UTF-8")
        if message.missing_bytes > 0:
            return self._refill_or_need_data()
        self.frame_count += 1
        if not message.is_final_frame:
            return _NO_EVENT
        self._message = None
        return self._complete_message(message.validator is not None, message.body.getvalue())

    def _complete_message(self, is_text: bool, payload: bytes) -> int:
        """Stores a whole message as `text` or `data` and returns TEXT or BINARY; FAILED if a text is not UTF-8.

        Args:
            payload: of all frames of the message, unmasked.
        """
        self.payload_bytes = len(payload)
        if not is_text:
            self.data = payload
            return BINARY
        text = decode_utf8(payload)
        if text is None:
            return self._fail_connection(INVALID_TEXT, "text is not UTF-8")
        self.text = text
        return TEXT

    def _decode_control_frame(self, first: i64, length: i64) -> int:
        """Decodes a control frame once all its bytes are here; returns PING, PONG, CLOSE, FAILED or NEED_DATA.

        Args:
            first: the first byte of the frame.
            length: the payload length from the second byte.

        Source: RFC 6455 section 5.5.
        """
        opcode: i64 = first & 0x0F
        if opcode > PONG:
            return self._fail_connection(PROTOCOL_ERROR, "reserved opcode")
        if first & 0x80 == 0:
            return self._fail_connection(PROTOCOL_ERROR, "control frame is fragmented")
        if length > MAX_CONTROL_BYTES:
            return self._fail_connection(PROTOCOL_ERROR, "control frame is too long")
        buffer = self._buffer
        at: i64 = self._position
        end: i64 = at + 6 + length
        if end > len(buffer):
            return self._refill_or_need_data()
        payload = unmask(buffer, at + 6, length, read_key(buffer, at + 2))
        self._position = end
        self.frame_count += 1
        self.payload_bytes = length
        if opcode == CLOSE:
            return self._decode_close(payload)
        self.data = payload
        return PING if opcode == PING else PONG

    def _decode_close(self, payload: bytes) -> int:
        """Decodes code and reason of a Close frame's unmasked payload; returns CLOSE or FAILED.

        Source: RFC 6455 sections 5.5.1, 7.1.5 and 7.4.
        """
        if len(payload) == 0:
            self._stop_decoding(NO_STATUS, "")
            return CLOSE
        if len(payload) == 1:
            return self._fail_connection(PROTOCOL_ERROR, "close code has one byte")
        code = (payload[0] << 8) | payload[1]
        if not is_receivable(code):
            return self._fail_connection(PROTOCOL_ERROR, "close code is not allowed")
        reason = decode_utf8(payload[2:])
        if reason is None:
            return self._fail_connection(INVALID_TEXT, "close reason is not UTF-8")
        self._stop_decoding(code, reason)
        return CLOSE

    def _refill_or_need_data(self) -> int:
        """Moves bytes received later into the buffer (returns _NO_EVENT) or, if there are none, returns NEED_DATA.

        Called when the buffer holds no further whole header or payload. NEED_DATA frees the memory of the decoded
        bytes and of the last message.
        """
        tail = b""
        if self._position < len(self._buffer):
            tail = self._buffer[self._position :]  # a few bytes must not keep the whole read in memory
        self._position = 0
        later = self._later_data
        if later is not None:
            self._buffer = tail + later.getvalue()
            self._later_data = None
            return _NO_EVENT
        self._buffer = tail
        self.text = ""
        self.data = b""
        return NEED_DATA

    def _fail_connection(self, code: int, reason: str) -> int:
        """Stops decoding because the client broke the protocol; returns FAILED.

        Args:
            code: the close code for our Close frame.
            reason: the close reason for our Close frame.
        """
        self._stop_decoding(code, reason)
        return FAILED

    def _stop_decoding(self, code: int, reason: str) -> None:
        """Stores code and reason of a CLOSE or FAILED event, drops all undecoded bytes and ignores later ones."""
        self.close_code = i32(code)
        self.close_reason = reason
        self._is_stopped = True
        self._buffer = b""
        self._position = 0
        self._later_data = None
        self._message = None


@final
@mypyc_attr(acyclic=True)
class _PartialMessage:
    """An incomplete message: the payload so far, and the state of its current frame."""

    def __init__(self, is_text: bool) -> None:
        self.validator = Utf8Validator() if is_text else None
        self.body = BytesWriter()
        self.received_bytes: i64 = 0  # of the payload so far
        self.missing_bytes: i64 = 0  # of the current frame
        self.mask_key: i64 = 0  # for the next byte of the current frame
        self.is_final_frame = False  # whether the current frame is the last one

    def add_piece(self, piece: bytes) -> bool:
        """Appends unmasked bytes of the current frame to the message; returns False if a text is not UTF-8."""
        validator = self.validator
        if validator is not None and not validator.feed(piece):
            return False
        size: i64 = len(piece)
        self.body.write(piece)
        self.received_bytes += size
        self.missing_bytes -= size
        self.mask_key = rotate_key(self.mask_key, size)
        return True
