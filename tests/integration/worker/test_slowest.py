"""The slowest calls of handlers: which are kept, and who tells of them."""

import asyncio
import time

import pytest

import wsbroker
from kits.scripted_broker import ScriptedBroker, closed, handlers, message, request_fields
from wsbroker.wire import commands, events
from wsbroker.worker import inline_runtime as inline
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.inline_runtime import InlineRuntime
from wsbroker.worker.loader import load_handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.report import LONG, SLOW
from wsbroker.worker.slowest import KEPT_CALLS, SlowestCalls


def test_the_slowest_calls_are_kept_the_slowest_first() -> None:
    slowest = SlowestCalls()
    assert slowest.threshold_s == 0.0 and slowest.to_dicts() == []
    for seconds in (3, 1, 4, 1, 5):
        assert slowest.add_call("handle_socket_message", 7, seconds, 100.0 + seconds)
    assert slowest.threshold_s == 1
    assert not slowest.add_call("handle_socket_message", 7, 1, 0.0)
    assert slowest.add_call("handle_socket_close", 9, 2, 0.0)
    assert [call["seconds"] for call in slowest.to_dicts()] == [5, 4, 3, 2, 1]
    assert slowest.to_dicts()[0] == {"handler": "handle_socket_message", "socket_id": 7, "seconds": 5, "at": 105.0}


def test_a_worker_tells_of_calls_slower_than_those_before() -> None:
    def handle(data: str, socket_id: int) -> None:
        time.sleep(float(data))  # it is the length of a handler

    with ScriptedBroker(handlers(message=handle)) as broker:
        before = time.time()
        broker.tell(*[message(n, "0.05") for n in range(1, KEPT_CALLS + 1)])
        broker.tell(*[message(n, "0") for n in range(1, 100)], message(8, "0.1"))
        broker.until_handled(KEPT_CALLS + 100)
        told = {str(call[1]): call for call in broker.slow}
        assert len(broker.slow) == KEPT_CALLS + 1
        handler, socket_id, seconds, at = told["8"]
        assert (handler, socket_id) == ("handle_socket_message", 8)
        assert isinstance(seconds, float) and 0.1 <= seconds < 5
        assert isinstance(at, float) and before + 0.35 <= at <= time.time()


def test_every_kind_of_handler_counts_from_its_call_to_its_end() -> None:
    async def wait(*arguments: object) -> None:
        await asyncio.sleep(0.02)

    def work(*arguments: object) -> None:
        time.sleep(0.02)  # it is the length of a handler

    for handle in (wait, work):
        with ScriptedBroker(handlers(open=handle, message=handle, close=handle, http=handle)) as broker:
            broker.tell((events.OPEN, 3, request_fields()), (events.HTTP, 1, request_fields()))
            for _ in range(2):
                broker.until(commands.OPEN_RESULT, commands.RESPONSE)
            broker.tell(message(3, "x"))
            broker.until_handled(1)
            broker.tell(closed(3))
            broker.until(commands.CLOSE_HANDLED)
            broker.stop()
        assert sorted((call[0], call[1]) for call in broker.slow) == [
            ("handle_http_request", 0),
            ("handle_socket_close", 3),
            ("handle_socket_message", 3),
            ("handle_socket_open", 3),
        ]
        assert all(isinstance(call[2], float) and call[2] >= 0.02 for call in broker.slow)


def test_a_call_that_took_a_tenth_of_its_time_and_one_that_failed_are_counted() -> None:
    def handle(data: str) -> None:
        deadline = time.monotonic() + float(data)
        while time.monotonic() < deadline:
            pass

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.2) as broker:
        broker.tell(message(1, "0.05"), message(2, "0"), message(3, "9"))
        broker.until_handled(3)
        assert broker.long == 2
        assert {1, 3} <= {call[1] for call in broker.slow}


def test_sockets_and_requests_without_a_handler_are_not_measured() -> None:
    with ScriptedBroker(handlers(start=lambda: None)) as broker:
        broker.tell((events.OPEN, 3, request_fields()), (events.HTTP, 1, request_fields()), message(3, "x"), closed(3))
        broker.stop()
    assert broker.slow == []


class UncallableApi(BrokerApi):
    """Nobody is asked for anything."""


def a_runtime(handler_timeout: float = 10.0) -> InlineRuntime:
    """An inline runtime."""
    return InlineRuntime(
        load_handlers(handlers(message=lambda: None)), UncallableApi(), HandlerOptions(handler_timeout=handler_timeout)
    )


def test_the_inline_runner_is_told_what_is_of_interest() -> None:
    runtime = a_runtime()
    assert runtime.slow_threshold_s == 0.0
    notices = [runtime.on_message_slow(n, float(n), True) for n in range(1, 2 * KEPT_CALLS + 1)]
    # Each call over a tenth of the limit is counted, so it is always told of.
    assert notices == [0.0] * (KEPT_CALLS - 1) + [1.0] * (KEPT_CALLS + 1)
    assert [call["socket_id"] for call in runtime.slowest_calls.to_dicts()] == [10, 9, 8, 7, 6]
    assert runtime.counters == {LONG: 9}


def test_the_beginning_of_an_async_inline_handler_is_not_its_length() -> None:
    runtime = a_runtime()
    assert runtime.on_message_slow(1, 11.0, False) == 0.0
    assert runtime.counters == {SLOW: 1} and runtime.slowest_calls.to_dicts() == []


def test_a_step_of_the_wall_clock_is_no_slow_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = a_runtime()
    with monkeypatch.context() as patch:
        patch.setattr(inline, "time", lambda: time.time() + 3600)
        assert runtime.on_message_slow(1, 3600.0, True) == 0.0
        assert runtime.counters == {} and runtime.slowest_calls.to_dicts() == []
        runtime.on_message_slow(2, 0.5, True)
    assert [call["socket_id"] for call in runtime.slowest_calls.to_dicts()] == [2]


def test_async_inline_handlers_are_measured_to_their_end() -> None:
    async def wait(*arguments: object) -> None:
        await asyncio.sleep(0.02)

    async def test() -> None:
        released = asyncio.Event()
        runtime = InlineRuntime(load_handlers(handlers(message=wait, http=wait)), UncallableApi(), HandlerOptions())
        runtime.resume_socket = lambda socket_id: released.set()
        runtime.on_message_result(4, wait())
        await runtime.run_http(wsbroker.HttpRequest("GET", "/"))
        await released.wait()
        calls = runtime.slowest_calls.to_dicts()
        assert {(call["handler"], call["socket_id"]) for call in calls} == {
            ("handle_socket_message", 4),
            ("handle_http_request", 0),
        }
        assert all(call["seconds"] >= 0.02 for call in calls)
        await runtime.stop(1)

    asyncio.run(test())
