"""A worker with an event loop: async handlers, `worker_main` in a thread against a scripted broker."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

import wsbroker
from kits.scripted_broker import PATIENCE_S, ScriptedBroker, closed, handlers, kept_state, message, request_fields
from wsbroker.wire import commands, control, events
from wsbroker.worker import report


class Gates:
    """Lets the handlers of a test wait until the test lets them go on, by name; they wait in the worker's loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[str, asyncio.Event] = {}

    async def wait(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        await self._events.setdefault(name, asyncio.Event()).wait()

    def open(self, name: str) -> None:
        """To be called when somebody waits there, as the test knows from what it sent before."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._events[name].set)


def test_handlers_of_one_socket_run_one_after_the_other_and_others_run_while_one_awaits() -> None:
    gates = Gates()

    async def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, f"begin {data}")
        if data == "wait":
            await gates.wait("go")
        wsbroker.send(socket_id, f"end {data}")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "wait"), message(1, "next"), message(2, "other"))
        assert broker.until_handled(1) == [
            (commands.SEND, 1, "begin wait"),
            (commands.SEND, 2, "begin other"),
            (commands.SEND, 2, "end other"),
        ]
        broker.tell(message(1, "last"), closed(1), message(2, "more"))
        assert [command[1] for command in broker.until_handled(1)] == [2, 2]
        gates.open("go")
        assert [command[2] for command in broker.until_handled(3) if command[0] == commands.SEND] == [
            "end wait",
            "begin next",
            "end next",
            "begin last",
            "end last",
        ]
        if (commands.CLOSE_HANDLED, 1) not in broker.seen:
            broker.until(commands.CLOSE_HANDLED)


def test_sync_handlers_of_such_a_worker_keep_their_order_with_async_ones() -> None:
    async def open_(request: object, socket_id: int) -> None:
        await asyncio.sleep(0)
        wsbroker.send(socket_id, "open")

    def handle(data: str, socket_id: int, token: bytes | None) -> None:
        wsbroker.send(socket_id, f"{data} {token!r}")

    with ScriptedBroker(handlers(open=open_, message=handle)) as broker:
        broker.tell((events.OPEN, 1, request_fields()), message(1, "a"), (events.TOKEN, 1, b"t", 0), message(1, "b"))
        sent = broker.until_handled(2)
    # The token is that of the moment at which the handler starts.
    assert sent == [
        (commands.SEND, 1, "open"),
        (commands.OPEN_RESULT, 1, 101, [], b""),
        (commands.SEND, 1, "a b't'"),
        (commands.SEND, 1, "b b't'"),
    ]


def test_every_handler_starts_from_the_same_context_and_has_a_task_of_its_own() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    seen: list[tuple[str, bool]] = []
    tasks: set[object] = set()

    async def handle(data: str, socket_id: int) -> None:
        tasks.add(asyncio.current_task())
        seen.append((variable.get(), asyncio.current_task() is not None))
        variable.set("dirty")
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.sleep(0)

    def close() -> None:
        seen.append((variable.get(), False))

    with ScriptedBroker(handlers(message=handle, close=close)) as broker:
        broker.tell(message(1, "a"), message(1, "b"), message(1, "c"), closed(1))
        broker.until(commands.CLOSE_HANDLED)
    assert seen == [("clean", True)] * 3 + [("clean", False)]
    assert len(tasks) == 3


def test_a_question_in_an_async_handler_is_exact_and_other_work_waits_for_it() -> None:
    order: list[str] = []

    async def handle(data: str, socket_id: int) -> None:
        order.append(f"begin {data}")
        if data == "ask":
            order.append(f"answer {wsbroker.subscriber_count('c')}")
        await asyncio.sleep(0)
        order.append(f"end {data}")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "ask"))
        ask = broker.until(commands.ASK)
        broker.tell(message(2, "other"))
        broker.answer(ask, 3)
        broker.until_handled(2)
    assert order[:2] == ["begin ask", "answer 3"]
    assert order.index("begin other") > 1


def test_to_thread_sends_in_order_and_asks_while_the_loop_runs() -> None:
    async def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, "one")
        await asyncio.to_thread(wsbroker.send, socket_id, "two")
        count = await asyncio.to_thread(wsbroker.subscriber_count, "c")
        wsbroker.send(socket_id, f"three {count}")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        ask = broker.until(commands.ASK)
        broker.tell(message(2, ""))
        second = broker.until(commands.ASK)
        broker.answer(second, 2)
        broker.answer(ask, 1)
        broker.until_handled(2)
        texts = {n: [c[2] for c in broker.seen if c[0] == commands.SEND and c[1] == n] for n in (1, 2)}
    assert texts == {1: ["one", "two", "three 1"], 2: ["one", "two", "three 2"]}


def test_a_token_set_after_an_await_is_seen_by_the_next_message() -> None:
    async def handle(data: str, socket_id: int, token: bytes | None) -> None:
        wsbroker.send(socket_id, repr(token))
        await asyncio.sleep(0)
        wsbroker.set_token(socket_id, data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "a"), message(1, "b"), (events.TOKEN, 1, b"foreign", 0))
        sent = broker.until_handled(2)
    assert [command[2] for command in sent if command[0] == commands.SEND][1] == "b'a'"


def test_an_async_handler_that_raises_fails_its_socket_and_no_later_message_is_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(data: str, socket_id: int) -> None:
        await asyncio.sleep(0)
        if data == "bad":
            raise LookupError("lost")
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "bad"), message(1, "late"), message(2, "fine"))
        sent = broker.until_handled(3)
    assert set(sent) == {(commands.SEND, 2, "fine"), (commands.HANDLER_FAILED, 1), (commands.COUNTED, report.ERRORS, 1)}
    assert "LookupError: lost" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_in_an_async_handler_does_not_leave_the_loop(error: BaseException) -> None:
    async def handle(data: str, socket_id: int) -> None:
        if data == "exit":
            await asyncio.sleep(0)
            raise error
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "exit"))
        assert broker.until_handled(1)[-1] == (commands.HANDLER_FAILED, 1)
        broker.tell(message(2, "fine"))
        assert broker.until_handled(1) == [(commands.SEND, 2, "fine")]
        broker.stop()


def test_requests_run_side_by_side() -> None:
    gates = Gates()

    async def http(request: wsbroker.HttpRequest) -> str:
        if request.pathname == "/slow":
            await gates.wait("go")
        return request.pathname

    with ScriptedBroker(handlers(http=http)) as broker:
        broker.tell((events.HTTP, 1, request_fields(path="/slow")), (events.HTTP, 2, request_fields(path="/fast")))
        assert broker.until(commands.RESPONSE)[1::3] == (2, b"/fast")
        gates.open("go")
        assert broker.until(commands.RESPONSE)[1::3] == (1, b"/slow")


# Time. ----------------------------------------------------------------------------------------------------------------


def test_an_async_handler_that_takes_too_long_is_cancelled_and_the_log_says_where_it_waited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def handle(data: str, socket_id: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(data)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, "x"), message(1, "late"))
        assert broker.until_handled(2) == [(commands.COUNTED, report.TIMEOUTS, 1), (commands.HANDLER_FAILED, 1)]
    assert ended == ["x"]
    [record] = caplog.records
    assert record.getMessage().startswith("handler took too long handler=handle_socket_message socket=1")
    assert " in wait" in record.getMessage()


def test_time_runs_from_the_call_not_from_queueing() -> None:
    async def handle(data: str, socket_id: int) -> None:
        await asyncio.sleep(0.2)
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.5) as broker:
        broker.tell(*[message(1, str(n)) for n in range(4)])
        assert broker.until_handled(4) == [(commands.SEND, 1, str(n)) for n in range(4)]


def test_open_and_http_handlers_that_take_too_long_are_answered_504_while_they_are_cancelled() -> None:
    gates = Gates()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gates.wait("end")

    handler = handlers(open=stuck, http=stuck)
    with ScriptedBroker(handler, handler_timeout=0.1, http_timeout=0.1) as broker:
        broker.tell((events.OPEN, 1, request_fields()), (events.HTTP, 2, request_fields()), (events.DROP_UNOPENED, 1))
        answers = {broker.until(commands.OPEN_RESULT, commands.RESPONSE)[0:3] for _ in range(2)}
        assert answers == {(commands.OPEN_RESULT, 1, 504), (commands.RESPONSE, 2, 504)}
        gates.open("end")
        broker.stop()


def test_no_message_is_handled_behind_one_that_was_cancelled_because_the_wire_has_ended() -> None:
    begun: list[str] = []
    ended = threading.Event()

    async def handle(data: str) -> None:
        begun.append(data)
        try:
            await asyncio.Event().wait()
        finally:
            if data == "first":
                ended.set()

    broker = ScriptedBroker(handlers(message=handle))
    assert broker.next()[0] == commands.STARTED
    broker.tell(message(1, "first"), message(1, "second"), message(2, "another"))
    while len(begun) < 2:
        broker.thread.join(0.001)
    broker.wire.end.close()  # and the control stream is still open: the control thread knows nothing yet
    assert ended.wait(PATIENCE_S)
    broker.end()
    assert begun == ["first", "another"] and broker.error is None


def test_a_handler_that_swallows_its_cancellation_is_hung() -> None:
    gates = Gates()

    async def handle(data: str, socket_id: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gates.wait("end")

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1, worker_hang_timeout=0.1) as broker:
        broker.tell(message(6, ""))
        assert broker.until(commands.HANDLER_FAILED) == (commands.HANDLER_FAILED, 6)
        assert broker.next_control(control.HUNG)[1:3] == ("handle_socket_message", 6)
        gates.open("end")
        broker.until_handled(1)


def test_an_async_handler_that_blocks_the_loop_is_interrupted(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(data: str, socket_id: int) -> None:
        await asyncio.sleep(0)
        while data == "spin":
            pass
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, "spin"))
        assert broker.until_handled(1) == [(commands.COUNTED, report.TIMEOUTS, 1), (commands.HANDLER_FAILED, 1)]
        assert broker.next_control(control.INTERRUPTED, control.HUNG)[:3] == (
            control.INTERRUPTED,
            "handle_socket_message",
            1,
        )
        broker.tell(message(2, "fine"))
        assert broker.until_handled(1) == [(commands.SEND, 2, "fine")]
    assert "in handle" in caplog.text


def test_a_step_that_swallows_its_interruption_and_awaits_again_is_ended() -> None:
    ended: list[str] = []

    async def handle(data: str, socket_id: int) -> None:
        try:
            try:
                while True:
                    pass
            except BaseException:
                await asyncio.Event().wait()
        finally:
            ended.append("ended")

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, ""))
        assert broker.until_handled(1)[-1] == (commands.HANDLER_FAILED, 1)
        broker.stop()
    assert ended == ["ended"]


# Start and end. -------------------------------------------------------------------------------------------------------


def test_start_and_stop_handlers_run_in_the_same_loop_as_the_others() -> None:
    loops: list[object] = []

    async def start(arg: str | None) -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)

    def handle(data: str) -> None:
        loops.append(asyncio.get_running_loop())

    async def stop() -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        wsbroker.send_to_channel("c", "goodbye")

    with ScriptedBroker(handlers(start=start, message=handle, stop=stop)) as broker:
        broker.tell(message(1, ""))
        broker.until_handled(1)
        assert broker.stop() == [(commands.PUBLISH, b"c", "goodbye", ())]
    assert len(loops) == 3 and len(set(loops)) == 1


def test_a_start_handler_may_ask_before_the_worker_has_started() -> None:
    async def start(arg: str | None) -> None:
        await asyncio.sleep(0)
        assert wsbroker.channels() == [b"x"]

    broker = ScriptedBroker(handlers(start=start))
    broker.answer(broker.until(commands.ASK), [b"x"])
    assert broker.next()[0] == commands.STARTED
    broker.end()


def test_an_async_start_handler_that_raises_is_reported() -> None:
    async def start() -> None:
        raise OSError("no database")

    broker = ScriptedBroker(handlers(start=start))
    command = broker.next()
    assert command[0] == commands.START_FAILED
    assert str(command[1]).endswith("failed: OSError: no database")
    assert broker.wire.read() is None
    broker.end()


def test_stop_waits_for_handlers_that_run_and_for_what_waits_behind_them() -> None:
    gates = Gates()

    async def handle(data: str, socket_id: int) -> None:
        if data == "wait":
            await gates.wait("go")
        wsbroker.send(socket_id, data)

    async def stop() -> None:
        wsbroker.send(9, "stop")

    with ScriptedBroker(handlers(message=handle, stop=stop)) as broker:
        broker.tell(message(1, "wait"), message(1, "next"), message(2, "other"))
        broker.until_handled(1)
        broker.tell((events.STOP,))
        gates.open("go")
        broker.until(commands.STOPPED)
        texts = [command[2] for command in broker.seen if command[0] == commands.SEND]
        assert texts == ["other", "wait", "next", "stop"]
        assert broker.wire.read() is None


def test_a_worker_ends_when_the_broker_is_gone_and_cancels_what_runs() -> None:
    ended = threading.Event()

    async def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, "running")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        broker.until(commands.SEND)
    assert ended.is_set()


def test_background_tasks_of_handlers_may_send_and_their_commands_leave_at_once() -> None:
    gates = Gates()
    tasks: list[asyncio.Task[None]] = []

    async def background(socket_id: int) -> None:
        await gates.wait("go")
        wsbroker.send(socket_id, "background")
        wsbroker.set_token(socket_id, "late")

    async def handle(data: str, socket_id: int) -> None:
        tasks.append(asyncio.create_task(background(socket_id)))
        await asyncio.sleep(0)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        assert broker.until_handled(1) == []
        gates.open("go")
        assert broker.next() == (commands.SEND, 1, "background")
        # The handler has ended, so the token is not cached: the core will tell it.
        assert broker.next() == (commands.SET_TOKEN, 1, b"late", 0)
        broker.stop()


def test_nothing_is_kept_of_sockets_that_are_gone() -> None:
    from wsbroker.worker.api import BrokerApi, context_api

    apis: list[BrokerApi | None] = []

    async def handle(data: str, socket_id: int) -> None:
        apis.append(context_api.get())
        wsbroker.set_token(socket_id, b"t")
        await asyncio.sleep(0)
        wsbroker.close(socket_id)

    async def close(socket_id: int) -> None:
        await asyncio.sleep(0)

    with ScriptedBroker(handlers(message=handle, close=close)) as broker:
        for n in range(1, 501):
            broker.tell(message(n, "x"), message(n, "y"), closed(n))
            broker.until(commands.CLOSE_HANDLED)
        broker.stop()
    assert not kept_state(apis[0])
