"""The application `puppet` with ``async def`` handlers."""

import asyncio
import contextvars
from collections.abc import Callable
from urllib.parse import unquote

import wsbroker
from e2e.contract.apps.acting import evaluated, verdict
from wsbroker import HttpRequest, SocketId

state: dict[str, object] = {}
"""Values that a test stores."""
closing: dict[int, str] = {}
gates: dict[object, asyncio.Event] = {}
asked_by: contextvars.ContextVar[int] = contextvars.ContextVar("asked_by", default=0)


def gate(name: object) -> asyncio.Event:
    """Returns the event of this name, which handlers wait for and set; it stays set: one name a test."""
    return gates.setdefault(name, asyncio.Event())


async def handle_worker_start(arg: str | None) -> None:
    await asyncio.sleep(0)


async def handle_socket_open(request: HttpRequest, socket_id: SocketId) -> object:
    await asyncio.sleep(0)
    _, _, expression = request.query.partition("do=")
    value = verdict(unquote(expression), globals(), me=socket_id, request=request) if expression else None
    return await value if asyncio.iscoroutine(value) else value


async def handle_socket_message(data: str | bytes, socket_id: SocketId, token: bytes | None) -> object:
    if isinstance(data, bytes):
        wsbroker.send(socket_id, data)
        return None
    place, _, expression = data.partition(" ")
    asked_by.set(socket_id)

    def act() -> str:
        return evaluated(expression, globals(), me=socket_id, token=token)

    if place == "to_thread":
        answer = await asyncio.to_thread(act)
    elif place == "executor":
        answer = await asyncio.get_running_loop().run_in_executor(None, act)
    elif place == "await":
        answer = repr(await verdict(expression, globals(), me=socket_id, token=token))  # type: ignore[misc]
    elif place == "raise":
        await asyncio.sleep(0)
        verdict(f"raised({expression})", globals())
    else:
        await asyncio.sleep(0)
        answer = act()
    if place != "tell":
        wsbroker.send(socket_id, answer)
    return expression if place == "return" else None


async def handle_socket_close(socket_id: SocketId, token: bytes | None, code: int, reason: str) -> None:
    await asyncio.sleep(0)
    names = {"me": socket_id, "token": token, "code": code, "reason": reason}
    wsbroker.send_to_channel("closes", repr((socket_id, token, code, reason)))
    expression = closing.pop(socket_id, "")
    if expression:
        verdict(expression, globals(), **names)


async def handle_http_request(request: HttpRequest) -> object:
    await asyncio.sleep(0)
    if request.method != "POST":
        _, _, expression = request.query.partition("do=")
        value = verdict(unquote(expression), globals(), request=request) if expression else None
        return await value if asyncio.iscoroutine(value) else value
    return evaluated(request.text(), globals(), request=request)


async def slept(seconds: float) -> str:
    """Sleeps, and returns ``"slept"``."""
    await asyncio.sleep(seconds)
    return "slept"


async def waited(event: asyncio.Event, then: Callable[[], object]) -> object:
    """Waits for an event, then calls `then` and returns the result."""
    await event.wait()
    return then()


async def when(claim: Callable[[], bool], then: Callable[[], object]) -> object:
    """Waits until `claim()` is true, perhaps by another worker, then calls `then` and returns the result."""
    while not claim():
        await asyncio.sleep(0.001)
    return then()


async def cleaned(event: asyncio.Event, finally_: Callable[[], object]) -> None:
    """Waits for an event, and calls `finally_` at the end, also when cancelled."""
    try:
        await event.wait()
    finally:
        finally_()


async def stubborn(event: asyncio.Event, then: Callable[[], object]) -> None:
    """Waits for an event; when cancelled, goes on and calls `then`."""
    try:
        await event.wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        then()
