"""A WebSocket client for measuring: it checks little, so that its own cost stays below the broker's.

A received message costs about 1 µs, a connection 2 KB. Soak runs need it rude as well: it resets connections, stops
reading, and sends any bytes.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from socket import SO_LINGER, SO_RCVBUF, SOL_SOCKET
from typing import Final, cast
from urllib.parse import urlsplit

from wsbroker.errors import WSBrokerError
from wsbroker.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT
from wsbroker.websocket.masking import read_key, unmask

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 3.0
"""How long a server may take for its side of a close."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_END: Final = b"\r\n\r\n"
ABNORMAL_CLOSE: Final = 1006
"""The code of a connection that ended without a Close frame (RFC 6455 section 7.1.5)."""
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_MASK: Final = os.urandom(4)
"""The masking key of all frames of this process: most frames are made once and sent often."""
_MASK_WORD: Final = read_key(_MASK, 0)
_LINGER_0: Final = struct.pack("ii", 1, 0)
_SERVER_FRAMES: Final = frozenset((*range(3), *range(0x80, 0x83), 0x80 | CLOSE, 0x80 | PING, 0x80 | PONG))
"""First bytes of the frames that a server may send when no extension was negotiated (RFC 6455 section 5.2)."""

Fields = dict[str, object]
MessageCallback = Callable[[bytes], object]


class BenchError(WSBrokerError):
    """The broker cannot be measured: it is not there, refuses, speaks another protocol, or closed meanwhile.

    Attributes:
        status: the HTTP status of a refused upgrade; 0 for any other problem.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def make_frame(opcode: int, payload: bytes) -> bytes:
    """Returns the final, masked client frame of an opcode and a payload; frames may be joined and sent in one piece."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65536:
        head = bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big")
    return head + _MASK + unmask(payload, 0, size, _MASK_WORD)


def split_frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (first byte, start of the payload, end of the frame) of every complete server frame in the data.

    Raises:
        ValueError: a frame is masked, or larger than MAX_MESSAGE_BYTES; the text says which size it claims.
    """
    at, end = 0, len(data)
    while end - at >= 2:
        size, start = data[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        if size > MAX_MESSAGE_BYTES or data[at + 1] & 0x80:
            raise ValueError(f"a frame that no server may send, or of {size} bytes")
        if start + size > end:
            return
        yield data[at], start, start + size
        at = start + size


@dataclass(frozen=True, slots=True)
class Target:
    """The address of the broker that is measured.

    Args:
        authority: the value of the Host header.
        path: the request target.
        tls: how to encrypt, or None.
        secret: sent as a Bearer token; None: no Authorization header.
    """

    host: str
    port: int
    authority: str
    path: str
    tls: ssl.SSLContext | None
    secret: str | None = field(repr=False)

    @classmethod
    def from_url(cls, url: str, secret: str | None = None) -> "Target":
        """Reads ``ws://HOST:PORT/PATH``, also with wss, http or https, or without a scheme.

        Raises:
            ValueError: the text is no address of a broker; the message says why.
        """
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        if parts.scheme not in ("ws", "wss", "http", "https"):
            raise ValueError(f"{url!r} must start with ws:// or wss://")
        if not parts.hostname:
            raise ValueError(f"{url!r} names no host: write ws://127.0.0.1:3000/")
        try:
            port = parts.port
        except ValueError:
            raise ValueError(f"{url!r} has a port that is none: it is a number up to 65535") from None
        if secret is not None and not (secret.isascii() and secret.isprintable()):
            raise ValueError("the secret cannot be sent in a header: it may hold printable ASCII characters only")
        if not url.isprintable() or not url.isascii() or " " in url:
            raise ValueError(f"{url!r} has characters that a URL cannot hold")
        secure = parts.scheme in ("wss", "https")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = parts.netloc.rpartition("@")[2]
        tls = ssl.create_default_context() if secure else None
        return cls(parts.hostname, port or (443 if secure else 80), authority, path, tls, secret)

    def __str__(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.path}"


class BenchClient(asyncio.Protocol):
    """One WebSocket connection without extensions. Made by `connect`, or by `dial`, which sends no upgrade request.

    Args:
        on_message: called with the payload of each message, text and binary alike; while None, `receive_message`
            returns the payloads.
    """

    __slots__ = (
        *("on_message", "is_open", "is_lost", "close_code", "close_reason", "problem", "messages", "ping_count"),
        *("_fragments", "_key", "_target", "_transport", "_undecoded", "_waiters"),
    )

    def __init__(self, target: Target, on_message: MessageCallback | None = None) -> None:
        self.on_message = on_message
        self.is_open = False
        """Whether the server has accepted the upgrade."""
        self.is_lost = False
        """Whether the connection has ended, on whichever side."""
        self.close_code: int | None = None
        """The code of the server's Close frame."""
        self.close_reason = ""
        self.problem: BenchError | None = None
        """Why the server refused, or which rule it broke."""
        self.messages: deque[bytes] = deque()
        """Payloads that `receive_message` has not returned yet."""
        self.ping_count = 0
        self._target = target
        self._key = base64.b64encode(os.urandom(16))
        self._transport: asyncio.Transport | None = None
        self._undecoded = b""
        self._fragments: list[bytes] = []
        self._waiters: list[asyncio.Future[None]] = []

    # Called by scenarios: sending.

    def send_message(self, data: str | bytes) -> None:
        """Sends a message: `str` as text, `bytes` as binary."""
        self.write_bytes(make_frame(TEXT, data.encode()) if isinstance(data, str) else make_frame(BINARY, data))

    def write_bytes(self, data: bytes) -> None:
        """Writes bytes as they are, such as joined frames or half a frame; drops them if the connection has ended."""
        if self._transport is not None:
            self._transport.write(data)

    # Called by scenarios: receiving.

    async def receive_message(self) -> bytes:
        """Waits for the next message and returns its payload.

        Raises:
            BenchError: the connection has ended.
        """
        while not self.messages:
            if self.is_lost:
                raise self.problem or BenchError(f"the broker closed the connection{self.close_text}")
            await self._wait_for_change()
        return self.messages.popleft()

    async def send_request(self, expected: str, **request: object) -> Fields:
        """Sends a request of the built-in protocol and returns its answer.

        Raises:
            BenchError: the answer's type is not the expected one.
        """
        self.send_message(json.dumps(request))
        answer = await self.receive_message()
        try:
            fields = json.loads(answer)
        except ValueError:
            fields = None
        kind = fields.get("type") if isinstance(fields, dict) else None
        if kind == "error":
            hint = "; use --secret" if fields.get("error") == "auth_required" else ""
            raise BenchError(f"{self._target} refused {request['type']!r}: {fields.get('message')}{hint}")
        if kind != expected:
            raise BenchError(
                f"{self._target} answered {request['type']!r} with {answer[:60]!r}: it does not speak the protocol of "
                "the built-in application, which is what can be measured (start one with: wsbroker --bind :3000)"
            )
        return cast(Fields, fields)

    def pause_reading(self) -> None:
        """Stops reading from the socket, so that the kernel's buffers fill up."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads from the socket again after `pause_reading`."""
        if self._transport is not None:
            self._transport.resume_reading()

    # Called by scenarios: opening and ending.

    def format_upgrade(self) -> bytes:
        """Returns the HTTP request that opens the WebSocket."""
        target = self._target
        lines = [
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key.decode()}",
            "Sec-WebSocket-Version: 13",
            *([f"Authorization: Bearer {target.secret}"] if target.secret is not None else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def open(self) -> None:
        """Sends the upgrade request and waits for the server's 101.

        Raises:
            BenchError: the server refused, or the connection has ended.
        """
        self.write_bytes(self.format_upgrade())
        while not self.is_open:
            if self.is_lost or self.problem is not None:
                raise self.problem or BenchError(f"{self._target} hung up before it answered the upgrade")
            await self._wait_for_change()

    async def close(self, code: int = 1000, reason: str = "") -> int:
        """Closes with a handshake that may take CLOSE_TIMEOUT_S, then aborts; returns the server's close code."""
        self.write_bytes(make_frame(CLOSE, struct.pack("!H", code) + reason.encode()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.wait_until_lost()
        self.abort()
        return self.close_code or ABNORMAL_CLOSE

    def hang_up(self) -> None:
        """Ends the connection without a Close frame, after all written bytes were sent."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Ends the connection with a TCP reset and drops all unsent bytes."""
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _LINGER_0)
            self._transport.abort()

    def abort(self) -> None:
        """Ends the connection at once and drops all unsent bytes."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_until_lost(self) -> int:
        """Waits until the connection has ended; returns the server's close code, or ABNORMAL_CLOSE."""
        while not self.is_lost:
            await self._wait_for_change()
        return self.close_code or ABNORMAL_CLOSE

    @property
    def close_text(self) -> str:
        """The server's close code, worded as the end of a sentence."""
        return "" if self.close_code is None else f" with {self.close_code}"

    def _wait_for_change(self) -> "asyncio.Future[None]":
        """Returns a future that is done when bytes have come or the connection has ended, for calls that wait."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _wake_waiters(self) -> None:
        """Resolves the futures of `_wait_for_change`, so that all waiting calls look at the connection again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stores the transport. Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Reads the answer to the upgrade, then frames; aborts the connection if the server breaks the protocol."""
        data = self._undecoded + data if self._undecoded else data
        self._undecoded = b""
        if not self.is_open:
            head, separator, rest = data.partition(HEAD_END)
            if not separator:
                self._undecoded = data
                if len(data) > MAX_HEAD_BYTES:
                    self._abort_with_error(BenchError(f"{self._target} answered with an endless head"))
                return
            self.problem = self.problem or self._find_upgrade_error(head)
            if self.problem is not None:
                self._abort_with_error(self.problem)
                return
            self.is_open = True
            data = rest
        self._read_frames(data)
        if self._waiters:
            self._wake_waiters()

    def connection_lost(self, error: Exception | None) -> None:
        """Records that the connection has ended, and wakes all waiting calls. Called by the event loop."""
        self._transport = None
        self.is_lost = True
        self._wake_waiters()

    def _abort_with_error(self, problem: BenchError) -> None:
        """Stores an error as the connection's `problem`, aborts the connection and wakes all waiting calls."""
        self.problem = problem
        self.abort()
        self._wake_waiters()

    def _find_upgrade_error(self, head: bytes) -> BenchError | None:
        """Returns the error if a response head does not accept the upgrade; None if it does."""
        first, *lines = head.decode("latin-1").split("\r\n")
        status = (first.split(" ", 2) + ["", ""])[1]
        number = int(status) if status.isdigit() else 0
        if status == "401":
            return BenchError(f"{self._target} wants a secret: use --secret or WSBROKER_SECRET, or a right one", number)
        if status != "101":
            return BenchError(f"{self._target} refused the connection: {first[:80]!r}", number)
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        digest = hashlib.sha1(self._key + _ACCEPT_GUID, usedforsecurity=False).digest()
        if fields.get("sec-websocket-accept") != base64.b64encode(digest).decode():
            text = f"{self._target} answered the upgrade with a wrong Sec-WebSocket-Accept: it is no WebSocket server"
            return BenchError(text)
        return None

    def _read_frames(self, data: bytes) -> None:
        """Handles all complete frames in the received data and keeps the bytes of the last, incomplete frame.

        A frame that no server may send aborts the connection with an error.
        """
        done = 0
        try:
            for first, start, done in split_frames(data):
                if first == 0x81 or first == 0x82:
                    self._deliver_message(data[start:done])
                else:
                    self._handle_rare_frame(first, data[start:done])
        except ValueError as error:
            self._abort_with_error(BenchError(f"{self._target} sent {error}"))
        self._undecoded = data[done:]

    def _handle_rare_frame(self, first: int, payload: bytes) -> None:
        """Handles a fragment of a message, a Ping, Pong or Close: all frames but a whole message.

        Args:
            first: the frame's first byte.
            payload: the frame's payload.

        Raises:
            ValueError: the frame's first byte is none that a server may send.
        """
        opcode = first & 15
        if first not in _SERVER_FRAMES:
            raise ValueError(f"a frame that begins with {first:#04x}")
        if opcode < 8:
            self._fragments.append(payload)
            if first & 0x80:
                whole, self._fragments = b"".join(self._fragments), []
                self._deliver_message(whole)
        elif opcode == PING:
            self.ping_count += 1
            self.write_bytes(make_frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self.close_reason = payload[2:].decode(errors="replace")
            self.write_bytes(make_frame(CLOSE, payload[:2]))

    def _deliver_message(self, payload: bytes) -> None:
        """Passes a message's payload to `on_message`, or keeps the payload for `receive_message`."""
        if self.on_message is not None:
            self.on_message(payload)
        else:
            self.messages.append(payload)


async def dial(
    target: Target,
    *,
    path: str | None = None,
    on_message: MessageCallback | None = None,
    source: str | None = None,
    receive_buffer: int | None = None,
) -> BenchClient:
    """Opens a TCP (or TLS) connection and sends nothing.

    Args:
        path: the request target; None: the target's own.
        on_message: see `BenchClient`.
        source: the local address to connect from (`choose_source_address`); None: the system's choice.
        receive_buffer: bytes of the kernel's receive buffer; None: the system's choice.

    Raises:
        OSError: nothing listens there, or this machine has no descriptors left.
    """
    if path is not None:
        target = replace(target, path=path)
    local = None if source is None else (source, 0)
    transport, client = await asyncio.get_running_loop().create_connection(
        lambda: BenchClient(target, on_message), target.host, target.port, ssl=target.tls, local_addr=local
    )
    if receive_buffer is not None:
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_RCVBUF, receive_buffer)
    return client


async def connect(
    target: Target,
    *,
    path: str | None = None,
    on_message: MessageCallback | None = None,
    source: str | None = None,
    receive_buffer: int | None = None,
) -> BenchClient:
    """Opens a WebSocket; the arguments are those of `dial`.

    Raises:
        BenchError: nothing listens there, the server refused, or the upgrade took more than OPEN_TIMEOUT_S.
    """
    client = None
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            client = await dial(target, path=path, on_message=on_message, source=source, receive_buffer=receive_buffer)
            await client.open()
            return client
    except TimeoutError:
        raise BenchError(f"{target} did not answer within {OPEN_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise BenchError(f"cannot connect to {target}: {error.strerror or error}") from error
    finally:
        if client is not None and not client.is_open:
            client.abort()


async def hang_up_all(clients: Iterable[BenchClient]) -> None:
    """Ends connections without Close frames and waits until all have ended."""
    ending = list(clients)
    for client in ending:
        client.hang_up()
    for client in ending:
        await client.wait_until_lost()


def choose_source_address(number: int) -> str | None:
    """Returns one of 16 loopback addresses for the `number`-th connection; None where there is only 127.0.0.1 (macOS).

    Each address has 28,000 ports of its own, and a port closed on this side stays taken for a minute.
    """
    return f"127.0.0.{number % 16 + 1}" if os.uname().sysname == "Linux" else None
