"""Two foreign WebSocket clients, websockets and aiohttp, behind one interface: they send JSON and keep each message.

Order between two sockets is not promised: a test waits for what it awaits before it goes on (`Talker.hear`).
Order on one socket is: after the answer to a socket's last request, nothing of before can still come.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import aiohttp
import websockets

PATIENCE_S = 20.0

Connect = Callable[..., AbstractAsyncContextManager["Talker"]]


class Link(Protocol):
    """The operations that each client library spells differently."""

    async def send(self, data: str | bytes) -> None: ...

    async def receive(self) -> str | bytes | None:
        """Returns the next message; None if the connection is closed."""
        ...

    async def close(self) -> None: ...

    def closed_with(self) -> tuple[int | None, str | None]:
        """Returns the server's close code and reason; None for a reason that the client library does not tell."""
        ...


class Talker:
    """A client. `transcript` has all messages that it has received, in order."""

    def __init__(self, link: Link) -> None:
        self.transcript: list[object] = []
        self._link = link

    async def say(self, message: object) -> None:
        """Sends `message` as JSON in a text frame; `str` and `bytes` as they are."""
        data = message if isinstance(message, str | bytes) else json.dumps(message)
        async with asyncio.timeout(PATIENCE_S):
            await self._link.send(data)

    async def hear(self) -> dict[str, object]:
        """Waits for the next message, which must be a JSON object, and returns it."""
        heard = await self._receive()
        assert isinstance(heard, str), heard
        message = json.loads(heard)
        assert isinstance(message, dict)
        self.transcript.append(message)
        return message

    async def hear_raw(self) -> str | bytes:
        """Waits for the next message, of any form, and returns it."""
        heard = await self._receive()
        assert heard is not None, self._link.closed_with()
        self.transcript.append(heard)
        return heard

    async def ask(self, message: object) -> dict[str, object]:
        """Sends a message and returns the next message that is received."""
        await self.say(message)
        return await self.hear()

    async def hang_up(self) -> None:
        """Closes with a handshake."""
        async with asyncio.timeout(PATIENCE_S):
            await self._link.close()

    async def be_closed(self) -> tuple[int | None, str | None]:
        """Waits for the server to close, with nothing in between; returns the code and, if known, the reason."""
        assert await self._receive() is None
        return self._link.closed_with()

    async def _receive(self) -> str | bytes | None:
        async with asyncio.timeout(PATIENCE_S):
            return await self._link.receive()


class _WebsocketsLink:
    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection

    async def send(self, data: str | bytes) -> None:
        await self._connection.send(data)

    async def receive(self) -> str | bytes | None:
        try:
            return await self._connection.recv()
        except websockets.ConnectionClosed:
            return None

    async def close(self) -> None:
        await self._connection.close()

    def closed_with(self) -> tuple[int | None, str | None]:
        return self._connection.close_code, self._connection.close_reason


class _AiohttpLink:
    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection
        self._closed: tuple[int | None, str | None] = (None, None)

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            await self._connection.send_str(data)
        else:
            await self._connection.send_bytes(data)

    async def receive(self) -> str | bytes | None:
        """Returns the next message; None, after storing code and reason, if the connection is closed."""
        message = await self._connection.receive()
        if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
            data = message.data
            assert isinstance(data, str | bytes)
            return data
        self._closed = (self._connection.close_code, message.extra)
        return None

    async def close(self) -> None:
        await self._connection.close()

    def closed_with(self) -> tuple[int | None, str | None]:
        return self._closed


@asynccontextmanager
async def with_websockets(url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Talker]:
    """Yields a client of the library websockets that is connected to `url`."""
    async with websockets.connect(url, additional_headers=headers, compression=None, proxy=None) as connection:
        yield Talker(_WebsocketsLink(connection))


@asynccontextmanager
async def with_aiohttp(url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Talker]:
    """Yields a client of the library aiohttp that is connected to `url`."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as connection:
        yield Talker(_AiohttpLink(connection))
