"""The inline runtime: handlers in the broker's own loop, on asyncio and on uvloop."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Literal, TypeVar, cast

import pytest
import uvloop

from kits import odd_responses as odd
from kits.scripted_broker import PATIENCE_S, handlers
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse
from wsbroker.worker import report
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.inline_runtime import InlineRuntime
from wsbroker.worker.loader import load_handlers
from wsbroker.worker.options import HandlerOptions

T = TypeVar("T")
REQUEST = HttpRequest("GET", "/")


class ClosingApi(BrokerApi):
    """Remembers what was closed."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, int, str]] = []

    def close(self, socket_id: int, code: int, reason: str) -> None:
        self.closed.append((socket_id, code, reason))


class Inline:
    """A runtime with its API, and the sockets it has released."""

    def __init__(
        self,
        spec: object,
        timeout_s: float = PATIENCE_S,
        on_error: Literal["close", "log"] = "close",
        hang_s: float = PATIENCE_S,
    ) -> None:
        self.api = ClosingApi()
        options = HandlerOptions(
            handler_timeout=timeout_s, http_timeout=timeout_s, on_handler_error=on_error, worker_hang_timeout=hang_s
        )
        self.runtime = InlineRuntime(load_handlers(spec), self.api, options)
        self.released: list[int] = []
        self._changed = asyncio.Event()
        self.runtime.resume_socket = self._record_release

    def _record_release(self, socket_id: int) -> None:
        self.released.append(socket_id)
        self._changed.set()

    async def until_released(self, amount: int) -> None:
        while len(self.released) < amount:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[object, object, None]], None]:
    """Runs a test's coroutine in one kind of loop."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run_in_loop(test: Coroutine[object, object, None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await test

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(limited())

    return run_in_loop


Run = Callable[[Coroutine[object, object, None]], None]
NO_HANDLERS = SimpleNamespace(handle_worker_stop=lambda: None)


def test_an_async_message_handler_runs_and_releases_its_socket(run: Run) -> None:
    async def test() -> None:
        got: list[str] = []

        async def handle(text: str, waits: int) -> None:
            for _ in range(waits):
                await asyncio.sleep(0)
            assert asyncio.current_task() is not None
            got.append(text)

        inline = Inline(NO_HANDLERS)
        inline.runtime.on_message_result(1, handle("a", 3))
        inline.runtime.on_message_result(2, handle("b", 0))
        assert inline.released == [2] or not inline.released
        await inline.until_released(2)
        assert got == ["b", "a"] and inline.released == [2, 1]
        assert await inline.runtime.stop(1)

    run(test())


@pytest.mark.parametrize("awaitable", ["future", "object"])
def test_anything_that_can_be_awaited_is_awaited(run: Run, awaitable: str) -> None:
    async def test() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        class Waits:
            def __await__(self) -> object:
                return future.__await__()

        inline = Inline(NO_HANDLERS)
        inline.runtime.on_message_result(1, future if awaitable == "future" else Waits())
        await asyncio.sleep(0)
        assert inline.released == []
        future.set_result(None)
        await inline.until_released(1)
        await inline.runtime.stop(1)

    run(test())


def test_a_value_is_ignored_with_one_warning_and_the_socket_released_at_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        inline = Inline(NO_HANDLERS)
        inline.runtime.on_message_result(1, "answer")
        inline.runtime.on_message_result(1, "answer")
        assert inline.released == [1, 1]
        await inline.runtime.stop(1)

    run(test())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("on_error", ["close", "log"])
def test_a_handler_that_raises_is_logged_and_counted_and_its_socket_closed(
    run: Run, caplog: pytest.LogCaptureFixture, on_error: Literal["close", "log"]
) -> None:
    async def test() -> None:
        async def handle(error: BaseException) -> None:
            await asyncio.sleep(0)
            raise error

        inline = Inline(NO_HANDLERS, on_error=on_error)
        inline.runtime.on_message_failed(1, LookupError("sync"))
        inline.runtime.on_message_result(2, handle(LookupError("async")))
        inline.runtime.on_message_result(3, handle(SystemExit()))
        await inline.until_released(2)
        expected = [(n, 1011, "handler error") for n in (1, 2, 3)]
        assert inline.api.closed == (expected if on_error == "close" else [])
        assert inline.runtime.counters == {report.ERRORS: 3}
        await inline.runtime.stop(1)

    run(test())
    assert "LookupError: sync" in caplog.text and "LookupError: async" in caplog.text


def test_a_handler_that_takes_too_long_is_cancelled_and_its_socket_closed(run: Run) -> None:
    async def test() -> None:
        cancelled: list[bool] = []

        async def handle() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        inline = Inline(NO_HANDLERS, timeout_s=0.05)
        inline.runtime.on_message_result(1, handle())
        await inline.until_released(1)
        assert cancelled == [True]
        assert inline.api.closed == [(1, 1011, "handler error")]
        assert inline.runtime.counters == {report.TIMEOUTS: 1, report.LONG: 1}
        await inline.runtime.stop(1)

    run(test())


def test_a_handler_that_swallows_its_cancellation_is_counted_as_hung_and_holds_only_its_socket(run: Run) -> None:
    async def test() -> None:
        end = asyncio.Event()

        async def handle() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await end.wait()

        inline = Inline(NO_HANDLERS, timeout_s=0.05, hang_s=0.05)
        inline.runtime.on_message_result(1, handle())
        while inline.runtime.counters.get(report.HUNG) != 1:
            await asyncio.sleep(0.01)
        assert inline.released == [] and inline.api.closed == [(1, 1011, "handler error")]
        end.set()
        await inline.until_released(1)
        await inline.runtime.stop(1)

    run(test())


def test_many_handlers_have_their_own_deadlines_with_one_timer(run: Run) -> None:
    async def test() -> None:
        async def handle(seconds: float) -> None:
            await asyncio.sleep(seconds)

        inline = Inline(NO_HANDLERS, timeout_s=0.2)
        for n in range(1, 101):
            inline.runtime.on_message_result(n, handle(0.01 if n % 2 else PATIENCE_S))
        await inline.until_released(100)
        assert sorted(n for n, _, _ in inline.api.closed) == list(range(2, 101, 2))
        await inline.runtime.stop(1)

    run(test())


def test_a_slow_sync_handler_and_a_missing_one_are_counted(run: Run) -> None:
    async def test() -> None:
        inline = Inline(NO_HANDLERS)
        inline.runtime.on_message_slow(1, 17.0, True)
        inline.runtime.on_message_unhandled(1)
        assert inline.runtime.counters == {report.SLOW: 1, report.LONG: 1, report.UNHANDLED: 1}
        await inline.runtime.stop(1)

    run(test())


def test_the_close_handler_ends_at_once_or_releases_its_socket(run: Run) -> None:
    async def test() -> None:
        got: list[tuple[object, ...]] = []

        def close(socket_id: int, token: bytes | None, code: int, reason: str) -> Awaitable[None] | None:
            async def later() -> None:
                await asyncio.sleep(0)
                got.append((socket_id, "later"))

            async def at_once() -> None:
                got.append((socket_id, "at once"))

            if socket_id == 1:
                got.append((socket_id, token, code, reason))
                return None
            if socket_id == 4:
                raise ValueError
            return later() if socket_id == 2 else at_once()

        inline = Inline(handlers(close=close))
        assert inline.runtime.begin_close_handler(1, b"t", 1000, "bye")
        assert not inline.runtime.begin_close_handler(2, None, 1000, "")
        ended_at_once = inline.runtime.begin_close_handler(3, None, 1000, "")
        assert inline.runtime.begin_close_handler(4, None, 1000, "")
        await inline.until_released(1 if ended_at_once else 2)
        assert got[0] == (1, b"t", 1000, "bye")
        assert sorted(got[1:]) == [(2, "later"), (3, "at once")]
        assert sorted(inline.released) == ([2] if ended_at_once else [2, 3])
        assert inline.api.closed == []
        assert Inline(NO_HANDLERS).runtime.begin_close_handler(1, None, 1000, "")
        await inline.runtime.stop(1)

    run(test())


@pytest.mark.parametrize("is_async", [False, True])
def test_open_verdicts(run: Run, is_async: bool) -> None:
    returns: dict[str, object] = {
        "/true": True,
        "/none": None,
        "/false": False,
        "/response": HttpResponse(302, {"Location": "/x"}),
        "/wrong": 1,
    }

    async def test() -> None:
        async def later(request: HttpRequest, socket_id: int) -> object:
            await asyncio.sleep(0)
            return now(request, socket_id)

        def now(request: HttpRequest, socket_id: int) -> object:
            assert socket_id == 9
            if request.path == "/raise":
                raise LookupError
            return returns[request.path]

        inline = Inline(handlers(open=later if is_async else now))

        async def status(path: str) -> int | None:
            verdict = await inline.runtime.run_open(HttpRequest("GET", path), 9)
            return verdict.status if isinstance(verdict, HttpResponse) else None

        found = [await status(path) for path in (*returns, "/raise")]
        assert found == [None, None, 403, 302, 500, 500]
        assert inline.runtime.counters == {report.ERRORS: 2}
        await inline.runtime.stop(1)

    run(test())


@pytest.mark.parametrize("is_async", [False, True])
def test_http_returns(run: Run, is_async: bool) -> None:
    async def test() -> None:
        async def later(request: HttpRequest) -> object:
            await asyncio.sleep(0)
            return now(request)

        def now(request: HttpRequest) -> object:
            if request.path == "/raise":
                raise LookupError("secret")
            return {"/none": None, "/str": "é", "/dict": {"a": 1}, "/list": []}[request.path]

        inline = Inline(handlers(http=later if is_async else now))

        async def answer(path: str) -> tuple[int, bytes]:
            response = await inline.runtime.run_http(HttpRequest("GET", path))
            return response.status, response.body

        assert await answer("/none") == (200, b"OK")
        assert await answer("/str") == (200, "é".encode())
        assert await answer("/dict") == (200, b'{"a":1}')
        assert await answer("/list") == (500, b"Internal Server Error")
        assert await answer("/raise") == (500, b"Internal Server Error")
        assert (await Inline(NO_HANDLERS).runtime.run_http(REQUEST)).body == b"No HTTP handler registered"
        assert await Inline(NO_HANDLERS).runtime.run_open(REQUEST, 1) is None
        await inline.runtime.stop(1)

    run(test())


def test_over_time_an_open_or_http_handler_is_answered_504_at_once(run: Run) -> None:
    async def test() -> None:
        end = asyncio.Event()

        async def stuck() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await end.wait()

        inline = Inline(handlers(open=stuck, http=stuck), timeout_s=0.05)
        verdict = await inline.runtime.run_open(REQUEST, 1)
        assert isinstance(verdict, HttpResponse) and verdict.status == 504
        assert (await inline.runtime.run_http(REQUEST)).status == 504
        end.set()
        assert await inline.runtime.stop(5)

    run(test())


def test_a_caller_that_is_cancelled_cancels_the_handler_and_nothing_is_logged(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def http() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        inline = Inline(handlers(http=http))
        caller = asyncio.ensure_future(inline.runtime.run_http(REQUEST))
        await begun.wait()
        caller.cancel()
        await ended.wait()
        assert caller.cancelled() or await asyncio.wait([caller])
        assert inline.runtime.counters == {}
        assert await inline.runtime.stop(5)

    run(test())
    assert caplog.records == []


def test_start_and_stop_handlers(run: Run) -> None:
    async def test() -> None:
        got: list[object] = []

        async def start(arg: str | None) -> None:
            await asyncio.sleep(0)
            got.append(arg)

        async def stop() -> None:
            await asyncio.sleep(0)
            got.append("stop")

        async def handle() -> None:
            await asyncio.sleep(0.05)
            got.append("handled")

        runtime = InlineRuntime(
            load_handlers(handlers(start=start, stop=stop)), ClosingApi(), HandlerOptions(worker_arg="x")
        )
        await runtime.start()
        runtime.on_message_result(1, handle())
        assert await runtime.stop(PATIENCE_S)
        assert got == ["x", "handled", "stop"]

    run(test())


def test_what_the_start_handler_raises_reaches_the_caller(run: Run) -> None:
    async def test() -> None:
        def start() -> None:
            raise OSError("no database")

        with pytest.raises(OSError, match="no database"):
            await Inline(handlers(start=start)).runtime.start()

    run(test())


def test_stop_gives_up_on_handlers_that_do_not_end(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async def stop() -> None:
            await asyncio.Event().wait()

        async def handle() -> None:
            await asyncio.Event().wait()

        inline = Inline(handlers(stop=stop))
        inline.runtime.on_message_result(1, handle())
        assert not await inline.runtime.stop(0.05)
        await inline.until_released(1)

    run(test())
    assert "handle_worker_stop" in caplog.text


def test_a_handler_that_asks_for_its_own_cancellation_has_failed(run: Run) -> None:
    async def test() -> None:
        async def handle() -> None:
            cast("asyncio.Task[None]", asyncio.current_task()).cancel()
            await asyncio.sleep(0)

        inline = Inline(NO_HANDLERS)
        inline.runtime.on_message_result(1, handle())
        await inline.until_released(1)
        assert inline.api.closed == [(1, 1011, "handler error")]
        await inline.runtime.stop(1)

    run(test())


@pytest.mark.parametrize("way", [*odd.WRONG, *odd.RAISING])
def test_a_response_that_cannot_be_sent_is_a_500_of_that_request_only(
    run: Run, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    make = {**odd.WRONG, **odd.RAISING}[way]

    async def later(request: HttpRequest) -> object:
        return make()

    async def test() -> None:
        for answer in (lambda request: make(), later):
            inline = Inline(handlers(http=answer, open=answer))
            assert await inline.runtime.run_http(REQUEST) == HttpResponse(500, (), "Internal Server Error")
            assert await inline.runtime.run_open(REQUEST, 1) == HttpResponse(500, (), "Internal Server Error")
            assert inline.runtime.counters[report.ERRORS] == 2
            assert await inline.runtime.stop(1)

    run(test())
    assert caplog.text.count("handler=handle_http_request ") == 2
    assert caplog.text.count("it may return") == (4 if way in odd.WRONG else 0)
