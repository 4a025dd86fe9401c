"""The front's limits for clients: time, bytes and connections."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest
import websockets

from kits.front_kit import LONG_S, Fronting, Peer, field, fronting, get, post, status, upgrade
from wsbroker.front import connection_resources
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

pytestmark = pytest.mark.anyio

SHORT_S = 0.15


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Stopwatch:
    """Measures the time since it was created, in seconds."""

    def __init__(self) -> None:
        self.start = asyncio.get_running_loop().time()

    def seconds(self) -> float:
        return asyncio.get_running_loop().time() - self.start


# Time. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"\r\n\r\n", get()[:-2], upgrade()[:-2], get("/", "X: " + "y" * 5000)[:-4]],
    ids=["nothing", "a byte", "empty lines", "nearly a request", "nearly an upgrade", "a large part"],
)
async def test_a_connection_without_a_whole_head_is_closed_in_time(sent: bytes) -> None:
    async with fronting(handshake_timeout=SHORT_S) as running:
        watch = Stopwatch()
        assert await running.ask(sent) == b""
        assert SHORT_S * 0.9 <= watch.seconds() < LONG_S / 2
        assert running.pool.requests == []


async def dribble(peer: Peer, data: bytes) -> None:
    """Sends some bytes and then one more every few milliseconds until the server closes the connection."""
    try:
        for byte in data + b"a" * 1000:
            await peer.send(bytes([byte]))
            await asyncio.sleep(SHORT_S / 10)
    except ConnectionError:
        pass


@pytest.mark.parametrize("before", [b"", get("/before"), get("/before") + b"GET /"], ids=["first", "second", "joined"])
async def test_who_dribbles_a_head_gains_no_time(before: bytes) -> None:
    async with fronting(handshake_timeout=SHORT_S) as running:
        peer = await running.connect()
        if before:
            await peer.send(before)
            await peer.answer()
        watch = Stopwatch()
        task = asyncio.create_task(dribble(peer, b"" if before.endswith(b"/") else b"GET /"))
        assert await peer.rest() == b""
        assert SHORT_S * 0.5 <= watch.seconds() < LONG_S / 4
        task.cancel()


@pytest.mark.parametrize("part", [b"GET / HT", get()[:-1]])
async def test_a_part_of_a_head_behind_a_request_is_closed_in_time(part: bytes) -> None:
    async with fronting(handshake_timeout=SHORT_S) as running:
        answer = await running.ask(get() + part)
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        answer = await running.ask(get() + get() + part)
        assert answer.count(b"HTTP/1.1 200 OK") == 2


async def test_a_part_of_a_head_does_not_end_the_request_before_it() -> None:
    async with fronting(handshake_timeout=SHORT_S) as running:

        async def handler(_: HttpRequest) -> HttpResponse:
            await asyncio.sleep(SHORT_S * 3)
            return HttpResponse(200, (), "slow")

        running.pool.handler = handler
        assert (await running.ask(get() + b"GET /")).endswith(b"slow")


async def test_an_idle_connection_outlives_the_time_for_a_head_and_not_its_own() -> None:
    async with fronting(handshake_timeout=SHORT_S, keepalive_timeout=1.0) as running:
        peer = await running.connect()
        for data in (get(), post(b"abc"), get()):
            await peer.send(data)
            await peer.answer()
            await asyncio.sleep(SHORT_S * 2)
        watch = Stopwatch()
        assert await peer.rest() == b""
        assert watch.seconds() < LONG_S / 2


async def test_thousands_of_heads_need_one_timer() -> None:
    async with fronting() as running:
        loop = asyncio.get_running_loop()
        peers = [await running.connect() for _ in range(50)]
        while len(running.front.http_connections) < 50:
            await asyncio.sleep(0.001)
        assert len(running.front.resources.head_deadlines) == 50
        if isinstance(loop, asyncio.BaseEventLoop):
            assert len(loop._scheduled) <= 2  # type: ignore[attr-defined]
        for peer in peers:
            await peer.send(upgrade())
            assert status(await peer.head()) == 101
        assert len(running.front.resources.head_deadlines) == 0


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_body_that_does_not_come_in_time_is_answered_408(has_begun: bool) -> None:
    async with fronting(http_timeout=SHORT_S) as running:
        answer = await running.ask(get("/", "Content-Length: 10", method="POST") + b"abc" * has_begun)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in answer
        assert running.pool.requests == []


async def test_who_does_not_read_the_answer_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting(write_timeout=SHORT_S) as running:

        async def handler(_: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), b"x" * 30_000_000)

        running.pool.handler = handler
        with socket.create_connection(("127.0.0.1", running.port)) as raw:
            raw.setblocking(False)
            raw.send(get())
            await until_gone(running)
        assert "answer not taken" in caplog.text


async def test_who_does_not_read_the_last_bytes_is_cut() -> None:
    """The bytes fit into the transport's buffer, so aiohttp takes the response for sent."""
    async with fronting(write_timeout=SHORT_S, http_timeout=SHORT_S) as running:
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", running.port))
            raw.setblocking(False)

            async def handler(_: HttpRequest) -> HttpResponse:
                (connection,) = running.front.http_connections
                assert connection.live_transport is not None
                connection.live_transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                return HttpResponse(200, (), b"x" * 60_000)

            running.pool.handler = handler
            raw.send(get("/", "Connection: close"))
            await until_gone(running)


async def test_who_reads_slowly_is_not_cut() -> None:
    async with fronting(write_timeout=SHORT_S) as running:
        size = 12_000_000

        async def handler(_: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), b"x" * size)

        running.pool.handler = handler
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", running.port)) as raw:
            raw.setblocking(False)
            await loop.sock_sendall(raw, get("/", "Connection: close"))
            received = 0
            async with asyncio.timeout(LONG_S):
                while data := await loop.sock_recv(raw, 500_000):
                    received += len(data)
                    await asyncio.sleep(SHORT_S / 6)
            assert received > size


# Answers that nobody takes. -----------------------------------------------------------------------------------------


def asking(running: Fronting, request: bytes) -> socket.socket:
    """Returns a client socket with a small receive buffer that has sent a request and does not read the response."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", running.port))
    raw.setblocking(False)
    raw.send(request)
    return raw


async def sized(request: HttpRequest) -> HttpResponse:
    """Returns a response with as many bytes as the target says."""
    return HttpResponse(200, (), b"x" * int(request.path[1:]))


async def until(claim: Callable[[], bool]) -> None:
    """Waits until `claim()` is true."""
    async with asyncio.timeout(LONG_S):
        while not claim():
            await asyncio.sleep(0.001)


async def test_answers_that_nobody_takes_hold_no_more_than_their_limit_and_who_reads_gets_all() -> None:
    limit, size = 4 * 1024 * 1024, 1_000_000
    async with fronting(max_waiting_bytes=limit) as running, AsyncExitStack() as stack:
        running.pool.handler = sized
        front = running.front
        for count in range(1, 21):
            stack.callback(asking(running, get(f"/{size}")).close)
            await until(lambda count=count: len(running.pool.requests) == count)  # type: ignore[misc]
        await until(lambda: len(front.http_connections) < 10)
        assert front.answers_shed == 20 - len(front.http_connections)
        assert limit / 2 < front.answer_bytes <= limit
        assert front.resources.peak_answer_bytes <= limit + size + 1000
        reader = await running.connect()
        await reader.send(get(f"/{3 * size}"))
        head, body = await reader.answer()
        assert (status(head), len(body)) == (200, 3 * size)
        assert front.answer_bytes <= limit
        await stack.aclose()
        await until(lambda: front.answer_bytes == 0)


async def test_the_connections_for_which_most_waits_are_aborted_first() -> None:
    async with fronting(max_waiting_bytes=20_000_000) as running, AsyncExitStack() as stack:
        running.pool.handler = sized
        raws = []
        for size in (6_000_000, 9_000_000, 7_000_000):
            raws.append(asking(running, get(f"/{size}", "Connection: close")))
            stack.callback(raws[-1].close)
            await until(lambda: len(running.pool.requests) == len(raws))
        await until(lambda: running.front.answers_shed == 1)
        loop = asyncio.get_running_loop()
        received = [0, 0, 0]
        async with asyncio.timeout(LONG_S):
            for index, raw in enumerate(raws):
                with suppress(ConnectionError):
                    while data := await loop.sock_recv(raw, 500_000):
                        received[index] += len(data)
        assert received[0] > 6_000_000 and received[1] < 9_000_000 and received[2] > 7_000_000
        await until(lambda: running.front.answer_bytes == 0)


async def test_an_answer_counts_also_if_writing_stopped_at_its_head() -> None:
    async with fronting() as running, AsyncExitStack() as stack:
        sizes = iter((60_000, 1_000_000))

        async def handler(_: HttpRequest) -> HttpResponse:
            (connection,) = running.front.http_connections
            assert connection.live_transport is not None
            connection.live_transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            return HttpResponse(200, [("X-Long", "y" * 40_000)] * (running.pool.requests[1:] != []), b"x" * next(sizes))

        running.pool.handler = handler
        stack.callback(asking(running, get() + get()).close)
        await until(lambda: running.front.answer_bytes > 1_000_000)


async def until_gone(running: Fronting) -> None:
    """Waits until the one connection was accepted and is closed."""
    async with asyncio.timeout(LONG_S):
        while not running.front.http_connections:
            await asyncio.sleep(0.001)
    await running.until_empty()


# Bytes. -------------------------------------------------------------------------------------------------------------

HEAD_LIMIT = 2048


@pytest.mark.parametrize(
    "data",
    [
        get("/" + "a" * HEAD_LIMIT),
        get("/", "X: " + "a" * HEAD_LIMIT),
        get("/", "a" * HEAD_LIMIT + ": x"),
        get("/", *[f"X-{number}: {'a' * 100}" for number in range(30)]),
        get("/", *["X: y"] * 600),
        upgrade("/", *[f"X-{number}: {'a' * 100}" for number in range(30)]),
        get("/", *[f"X-{number}: {'a' * 100}" for number in range(30)])[:-4],
        b"\r\n" * 2000,
    ],
    ids=["target", "value", "name", "sum", "count", "upgrade", "unfinished", "empty lines"],
)
@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
@pytest.mark.parametrize("step", [None, 700], ids=["at once", "in parts"])
async def test_a_head_over_the_limit_is_answered_431(data: bytes, before: bytes, step: int | None) -> None:
    async with fronting(max_head_size=HEAD_LIMIT) as running:
        peer = await running.connect()
        await peer.send(before)
        if before:
            assert status((await peer.answer())[0]) == 200
        for start in range(0, len(data), step or len(data)):
            await peer.send(data[start : start + (step or len(data))])
            await asyncio.sleep(0)
        head, body = await peer.answer()
        assert (status(head), body) == (431, b"431 Request Header Fields Too Large\n")
        assert field(head, "Connection") == "close"
        assert await peer.rest() == b""
        assert running.sockets.worker_indices == []


async def test_a_long_head_behind_others_in_one_segment_is_answered_431_in_its_turn() -> None:
    async with fronting(max_head_size=HEAD_LIMIT) as running:
        long = get("/long", *[f"X-{number}: {'a' * 100}" for number in range(30)])
        for before in (b"", get("/0")):
            peer = await running.connect()
            await peer.send(before)
            if before:
                await peer.answer()
            await peer.send(get("/1") + get("/2") + long + get("/3"))
            assert [status((await peer.answer())[0]) for _ in range(3)] == [200, 200, 431]
            assert await peer.rest() == b""
        assert [request.url for request in running.pool.requests] == ["/1", "/2", "/0", "/1", "/2"]


async def test_a_head_at_the_limit_is_fine() -> None:
    async with fronting(max_head_size=HEAD_LIMIT) as running:
        peer = await running.connect()
        for _ in range(2):
            empty = get("/", "X: ")
            await peer.send(get("/", "X: " + "a" * (HEAD_LIMIT - len(empty))))
            assert status((await peer.answer())[0]) == 200
        many = b"".join(get(f"/{number}") for number in range(500))
        assert len(many) > 5 * HEAD_LIMIT
        await peer.send(many)
        for _ in range(500):
            assert status((await peer.answer())[0]) == 200


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"3\r\nabc\r\n0\r\n", b"X: aaaaa\r\n" * 100), (b"3;", b"a" * 1000)],
    ids=["trailers", "chunk extension"],
)
async def test_what_comes_with_a_body_and_is_none_is_bounded(begin: bytes, more: bytes) -> None:
    async with fronting(max_head_size=HEAD_LIMIT) as running:
        peer = await running.connect()
        await peer.send(get("/", "Transfer-Encoding: chunked", method="POST") + begin)
        for _ in range(10):
            await peer.send(more)
            await asyncio.sleep(0.001)
        assert status((await peer.answer())[0]) == 400
        assert await peer.rest() == b""
        assert running.pool.requests == []


# Connections. -------------------------------------------------------------------------------------------------------


async def test_a_connection_too_many_is_answered_503_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting(max_connections=2) as running:
        first, second = await running.connect(), await running.connect()
        await first.send(get())
        await first.answer()
        await second.send(upgrade())
        await second.head()
        third = await running.connect()
        await third.send(get())
        head, body = await third.answer()
        assert (status(head), field(head, "Connection"), field(head, "Retry-After")) == (503, "close", "5")
        assert body
        assert await third.rest() == b""
        assert "remote=127.0.0.1" in caplog.text
        third.close()
        first.close()
        async with asyncio.timeout(LONG_S):
            while running.front.http_connections:
                await asyncio.sleep(0.001)
        await (await running.connect()).send(get())
        assert len(running.sockets.accepted) == 1


async def test_foreign_clients_see_the_503() -> None:
    async with fronting(max_connections=1) as running:
        await (await running.connect()).send(b"G")
        async with asyncio.timeout(LONG_S):
            while not running.front.http_connections:
                await asyncio.sleep(0.001)
        url = f"127.0.0.1:{running.port}/"
        async with aiohttp.ClientSession() as session, session.get(f"http://{url}") as answer:
            assert answer.status == 503
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://{url}")
        assert refused.value.response.status_code == 503


async def test_a_socket_that_is_being_opened_counts_once() -> None:
    async with fronting(max_connections=2) as running:
        gate = asyncio.Event()

        async def wait(_: HttpRequest) -> HttpResponse | None:
            await gate.wait()
            return None

        running.pool.opener = wait
        first, second = await running.connect(), await running.connect()
        await first.send(upgrade())
        await second.send(upgrade())
        async with asyncio.timeout(LONG_S):
            while len(running.pool.opened) < 2:
                await asyncio.sleep(0.001)
        gate.set()
        assert status(await first.head()) == 101
        assert status(await second.head()) == 101
        third = await running.connect()
        await third.send(b"GET")
        assert status((await third.answer())[0]) == 503


async def full(running: Fronting) -> None:
    """Opens a connection that fills the limit of one."""
    await running.connect()
    async with asyncio.timeout(LONG_S):
        while not running.front.http_connections:
            await asyncio.sleep(0.001)


async def test_a_connection_too_many_that_says_nothing_is_closed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_resources, "LINGER_S", SHORT_S)
    async with fronting(max_connections=1) as running:
        await full(running)
        silent = await running.connect()
        assert status((await silent.answer())[0]) == 503
        assert await silent.rest() == b""


async def test_those_too_many_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_resources, "MAX_LINGERING", 3)
    async with fronting(max_connections=1) as running:
        await full(running)
        refused = [await running.connect() for _ in range(10)]
        for peer in refused[3:]:  # no room even to wait for their requests
            assert status((await peer.answer())[0]) == 503
        assert len(running.front.resources.linger_deadlines) == 3
        for peer in refused[:3]:
            await peer.send(get())
            assert status((await peer.answer())[0]) == 503


async def test_a_client_that_closes_right_behind_its_answer_holds_no_place() -> None:
    async with fronting(handshake_timeout=60) as running:

        async def handler(_: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), "x")

        running.pool.handler = handler
        for _ in range(100):
            peer = await running.connect()
            peer.writer.write(get("/"))
            await peer.reader.readuntil(b"\r\n\r\nx")
            peer.close()
        await until(lambda: not running.front.http_connections)
