"""The measured application on websockets, with its `broadcast`."""

import asyncio
import sys
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

channels: defaultdict[bytes, set[ServerConnection]] = defaultdict(set)


async def handle(socket: ServerConnection) -> None:
    mine: set[bytes] = set()
    try:
        while True:
            data = await socket.recv(decode=False)
            if data[:1] == b"P":
                _, channel, payload = data.split(b" ", 2)
                broadcast(channels[channel], payload, text=True)
            elif data[:1] == b"E":
                await socket.send(data[2:], text=True)
            else:
                mine.add(data[2:])
                channels[data[2:]].add(socket)
                await socket.send("K")
    except ConnectionClosed:
        pass
    finally:
        for channel in mine:
            channels[channel].discard(socket)


async def main(port: int) -> None:
    async with serve(handle, "127.0.0.1", port, compression=None, backlog=4096):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main(int(sys.argv[1])))
