"""Stopping the front: which connections finish, which are aborted, and that no object stays behind."""

import asyncio

import pytest

from kits.front_kit import LONG_S, field, fronting, get, status, upgrade
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Gate:
    """An HTTP handler that waits until the test opens the gate."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()

    async def http(self, request: HttpRequest) -> HttpResponse:
        self.asked += 1
        await self.open.wait()
        return HttpResponse(200, (), request.url)

    async def opener(self, request: HttpRequest) -> HttpResponse | None:
        self.asked += 1
        await self.open.wait()
        return None

    async def was_asked(self, times: int = 1) -> None:
        async with asyncio.timeout(LONG_S):
            while self.asked < times:
                await asyncio.sleep(0.001)


async def test_no_connection_is_accepted_any_more() -> None:
    async with fronting() as running:
        running.front.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await running.connect()


async def test_idle_connections_are_closed_at_once() -> None:
    async with fronting() as running:
        silent, partial, kept = [await running.connect() for _ in range(3)]
        await partial.send(b"GET / HTTP/1.1\r\n")
        await kept.send(get())
        await kept.answer()
        async with asyncio.timeout(LONG_S):
            while len(running.front.http_connections) < 3:
                await asyncio.sleep(0.001)
        async with asyncio.timeout(LONG_S / 2):
            await running.front.stop(LONG_S)
        for peer in (silent, partial, kept):
            assert await peer.rest() == b""


async def test_a_connection_whose_answer_is_just_being_written_is_closed_behind_it() -> None:
    """The response was made before the stop, and the connection becomes idle one loop turn after it."""
    async with fronting() as running:

        async def handler(request: HttpRequest) -> HttpResponse:
            (connection,) = running.front.http_connections
            asyncio.get_running_loop().call_soon(connection.close_after_response)
            return HttpResponse(200, (), "answered")

        running.pool.handler = handler
        peer = await running.connect()
        await peer.send(get())
        assert (await peer.answer())[1] == b"answered"
        assert await peer.rest() == b""


async def test_requests_in_flight_are_answered_and_their_connections_closed() -> None:
    async with fronting() as running:
        gate = Gate()
        running.pool.handler = gate.http
        peer = await running.connect()
        await peer.send(get("/1"))
        await gate.was_asked()
        stopping = asyncio.create_task(running.front.stop(LONG_S))
        await asyncio.sleep(0.01)
        assert not stopping.done()
        gate.open.set()
        head, body = await peer.answer()
        assert (field(head, "Connection"), body) == ("close", b"/1")
        assert await peer.rest() == b""
        await stopping


async def test_what_is_not_answered_in_time_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with fronting() as running:
        gate = Gate()
        running.pool.handler = gate.http
        running.pool.opener = gate.opener
        request, opening, later = [await running.connect() for _ in range(3)]
        await request.send(get("/1"))
        await opening.send(upgrade())
        await gate.was_asked(2)
        await later.send(get("/2") + upgrade())
        await gate.was_asked(3)
        await running.front.stop(0.05)
        for peer in (request, opening, later):
            assert await peer.rest() == b""
        assert running.front.http_connections == set()
        assert (running.sockets.connection_count, len(running.sockets.discarded)) == (0, 1)
        assert "connections=3" in caplog.text


async def test_a_socket_may_still_open_while_requests_finish() -> None:
    async with fronting() as running:
        gate = Gate()
        running.pool.opener = gate.opener
        peer = await running.connect()
        await peer.send(upgrade())
        await gate.was_asked()
        stopping = asyncio.create_task(running.front.stop(LONG_S))
        await asyncio.sleep(0)
        gate.open.set()
        assert status(await peer.head()) == 101
        await stopping
        await peer.send(b"x")
        await running.sockets.accepted[0].has_received(1)


async def test_sockets_are_not_the_fronts_to_close() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(upgrade())
        await peer.head()
        await running.front.stop(0)
        await peer.send(b"x")
        await running.sockets.accepted[0].has_received(1)


async def test_stopping_twice_is_fine() -> None:
    async with fronting() as running:
        await running.front.stop(0)
        await running.front.stop(0)


async def test_nothing_of_the_front_is_left_in_the_loop() -> None:
    tasks = asyncio.all_tasks()
    async with fronting() as running:
        gate = Gate()
        running.pool.handler = gate.http
        for data in (b"", get(), get() + get(), upgrade()):
            await (await running.connect()).send(data)
        await gate.was_asked(2)
        await running.front.stop(0)
        assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} <= tasks
