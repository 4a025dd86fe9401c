"""The pool with real workers: handlers in threads and inline, the core is a fake."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import cast

import pytest

import wsbroker
from unit.pool.fakes import LOOPS, FakeCore, run
from wsbroker.config import Config, Settings
from wsbroker.errors import ConfigError, WorkerError, WSBrokerError
from wsbroker.pool.local_port import LocalPort
from wsbroker.pool.pool import Pool
from wsbroker.wire import commands, events
from wsbroker.wire.http import HttpRequest, HttpResponse
from wsbroker.worker import port as ports

REQUEST = HttpRequest("GET", "/a?b=c", [("Host", "example.org")])
KINDS = ["thread", "inline"]


class Shop:
    """A pool of real workers, its port being the main interpreter's."""

    def __init__(self, spec: object, settings: Settings) -> None:
        self.core = FakeCore()
        self.fatal: list[Exception] = []
        config = Config.of(**settings)
        self.port = LocalPort(self.core, config.command_bytes)
        self.pool = Pool(config, spec, self.core, self.port, self.fatal.append)
        self.core.post = self.pool.post

    async def __aenter__(self) -> "Shop":
        self.port.start()
        ports.set_default(self.port)
        await self.pool.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.stop(5)
        ports.set_default(None)
        self.port.stop()

    async def says(self, socket_id: int, data: str, lane_index: int = 0) -> None:
        """A message, and the wait until its handler has ended."""
        ended = self.handled
        self.pool.post(lane_index, [(events.MESSAGE, socket_id, data, 10)])
        await self.core.until(lambda: self.handled > ended)

    @property
    def handled(self) -> int:
        return sum(entry[0] == commands.HANDLED for entry in self.core.log)

    @property
    def sent(self) -> list[object]:
        return [entry[2] for entry in self.core.log if entry[0] == commands.SEND]


Work = Callable[[Shop], Coroutine[object, object, None]]


def live(spec: object, work: Work, loop: str = "uvloop", **settings: object) -> Shop:
    """Starts, works, stops; nothing may be left."""

    async def main() -> Shop:
        async with Shop(spec, cast(Settings, {"workers": 1, **settings})) as shop:
            await work(shop)
        return shop

    before = threading.active_count()
    shop = run(main(), LOOPS[loop])
    assert threading.active_count() == before
    return shop


class Echo:
    """Sync handlers."""

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        wsbroker.send(socket_id, data)


class AsyncEcho:
    """Async handlers."""

    async def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        await asyncio.sleep(0)
        wsbroker.send(socket_id, data)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("spec", [Echo, AsyncEcho])
def test_messages_go_through_a_thread_and_come_back_in_order(spec: type, loop: str) -> None:
    async def work(shop: Shop) -> None:
        for n in range(200):
            shop.pool.post(n % 2, [(events.MESSAGE, n % 2 + 1, f"{n}", 10)])
        await shop.core.until(lambda: len(shop.sent) == 200)
        for socket_id in (1, 2):
            mine = [entry[2] for entry in shop.core.log if entry[:2] == (commands.SEND, socket_id)]
            assert mine == [str(n) for n in range(socket_id - 1, 200, 2)]

    shop = live(spec, work, loop, workers=2)
    assert sum(entry["handled"] for entry in shop.pool.statistics()) == 200


def test_what_a_handler_asks_is_exact() -> None:
    class Asks:
        def handle_socket_message(self, data: str, socket_id: int) -> None:
            added = [wsbroker.subscribe(socket_id, data), wsbroker.subscribe(socket_id, data)]
            wsbroker.send(socket_id, repr((added, wsbroker.subscribers(data), wsbroker.subscriptions(socket_id))))
            wsbroker.send(socket_id, repr((wsbroker.unsubscribe(socket_id, data), wsbroker.channels())))

    async def work(shop: Shop) -> None:
        await shop.says(1, "a")
        assert shop.sent == ["([True, False], [1], [b'a'])", "(True, [])"]

    live(Asks(), work)


def test_a_thread_that_a_handler_starts_talks_to_the_broker_directly() -> None:
    class Starts:
        def handle_socket_message(self, data: str, socket_id: int) -> None:
            thread = threading.Thread(target=self.work, args=(socket_id,))
            thread.start()
            thread.join()
            wsbroker.send(socket_id, "after")

        def work(self, socket_id: int) -> None:
            wsbroker.send(socket_id, repr(wsbroker.subscribe(socket_id, "a")))

    async def work(shop: Shop) -> None:
        await shop.says(1, "x")
        assert sorted(map(str, shop.sent)) == ["True", "after"]

    live(Starts(), work)


class Door:
    """Answers by what it is asked."""

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> object:
        assert request.headers["Host"] == "example.org"
        return {"yes": True, "no": False, "nothing": None, "teapot": HttpResponse(418, {"A": "b"}, "x"), "odd": 7}[
            request.query
        ]

    async def handle_http_request(self, request: HttpRequest) -> object:
        if request.query == "raise":
            raise LookupError("not for the client")
        return {"query": request.query}


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_of_the_open_handler(kind: str) -> None:
    async def work(shop: Shop) -> None:
        async def opened(query: str) -> HttpResponse | None:
            return await shop.pool.open(1, 0, HttpRequest("GET", "/?" + query, [("Host", "example.org")]))

        assert await opened("yes") is None
        assert await opened("nothing") is None
        refused = await opened("no")
        assert refused is not None and refused.status == 403
        assert await opened("teapot") == HttpResponse(418, {"A": "b"}, "x")
        odd = await opened("odd")
        assert odd is not None and odd.status == 500
        raised = await opened("boom")
        assert raised is not None and (raised.status, raised.body) == (500, b"Internal Server Error")

    live(Door, work, worker_kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_the_http_handler(kind: str) -> None:
    async def work(shop: Shop) -> None:
        assert await shop.pool.http(REQUEST) == HttpResponse.json({"query": "b=c"})
        assert (await shop.pool.http(HttpRequest("GET", "/?raise"))).status == 500

    live(Door, work, worker_kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_http_handler_the_answer_is_503(kind: str) -> None:
    async def work(shop: Shop) -> None:
        assert await shop.pool.http(REQUEST) == HttpResponse(503, {}, "No HTTP handler registered")
        assert not shop.pool.has_http_handler and not shop.pool.has_open_handler

    live(Echo, work, worker_kind=kind)


class Slow:
    """An open handler that takes its time."""

    async def handle_socket_open(self, request: HttpRequest, socket_id: int) -> None:
        await asyncio.sleep(30)


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_handler_that_takes_too_long_is_a_504(kind: str) -> None:
    async def work(shop: Shop) -> None:
        answer = await shop.pool.open(1, 0, REQUEST)
        assert answer is not None and answer.status == 504

    live(Slow, work, worker_kind=kind, handler_timeout=0.05)


def start_error(spec: object, **settings: object) -> WSBrokerError:
    """What a start fails with."""

    async def main() -> WSBrokerError:
        shop = Shop(spec, cast(Settings, {"workers": 1, **settings}))
        with pytest.raises(WSBrokerError) as caught:
            await shop.pool.start()
        await shop.pool.stop(1)
        return caught.value

    return run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_that_cannot_work_is_a_config_error_with_the_loaders_text(kind: str) -> None:
    error = start_error("no_such_module_here", worker_kind=kind)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("cannot import 'no_such_module_here': there is no module named 'no_such_module_here'")
    error = start_error(object(), worker_kind=kind)
    assert isinstance(error, ConfigError) and "no handlers in" in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_start_handler_that_raises_is_a_worker_error(kind: str, is_async: bool) -> None:
    class Fails(Echo):
        def handle_worker_start(self, arg: str | None) -> None:
            raise ConnectionError("no database")

    class FailsLater(Echo):
        async def handle_worker_start(self, arg: str | None) -> None:
            raise ConnectionError("no database")

    error = start_error(FailsLater if is_async else Fails, worker_kind=kind)
    assert isinstance(error, WorkerError)
    assert str(error).startswith("handle_worker_start of ")
    assert str(error).endswith("failed: ConnectionError: no database")


@pytest.mark.parametrize("kind", KINDS)
def test_every_worker_gets_the_argument_and_runs_its_stop_handler(kind: str) -> None:
    calls: list[object] = []

    class Counts:
        def handle_worker_start(self, arg: str | None) -> None:
            calls.append(arg)
            calls.append(wsbroker.subscriber_count("a"))

        async def handle_worker_stop(self) -> None:
            calls.append("stop")
            wsbroker.send(1, "last words")

        def handle_socket_message(self, data: str) -> None: ...

    async def work(shop: Shop) -> None:
        shop.core.members[b"a"] = [1, 2]

    workers = 1 if kind == "inline" else 3
    shop = live(Counts, work, worker_kind=kind, workers=workers, worker_arg="dsn")
    assert calls.count("dsn") == calls.count("stop") == calls.count(0) == workers
    assert shop.sent == ["last words"] * workers


def test_a_handler_that_raises_closes_its_socket_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Raises:
        def handle_socket_message(self, data: str) -> None:
            raise LookupError("here")

    async def work(shop: Shop) -> None:
        await shop.says(4, "x")
        assert (commands.FAILED, 4) in shop.core.log
        assert shop.pool.statistics()[0]["counts"] == {"handler_errors": 1}

    live(Raises, work)
    assert "LookupError: here" in caplog.text


def test_a_hung_handler_costs_its_worker_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    done = threading.Event()

    class Hangs:
        def handle_socket_message(self, data: str, socket_id: int) -> None:
            if data == "hang":
                try:
                    release.wait(10)  # in C: nothing interrupts it
                finally:
                    wsbroker.send(socket_id, "late")
                    done.set()
            wsbroker.send(socket_id, data)

    async def work(shop: Shop) -> None:
        core = shop.core
        shop.pool.post(0, [(events.MESSAGE, 1, "hang", 10)])
        await core.until(lambda: bool(core.lost))
        assert core.lost == [(0, 1012)]
        await shop.says(2, "other worker", 1)
        while not all(entry["state"] == "running" for entry in shop.pool.statistics()):
            await asyncio.sleep(0.001)
        await shop.says(3, "replacement")
        assert shop.sent == ["other worker", "replacement"]
        release.set()
        await asyncio.to_thread(done.wait, 10)
        await shop.says(3, "still there")
        assert "late" not in shop.sent

    async def until_the_abandoned_thread_has_ended(shop: Shop) -> None:
        before = threading.active_count()
        await work(shop)
        while threading.active_count() > before + 1:  # asyncio.to_thread keeps one
            await asyncio.sleep(0.001)

    live(Hangs, until_the_abandoned_thread_has_ended, workers=2, handler_timeout=0.05, worker_hang_timeout=0.05)
    assert "worker lost worker=worker-0 reason='handle_socket_message (socket 1) hangs: it has not ended" in caplog.text


def test_a_busy_handler_does_not_keep_its_worker_from_answering_probes() -> None:
    release = threading.Event()

    class Busy:
        def handle_socket_message(self, data: str) -> None:
            release.wait(10)

    async def work(shop: Shop) -> None:
        shop.pool.post(0, [(events.MESSAGE, 1, "x", 10)])
        worker = shop.pool._places[0].worker
        assert worker is not None
        for _ in range(5):
            worker.probe()
            while worker._is_probe_out:
                await asyncio.sleep(0)
        assert shop.core.lost == []
        release.set()

    live(Busy, work)


def test_stop_with_a_stuck_handler_takes_no_longer_than_allowed(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    stuck = threading.Event()

    class Stuck:
        def handle_socket_message(self, data: str) -> None:
            stuck.set()
            release.wait(10)

    async def main() -> None:
        shop = Shop(Stuck, Settings(workers=1))
        await shop.pool.start()
        shop.pool.post(0, [(events.MESSAGE, 1, "x", 10)])
        await asyncio.to_thread(stuck.wait, 10)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await shop.pool.stop(0.2)
        assert loop.time() - before < 2
        release.set()
        worker = shop.pool._places[0].worker
        assert worker is not None
        await worker._carrier.wait_ended()

    run(main(), LOOPS["uvloop"])
    assert "worker did not stop in time, left behind worker=worker-0" in caplog.text


def test_the_inline_worker_shows_its_handlers_and_its_runtime() -> None:
    async def work(shop: Shop) -> None:
        inline = shop.pool.inline
        assert inline is not None
        assert inline.handlers.message_arity == 2
        assert inline.handlers.message_raw is not None
        inline.handlers.message_raw("hi", 3)
        assert shop.sent == ["hi"]
        inline.runtime.message_failed(3, LookupError("here"))
        assert (commands.CLOSE, 3, 1011, "handler error") in shop.core.log
        (statistics,) = shop.pool.statistics()
        assert statistics["name"] == "inline" and statistics["state"] == "running"
        assert statistics["counts"] == {"handler_errors": 1}
        assert shop.pool.next_lane() == 0

    live(Echo, work, worker_kind="inline")


def test_a_stopped_pool_refuses_sockets_and_requests() -> None:
    for kind in KINDS:

        async def work(shop: Shop) -> None:
            await shop.pool.stop(5)
            answer = await shop.pool.open(1, 0, REQUEST)
            assert answer is not None and answer.status == 503
            assert (await shop.pool.http(REQUEST)).status == 503
            if shop.pool.inline is None:
                shop.pool.post(0, [(events.MESSAGE, 1, "nobody there", 1)])

        live(Door, work, worker_kind=kind)
