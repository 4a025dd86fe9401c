"""The measured application on picows: a callback for each frame, `transport.send` for each subscriber."""
# mypy: disable-error-code="import-not-found, misc"

import asyncio
import sys
from collections import defaultdict

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

channels: defaultdict[bytes, set[WSTransport]] = defaultdict(set)


class Listener(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        self.channels: set[bytes] = set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        if frame.msg_type != WSMsgType.TEXT:
            return
        data = frame.get_payload_as_bytes()
        if data[:1] == b"P":
            _, channel, payload = data.split(b" ", 2)
            for subscriber in channels[channel]:
                subscriber.send(WSMsgType.TEXT, payload)
        elif data[:1] == b"E":
            transport.send(WSMsgType.TEXT, data[2:])
        else:
            self.channels.add(data[2:])
            channels[data[2:]].add(transport)
            transport.send(WSMsgType.TEXT, b"K")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for channel in self.channels:
            channels[channel].discard(transport)


def listen(request: WSUpgradeRequest) -> Listener:
    return Listener()


async def main(port: int) -> None:
    server = await ws_create_server(listen, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main(int(sys.argv[1])))
