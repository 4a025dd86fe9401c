"""The application of all soak runs: a light module, because workers that are interpreters import it too."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, ClassVar, Final

import wsbroker

STAND_S: Final = 120.0
"""The longest that a worker stands still."""
CHANNELS: Final = 50
"""Channels that all sockets of `CyclingApp` share."""
ROOM: Final = 1 << 17
"""Sockets that `CyclingApp` counts without more memory than was there at the start."""


class SoakApp:
    """Obeys messages that begin with a word, counts messages that begin with a number, and echoes any other message.

    ``join a,b`` and ``leave a,b`` change subscriptions; the answer is how many changed. ``who`` asks for the worker's
    name, ``count`` for the numbered messages. ``stand`` blocks the worker until ``go on``. ``xx`` computes, until
    ``calm``.
    """

    compute_s: ClassVar[float] = 0.0003
    gate: Final = threading.Event()
    """Set by ``go on``."""
    standing: Final = threading.Event()
    """Set while a worker stands still."""
    handled: Final[Counter[int]] = Counter()
    """Numbered messages by socket id."""
    wrong: Final[Counter[int]] = Counter()
    """Those of them that were not the next one."""

    def handle_http_request(self, request: wsbroker.HttpRequest) -> str:
        """Returns the size of the request's body."""
        return str(len(request.body))

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        """Obeys, counts or echoes the message."""
        text = data if isinstance(data, str) else data[:12].decode()
        if text[0].isdigit():
            SoakApp.wrong[socket_id] += int(text[:11]) != SoakApp.handled[socket_id]
            SoakApp.handled[socket_id] += 1
            return
        word, _, names = text.partition(" ")
        match word:
            case "xx":
                end_s = perf_counter() + SoakApp.compute_s
                while perf_counter() < end_s:
                    pass
            case "join" | "leave":
                change = wsbroker.subscribe if word == "join" else wsbroker.unsubscribe
                wsbroker.send(socket_id, str(sum([change(socket_id, name) for name in names.split(",")])))
            case "who":
                wsbroker.send(socket_id, threading.current_thread().name)
            case "count":
                wsbroker.send(socket_id, f"{SoakApp.handled[socket_id]} {SoakApp.wrong[socket_id]}")
            case "stand":
                SoakApp.standing.set()
                SoakApp.gate.wait(STAND_S)
            case "go":
                SoakApp.gate.set()
            case "calm":
                SoakApp.compute_s = 0.0
            case _:
                wsbroker.send(socket_id, data)


class CyclingApp(SoakApp):
    """Counts opens and closes too, subscribes in its open handler, and obeys more words, of which none is answered."""

    opened: Final = bytearray(ROOM)
    """By socket id, how often the open handler has accepted it."""
    closed: Final = bytearray(ROOM)
    """By socket id, how often the close handler has run."""
    newest: ClassVar[int] = 0

    def handle_socket_open(self, request: wsbroker.HttpRequest, socket_id: int) -> bool | Awaitable[bool]:
        """Subscribes the socket and sets its token; refuses the path ``/refused``."""
        CyclingApp.newest = socket_id
        if socket_id >= len(CyclingApp.closed):
            CyclingApp.opened.extend(bytes(ROOM))
            CyclingApp.closed.extend(bytes(ROOM))
        wsbroker.subscribe_nowait(socket_id, f"shared {socket_id % CHANNELS}")
        wsbroker.set_token(socket_id, f"opened {socket_id}")
        if request.pathname == "/refused":
            return False
        CyclingApp.opened[socket_id] += 1
        return True

    def handle_socket_message(  # type: ignore[override]
        self, data: str | bytes, socket_id: int, token: bytes | None = None
    ) -> Awaitable[None] | None:
        """Makes the call that the first word of the message names."""
        word, _, rest = str(data).partition(" ")
        match word:
            case "neighbour":
                wsbroker.subscribe_nowait(socket_id, f"shared {(socket_id + 1) % CHANNELS}")
            case "token":
                wsbroker.set_token(socket_id, str(data) * 8)
            case "publish":
                wsbroker.send_to_channel(f"shared {socket_id % CHANNELS}", "news", exclude=(socket_id,))
            case "unsubscribe":
                wsbroker.unsubscribe_nowait(socket_id, rest)
            case "close":
                wsbroker.close(socket_id, 4000, "as you like")
            case "fail":
                raise ValueError("on purpose")
            case _:
                super().handle_socket_message(data, socket_id)
        return None

    def handle_socket_close(self, socket_id: int, token: bytes | None) -> Awaitable[None] | None:
        """Counts the close handler's calls by socket id."""
        CyclingApp.closed[socket_id] += 1
        return None


class AsyncCyclingApp(CyclingApp):
    """Does what `CyclingApp` does, in coroutines that let the loop turn first; clients go meanwhile."""

    def handle_socket_open(self, request: wsbroker.HttpRequest, socket_id: int) -> Awaitable[bool]:
        """Returns a coroutine that opens the socket."""
        return _call_later(super().handle_socket_open, request, socket_id)

    def handle_socket_message(  # type: ignore[override]
        self, data: str | bytes, socket_id: int, token: bytes | None = None
    ) -> Awaitable[None] | None:
        """Returns a coroutine for every second socket; handles the messages of the others at once."""
        if socket_id % 2:
            return _call_later(super().handle_socket_message, data, socket_id, token)
        return super().handle_socket_message(data, socket_id, token)

    async def handle_socket_close(self, socket_id: int, token: bytes | None) -> None:
        """Counts the close handler's calls by socket id."""
        await _call_later(super().handle_socket_close, socket_id, token)


async def _call_later(handler: Callable[..., Any], *arguments: object) -> Any:
    """Lets the loop turn, then calls a handler and returns its answer."""
    await asyncio.sleep(0)
    return handler(*arguments)
