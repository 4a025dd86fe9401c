"""The measured application on Starlette and uvicorn: `send_text` for each subscriber."""
# mypy: disable-error-code="import-not-found, misc"

import sys
from collections import defaultdict

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

channels: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def handle(socket: WebSocket) -> None:
    await socket.accept()
    mine: set[str] = set()
    try:
        while True:
            text = await socket.receive_text()
            if text[0] == "P":
                _, channel, payload = text.split(" ", 2)
                for subscriber in list(channels[channel]):
                    try:
                        await subscriber.send_text(payload)
                    except (WebSocketDisconnect, RuntimeError):
                        channels[channel].discard(subscriber)
            elif text[0] == "E":
                await socket.send_text(text[2:])
            else:
                mine.add(text[2:])
                channels[text[2:]].add(socket)
                await socket.send_text("K")
    except WebSocketDisconnect:
        pass
    finally:
        for channel in mine:
            channels[channel].discard(socket)


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.query)


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[WebSocketRoute("/", handle), Route("/echo", answer)]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
        backlog=4096,
    )
