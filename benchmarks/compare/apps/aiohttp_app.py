"""The measured application on aiohttp's WebSocketResponse: a set per channel, the frame's bytes made once."""

import asyncio
import sys
from collections import defaultdict

import uvloop
from aiohttp import WSMsgType, web

channels: defaultdict[str, set[web.WebSocketResponse]] = defaultdict(set)


async def handle(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    mine: set[str] = set()
    try:
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            text = str(message.data)
            if text[0] == "P":
                _, channel, payload = text.split(" ", 2)
                data = payload.encode()
                for subscriber in list(channels[channel]):
                    await subscriber.send_frame(data, WSMsgType.TEXT)
            elif text[0] == "E":
                await socket.send_str(text[2:])
            else:
                mine.add(text[2:])
                channels[text[2:]].add(socket)
                await socket.send_str("K")
    finally:
        for channel in mine:
            channels[channel].discard(socket)
    return socket


async def answer(request: web.Request) -> web.Response:
    return web.Response(text=request.query_string)


async def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/", handle)
    app.router.add_get("/echo", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main(int(sys.argv[1])))
