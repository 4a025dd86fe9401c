"""Bodies over the network: sent in tiny chunks, abandoned by their clients, and their common limit of memory."""

import asyncio
import gc
import socket
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.streams import EmptyStreamReader, StreamReader

from kits.front_kit import LONG_S, Fronting, Peer, field, fronting, get, post, status, upgrade
from wsbroker.front.body_collector import BodyCollector
from wsbroker.front.http_connection import HttpConnection
from wsbroker.front.parse_scheduler import PARSE_BUDGETS_PER_LOOP_TURN
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

pytestmark = pytest.mark.anyio

CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST")
ONE_BYTE = b"1\r\na\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def until(claim: Callable[[], bool]) -> None:
    """Waits until `claim()` is true."""
    async with asyncio.timeout(LONG_S):
        while not claim():
            await asyncio.sleep(0.001)


# Crumbs. ------------------------------------------------------------------------------------------------------------


async def test_a_body_of_thousands_of_tiny_chunks_is_answered_400() -> None:
    async with fronting() as running:
        for size in (1, 2):
            peer = await running.connect()
            peer.writer.write(CHUNKED + b"%d\r\n%b\r\n" % (size, b"x" * size) * 50_000)
            assert status((await peer.answer())[0]) == 400
            assert await peer.rest() == b""
        assert running.pool.requests == []


@pytest.mark.parametrize(
    ("line", "count"), [(b"{}\n", 20_000), (b'{"id":1}\n', 20_000), (b"1\n", 3000)], ids=["empty", "small", "number"]
)
async def test_lines_of_json_may_come_in_a_chunk_each(line: bytes, count: int) -> None:
    async with fronting() as running:
        peer = await running.connect()
        peer.writer.write(CHUNKED + b"%x\r\n%b\r\n" % (len(line), line) * count + b"0\r\n\r\n" + get("/next"))
        assert (await peer.answer())[1] == b"POST / %d" % (len(line) * count)
        assert running.pool.requests[0].body == line * count
        assert (await peer.answer())[1] == b"GET /next 0"


async def test_a_slow_client_may_send_a_character_in_a_chunk_each() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(CHUNKED)
        for _ in range(1000):
            await peer.send(ONE_BYTE)
            await asyncio.sleep(0)
        await peer.send(b"0\r\n\r\n")
        assert (await peer.answer())[1] == b"POST / 1000"


async def worst_wait(running: Fronting, has_ended: Callable[[], bool]) -> float:
    """Returns the longest time, in seconds, that another client waited for a response until `has_ended()` was true."""
    loop = asyncio.get_running_loop()
    peer = await running.connect()
    worst = 0.0
    while True:
        start = loop.time()
        await peer.send(get("/bystander"))
        await peer.answer()
        worst = max(worst, loop.time() - start)
        if has_ended():
            return worst
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "crumbs",
    [
        ONE_BYTE * 43_000,
        b"4\r\nabcd\r\n" * 27_000,
        b"4;a=b\r\nabcd\r\n" * 20_000,
        b"1\r\na\r\n0\r\n" + b"A: b\r\n" * 40_000,
        (b"1\r\na\r\n0\r\n\r\n" + CHUNKED) * 3000,
    ],
    ids=["one byte", "four bytes", "extensions", "trailers", "pipelined"],
)
async def test_bystanders_wait_no_longer_when_others_send_crumbs(crumbs: bytes) -> None:
    async with fronting(max_head_size=2**20) as running:  # so that nothing of it is refused
        ends = asyncio.get_running_loop().time() + 0.05
        undisturbed = await worst_wait(running, lambda: asyncio.get_running_loop().time() > ends)
        senders = [await running.connect() for _ in range(8)]
        for peer in senders:
            peer.writer.write(CHUNKED + crumbs)
        ends = asyncio.get_running_loop().time() + 0.15
        worst = await worst_wait(running, lambda: asyncio.get_running_loop().time() > ends)
        # Eight reads of 43,000 chunks, parsed at once, took 1.6 s; a turn takes 10 ms.
        assert worst < 0.8 + 10 * undisturbed


async def test_turns_are_taken_and_bounded() -> None:
    """Counted, not timed: in one turn of the loop the connections parse no more than a few budgets together."""
    async with fronting(read_budget_frames=64) as running:
        front = running.front
        peers = [await running.connect() for _ in range(20)]
        for peer in peers:
            peer.writer.write(CHUNKED + ONE_BYTE * 5000)
        await until(lambda: len([connection for connection in front.http_connections if connection.body_bytes]) == 20)
        for _ in range(20):
            before = {connection: connection.body_bytes for connection in front.http_connections}
            await asyncio.sleep(0)
            grown = [
                connection.body_bytes - size
                for connection, size in before.items()
                if connection in front.http_connections
            ]
            assert sum(grown) <= (PARSE_BUDGETS_PER_LOOP_TURN + 1) * 64
            assert max(grown, default=0) <= 2 * 64
        sizes = [connection.body_bytes for connection in front.http_connections]
        assert max(sizes) - min(sizes) <= 3 * 64


# Leavers. -----------------------------------------------------------------------------------------------------------

PART = b"x" * 300_000
HELD = (HttpConnection, BodyCollector, web.BaseRequest, StreamReader)


def reset(peer: Peer) -> None:
    """Resets the connection."""
    raw = peer.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


def abort_all(running: Fronting) -> None:
    """Aborts every connection on the server's side."""
    for connection in list(running.front.http_connections):
        assert connection.live_transport is not None
        connection.live_transport.abort()


LEAVERS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "part of a head": (b"GET / HTTP/1.1\r\nX: " + PART[:9000], {}),
    "part of a body": (get("/", "Content-Length: 1000000", method="POST") + PART, {}),
    "part of a chunk": (CHUNKED + b"%x\r\n" % 10**6 + PART, {}),
    "small chunks": (CHUNKED + b"10\r\n0123456789abcdef\r\n" * 10_000, {}),
    "tiny chunks": (CHUNKED + ONE_BYTE * 50_000, {}),
    "broken chunks": (CHUNKED + b"%x\r\n%b\r\nzz\r\n" % (len(PART), PART), {}),
    "broken head": (get() + b"GET / HTTP/1.1\r\nX : " + PART[:9000], {}),
    "pipelined bodies": (get("/slow") + post(PART[:60_000]) * 20, {}),
    "part behind a slow one": (get("/slow") + CHUNKED + b"%x\r\n" % 10**6 + PART, {}),
    "whole body, slow answer": (post(PART, "/slow"), {}),
    "too large": (post(PART), {"max_body_size": 100_000}),
    "in chunks too large": (CHUNKED + b"%x\r\n" % 10**6 + PART, {"max_body_size": 100_000}),
    "too late": (get("/", "Content-Length: 1000000", method="POST") + PART, {"http_timeout": 0.05}),
    "too much for all": (get("/", "Content-Length: 1000000", method="POST") + PART, {"max_request_bytes_total": 9999}),
    "behind an upgrade": (upgrade("/slow") + PART, {}),
    "upgrade with a body": (upgrade("/", "Content-Length: 1000000", method="POST") + PART, {}),
    "unknown upgrade": (get("/", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 9", method="POST") + b"x", {}),
}


def gated_handlers(running: Fronting) -> asyncio.Event:
    """Makes the HTTP handler of /slow and the open handler wait for the returned event."""
    gate = asyncio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        if request.path == "/slow":
            await gate.wait()
        return HttpResponse(200, (), "x")

    async def opener(_: HttpRequest) -> HttpResponse | None:
        await gate.wait()
        return None

    running.pool.handler, running.pool.opener = handler, opener
    return gate


@pytest.mark.parametrize(("sent", "settings"), LEAVERS.values(), ids=LEAVERS)
async def test_nothing_of_a_client_that_has_left_waits_for_the_collector(sent: bytes, settings: dict[str, Any]) -> None:
    """Ends three connections: the client closes the first and resets the second, the server aborts the third."""
    async with fronting(**settings) as running:
        gate = gated_handlers(running)
        gc.collect()
        gc.freeze()  # what other tests have left is not looked at again: 0.3 s of each of these tests
        gc.disable()  # references alone must do
        try:
            peers = [await running.connect() for _ in range(3)]
            for peer in peers:
                peer.writer.write(sent)
            await asyncio.sleep(0.03)
            peers[0].close()
            reset(peers[1])
            await asyncio.sleep(0.01)
            gate.set()  # while a connection's queue is full its end is not seen
            await asyncio.sleep(0.01)
            abort_all(running)
            await running.until_empty()
            running.pool.requests.clear()
            left: list[object] = []
            for _ in range(3000):
                await asyncio.sleep(0.001)
                left = [thing for thing in gc.get_objects() if isinstance(thing, HELD)]
                left = [thing for thing in left if type(thing) is not EmptyStreamReader]
                if not left:
                    break
            assert left == []
        finally:
            gc.enable()
        assert running.front.request_bytes == 0


async def test_waves_of_leavers_hold_no_memory() -> None:
    async with fronting() as running:
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(4):
                peers = [await running.connect() for _ in range(10)]
                for peer in peers:
                    peer.writer.write(get("/", "Content-Length: 1000000", method="POST") + PART)
                await until(lambda: running.front.request_bytes >= 10 * len(PART))
                for peer in peers:
                    peer.close()
                await running.until_empty()
            await asyncio.sleep(0.01)
            assert tracemalloc.get_traced_memory()[0] < 2_000_000  # of 12 MB
        finally:
            tracemalloc.stop()
            gc.enable()


# All together. ------------------------------------------------------------------------------------------------------

TOTAL = 1_000_000


async def test_whole_heads_that_wait_behind_a_slow_answer_count_too() -> None:
    async with fronting(max_request_bytes_total=TOTAL) as running:
        gate = asyncio.Event()

        async def handler(_: HttpRequest) -> HttpResponse:
            await gate.wait()
            return HttpResponse(200, (), "x")

        running.pool.handler = handler
        head = get("/", *[f"X{number}: {'v' * 1000}" for number in range(6)])
        peers = []
        for _ in range(100):  # four waiting heads of each would be 8 MB
            peer = await running.connect()
            peers.append(peer)
            for _ in range(5):
                peer.writer.write(head)
                await asyncio.sleep(0)
        await until(lambda: running.front.requests_shed > 0)
        await asyncio.sleep(0.05)
        assert running.front.request_bytes <= TOTAL + 100 * 22_000  # and those that a handler has: 21 kB each
        gate.set()
        for peer in peers:
            peer.close()
        await running.until_empty()
        assert running.front.request_bytes == 0


async def test_a_body_for_which_there_is_no_room_is_answered_503_and_the_others_go_on() -> None:
    async with fronting(max_request_bytes_total=TOTAL) as running:
        peers = [await running.connect() for _ in range(3)]
        for count, peer in enumerate(peers, 1):
            await peer.send(get("/", "Content-Length: 400000", method="POST") + PART)
            await until(lambda count=count: running.front.request_bytes >= count * len(PART))  # type: ignore[misc]
        assert running.front.request_bytes < 3 * len(PART) + 10_000
        last = await running.connect()
        await last.send(get("/", "Content-Length: 400000", method="POST") + PART)
        head, body = await last.answer()
        assert (status(head), field(head, "Retry-After"), field(head, "Connection")) == (503, "5", "close")
        assert b"unfinished requests" in body
        assert await last.rest() == b""
        assert running.front.requests_shed == 1
        bystander = await running.connect()
        await bystander.send(get())
        assert status((await bystander.answer())[0]) == 200
        for peer in peers:
            await peer.send(b"y" * 100_000)
            assert (await peer.answer())[1] == b"POST / 400000"
        await until(lambda: running.front.request_bytes == 0)


FILLERS = {
    "bodies": get("/", "Content-Length: 900000", method="POST") + b"x" * 100_000,
    "chunks": CHUNKED + b"%x\r\n" % 900_000 + b"x" * 100_000,
    "heads": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"Y: " + b"z" * 20_000,
    "later heads": get() + b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"Y: " + b"z" * 20_000,
    "pipelined": get("/slow") + post(b"x" * 50_000) * 8,
    "whole heads": get("/slow") + get("/", *["X: y"] * 200) * 8,
    "early bytes": upgrade("/slow") + b"x" * 60_000,
}


@pytest.mark.parametrize("sent", FILLERS.values(), ids=FILLERS)
async def test_all_that_clients_hold_is_bounded(sent: bytes) -> None:
    async with fronting(max_request_bytes_total=TOTAL) as running:
        gate = gated_handlers(running)
        peers = [await running.connect() for _ in range(60)]
        for peer in peers:
            peer.writer.write(sent)
            await asyncio.sleep(0)
        await asyncio.sleep(0.15)
        # Each may be over by what it had read before it was counted.
        assert TOTAL / 2 < running.front.request_bytes < 1.2 * TOTAL
        gate.set()
        for peer in peers:
            peer.close()
        await running.until_empty()
        await until(lambda: running.front.request_bytes == 0)


async def test_a_request_counts_until_it_is_answered() -> None:
    async with fronting() as running:
        gate = asyncio.Event()

        async def handler(_: HttpRequest) -> HttpResponse:
            await gate.wait()
            return HttpResponse(200, (), "x")

        running.pool.handler = handler
        peer = await running.connect()
        await peer.send(post(PART) + get())
        await until(lambda: len(running.pool.requests) == 1)
        assert len(PART) < running.front.request_bytes < len(PART) + 20_000
        gate.set()
        for _ in range(2):
            await peer.answer()
        await until(lambda: running.front.request_bytes == 0)


async def test_a_stop_lets_a_body_that_is_on_its_way_come_to_its_end() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(post(b"x" * 10)[:-5])
        await until(lambda: len(running.front.resources.body_deadlines) == 1)
        stopping = asyncio.create_task(running.front.stop(LONG_S))
        await asyncio.sleep(0.01)
        await peer.send(b"x" * 5)
        assert (await peer.answer())[1] == b"POST / 10"
        assert await peer.rest() == b""
        await stopping
