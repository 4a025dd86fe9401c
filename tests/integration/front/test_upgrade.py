"""Upgrades over the network: accepted and refused requests, and bytes that arrive before the 101."""

import asyncio
import socket
import struct
from typing import Any

import aiohttp
import pytest
import websockets

from kits.front_kit import ACCEPT, LONG_S, Fronting, Peer, field, fronting, get, status, upgrade
from wsbroker.front.http_connection import HttpConnection
from wsbroker.front.request_reader import MAX_BYTES_BEHIND_UPGRADE
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def opened(running: Fronting, data: bytes | None = None) -> Peer:
    """Returns a connection that has been upgraded."""
    peer = await running.connect()
    await peer.send(upgrade() if data is None else data)
    assert status(await peer.head()) == 101
    return peer


async def accepting(request: HttpRequest) -> HttpResponse | None:
    return None


async def test_an_upgrade_becomes_a_socket() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(upgrade("/a?b"))
        assert await peer.head() == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
        )
        await peer.send(b"ping")
        (connection,) = running.sockets.accepted
        assert await connection.has_received(4) == b"ping"
        assert running.sockets.worker_indices == [3]
        assert connection.transport is not None
        connection.transport.write(b"pong")
        assert await peer.reader.readexactly(4) == b"pong"
        assert running.front.http_connections == set()
        assert len(running.front.resources.head_deadlines) == 0
        peer.close()
        await connection.is_lost.wait()
        assert running.sockets.discarded == []


async def test_an_upgrade_that_comes_byte_by_byte_is_the_same() -> None:
    async with fronting() as running:
        peer = await running.connect()
        for byte in upgrade():
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert status(await peer.head()) == 101


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: keep-alive, Upgrade",),
        ("connection: UPGRADE",),
        ("Connection: keep-alive", "Connection: upgrade"),
    ],
)
async def test_the_connection_field_may_list_more(fields: tuple[str, ...]) -> None:
    async with fronting() as running:
        await opened(running, upgrade("/", *fields, drop=("Connection",)))


@pytest.mark.parametrize("value", ["WebSocket", "WEBSOCKET"])
async def test_the_upgrade_field_compares_without_case(value: str) -> None:
    async with fronting() as running:
        await opened(running, upgrade("/", f"Upgrade: {value}", drop=("Upgrade",)))


@pytest.mark.parametrize("is_asked", [False, True], ids=["no open handler", "open handler"])
@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_bytes_sent_before_the_101_reach_the_socket_in_order(is_asked: bool, before: bytes) -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def wait(_: HttpRequest) -> HttpResponse | None:
            await gate.wait()
            return None

        if is_asked:
            running.pool.opener = wait
        peer = await running.connect()
        await peer.send(before + upgrade() + b"one")
        if before:
            await peer.answer()
        await peer.send(b"two")
        await asyncio.sleep(0.02)  # gives the second segment a chance to be read alone; nothing depends on it
        gate.set()
        assert status(await peer.head()) == 101
        await peer.send(b"three")
        assert await running.sockets.accepted[0].has_received(11) == b"onetwothree"


def early_bytes(connection: HttpConnection) -> int:
    """Returns how many bytes behind its upgrade request a connection keeps."""
    return len(connection.unparsed_data)


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_a_flood_before_the_101_is_bounded_and_arrives_whole(before: bytes) -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def wait(_: HttpRequest) -> HttpResponse | None:
            await gate.wait()
            return None

        running.pool.opener = wait
        flood = bytes(range(256)) * 4 * 8192  # 8 MiB
        peer = await running.connect()
        await peer.send(before + upgrade())
        if before:
            await peer.answer()
        peer.writer.write(flood)
        (connection,) = running.front.http_connections
        transport = connection.live_transport
        assert transport is not None
        async with asyncio.timeout(LONG_S):
            while early_bytes(connection) < MAX_BYTES_BEHIND_UPGRADE:
                await asyncio.sleep(0.001)
        assert not transport.is_reading()
        assert early_bytes(connection) <= MAX_BYTES_BEHIND_UPGRADE + 256 * 1024
        gate.set()
        assert status(await peer.head()) == 101
        assert await running.sockets.accepted[0].has_received(len(flood)) == flood


async def test_the_open_handler_sees_the_request() -> None:
    async with fronting() as running:
        running.pool.opener = accepting
        await opened(running, upgrade("/chat?room=1", "Cookie: a=b", "X-Name: \xe4"))
        (request,) = running.pool.requests
        assert (request.method, request.url, request.remote, request.scheme) == (
            "GET",
            "/chat?room=1",
            "127.0.0.1",
            "http",
        )
        assert request.headers["cookie"] == "a=b"
        assert request.headers["x-name"] == "ä"
        assert running.pool.opened == [(1, 3)]


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_the_open_handlers_refusal_is_sent_as_it_is(before: bytes) -> None:
    async with fronting() as running:

        async def refuse(_: HttpRequest) -> HttpResponse | None:
            return HttpResponse(
                401, [("WWW-Authenticate", "Bearer"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], "no"
            )

        running.pool.opener = refuse
        peer = await running.connect()
        await peer.send(before + upgrade() + b"early")
        if before:
            await peer.answer()
        head, body = await peer.answer()
        assert (status(head), body) == (401, b"no")
        assert field(head, "WWW-Authenticate") == "Bearer"
        assert head.count(b"Set-Cookie: ") == 2
        assert field(head, "Connection") == "close"
        assert await peer.rest() == b""
        assert len(running.sockets.discarded) == 1
        assert running.sockets.accepted == []
        assert running.sockets.connection_count == 0


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_an_open_handler_that_cannot_be_asked_is_a_500(before: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with fronting() as running:

        async def fail(_: HttpRequest) -> HttpResponse | None:
            raise RuntimeError("no worker")

        running.pool.opener = fail
        peer = await running.connect()
        await peer.send(before + upgrade())
        if before:
            await peer.answer()
        head, body = await peer.answer()
        assert (status(head), body) == (500, b"500 Internal Server Error\n")
        assert len(running.sockets.discarded) == 1
        assert "remote=127.0.0.1" in caplog.text and "no worker" in caplog.text


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_a_client_that_leaves_before_the_101_is_discarded_at_once(before: bytes, is_reset: bool) -> None:
    async with fronting() as running:
        asked, gate = asyncio.Event(), asyncio.Event()

        async def wait(_: HttpRequest) -> HttpResponse | None:
            asked.set()
            await gate.wait()
            return None

        running.pool.opener = wait
        peer = await running.connect()
        await peer.send(before + upgrade())
        if before:
            await peer.answer()
        await asked.wait()
        assert running.sockets.connection_count == 1
        if is_reset:
            raw = peer.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await running.sockets.until(lambda: len(running.sockets.discarded) == 1)
        gate.set()  # the handler's late answer changes nothing
        await running.until_empty()
        await asyncio.sleep(0.01)
        assert (running.sockets.connection_count, len(running.sockets.discarded), running.sockets.accepted) == (
            0,
            1,
            [],
        )
        assert running.pool.forgotten == running.pool.opened


REFUSED: list[tuple[str, int, bytes]] = [
    ("no key", 400, upgrade(drop=("Sec-WebSocket-Key",))),
    ("short key", 400, upgrade("/", "Sec-WebSocket-Key: abc=", drop=("Sec-WebSocket-Key",))),
    ("two keys", 400, upgrade("/", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
    ("no version", 426, upgrade(drop=("Sec-WebSocket-Version",))),
    ("version 8", 426, upgrade("/", "Sec-WebSocket-Version: 8", drop=("Sec-WebSocket-Version",))),
    ("version 7", 426, upgrade("/", "Sec-WebSocket-Version: 7", drop=("Sec-WebSocket-Version",))),
    ("no connection", 400, upgrade(drop=("Connection",))),
    ("http 1.0", 400, upgrade(version="1.0")),
    ("post", 405, upgrade(method="POST")),
    ("a body", 400, upgrade("/", "Content-Length: 3") + b"abc"),
    ("a chunked body", 400, upgrade("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    ("another origin", 403, upgrade("/", "Origin: http://evil.example")),
    ("host with a path", 400, upgrade("/", "Host: a/b", drop=("Host",))),
]


@pytest.mark.parametrize(
    ("expected", "request_bytes"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_what_is_no_proper_handshake_is_refused_and_closed(
    expected: int, request_bytes: bytes, before: bytes
) -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(before + request_bytes)
        if before:
            assert status((await peer.answer())[0]) == 200
        head, body = await peer.answer()
        assert status(head) == expected
        assert body
        assert "close" in (field(head, "Connection") or "") or head.startswith(b"HTTP/1.0 ")
        assert (await peer.rest()) == b""
        if expected == 426:
            assert field(head, "Sec-WebSocket-Version") == "13"
            assert (field(head, "Upgrade"), field(head, "Connection")) == ("websocket", "upgrade, close")
        if expected == 405:
            assert field(head, "Allow") == "GET"
        assert running.sockets.worker_indices == []
        assert running.pool.requests == ([] if not before else running.pool.requests[:1])


async def test_nothing_behind_a_refused_upgrade_is_taken_for_a_request() -> None:
    async with fronting() as running:
        answer = await running.ask(upgrade(drop=("Sec-WebSocket-Key",)) + get("/smuggled"))
        assert answer.count(b"HTTP/1.1 ") == 1
        answer = await running.ask(get("/ok") + upgrade(drop=("Sec-WebSocket-Key",)) + get("/smuggled"))
        assert answer.count(b"HTTP/1.1 ") == 2
        assert [request.path for request in running.pool.requests] == ["/ok"]


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
async def test_too_many_sockets_are_answered_503(before: bytes) -> None:
    async with fronting(limit=1) as running:
        await opened(running)
        peer = await running.connect()
        await peer.send(before + upgrade())
        if before:
            await peer.answer()
        head, _ = await peer.answer()
        assert (status(head), field(head, "Retry-After")) == (503, "5")
        assert await peer.rest() == b""
        assert running.sockets.discarded == []


async def test_an_upgrade_behind_many_requests_waits_for_its_turn() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(b"".join(get(f"/{number}") for number in range(40)) + upgrade() + b"early")
        for number in range(40):
            assert (await peer.answer())[1] == b"GET /%d 0" % number
        assert status(await peer.head()) == 101
        assert await running.sockets.accepted[0].has_received(5) == b"early"


async def test_an_upgrade_behind_a_large_answer_is_taken_over_writable() -> None:
    async with fronting() as running:
        large = HttpResponse(200, (), b"x" * 4_000_000)

        async def answer(_: HttpRequest) -> HttpResponse:
            return large

        running.pool.handler = answer
        peer = await running.connect()
        await peer.send(get() + upgrade())
        assert len((await peer.answer())[1]) == 4_000_000
        assert status(await peer.head()) == 101
        (connection,) = running.sockets.accepted
        await peer.send(b"x")
        await connection.has_received(1)


async def test_other_upgrades_are_ignored() -> None:
    h2c = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    async with fronting() as running:
        peer = await running.connect()
        for _ in range(3):
            await peer.send(get("/a", *h2c))
            head, body = await peer.answer()
            assert (status(head), body) == (200, b"GET /a 0")
            assert field(head, "Connection") is None


UNKNOWN = [
    ("Connection: Upgrade", "Upgrade: h2c"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    ("Connection: keep-alive, Upgrade", "Upgrade: TLS/1.0"),
    ("Connection: upgrade", "Upgrade: IRC/6.9, RTA/x11, h2c"),
    ("Connection: upgrade", "Upgrade: h2c", "Upgrade: TLS/1.0"),
    ("Upgrade: h2c",),
    ("Connection: Upgrade",),
]
BODIES = {
    "none": ((), b""),
    "length": (("Content-Length: 5",), b"abcde"),
    "chunks": (("Transfer-Encoding: chunked",), b"2;x=y\r\nab\r\n3\r\ncde\r\n0\r\nX: y\r\n\r\n"),
}


@pytest.mark.parametrize("split", ["one segment", "body apart", "half bodies", "every byte"])
async def test_a_request_with_an_upgrade_that_is_not_spoken_is_an_ordinary_request(split: str) -> None:
    async with fronting(http_timeout=LONG_S * 2) as running:
        for unknown in UNKNOWN:
            await ask_for_an_unknown_upgrade(running, unknown, split, "POST")
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            await ask_for_an_unknown_upgrade(running, UNKNOWN[0], split, method)


async def ask_for_an_unknown_upgrade(running: Fronting, unknown: tuple[str, ...], split: str, method: str) -> None:
    """Sends a request with each kind of body on one connection, and an ordinary one behind them."""
    peer = await running.connect()
    expected = []
    for number, (fields, body) in enumerate(BODIES.values()):
        head = get(f"/{number}", *unknown, *fields, method=method)
        half = len(body) // 2
        parts = {
            "one segment": [head + body],
            "body apart": [head, body],
            "half bodies": [head + body[:half], body[half:]],
            "every byte": [bytes([byte]) for byte in head + body],
        }[split]
        for part in parts:
            await peer.send(part)
            await asyncio.sleep(0)
        expected.append(f"{method} /{number} {5 if body else 0}".encode())
    await peer.send(get("/last", "Connection: close"))
    assert [(await peer.answer())[1] for _ in expected] == expected
    assert (await peer.answer())[1] == b"GET /last 0"
    assert await peer.rest() == b""


async def test_a_body_behind_an_upgrade_that_is_not_spoken_is_asked_for_and_its_connection_closed_if_it_says_so() -> (
    None
):
    async with fronting() as running:
        peer = await running.connect()
        h2c = ("Upgrade: h2c", "Expect: 100-continue", "Content-Length: 3")
        for last in ("Upgrade", "Upgrade, close"):
            await peer.send(get("/before") + get("/", f"Connection: {last}", *h2c, method="POST"))
            assert (await peer.answer())[1] == b"GET /before 0"
            assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await peer.send(b"abc")
            head, body = await peer.answer()
            assert (status(head), body) == (200, b"POST / 3")
        assert field(head, "Connection") == "close"
        assert await peer.rest() == b""
        old = await running.ask(get("/", "Connection: Upgrade", *h2c[::2], method="POST", version="1.0") + b"abc")
        assert old.startswith(b"HTTP/1.0 200 ") and old.endswith(b"POST / 3")


@pytest.mark.parametrize("token", ["websocket", "h2c, websocket", "WebSocket,h2c"])
async def test_a_post_that_asks_for_a_websocket_is_refused_at_once_whatever_its_body(token: str) -> None:
    async with fronting() as running:
        for fields, body in BODIES.values():
            for sent in (b"", body[:1], body, body + get()):
                lines = ("Connection: Upgrade", f"Upgrade: {token}", *fields)
                answer = await running.ask(get("/", *lines, method="POST") + sent)
                assert answer.startswith(b"HTTP/1.1 405 ") and answer.count(b"HTTP/1.1 ") == 1
        assert running.pool.requests == []


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
@pytest.mark.parametrize("tokens", [("h2c, websocket",), ("websocket", "h2c"), ("h2c", "websocket")])
async def test_a_websocket_may_be_one_of_several_upgrades(before: bytes, tokens: tuple[str, ...]) -> None:
    async with fronting() as running:
        peer = await running.connect()
        fields = [f"Upgrade: {token}" for token in tokens]
        await peer.send(before + upgrade("/", *fields, drop=("Upgrade",)) + b"early")
        if before:
            await peer.answer()
        assert status(await peer.head()) == 101
        assert await running.sockets.accepted[0].has_received(5) == b"early"


async def test_a_failure_at_the_hand_over_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting() as running:
        running.sockets.failure = RuntimeError("broken core")
        assert await running.ask(upgrade()) == b""
        assert "broken core" in caplog.text
        assert running.sockets.connection_count == 0


async def test_a_failure_of_our_own_is_a_500_and_logged_with_the_address(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fronting() as running:

        def fail(worker_index: int) -> None:
            raise RuntimeError("broken core")

        monkeypatch.setattr(running.sockets, "admit_connection", fail)
        assert (await running.ask(upgrade())).startswith(b"HTTP/1.1 500 ")
        assert (await running.ask(get() + upgrade())).count(b"HTTP/1.1 500 ") == 1
        assert caplog.text.count("remote=127.0.0.1") == 2


async def test_foreign_clients_open_sockets() -> None:
    async with fronting(subprotocols=("b", "a")) as running:
        url = f"ws://127.0.0.1:{running.port}/x"
        async with aiohttp.ClientSession() as session:
            ws = await session.ws_connect(
                url, protocols=("a", "b"), headers={"Origin": f"http://127.0.0.1:{running.port}"}
            )
            assert ws.protocol == "a"
            connection = running.sockets.accepted[-1]
            assert connection.transport is not None
            connection.transport.write(b"\x81\x02hi")
            message = await ws.receive_str()
            assert message == "hi"
            connection.transport.close()
            await ws.close()
        connecting = websockets.connect(url, subprotocols=[websockets.Subprotocol("b")])
        async with asyncio.timeout(LONG_S):
            client = await connecting
        assert client.subprotocol == "b"
        connection = running.sockets.accepted[-1]
        assert connection.transport is not None
        connection.transport.write(b"\x81\x02yo")
        assert await client.recv() == "yo"
        connection.transport.close()
        await client.close()


async def test_foreign_clients_see_a_refusal() -> None:
    async with fronting() as running:

        async def refuse(_: HttpRequest) -> HttpResponse | None:
            return HttpResponse(403, (), "not you")

        running.pool.opener = refuse
        url = f"ws://127.0.0.1:{running.port}/"
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as seen:
                await session.ws_connect(url)
            assert seen.value.status == 403
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url)
        assert (refused.value.response.status_code, refused.value.response.body) == (403, b"not you")


async def test_many_clients_at_once_all_get_their_socket() -> None:
    async with fronting() as running:
        running.pool.opener = accepting

        async def one(number: int) -> Any:
            peer = await running.connect()
            await peer.send(upgrade(f"/{number}") + b"%04d" % number)
            return status(await peer.head())

        assert set(await asyncio.gather(*(one(number) for number in range(200)))) == {101}
        received = {await connection.has_received(4) for connection in running.sockets.accepted}
        assert received == {b"%04d" % number for number in range(200)}
        assert running.front.http_connections == set()
