"""A WebSocket client of few words, cheap enough that it measures the broker and not itself."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

from wsbroker.errors import WSBrokerError
from wsbroker.websocket.frames import CLOSE, PING, PONG, TEXT
from wsbroker.websocket.masking import read_key, unmask

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 3.0
"""How long a server may take for its side of a close."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

Fields = dict[str, object]


class BenchError(WSBrokerError):
    """It cannot be measured: nobody there, another protocol, refused, or gone on the way."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to measure.

    Args:
        authority: what stands in the Host header.
        path: the request target.
        tls: how to encrypt, or None.
        secret: sent as a Bearer token; None if there is none.
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
            ValueError: it cannot be an address of a broker; the text says why.
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
    """A WebSocket client of few words: text messages, no fragments out, no extensions.

    `on_message` is called with the payload of every message; what is received while it is None is kept for `receive_message`.
    """

    def __init__(self, target: Target) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.on_message: Callable[[bytes], None] | None = None
        self.close_code: int | None = None
        self._received_messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._target = target
        self._key = base64.b64encode(os.urandom(16))
        self._mask = os.urandom(4)
        self._mask_word = read_key(self._mask, 0)
        self._transport: asyncio.Transport | None = None
        self._undecoded = b""
        self._fragments: list[bytes] = []

    # What the caller does.

    def send_text(self, text: str) -> None:
        """Sends a text message."""
        self.write_frames(self.make_frame(TEXT, text.encode()))

    def make_frame(self, opcode: int, payload: bytes) -> bytes:
        """Returns a masked frame, for `write_frames`; several may be joined."""
        size = len(payload)
        if size < 126:
            head = bytes([0x80 | opcode, 0x80 | size])
        elif size < 65536:
            head = bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big")
        return head + self._mask + unmask(payload, 0, size, self._mask_word)

    def write_frames(self, frames: bytes) -> None:
        """Sends frames; nothing happens if the connection is gone."""
        if self._transport is not None:
            self._transport.write(frames)

    async def receive_message(self) -> bytes:
        """Returns the next message."""
        message = await self._received_messages.get()
        if message is None:
            raise BenchError(f"the broker closed the connection{self.close_text}")
        return message

    async def send_request(self, expected: str, **request: object) -> Fields:
        """Sends a request of the built-in protocol and returns its answer, whose type must be the expected one."""
        self.send_text(json.dumps(request))
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

    async def close(self) -> None:
        """Closes with a handshake, and without waiting longer than CLOSE_TIMEOUT_S."""
        self.write_frames(self.make_frame(CLOSE, b"\x03\xe8"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.shield(self.closed)
        self.abort()

    def abort(self) -> None:
        """Lets go of the connection."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def close_text(self) -> str:
        """With what the broker closed, as the end of a sentence."""
        return "" if self.close_code is None else f" with {self.close_code}"

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
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
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def data_received(self, data: bytes) -> None:
        data = self._undecoded + data if self._undecoded else data
        if not self.opened.done():
            head, separator, rest = data.partition(b"\r\n\r\n")
            if not separator:
                self._undecoded = data
                if len(data) > MAX_HEAD_BYTES:
                    self._abort_with_error(f"{self._target} answered with an endless head")
                return
            problem = self._find_upgrade_error(head)
            if problem:
                self._abort_with_error(problem)
                return
            self._undecoded, data = b"", rest
            self.opened.set_result(None)
        try:
            self._undecoded = data[self._read_frames(data) :]
        except BenchError as error:
            self._abort_with_error(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.opened.done():
            self.opened.set_exception(BenchError(f"{self._target} hung up before it answered the upgrade"))
        if not self.closed.done():
            self.closed.set_result(None)
        self._received_messages.put_nowait(None)

    def _abort_with_error(self, problem: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(BenchError(problem))
        self.abort()

    def _find_upgrade_error(self, head: bytes) -> str:
        """Why the answer to the upgrade is none; "" if it is one."""
        first, *lines = head.decode("latin-1").split("\r\n")
        status = (first.split(" ", 2) + ["", ""])[1]
        if status == "401":
            return f"{self._target} wants a secret: use --secret or WSBROKER_SECRET, or a right one"
        if status != "101":
            return f"{self._target} refused the connection: {first[:80]!r}"
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        digest = hashlib.sha1(self._key + _ACCEPT_GUID, usedforsecurity=False).digest()
        if fields.get("sec-websocket-accept") != base64.b64encode(digest).decode():
            return f"{self._target} answered the upgrade with a wrong Sec-WebSocket-Accept: it is no WebSocket server"
        return ""

    def _read_frames(self, data: bytes) -> int:
        """Takes all whole frames and returns where the rest begins."""
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if size > MAX_MESSAGE_BYTES or data[at + 1] & 0x80:
                raise BenchError(f"{self._target} sent a frame that no server may send, or of {size} bytes")
            if start + size > end:
                break
            self._handle_frame(data[at], data[start : start + size])
            at = start + size
        return at

    def _handle_frame(self, first: int, payload: bytes) -> None:
        opcode = first & 15
        if first == 0x81 or first == 0x82:
            self._deliver_message(payload)
        elif opcode < 8:
            self._fragments.append(payload)
            if first & 0x80:
                whole, self._fragments = b"".join(self._fragments), []
                self._deliver_message(whole)
        elif opcode == PING:
            self.write_frames(self.make_frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self.write_frames(self.make_frame(CLOSE, payload[:2]))

    def _deliver_message(self, payload: bytes) -> None:
        if self.on_message is not None:
            self.on_message(payload)
        else:
            self._received_messages.put_nowait(payload)


async def connect(target: Target) -> BenchClient:
    """Opens a connection.

    Raises:
        BenchError: nobody there, refused, or too slow; the text says which.
    """
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            _, link = await asyncio.get_running_loop().create_connection(
                lambda: BenchClient(target), target.host, target.port, ssl=target.tls
            )
            await link.opened
            return link
    except TimeoutError:
        raise BenchError(f"{target} did not answer within {OPEN_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise BenchError(f"cannot connect to {target}: {error.strerror or error}") from error
