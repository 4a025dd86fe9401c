"""A small application that uses every call of the API: checked by mypy --strict (and pyright), never run.

`assert_type` says what a user's editor shows.
"""

import asyncio
from typing import assert_type

import wsbroker
from wsbroker import Accept, Config, HttpRequest, HttpResponse, Server, SocketId, Worker, WorkerHandle


class Chat(Worker):
    """Overrides every handler; async and plain ones mixed."""

    async def handle_worker_start(self, arg: str | None, /) -> None:
        assert_type(arg, str | None)

    def handle_worker_stop(self, /) -> None: ...

    def handle_socket_open(self, request: HttpRequest, socket_id: SocketId, /) -> bool | HttpResponse | Accept | None:
        assert_type(request.headers.get_all("cookie"), list[str])
        assert_type(request.text(), str)
        assert_type((request.url, request.path, request.pathname, request.search), tuple[str, str, str, str])
        assert_type((request.host, request.absolute_url), tuple[str, str])
        wsbroker.subscribe_nowait(socket_id, request.path)
        if request.query == "who":
            return Accept(headers={"Set-Cookie": "seen=1"}, subprotocol="chat.v2")
        return HttpResponse(401, {"WWW-Authenticate": "Bearer"}, "who?") if request.query == "" else True

    def handle_socket_message(self, data: str | bytes, socket_id: SocketId, token: bytes | None, /) -> None:
        wsbroker.send(socket_id, data)
        wsbroker.send_to_channel(b"all", bytearray(b"x"), exclude=(socket_id,))
        wsbroker.set_token(socket_id, token)

    async def handle_socket_close(
        self, socket_id: SocketId, token: bytes | None, code: int, reason: str, /
    ) -> None: ...

    def handle_http_request(self, request: HttpRequest, /) -> HttpResponse | str | bytes | dict[str, object] | None:
        return HttpResponse.json({"path": request.path, "body": request.json()})


def main() -> None:
    """Every call, with the types it gives back."""
    handle = wsbroker.register_worker(Chat)
    assert_type(handle, WorkerHandle)
    with wsbroker.start("127.0.0.1:0", worker_kind="thread", workers=2, ping_interval=5) as server:
        assert_type(server, Server)
        assert_type(wsbroker.subscribe(1, "a"), bool)
        assert_type(wsbroker.unsubscribe(1, "a"), bool)
        wsbroker.unsubscribe_nowait(1, b"a")
        wsbroker.copy_subscriptions("all", b"others")
        wsbroker.close(1, 4000, "bye")
        assert_type(wsbroker.subscriber_count("a"), int)
        assert_type(wsbroker.has_subscribers("a"), bool)
        assert_type(wsbroker.subscribers("a"), list[SocketId])
        assert_type(wsbroker.subscriptions(1), list[bytes])
        assert_type(wsbroker.channels(), list[bytes])
        assert_type(wsbroker.is_open(1), bool)
        assert_type(wsbroker.queued_bytes(1), int)
        assert_type(server.wait(1.0), bool)
    wsbroker.run([":3000", "unix:/tmp/x"], worker="app:Chat", config=Config.of(max_message_size=1 << 20))
    handle.unregister()


async def embedded() -> None:
    """Inside a program's own loop."""
    async with wsbroker.serve("[::1]:0", worker=Chat()) as server:
        await server.wait_closed()


if __name__ == "__main__":
    main()
    asyncio.run(embedded())
