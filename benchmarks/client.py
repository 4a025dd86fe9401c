"""A WebSocket client for loads: bytes on asyncio, with no more checking than its figures need.

A received message costs about 1 µs, a connection 2 KB. It can be as rude as a load has to be: reset a connection, leave
half a frame behind, stop reading, send bytes that are no frames.

    client = await connect(("127.0.0.1", 3000), "/path")
    client.send("hello")
    assert await client.receive() == b"hello"
    assert await client.close() == 1000
"""

import asyncio
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from random import getrandbits
from socket import SO_LINGER, SO_RCVBUF, SOL_SOCKET
from typing import Final, cast

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
FIN: Final = 0x80

NO_CODE: Final = 1005
"""The peer's Close had no code (RFC 6455 section 7.1.5)."""
ABNORMAL: Final = 1006
"""There was no Close frame."""

HEAD_END: Final = b"\r\n\r\n"
_RESET: Final = struct.pack("ii", 1, 0)

Address = tuple[str, int]
OnMessage = Callable[[bytes], object]


class ClientError(Exception):
    """The server did something that it may not, or refused.

    Attributes:
        status: the HTTP status of a refusal; 0 if it was none.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def masked(payload: bytes, key: int) -> bytes:
    """Returns the payload under the masking key (32 bits, little-endian); the same call takes it off again."""
    size = len(payload)
    mask = key.to_bytes(4, "little") * ((size + 3) // 4)
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask[:size], "little")).to_bytes(size, "little")


def frame(payload: bytes, opcode: int = TEXT, key: int | None = None) -> bytes:
    """Returns a client's frame, its only one (FIN set).

    Args:
        key: None: a random one.
    """
    size = len(payload)
    if key is None:
        key = getrandbits(32)
    if size < 126:
        head = bytes((FIN | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", FIN | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", FIN | opcode, 0x80 | 127, size)
    return head + key.to_bytes(4, "little") + masked(payload, key)


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    """Returns a client's Close frame; without a code it is empty."""
    return frame(b"" if code is None else struct.pack("!H", code) + reason.encode(), CLOSE)


def upgrade_request(path: str = "/", host: str = "localhost") -> bytes:
    """Returns the request that opens a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


_ACCEPT: Final = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455 section 1.3 says the answer to that key is."""


class Client(asyncio.Protocol):
    """One connection. Made by `connect`, or by `dial`, which leaves the handshake to the caller.

    Args:
        on_message: is given the payload of each message, text and binary alike, in the loop's callback; None: `receive`
            returns them.
        answers_pings: False: the peer has to find out what becomes of a silent client.
    """

    __slots__ = (
        "_answers_pings",
        "_is_writable",
        "_on_message",
        "_rest",
        "_transport",
        "_waiters",
        "code",
        "is_lost",
        "is_open",
        "messages",
        "pings",
        "problem",
        "reason",
    )

    def __init__(self, on_message: OnMessage | None = None, answers_pings: bool = True) -> None:
        self._on_message = on_message
        self._answers_pings = answers_pings
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._is_writable = True
        self.is_open = False
        """The 101 has come."""
        self.is_lost = False
        """The connection has ended, whoever ended it."""
        self.code = ABNORMAL
        """With which code the server closed."""
        self.reason = ""
        self.problem: ClientError | None = None
        """What the server did wrong, or why it refused."""
        self.messages: deque[bytes] = deque()
        """Payloads that have come and not been taken by `receive`."""
        self.pings = 0
        """How many pings have come."""

    # Sending. ---------------------------------------------------------------------------------------------------

    def send(self, data: str | bytes) -> None:
        """Sends a message: `str` as text, `bytes` as binary."""
        self.write(frame(data.encode()) if isinstance(data, str) else frame(data, BINARY))

    def write(self, data: bytes) -> None:
        """Sends bytes as they are: frames made before, several at once, half a frame, nonsense."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits until the transport has room, or the connection has ended."""
        while not self._is_writable and not self.is_lost:
            await self._changed()

    # Receiving. -------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Returns the payload of the next message.

        Raises:
            ClientError: the connection has ended.
        """
        while not self.messages:
            if self.is_lost:
                raise self.problem or ClientError(f"the server closed: {self.code} {self.reason}")
            await self._changed()
        return self.messages.popleft()

    def pause_reading(self) -> None:
        """Takes nothing more from the server."""
        if self._transport is not None and not self.is_lost:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes on."""
        if self._transport is not None and not self.is_lost:
            self._transport.resume_reading()

    # Opening and ending. ----------------------------------------------------------------------------------------

    async def open(self, path: str = "/") -> None:
        """Makes the handshake.

        Raises:
            ClientError: the server refused, or the connection has ended.
        """
        self.write(upgrade_request(path))
        while not self.is_open:
            if self.is_lost or self.problem is not None:
                raise self.problem or ClientError("the connection ended before the 101")
            await self._changed()

    async def close(self, code: int | None = 1000, reason: str = "") -> int:
        """Closes with a handshake and waits until the server has ended the connection; returns the server's code."""
        self.write(close_frame(code, reason))
        return await self.wait_lost()

    def hang_up(self) -> None:
        """Ends without a Close frame, behind what was written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Ends with an RST; what was written and is still unsent is dropped."""
        transport = self._transport
        if transport is not None and not self.is_lost:
            transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
            transport.abort()

    async def wait_lost(self) -> int:
        """Waits until the connection has ended; returns the server's close code."""
        while not self.is_lost:
            await self._changed()
        return self.code

    def _changed(self) -> "asyncio.Future[None]":
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Called by the loop. ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Takes apart what has come."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self.is_open:
            self._take_frames(data, 0)
        elif self.problem is None:
            self._take_head(data)
        if self._waiters:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever waits."""
        self.is_lost = True
        self._transport = None
        self._wake()

    def pause_writing(self) -> None:
        """There is no room."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_writable = True
        self._wake()

    def _take_head(self, data: bytes) -> None:
        head, found, _ = data.partition(HEAD_END)
        if not found:
            self._rest = data
        elif head.startswith(b"HTTP/1.1 101 ") and _ACCEPT in head:
            self.is_open = True
            self._take_frames(data, len(head) + len(HEAD_END))
        else:
            line = head.split(b"\r\n", 1)[0].decode("latin-1")
            status = line[9:12]
            self.problem = ClientError(f"refused: {line}", int(status) if status.isdigit() else 0)

    def _take_frames(self, data: bytes, at: int) -> None:
        end = len(data)
        on_message = self._on_message
        while end - at >= 2:
            first = data[at]
            size = data[at + 1]
            start = at + 2
            if size == 126:
                start = at + 4
                if start > end:
                    break
                size = data[at + 2] << 8 | data[at + 3]
            elif size == 127:
                start = at + 10
                if start > end:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            elif size > 127:
                self._fail("a masked frame")
                return
            stop = start + size
            if stop > end:
                break
            payload = data[start:stop]
            at = stop
            if first == FIN | TEXT or first == FIN | BINARY:
                if on_message is None:
                    self.messages.append(payload)
                else:
                    on_message(payload)
            else:
                self._take_control(first, payload)
        if at < end:
            self._rest = data[at:]

    def _take_control(self, first: int, payload: bytes) -> None:
        if first == FIN | PING:
            self.pings += 1
            if self._answers_pings:
                self.write(frame(payload, PONG))
        elif first == FIN | CLOSE:
            self.code = int.from_bytes(payload[:2], "big") if payload else NO_CODE
            self.reason = payload[2:].decode()
            self.write(frame(payload[:2], CLOSE))  # the second Close of a handshake that we began does no harm
        elif first != FIN | PONG:
            self._fail(f"a frame that begins with {first:#04x}")

    def _fail(self, text: str) -> None:
        self.problem = ClientError(f"the server sent {text}")
        if self._transport is not None:
            self._transport.abort()


async def dial(
    address: Address,
    *,
    on_message: OnMessage | None = None,
    answers_pings: bool = True,
    source: str | None = None,
    receive_buffer: int | None = None,
) -> Client:
    """Connects, and leaves it to the caller to say something.

    Args:
        on_message: see `Client`.
        answers_pings: see `Client`.
        source: the local address to connect from: each one has its own 28,000 ports, and a port that was closed here
            stays taken for a minute.
        receive_buffer: of the kernel, in bytes: a small one makes a slow consumer felt early. None: the system's.

    Raises:
        OSError: nobody listens there, or this machine has no descriptors left.
    """
    client = Client(on_message, answers_pings)
    local = None if source is None else (source, 0)
    await asyncio.get_running_loop().create_connection(lambda: client, *address, local_addr=local)
    if receive_buffer is not None and client._transport is not None:
        client._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_RCVBUF, receive_buffer)
    return client


async def connect(
    address: Address,
    path: str = "/",
    *,
    on_message: OnMessage | None = None,
    answers_pings: bool = True,
    source: str | None = None,
    receive_buffer: int | None = None,
) -> Client:
    """Opens a WebSocket; the arguments are those of `dial`.

    Raises:
        ClientError: the server refused; `ClientError.status` says how.
        OSError: nobody listens there.
    """
    client = await dial(
        address, on_message=on_message, answers_pings=answers_pings, source=source, receive_buffer=receive_buffer
    )
    try:
        await client.open(path)
    except BaseException:
        client.hang_up()
        raise
    return client


async def hang_up_all(clients: Iterable[Client]) -> None:
    """Ends connections without Close frames and waits until they have ended."""
    ending = list(clients)
    for client in ending:
        client.hang_up()
    for client in ending:
        await client.wait_lost()


def source_address(number: int) -> str | None:
    """One of 16 local addresses for the `number`-th connection; None where only 127.0.0.1 is there (macOS)."""
    return f"127.0.0.{number % 16 + 1}" if os.uname().sysname == "Linux" else None
