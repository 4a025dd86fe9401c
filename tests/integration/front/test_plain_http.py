"""Plain HTTP over the network: bodies, keep-alive, pipelining, and every shape of request that is refused."""

import asyncio
import gc
import gzip
import logging
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from kits.front_kit import LONG_S, Fronting, field, fronting, get, post, status, upgrade
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def chunked(*chunks: bytes) -> bytes:
    """Returns a body in chunked coding."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def respond(running: Fronting, response: HttpResponse) -> None:
    """Makes the HTTP handler return the given response."""

    async def handler(_: HttpRequest) -> HttpResponse:
        return response

    running.pool.handler = handler


async def test_a_request_reaches_the_handler_and_its_answer_the_client() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(get("/a%20b?c=d&e", "X-A: 1", "x-a: 2", "Cookie: \xff"))
        head, body = await peer.answer()
        assert (status(head), body) == (200, b"GET /a%20b?c=d&e 0")
        assert field(head, "Server") == "wsbroker"
        assert field(head, "Content-Type") == "text/plain; charset=utf-8"
        assert field(head, "Date") is not None
        assert field(head, "Connection") is None
        (request,) = running.pool.requests
        assert request.absolute_url == "http://127.0.0.1/a%20b?c=d&e"
        assert (request.path, request.query, request.remote) == ("/a%20b", "c=d&e", "127.0.0.1")
        assert request.headers.get_all("X-A") == ["1", "2"]
        assert request.headers["cookie"] == "ÿ"


async def test_a_connection_is_kept_for_more_requests_and_they_may_be_pipelined() -> None:
    async with fronting() as running:
        peer = await running.connect()
        for number in range(3):
            await peer.send(get(f"/{number}"))
            assert (await peer.answer())[1] == b"GET /%d 0" % number
        await peer.send(b"".join(post(b"x" * number, f"/{number}") for number in range(200)))
        for number in range(200):
            assert (await peer.answer())[1] == b"POST /%d %d" % (number, number)
        assert len(running.front.resources.head_deadlines) == 0


async def test_pipelined_answers_keep_their_order_when_the_first_is_slow() -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def handler(request: HttpRequest) -> HttpResponse:
            if request.path == "/slow":
                await gate.wait()
            return HttpResponse(200, (), request.path)

        running.pool.handler = handler
        peer = await running.connect()
        await peer.send(get("/slow") + get("/fast"))
        peer2 = await running.connect()
        await peer2.send(get("/other"))
        assert (await peer2.answer())[1] == b"/other"
        gate.set()
        assert [(await peer.answer())[1] for _ in range(2)] == [b"/slow", b"/fast"]


async def test_pipelined_bodies_behind_a_slow_answer_are_bounded() -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def handler(request: HttpRequest) -> HttpResponse:
            await gate.wait()
            return HttpResponse(200, (), str(len(request.body)))

        running.pool.handler = handler
        peer = await running.connect()
        peer.writer.write(b"".join(post(b"x" * 100_000) for _ in range(100)))
        await running_requests(running, 1)
        (connection,) = running.front.http_connections
        assert connection.live_transport is not None
        async with asyncio.timeout(LONG_S):
            while connection.live_transport.is_reading():
                await asyncio.sleep(0.001)
        held = sum(body.total_bytes for _, body in connection.newest_queued_requests(connection.queued_request_count))
        assert held < 1_000_000
        gate.set()
        for _ in range(100):
            assert (await peer.answer())[1] == b"100000"


async def test_a_client_with_many_requests_does_not_hold_the_loop() -> None:
    async with fronting() as running:
        greedy, other = await running.connect(), await running.connect()
        greedy.writer.write(get("/greedy") * 3000)
        await running_requests(running, 1)
        await other.send(get("/other"))
        await other.answer()
        assert [request.path for request in running.pool.requests].index("/other") < 2000
        for _ in range(3000):
            await greedy.answer()


async def running_requests(running: Fronting, count: int) -> None:
    """Waits until the handler has been called `count` times."""
    async with asyncio.timeout(LONG_S):
        while len(running.pool.requests) < count:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 4000], ids=["empty", "small", "large"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_arrives_as_it_was_sent(body: bytes, is_chunked: bool) -> None:
    async with fronting() as running:
        peer = await running.connect()
        for _ in range(2):
            if is_chunked:
                parts = [body[start : start + 999] for start in range(0, len(body), 999)]
                await peer.send(get("/", "Transfer-Encoding: chunked", method="POST") + chunked(*parts))
            else:
                await peer.send(post(body))
            assert (await peer.answer())[1] == b"POST / %d" % len(body)
            assert running.pool.requests[-1].body == body


async def test_a_body_that_comes_byte_by_byte_is_the_same() -> None:
    async with fronting() as running:
        peer = await running.connect()
        for byte in get("/", "Transfer-Encoding: chunked", method="PUT") + chunked(b"abc", b"defg") + post(b"xyz"):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.answer())[1] == b"PUT / 7"
        assert (await peer.answer())[1] == b"POST / 3"


async def test_a_compressed_body_is_not_touched() -> None:
    async with fronting(max_body_size=20_000) as running:
        bomb = gzip.compress(bytes(10_000_000))
        peer = await running.connect()
        await peer.send(post(bomb, "/", "Content-Encoding: gzip"))
        await peer.answer()
        assert running.pool.requests[0].body == bomb
        await peer.send(get("/", "Content-Encoding: gzip", "Transfer-Encoding: chunked", method="POST") + chunked(bomb))
        await peer.answer()
        assert running.pool.requests[1].body == bomb


LIMIT = 1000


@pytest.mark.parametrize(
    "data",
    [
        post(b"x" * (LIMIT + 1)),
        get("/", f"Content-Length: {LIMIT + 1}", method="POST"),
        get("/", "Content-Length: 18446744073709551614", method="POST"),
        get("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"x" * 600, b"x" * 600),
        get("/", "Transfer-Encoding: chunked", method="POST") + b"3e9\r\n" + b"x" * (LIMIT + 1),
        post(b"x" * 5_000_000),
    ],
    ids=["body", "length only", "huge length", "chunks", "unfinished chunk", "large body"],
)
async def test_a_body_over_the_limit_is_answered_413(data: bytes) -> None:
    async with fronting(max_body_size=LIMIT) as running:
        peer = await running.connect()
        peer.writer.write(data)
        head, _ = await peer.answer()
        assert status(head) == 413
        assert field(head, "Connection") == "close"
        assert await peer.rest() == b""
        assert running.pool.requests == []


async def test_a_body_at_the_limit_is_fine() -> None:
    async with fronting(max_body_size=LIMIT) as running:
        for data in (
            post(b"x" * LIMIT),
            get("/", "Content-Length: " + "0" * 5000 + str(LIMIT), method="POST") + b"x" * LIMIT,
            get("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"x" * LIMIT),
        ):
            peer = await running.connect()
            await peer.send(data)
            assert (await peer.answer())[1] == b"POST / 1000"


async def test_a_client_that_uploads_too_much_reads_its_413() -> None:
    async with fronting(max_body_size=LIMIT) as running:

        async def body() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 10_000

        async with aiohttp.ClientSession() as session:
            answer = await session.post(f"http://127.0.0.1:{running.port}/", data=body())
            assert answer.status == 413
            answer.close()


async def test_100_continue_is_sent_before_the_body_is_there() -> None:
    async with fronting() as running:
        peer = await running.connect()
        for _ in range(2):
            await peer.send(get("/", "Expect: 100-continue", "Content-Length: 3", method="POST"))
            assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await peer.send(b"abc")
            head, body = await peer.answer()
            assert (status(head), body) == (200, b"POST / 3")


async def test_100_continue_is_not_sent_when_it_is_not_wanted() -> None:
    async with fronting(max_body_size=LIMIT) as running:
        answer = await running.ask(get("/", "Expect: 100-continue", "Content-Length: 1001", method="POST"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        answer = await running.ask(post(b"abc", "/", "Expect: 100-continue", "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        answer = await running.ask(get("/", "Expect: tea", "Content-Length: 3", method="POST"))
        assert answer.startswith(b"HTTP/1.1 417 ")
        answer = await running.ask(get("/", "Expect: 100-continue", "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(get("/x", method="HEAD") + get("/y"))
        head = await peer.head()
        assert field(head, "Content-Length") == str(len("HEAD /x 0"))
        assert (await peer.answer())[1] == b"GET /y 0"


@pytest.mark.parametrize("code", [204, 304])
async def test_an_answer_without_content_has_neither(code: int) -> None:
    async with fronting() as running:
        await respond(running, HttpResponse(code, {"ETag": '"x"'}))
        peer = await running.connect()
        for _ in range(2):
            await peer.send(get())
            head = await peer.head()
            assert (status(head), field(head, "Content-Length"), field(head, "ETag")) == (code, None, '"x"')
            assert field(head, "Transfer-Encoding") is None


async def test_what_a_handler_says_about_the_content_is_kept_and_about_the_connection_is_not() -> None:
    async with fronting() as running:
        cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        await respond(
            running, HttpResponse(201, [("Content-Type", "x/y"), *cookies, ("Keep-Alive", "timeout=1")], b"abc")
        )
        peer = await running.connect()
        for _ in range(2):
            await peer.send(get())
            head, body = await peer.answer()
            assert (status(head), body, field(head, "Content-Type")) == (201, b"abc", "x/y")
            assert head.count(b"Set-Cookie: ") == 2
            assert b"Keep-Alive" not in head
        await respond(running, HttpResponse(200, {"Connection": "close"}, b"bye"))
        await peer.send(get())
        head, body = await peer.answer()
        assert (field(head, "Connection"), body) == ("close", b"bye")
        assert await peer.rest() == b""


async def test_an_unknown_status_has_no_reason_phrase() -> None:
    async with fronting() as running:
        await respond(running, HttpResponse(299, (), "x"))
        assert (await running.ask(get("/", "Connection: close"))).startswith(b"HTTP/1.1 299 \r\n")


async def test_http_1_0_is_served_and_closed_unless_it_asks_otherwise() -> None:
    async with fronting() as running:
        answer = await running.ask(b"GET /a HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n") and answer.endswith(b"GET /a 0")
        assert running.pool.requests[0].absolute_url == "http://localhost/a"
        peer = await running.connect()
        for _ in range(2):
            await peer.send(get("/a", "Connection: keep-alive", version="1.0"))
            head, _ = await peer.answer()
            assert field(head, "Connection") == "keep-alive"


async def test_connection_close_is_honoured() -> None:
    async with fronting() as running:
        answer = await running.ask(get("/", "Connection: close"))
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(b"GET / 0")


async def test_a_client_that_shuts_its_side_down_still_gets_its_answers() -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def handler(request: HttpRequest) -> HttpResponse:
            await gate.wait()
            return HttpResponse(200, (), request.path)

        running.pool.handler = handler
        peer = await running.connect()
        await peer.send(get("/1") + get("/2"))
        peer.writer.write_eof()
        await running_requests(running, 1)
        await asyncio.sleep(0.01)  # gives the end a chance to arrive first; nothing depends on it
        gate.set()
        answer = await peer.rest()
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.count(b"Connection: close") == 1
        await running.until_empty()


async def test_a_client_that_shuts_its_side_down_after_nonsense_is_let_go_at_once() -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def handler(_: HttpRequest) -> HttpResponse:
            await gate.wait()
            return HttpResponse(200, (), "x")

        running.pool.handler = handler
        peer = await running.connect()
        await peer.send(get())
        await running_requests(running, 1)
        await peer.send(b"nonsense\r\n\r\n")
        peer.writer.write_eof()
        await asyncio.sleep(0.01)
        gate.set()
        answer = await peer.rest()
        assert answer.count(b"HTTP/1.1 200 ") == 1 and answer.count(b"HTTP/1.1 400 ") == 1
        await running.until_empty()


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(get("/", "Content-Length: 10", method="POST") + b"abc")
        await asyncio.sleep(0.01)
        peer.close()
        await running.until_empty()
        assert running.pool.requests == []
        assert caplog.records == []


async def test_a_client_that_leaves_before_its_answer_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def handler(request: HttpRequest) -> HttpResponse:
            await gate.wait()
            return HttpResponse(200, (), "x" * 1_000_000)

        running.pool.handler = handler
        peer = await running.connect()
        await peer.send(get())
        await running_requests(running, 1)
        raw = peer.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        await running.until_empty()
        gate.set()
        await asyncio.sleep(0.01)
        assert caplog.records == []


async def test_an_answer_that_its_client_does_not_wait_for_keeps_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    size, clients = 4_000_000, 4
    async with fronting() as running:

        async def handler(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), bytes(size))

        running.pool.handler = handler
        gc.disable()  # it would come by some time, and not soon
        tracemalloc.start()
        try:
            for _ in range(clients):
                peer = await running.connect()
                await peer.send(get())
                await peer.reader.readexactly(100_000)  # and the transport is full: the answer waits
                peer.close()
                await running.until_empty()
            assert tracemalloc.get_traced_memory()[0] < size
        finally:
            tracemalloc.stop()
            gc.enable()
        assert caplog.records == []


async def test_a_handler_that_cannot_be_asked_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting() as running:

        async def fail(_: HttpRequest) -> HttpResponse:
            raise RuntimeError("no worker")

        running.pool.handler = fail
        answer = await running.ask(get("/secret"))
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in answer and b"no worker" not in answer
        assert "remote=127.0.0.1" in caplog.text and "no worker" in caplog.text


H = b"Host: x\r\n"
REFUSED: list[tuple[str, int, bytes]] = [
    ("no request", 400, b"hello\r\n\r\n"),
    ("tls", 400, b"\x16\x03\x01\x02\x00\x01\x00"),
    ("unknown method", 400, b"FOO / HTTP/1.1\r\n" + H + b"\r\n"),
    ("space in the target", 400, b"GET /a b HTTP/1.1\r\n" + H + b"\r\n"),
    ("bytes in the target", 400, b"GET /\xff HTTP/1.1\r\n" + H + b"\r\n"),
    ("http 0.9", 400, b"GET /\r\n\r\n"),
    ("http 1.2", 400, b"GET / HTTP/1.2\r\n" + H + b"\r\n"),
    ("http 2.0", 505, b"GET / HTTP/2.0\r\n" + H + b"\r\n"),
    ("http 2 preface", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("no host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", 400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("host with a path", 400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("host with markup", 400, b"GET / HTTP/1.1\r\nHost: <script>\r\n\r\n"),
    ("space before the colon", 400, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"),
    ("folded field", 400, b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n"),
    ("nul in a value", 400, b"GET / HTTP/1.1\r\n" + H + b"X: \0\r\n\r\n"),
    ("bare line feeds", 400, b"GET / HTTP/1.1\nHost: x\n\n"),
    ("bare line feed", 400, b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n"),
    ("two lengths", 400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    ("the same length twice", 400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    ("list of lengths", 400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3, 3\r\n\r\nabc"),
    ("signed length", 400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +3\r\n\r\nabc"),
    ("overflowing length", 400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    (
        "length and chunks",
        400,
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks and length",
        400,
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ),
    ("unknown coding", 400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", 400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("two codings", 501, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (
        "chunks in 1.0",
        400,
        b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n",
    ),
    ("bad chunk size", 400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ("connect", 501, b"CONNECT a:80 HTTP/1.1\r\n" + H + b"\r\n"),
]


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "second"])
@pytest.mark.parametrize(("expected", "data"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_what_is_no_proper_request_is_refused_and_closed(
    expected: int, data: bytes, before: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with fronting() as running:
        peer = await running.connect()
        if before:
            await peer.send(before)
            assert status((await peer.answer())[0]) == 200
        await peer.send(data)
        head, body = await peer.answer()
        assert status(head) == expected
        assert body.startswith(b"%d " % expected)
        assert b"<" not in body and b"HTTP" not in body.replace(b"HTTP Version", b"")
        assert head.startswith(b"HTTP/1.1 ") and field(head, "Connection") == "close" or b"HTTP/1.0" in data
        assert await peer.rest() == b""
        assert len(running.pool.requests) == (1 if before else 0)
        assert all(record.levelno <= logging.WARNING for record in caplog.records)


async def test_what_is_refused_is_refused_as_soon_when_it_comes_byte_by_byte() -> None:
    async with fronting(http_timeout=LONG_S * 2, handshake_timeout=LONG_S * 2) as running:
        for name, expected, data in REFUSED:
            peer = await running.connect()
            try:
                for byte in data:
                    await peer.send(bytes([byte]))
                    await asyncio.sleep(0)
            except ConnectionError:
                pass  # it has been refused, and closed, before its end
            assert status((await peer.answer())[0]) == expected, name
            peer.close()
        assert running.pool.requests == []


BEFORE = get("/before")
BROKEN = {
    "size": b"3\r\nabc\r\nzz\r\n",
    "end of a chunk": b"3\r\nabcX\r\n",
    "too long": b"3\r\nabcdef\r\n0\r\n\r\n",
    "line feed alone": b"3\nabc\n0\n\n",
    "extension": b"3;\0=b\r\nabc\r\n",
    "trailer without a name": b"3\r\nabc\r\n0\r\n: y\r\n\r\n",
    "trailer with a space": b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
    "trailer with a nul": b"3\r\nabc\r\n0\r\nX: \0\r\n\r\n",
    "trailer without a colon": b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_a_body_with_broken_framing_is_refused_at_once_whatever_the_splitting(broken: bytes) -> None:
    head = get("/", "Transfer-Encoding: chunked", method="POST")
    async with fronting(http_timeout=LONG_S * 2) as running:
        for step, before in ((len(broken), b""), (1, b""), (2, b""), (3, b""), (len(broken), BEFORE), (1, BEFORE)):
            peer = await running.connect()
            await peer.send(before + head)
            for start in range(0, len(broken), step):
                await peer.send(broken[start : start + step])
                await asyncio.sleep(0)
            if before:
                await peer.answer()
            assert status((await peer.answer())[0]) == 400
            assert await peer.rest() == b""
        assert {request.path for request in running.pool.requests} <= {"/before"}


async def test_garbage_in_the_middle_of_a_chunked_body_is_refused_at_once() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
        await asyncio.sleep(0.01)
        await peer.send(b"zz\r\n")
        assert status((await peer.answer())[0]) == 400
        assert await peer.rest() == b""
        assert running.pool.requests == []


async def test_an_absolute_target_is_served() -> None:
    async with fronting() as running:
        await running.ask(get("http://other.example:81/x?y", "Connection: close"))
        (request,) = running.pool.requests
        assert (request.absolute_url, request.host) == ("http://other.example:81/x?y", "other.example:81")
        assert (request.url, request.path, request.query) == ("/x?y", "/x", "y")


@pytest.mark.parametrize("target", ["/a#b", "http://h/x#b", "http://user@h/x", "http://u:p@h/", "ftp://h/x", "app://h"])
@pytest.mark.parametrize("ask", [get, upgrade], ids=["plain", "upgrade"])
async def test_a_target_that_no_server_answers_is_refused_with_the_reason(
    target: str, ask: Callable[..., bytes]
) -> None:
    async with fronting() as running:
        for before in (b"", get("/first")):
            answer = await running.ask(before + ask(target))
            head, _, body = answer.rpartition(b"\r\n\r\n")
            assert head.count(b"HTTP/1.1 400 ") == 1 and b"Connection: close" in head
            assert body.startswith((b"the request target", b"the scheme of the request target", b"400 Bad Request"))
            assert b"user" not in body.replace(b"user information", b"")
        assert [request.path for request in running.pool.requests] == ["/first"]


async def test_options_for_the_whole_server_are_served() -> None:
    async with fronting() as running:
        assert (await running.ask(get("*", "Connection: close", method="OPTIONS"))).endswith(b"OPTIONS * 0")


async def test_aiohttps_client_is_served() -> None:
    async with fronting() as running, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{running.port}/a?b=c"
        for _ in range(3):
            async with session.post(url, data=b"x" * 100_000) as answer:
                assert (answer.status, await answer.text()) == (200, "POST /a?b=c 100000")
        async with session.head(url) as answer:
            assert (answer.status, answer.content_length) == (200, len("HEAD /a?b=c 0"))
        assert len(running.front.http_connections) == 1


async def test_a_large_answer_arrives_whole() -> None:
    async with fronting() as running:
        body = bytes(range(256)) * 40_000
        await respond(running, HttpResponse(200, (), body))
        assert (await running.ask(get("/", "Connection: close"))).endswith(body)
