"""WebSocket connections on a fake transport and loop: the test sends a client's bytes and runs turns and ticks."""

import asyncio
from collections.abc import Callable
from typing import cast

from kits.broker_kit import frames_of
from wsbroker.broker.limits import Limits
from wsbroker.connections.connection import Connection
from wsbroker.connections.connections import Connections, ConnectionSettings
from wsbroker.connections.inline_runner import InlineHandlers, InlineRunner

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
KEY = b"\x01\x02\x03\x04"


def client_frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Returns a masked frame, as a client sends frames."""
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head = first + bytes([0x80 | size])
    elif size < 1 << 16:
        head = first + b"\xfe" + size.to_bytes(2, "big")
    else:
        head = first + b"\xff" + size.to_bytes(8, "big")
    return head + KEY + bytes(byte ^ KEY[index & 3] for index, byte in enumerate(payload))


def text(message: str) -> bytes:
    return client_frame(1, message.encode())


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    return client_frame(8, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


class ManualLoop:
    """A loop whose turns the test takes."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.later.append((delay, callback))

    def run(self) -> int:
        """Runs turns until nothing is ready; returns how many callbacks that were."""
        count = 0
        while self.ready:
            ready, self.ready = self.ready, []
            for callback in ready:
                callback()
                count += 1
            assert count < 10_000, "the turns do not end"
        return count


class PaperTransport:
    """A fake transport that keeps all that is written; `is_full` says whether the peer has stopped reading."""

    def __init__(self) -> None:
        self.protocol: Connection | None = None
        self.written = b""
        self.buffered = 0
        self.high_bytes = 64 * 1024
        self.is_full = False
        self.is_reading = True
        self.is_closed = False
        self.is_aborted = False
        self.has_eof = False
        self.writes = 0

    def set_protocol(self, protocol: Connection) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        """Keeps the data; while the peer does not read, buffers the data too and pauses the protocol's writing."""
        assert not self.has_eof, "written after write_eof"
        self.writes += 1
        self.written += data
        if self.is_full:
            self.buffered += len(data)
            assert self.protocol is not None
            self.protocol.pause_writing()

    def drain(self) -> None:
        """Has the peer read everything: empties the buffer and resumes the protocol's writing."""
        self.is_full = False
        self.buffered = 0
        assert self.protocol is not None
        self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.is_closed

    def set_write_buffer_limits(self, high: int) -> None:
        self.high_bytes = high

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """(opcode, payload) of what the peer got behind the 101."""
        assert self.written.startswith(HEAD)
        return frames_of(self.written[len(HEAD) :])

    @property
    def close_code(self) -> int | None:
        """The code of the Close frame that the connection has sent last; None if there is none."""
        frames = self.frames
        return int.from_bytes(frames[-1][1][:2], "big") if frames and frames[-1][0] == 8 else None


Handler = Callable[..., object]


class Bench:
    """Sockets with one inline lane and a handler that records what it gets."""

    def __init__(
        self, settings: ConnectionSettings | None = None, limits: Limits | None = None, handler: Handler | None = None
    ):
        self.loop = ManualLoop()
        self.sockets = Connections(
            cast(asyncio.AbstractEventLoop, self.loop), limits or Limits(), settings or ConnectionSettings()
        )
        self.broker = self.sockets.broker
        self.lane = self.broker.add_worker_queue(0, 1 << 22, True)
        self.messages: list[tuple[object, int, object]] = []
        self.results: list[tuple[int, object]] = []
        self.errors: list[tuple[int, BaseException]] = []
        self.slow: list[int] = []
        self.closes: list[tuple[int, object, int, str]] = []
        self.close_ends_at_once = True
        self.runner = self.make_runner(handler or self._record)
        self.sockets.inline_runner = self.runner

    def make_runner(
        self, handler: Handler, arity: int = 3, process_result: Callable[[int, object], None] | None = None
    ) -> InlineRunner:
        """Returns a runner for a message handler, whose results, errors, slow calls and closes this object records."""
        handlers = InlineHandlers(
            message_handler=handler,
            arity=arity,
            slow_threshold_s=5.0,
            process_result=process_result or (lambda socket_id, result: self.results.append((socket_id, result))),
            on_failure=lambda socket_id, error: self.errors.append((socket_id, error)),
            on_slow_call=self._slow,
            begin_close_handler=self._close,
            on_missing_handler=lambda socket_id: None,
        )
        return InlineRunner(self.broker, handlers)

    def _slow(self, socket_id: int, seconds: float, is_ended: bool) -> float:
        self.slow.append(socket_id)
        return 5.0

    def _record(self, data: object, socket_id: int, token: object) -> None:
        self.messages.append((data, socket_id, token))

    def _close(self, socket_id: int, token: bytes | None, code: int, reason: str) -> bool:
        self.closes.append((socket_id, token, code, reason))
        return self.close_ends_at_once

    def connect(self, tail: bytes = b"") -> tuple[Connection, PaperTransport]:
        """Returns a new open connection and its transport; the client has sent `tail` behind its upgrade request."""
        connection = self.sockets.admit_connection(0)
        assert connection is not None
        transport = PaperTransport()
        self.sockets.accept_upgrade(connection, cast(asyncio.Transport, transport), HEAD, tail)
        return connection, transport

    def tick(self, seconds: float) -> None:
        """Lets this much time pass on the wheel, with the turns that become due."""
        for _ in range(int(seconds / self.sockets.tick_s + 0.5)):
            self.sockets.advance_timers()
            self.loop.run()
