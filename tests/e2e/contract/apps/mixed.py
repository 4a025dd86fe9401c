"""Plain and async handlers side by side."""

import asyncio
from collections.abc import Coroutine

import wsbroker

watchers: list[int] = []


def handle_worker_start() -> None:
    watchers.clear()


async def handle_socket_open(request: wsbroker.HttpRequest, socket_id: int) -> bool:
    await asyncio.sleep(0)
    tell("opened")
    wsbroker.send(socket_id, "opened")
    return True


def handle_socket_message(data: str, socket_id: int) -> Coroutine[object, object, None] | None:
    if data == "watch":
        watchers[:] = [socket_id]
        tell("watching")
        return None
    if data.startswith("later"):
        return later(data, socket_id)
    wsbroker.send(socket_id, data)
    return None


async def later(data: str, socket_id: int) -> None:
    await asyncio.sleep(0.001)
    wsbroker.send(socket_id, data)


async def handle_socket_close(socket_id: int) -> None:
    await asyncio.sleep(0)
    tell("closed")


def tell(text: str) -> None:
    for watcher in watchers:
        wsbroker.send(watcher, text)
