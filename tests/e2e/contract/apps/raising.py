"""Raises what it is told to."""

import asyncio
from collections.abc import Coroutine


def handle_socket_message(data: str) -> Coroutine[object, object, None] | None:
    how, _, error = data.partition(" ")
    if how == "async":
        return later(error)
    raise eval(error)


async def later(error: str) -> None:
    await asyncio.sleep(0)
    raise eval(error)


def handle_http_request() -> None: ...
