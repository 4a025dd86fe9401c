"""A worker at the other end of a wire, without an event loop: `worker_main` in a thread against a scripted broker."""

import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import ClassVar, cast

import pytest

import wsbroker
from kits import odd_responses as odd
from kits.scripted_broker import PATIENCE_S, ScriptedBroker, closed, handlers, kept_state, message, request_fields
from wsbroker.wire import commands, control, events
from wsbroker.wire.framing import BatchUnpacker, pack_batch
from wsbroker.worker import report
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.wire_api import WireApi

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class Name(StrEnum):
    """Text that is not exactly `str`."""

    COOKIE = "Set-Cookie"
    VALUE = "one"


def test_a_message_is_handled_its_commands_come_and_then_its_acknowledgement() -> None:
    def handle(data: str, socket_id: int, token: bytes | None) -> None:
        wsbroker.send(socket_id, data + "!")
        wsbroker.send_to_channel("news", data, exclude=(socket_id,))
        wsbroker.subscribe_nowait(socket_id, "a")
        wsbroker.unsubscribe_nowait(socket_id, "b")
        wsbroker.copy_subscriptions("a", b"b")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(7, "hi", 20))
        assert broker.until(commands.HANDLED) == (commands.HANDLED, [(7, 20)])
        assert broker.seen[1:-1] == [
            (commands.SEND, 7, "hi!"),
            (commands.PUBLISH, b"news", "hi", (7,)),
            (commands.SUBSCRIBE, 7, b"a"),
            (commands.UNSUBSCRIBE, 7, b"b"),
            (commands.COPY_SUBSCRIPTIONS, b"a", b"b"),
        ]


def test_one_batch_of_events_gives_one_batch_of_commands_in_their_order() -> None:
    def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(*[message(n % 3 + 1, str(n), n) for n in range(50)])
        sent = broker.until_handled(50)
    assert sent == [(commands.SEND, n % 3 + 1, str(n)) for n in range(50)]


@pytest.mark.parametrize("arity", [0, 1, 2, 3])
def test_a_handler_gets_as_many_arguments_as_it_takes(arity: int) -> None:
    got: list[tuple[object, ...]] = []
    takes: list[Callable[..., None]] = [
        lambda: got.append(()),
        lambda data: got.append((data,)),
        lambda data, socket_id: got.append((data, socket_id)),
        lambda data, socket_id, token: got.append((data, socket_id, token)),
    ]
    with ScriptedBroker(handlers(message=takes[arity])) as broker:
        broker.tell(message(3, b"x"))
        broker.until_handled(1)
    assert got == [(b"x", 3, None)[:arity]]


def test_a_question_is_sent_at_once_behind_what_was_asked_before_and_others_wait() -> None:
    order: list[str] = []

    def handle(data: str, socket_id: int) -> None:
        order.append(f"begin {data}")
        wsbroker.send(socket_id, data)
        if data == "ask":
            order.append(f"answer {wsbroker.subscribe(socket_id, 'room')}")
        order.append(f"end {data}")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "ask"))
        ask = broker.until(commands.ASK)
        assert broker.seen[-2:] == [
            (commands.SEND, 1, "ask"),
            (commands.ASK, ask[1], commands.SUBSCRIBE, 1, b"room"),
        ]
        broker.tell(message(2, "other"), (events.ANSWER, ask[1], True), message(1, "next"))
        broker.until_handled(3)
    assert order == [
        "begin ask",
        "answer True",
        "end ask",
        "begin other",
        "end other",
        "begin next",
        "end next",
    ]


def test_every_question_of_the_api_gets_its_answer() -> None:
    answers: list[object] = []

    def handle(data: str, socket_id: int) -> None:
        answers.append(wsbroker.unsubscribe(socket_id, "c"))
        answers.append(wsbroker.subscriber_count("c"))
        answers.append(wsbroker.has_subscribers("c"))
        answers.append(wsbroker.subscribers("c"))
        answers.append(wsbroker.subscriptions(socket_id))
        answers.append(wsbroker.channels())
        answers.append(wsbroker.is_open(socket_id))
        answers.append(wsbroker.queued_bytes(socket_id))

    script = [
        ((commands.UNSUBSCRIBE, 5, b"c"), False),
        ((commands.SUBSCRIBER_COUNT, b"c"), 2),
        ((commands.SUBSCRIBER_COUNT, b"c"), 0),
        ((commands.SUBSCRIBERS, b"c"), [5, 6]),
        ((commands.SUBSCRIPTIONS, 5), [b"c"]),
        ((commands.CHANNELS,), [b"c", b"d"]),
        ((commands.IS_OPEN, 5), True),
        ((commands.QUEUED_BYTES, 5), 12),
    ]
    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(5, ""))
        for question, answer in script:
            ask = broker.until(commands.ASK)
            assert ask[2:] == question
            broker.answer(ask, answer)
        broker.until_handled(1)
    assert answers == [False, 2, False, [5, 6], [b"c"], [b"c", b"d"], True, 12]


def test_many_commands_of_one_handler_are_sent_before_it_ends() -> None:
    go_on = threading.Event()

    def handle(data: str, socket_id: int) -> None:
        for _ in range(70):
            wsbroker.send(socket_id, "x" * 1000)
        assert go_on.wait(PATIENCE_S)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        for _ in range(60):
            assert broker.next()[0] == commands.SEND
        go_on.set()
        assert len(broker.until_handled(1)) == 10


def test_commands_of_a_slow_handler_do_not_wait_for_the_end_of_a_long_batch() -> None:
    go_on = threading.Event()

    def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, data)
        if data == "slow":
            time.sleep(0.02)  # longer than commands may wait; what decides is `go_on`
        if data == "stuck":
            assert go_on.wait(PATIENCE_S)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "slow"), message(2, "stuck"))
        assert broker.next() == (commands.SEND, 1, "slow")
        assert broker.next() == (commands.HANDLED, [(1, 1)])
        go_on.set()
        broker.until_handled(1)


# Tokens. --------------------------------------------------------------------------------------------------------------


def test_a_token_is_seen_by_the_next_message_of_the_same_batch() -> None:
    tokens: list[bytes | None] = []

    def handle(data: str, socket_id: int, token: bytes | None) -> None:
        tokens.append(token)
        wsbroker.set_token(socket_id, None if data == "none" else data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "a"), message(1, "none"), message(1, "b"), message(2, "c"), message(1, "d"))
        sent = broker.until_handled(5)
    assert tokens == [None, b"a", None, None, b"b"]
    assert [(command[1], command[2], command[3]) for command in sent] == [
        (1, b"a", 1),
        (1, None, 2),
        (1, b"b", 3),
        (2, b"c", 4),
        (1, b"d", 5),
    ]


def test_a_foreign_token_older_than_the_own_one_is_ignored_and_a_newer_one_is_taken() -> None:
    tokens: list[bytes | None] = []

    def handle(data: str, socket_id: int, token: bytes | None) -> None:
        tokens.append(token)
        if data == "set":
            wsbroker.set_token(socket_id, b"own")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell((events.TOKEN, 1, b"first", 0), message(1, "set"), (events.TOKEN, 1, b"older", 0), message(1, ""))
        broker.tell((events.TOKEN, 1, b"newer", 1), message(1, ""), (events.TOKEN, 1, None, 1), message(1, ""))
        broker.until_handled(4)
    assert tokens == [b"first", b"own", b"newer", None]


def test_the_token_of_another_socket_is_not_cached_and_has_no_number() -> None:
    tokens: list[bytes | None] = []

    def handle(data: str, socket_id: int, token: bytes | None) -> None:
        tokens.append(token)
        wsbroker.set_token(2, b"x")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""), message(2, ""))
        sent = broker.until_handled(2)
    assert tokens == [None, None]
    assert sent == [(commands.SET_TOKEN, 2, b"x", 0), (commands.SET_TOKEN, 2, b"x", 1)]


def test_the_close_handler_gets_the_newest_token() -> None:
    tokens: list[bytes | None] = []

    def handle(data: str, socket_id: int) -> None:
        wsbroker.set_token(socket_id, b"own")

    def close(socket_id: int, token: bytes | None) -> None:
        tokens.append(token)

    with ScriptedBroker(handlers(message=handle, close=close)) as broker:
        broker.tell(message(1, ""), message(2, ""), closed(1, b"old", 0), closed(2, b"foreign", 2), closed(3, b"t", 0))
        broker.until_handled(2)
        assert [command[1] for command in broker.seen if command[0] == commands.CLOSE_HANDLED] == [1, 2, 3]
    assert tokens == [b"own", b"foreign", b"t"]


def test_nothing_is_kept_of_sockets_that_are_gone() -> None:
    apis: list[object] = []

    def handle(data: str, socket_id: int) -> None:
        wsbroker.set_token(socket_id, b"t")
        wsbroker.close(socket_id)
        from wsbroker.worker.api import context_api

        apis.append(context_api.get())

    def open_(request: object, socket_id: int) -> None:
        wsbroker.set_token(socket_id, "t")

    with ScriptedBroker(handlers(message=handle, open=open_)) as broker:
        for n in range(1, 2001, 2):
            broker.tell(
                message(n, "x"), closed(n), (events.OPEN, n + 1, request_fields()), (events.DROP_UNOPENED, n + 1)
            )
            broker.until_handled(1)
        broker.stop()
    assert not kept_state(apis[0])


# Closing. -------------------------------------------------------------------------------------------------------------


def test_after_close_no_further_message_of_the_socket_is_handled_but_its_close_is() -> None:
    got: list[str] = []

    def handle(data: str, socket_id: int) -> None:
        got.append(data)
        if data == "close":
            wsbroker.close(socket_id, 4000, "enough")

    with ScriptedBroker(handlers(message=handle, close=lambda socket_id: got.append("closed"))) as broker:
        broker.tell(message(1, "close"), message(1, "late"), message(2, "other"), closed(1))
        sent = broker.until_handled(3)
        assert sent == [(commands.CLOSE, 1, 4000, "enough"), (commands.CLOSE_HANDLED, 1)]
    assert got == ["close", "other", "closed"]


def test_a_handler_that_raises_is_logged_counted_and_its_socket_fails(caplog: pytest.LogCaptureFixture) -> None:
    got: list[str] = []

    def handle(data: str, socket_id: int) -> None:
        if data == "bad":
            raise LookupError("lost")
        got.append(data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "bad"), message(1, "late"), message(2, "fine"))
        assert broker.until_handled(3) == [(commands.COUNTED, report.ERRORS, 1), (commands.HANDLER_FAILED, 1)]
    assert got == ["fine"]
    [record] = caplog.records
    assert record.getMessage() == "handler failed handler=handle_socket_message socket=1 worker=worker-0"
    assert record.exc_text is not None and "LookupError: lost" in record.exc_text
    assert "wsbroker/worker" not in record.exc_text


def test_with_on_handler_error_log_the_socket_stays_open() -> None:
    got: list[str] = []

    def handle(data: str, socket_id: int) -> None:
        got.append(data)
        raise RuntimeError

    with ScriptedBroker(handlers(message=handle), on_handler_error="log") as broker:
        broker.tell(message(1, "a"), message(1, "b"))
        assert [command[0] for command in broker.until_handled(2)] == [commands.COUNTED] * 2
    assert got == ["a", "b"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_in_a_handler_is_an_error_of_that_handler_only(error: BaseException) -> None:
    def handle(data: str, socket_id: int) -> None:
        if data == "exit":
            raise error
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "exit"), message(2, "fine"))
        assert broker.until_handled(2)[1:] == [(commands.HANDLER_FAILED, 1), (commands.SEND, 2, "fine")]


def test_a_failing_close_handler_is_still_acknowledged() -> None:
    def close(socket_id: int) -> None:
        raise ValueError

    with ScriptedBroker(handlers(close=close)) as broker:
        broker.tell(closed(4))
        assert broker.until(commands.CLOSE_HANDLED) == (commands.CLOSE_HANDLED, 4)
        assert commands.HANDLER_FAILED not in [command[0] for command in broker.seen]


def test_without_a_message_handler_messages_are_dropped_with_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_warned_of_no_message_handler", False)
    with ScriptedBroker(handlers(close=lambda: None)) as broker:
        broker.tell(message(1, "a"), message(1, "b"), message(2, "c"))
        broker.until_handled(3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_value_that_a_message_handler_returns_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker(handlers(message=lambda data: "answer")) as broker:
        broker.tell(message(1, "a"), message(2, "b"))
        assert broker.until_handled(2) == []
    assert ["what a handler returned is ignored" in record.getMessage() for record in caplog.records] == [True]


# Opens and requests. --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "status", "body"),
    [
        (None, 101, b""),
        (True, 101, b""),
        (False, 403, b"Forbidden"),
        (wsbroker.HttpResponse(401, {}, "no"), 401, b"no"),
    ],
)
def test_the_verdict_about_a_socket_is_sent(returned: object, status: int, body: bytes) -> None:
    seen: list[object] = []

    def open_(request: wsbroker.HttpRequest, socket_id: int) -> object:
        seen.append((request.url, socket_id))
        wsbroker.send(socket_id, "welcome")
        return returned

    with ScriptedBroker(handlers(open=open_)) as broker:
        broker.tell((events.OPEN, 8, request_fields(path="/x?y=z")))
        opened = broker.until(commands.OPEN_RESULT)
    assert (opened[1], opened[2], opened[4]) == (8, status, body)
    assert seen == [("/x?y=z", 8)]
    assert broker.seen[1] == (commands.SEND, 8, "welcome")


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_an_accept_is_sent_as_plain_values(is_async: bool) -> None:
    def accept() -> wsbroker.Accept:
        return wsbroker.Accept([(Name.COOKIE, Name.VALUE), ("Set-Cookie", "b=2")], Name.VALUE)

    async def accept_later() -> wsbroker.Accept:
        return accept()

    offers = (events.OPEN, 8, request_fields(headers=(("Sec-WebSocket-Protocol", "x, one"),)))
    with ScriptedBroker(handlers(open=accept_later if is_async else accept)) as broker:
        broker.tell(offers)
        opened = broker.until(commands.OPEN_RESULT)
    assert opened == (commands.OPEN_RESULT, 8, 101, [("Set-Cookie", "one"), ("Set-Cookie", "b=2")], b"one")


@pytest.mark.parametrize("kind", ["raises", "returns"])
def test_a_wrong_open_handler_is_a_500_and_the_log_lists_what_it_may_return(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def open_(request: object) -> object:
        if kind == "raises":
            raise RuntimeError
        return "yes"

    with ScriptedBroker(handlers(open=open_)) as broker:
        broker.tell((events.OPEN, 8, request_fields()))
        assert broker.until(commands.OPEN_RESULT)[2::2] == (500, b"Internal Server Error")
    if kind == "returns":
        assert "handle_socket_open returned a str; it may return True or None (accept), False (403), an" in caplog.text


@pytest.mark.parametrize(
    ("returned", "status", "body"),
    [
        (None, 200, b"OK"),
        ("text", 200, b"text"),
        (b"\0", 200, b"\0"),
        ({"a": [1]}, 200, b'{"a":[1]}'),
        (wsbroker.HttpResponse(404), 404, b""),
        ([1], 500, b"Internal Server Error"),
        (7, 500, b"Internal Server Error"),
    ],
)
def test_what_an_http_handler_returns_is_sent(returned: object, status: int, body: bytes) -> None:
    with ScriptedBroker(handlers(http=lambda request: returned)) as broker:
        broker.tell((events.HTTP, 31, request_fields("POST", "/", b"body")))
        response = broker.until(commands.RESPONSE)
    assert (response[1], response[2], response[4]) == (31, status, body)


ODD = {**odd.WRONG, **odd.RAISING}


@pytest.mark.parametrize("way", ODD)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_response_that_cannot_be_sent_is_a_500_of_that_request_only(
    way: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def http(request: wsbroker.HttpRequest) -> object:
        return "fine" if request.path == "/fine" else ODD[way]()

    async def http_later(request: wsbroker.HttpRequest) -> object:
        return http(request)

    def open_(request: object) -> object:
        return ODD[way]()

    with ScriptedBroker(handlers(http=http_later if is_async else http, open=open_)) as broker:
        broker.tell(
            (events.HTTP, 1, request_fields()),
            (events.OPEN, 8, request_fields()),
            (events.HTTP, 2, request_fields(path="/fine")),
        )
        found: dict[object, tuple[object, ...]] = {}
        while len(found) < 3:
            answer = broker.until(commands.RESPONSE, commands.OPEN_RESULT)
            found[answer[1]] = answer[2:]
        assert found[1] == found[8] == (500, TEXT, b"Internal Server Error")
        assert found[2] == (200, TEXT, b"fine")
        assert broker.seen.count((commands.COUNTED, report.ERRORS, 1)) == 2
    for name in ("handle_http_request", "handle_socket_open"):
        (record,) = [record for record in caplog.records if f"handler={name} " in record.getMessage()]
        assert ("may return" in record.getMessage()) == (way in odd.WRONG)


@pytest.mark.parametrize("way", odd.FINE)
def test_what_was_set_afterwards_in_a_response_is_sent(way: str) -> None:
    make, sent = odd.FINE[way]
    with ScriptedBroker(handlers(http=lambda request: make())) as broker:
        broker.tell((events.HTTP, 1, request_fields()))
        _, _, status, headers, body = broker.until(commands.RESPONSE)
    assert isinstance(headers, list)
    assert (status, body, dict(headers)["A"].encode()) == sent


@pytest.mark.parametrize("is_async", [False, True])
def test_a_response_that_takes_too_long_to_read_is_interrupted_like_its_handler(is_async: bool) -> None:
    def endless() -> Iterator[tuple[str, str]]:
        while len("") == 0:
            pass
        yield "A", "b"

    def http(request: object) -> object:
        response = wsbroker.HttpResponse()
        response.headers = endless()  # type: ignore[assignment]
        return response

    async def http_later(request: object) -> object:
        return http(request)

    with ScriptedBroker(handlers(http=http_later if is_async else http), http_timeout=0.02) as broker:
        broker.tell((events.HTTP, 1, request_fields()))
        assert broker.until(commands.RESPONSE)[2] == 504


@pytest.mark.parametrize("kind", ["http", "open"])
def test_a_body_that_is_too_long_for_the_wire_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsbroker.worker.sync_runtime.MAX_DATA", 10)
    with ScriptedBroker(handlers(**{kind: lambda request: wsbroker.HttpResponse(403, (), "x" * 11)})) as broker:
        broker.tell((events.HTTP if kind == "http" else events.OPEN, 1, request_fields()))
        assert broker.until(commands.RESPONSE, commands.OPEN_RESULT)[2] == 500


def test_what_a_metaclass_does_to_a_returned_value_concerns_nobody() -> None:
    class Meta(type):
        def __getattr__(cls, name: str) -> object:
            raise OSError

    class Odd(metaclass=Meta):
        pass

    with ScriptedBroker(handlers(message=lambda data: Odd())) as broker:
        broker.tell(message(1, "a"), message(2, "b"))
        assert broker.until_handled(2) == []


def test_without_handlers_for_them_sockets_are_accepted_and_requests_refused() -> None:
    with ScriptedBroker(handlers(message=lambda: None)) as broker:
        broker.tell((events.OPEN, 8, request_fields()), (events.HTTP, 2, request_fields()), closed(8))
        assert broker.until(commands.OPEN_RESULT) == (commands.OPEN_RESULT, 8, 101, [], b"")
        assert broker.until(commands.RESPONSE)[2::2] == (503, b"No HTTP handler registered")
        assert broker.until(commands.CLOSE_HANDLED) == (commands.CLOSE_HANDLED, 8)


# Start and end. -------------------------------------------------------------------------------------------------------


def test_a_worker_says_which_handlers_it_has_after_it_has_started_them() -> None:
    started: list[object] = []
    broker = ScriptedBroker(handlers(start=started.append, message=lambda: None), worker_arg="dsn")
    assert broker.next() == (commands.STARTED, ["handle_worker_start", "handle_socket_message"])
    assert started == ["dsn"]
    broker.end()


def test_the_start_handler_may_already_ask() -> None:
    def start(arg: object) -> None:
        assert wsbroker.channels() == [b"x"]

    broker = ScriptedBroker(handlers(start=start, message=lambda: None))
    broker.answer(broker.until(commands.ASK), [b"x"])
    assert broker.next()[0] == commands.STARTED
    broker.end()


@pytest.mark.parametrize("error", [OSError("no database"), SystemExit("no database")])
def test_a_start_handler_that_raises_is_reported_and_ends_the_worker(error: BaseException) -> None:
    def start() -> None:
        raise error

    broker = ScriptedBroker(handlers(start=start))
    kind, text, detail, is_config_error = broker.next()
    assert (kind, is_config_error) == (commands.START_FAILED, False)
    assert text == (
        f"handle_worker_start of types:SimpleNamespace (a live object) failed: {type(error).__name__}: no database"
    )
    assert isinstance(detail, str) and "no database" in detail and "Traceback" in detail
    assert broker.wire.read() is None
    broker.end()


def test_a_spec_without_handlers_is_reported_in_one_sentence() -> None:
    broker = ScriptedBroker("wsbroker.errors")
    kind, text, detail, is_config_error = broker.next()
    assert (kind, detail, is_config_error) == (commands.START_FAILED, "", True)
    assert isinstance(text, str) and text.startswith("no handlers in wsbroker.errors: ")
    broker.end()


def test_stop_comes_after_everything_before_it_and_runs_the_stop_handler() -> None:
    got: list[str] = []

    def stop() -> None:
        got.append("stop")
        wsbroker.send_to_channel("c", "goodbye")

    with ScriptedBroker(handlers(message=got.append, stop=stop)) as broker:
        broker.tell(message(1, "a"), message(1, "b"))
        assert broker.stop() == [(commands.HANDLED, [(1, 1), (1, 1)]), (commands.PUBLISH, b"c", "goodbye", ())]
        assert broker.wire.read() is None
    assert got == ["a", "b", "stop"]


def test_a_stop_handler_that_raises_is_logged_and_the_worker_stops(caplog: pytest.LogCaptureFixture) -> None:
    def stop() -> None:
        raise RuntimeError("stuck")

    with ScriptedBroker(handlers(message=lambda: None, stop=stop)) as broker:
        broker.stop()
    assert "handler=handle_worker_stop" in caplog.text


def test_a_worker_ends_when_the_broker_is_gone_even_while_it_asks() -> None:
    errors: list[BaseException] = []

    def handle(data: str, socket_id: int) -> None:
        try:
            wsbroker.is_open(socket_id)
        except RuntimeError as error:
            errors.append(error)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        broker.until(commands.ASK)
    assert [type(error) for error in errors] == [wsbroker.CommandError]


def test_missing_places_are_added_to_the_path_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsbroker.worker.main import _extend_sys_path

    monkeypatch.setattr(sys, "path", ["/a", "/c"])
    _extend_sys_path(["/a", "/b", "/c"])
    assert sys.path == ["/a", "/b", "/c"]


def test_a_handler_that_turns_out_to_be_async_makes_the_worker_go_on_with_a_loop() -> None:
    order: list[str] = []

    async def later(data: str, socket_id: int) -> None:
        import asyncio

        await asyncio.sleep(0)
        order.append(data)
        wsbroker.send(socket_id, data)

    def handle(data: str, socket_id: int) -> object:
        if data != "sync":
            return later(data, socket_id)
        order.append(data)
        return None

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "sync"), message(1, "a"), message(1, "b"), message(1, "sync"))
        assert broker.until_handled(4) == [(commands.SEND, 1, "a"), (commands.SEND, 1, "b")]
        broker.tell(message(1, "c"))
        assert broker.until_handled(1) == [(commands.SEND, 1, "c")]
        broker.stop()
    assert order == ["sync", "a", "b", "sync", "c"]


# Time. ----------------------------------------------------------------------------------------------------------------


def spin(until: threading.Event | None = None) -> None:
    """Runs Python code for ever, or until told."""
    while until is None or not until.is_set():
        pass


def test_a_handler_that_runs_too_long_is_interrupted_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def handle(data: str, socket_id: int) -> None:
        if data == "spin":
            spin()
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, "spin"), message(1, "late"), message(2, "fine"))
        sent = broker.until_handled(3)
        kind, handler, socket_id, seconds = broker.next_control(control.INTERRUPTED, control.HUNG)
    assert (kind, handler, socket_id) == (control.INTERRUPTED, "handle_socket_message", 1)
    assert isinstance(seconds, float) and seconds >= 0.1
    assert sent == [(commands.COUNTED, report.TIMEOUTS, 1), (commands.HANDLER_FAILED, 1), (commands.SEND, 2, "fine")]
    assert "in spin" in caplog.text


def test_open_and_http_handlers_that_run_too_long_are_answered_504() -> None:
    handler = handlers(open=lambda: spin(), http=lambda: spin())
    with ScriptedBroker(handler, handler_timeout=0.1, http_timeout=0.15) as broker:
        broker.tell((events.OPEN, 1, request_fields()), (events.HTTP, 2, request_fields()))
        assert broker.until(commands.OPEN_RESULT)[1:3] == (1, 504)
        assert broker.until(commands.RESPONSE)[1:3] == (2, 504)


def test_a_handler_that_catches_its_interruption_and_ends_has_still_failed() -> None:
    def handle(data: str, socket_id: int) -> None:
        try:
            spin()
        except BaseException:
            wsbroker.send(socket_id, "caught")

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, ""))
        assert [command[0] for command in broker.until_handled(1)] == [
            commands.SEND,
            commands.COUNTED,
            commands.HANDLER_FAILED,
        ]


def test_a_handler_that_does_not_let_itself_be_interrupted_is_hung_and_probes_are_answered_meanwhile() -> None:
    release = threading.Event()

    def handle(data: str, socket_id: int) -> None:
        while not release.is_set():
            try:
                spin(release)
            except BaseException:
                pass

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1, worker_hang_timeout=0.1) as broker:
        broker.probe(1)
        broker.tell(message(6, ""))
        assert broker.next_control(control.INTERRUPTED)[1:3] == ("handle_socket_message", 6)
        assert broker.next_control(control.HUNG)[1:3] == ("handle_socket_message", 6)
        broker.probe(2)
        release.set()
        broker.until_handled(1)


def test_a_blocking_call_is_hung_and_interrupted_when_it_returns() -> None:
    release = threading.Event()

    def handle(data: str, socket_id: int) -> None:
        release.wait(PATIENCE_S)
        spin()

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1, worker_hang_timeout=0.1) as broker:
        broker.tell(message(6, ""))
        broker.next_control(control.HUNG)
        release.set()
        assert broker.until_handled(1)[-1] == (commands.HANDLER_FAILED, 6)


def test_a_handler_that_waits_for_an_answer_is_interrupted_after_it_and_the_wire_stays_whole() -> None:
    def handle(data: str, socket_id: int) -> None:
        if data == "ask":
            wsbroker.is_open(socket_id)
            spin()
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, "ask"), message(2, "fine"))
        ask = broker.until(commands.ASK)
        threading.Event().wait(0.2)  # let its time pass; nothing can be seen of that from here
        broker.tell((events.TOKEN, 2, b"t", 0))
        broker.answer(ask, True)
        assert broker.until_handled(2)[-2:] == [(commands.HANDLER_FAILED, 1), (commands.SEND, 2, "fine")]


def test_a_handler_that_asks_for_ever_is_interrupted() -> None:
    def handle(data: str, socket_id: int) -> None:
        while True:
            wsbroker.is_open(socket_id)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.1) as broker:
        broker.tell(message(1, ""))
        while (command := broker.next())[0] == commands.ASK:
            broker.answer(command, True)
        broker.until_handled(1)
        assert (commands.HANDLER_FAILED, 1) in broker.seen


def test_interruptions_that_race_with_the_end_of_handlers_never_hit_the_worker_itself() -> None:
    """Handlers that end around their deadline, again and again: each is acknowledged once, whatever hit it."""
    count = 150

    def handle(data: str, socket_id: int) -> None:
        end = time.monotonic() + 0.004 + socket_id % 7 * 0.0003
        while time.monotonic() < end:
            pass
        wsbroker.send(socket_id, data)

    with ScriptedBroker(handlers(message=handle), handler_timeout=0.005) as broker:
        broker.tell(*[message(n + 1, "x") for n in range(count)])
        sent = broker.until_handled(count)
        done = {command[1] for command in sent if command[0] in (commands.SEND, commands.HANDLER_FAILED)}
        assert done == set(range(1, count + 1))
        broker.stop()


# Threads. -------------------------------------------------------------------------------------------------------------


def in_thread(function: Callable[[], object]) -> None:
    """Runs a function in a thread that has the caller's context, as `asyncio.to_thread` does."""
    from contextvars import copy_context

    thread = threading.Thread(target=copy_context().run, args=(function,), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_thread_with_the_handlers_context_sends_behind_what_the_handler_sent() -> None:
    def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, "one")
        in_thread(lambda: wsbroker.send(socket_id, "two"))
        wsbroker.send(socket_id, "three")
        in_thread(lambda: wsbroker.set_token(socket_id, "t"))

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        assert broker.until_handled(1) == [
            (commands.SEND, 1, "one"),
            (commands.SEND, 1, "two"),
            (commands.SEND, 1, "three"),
            (commands.SET_TOKEN, 1, b"t", 1),
        ]


def test_a_thread_asks_while_the_handler_that_started_it_waits_for_it() -> None:
    answers: list[object] = []

    def handle(data: str, socket_id: int) -> None:
        in_thread(lambda: answers.append(wsbroker.subscriber_count("c")))
        answers.append(data)

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "first"))
        ask = broker.until(commands.ASK)
        broker.tell(message(1, "second"))
        broker.answer(ask, 5)
        broker.until_handled(1)
        broker.answer(broker.until(commands.ASK), 6)
        broker.until_handled(1)
    assert answers == [5, "first", 6, "second"]


def test_threads_ask_while_the_worker_is_idle_and_while_it_asks_itself() -> None:
    """Three threads and the handlers ask at the same time; everybody gets the answer to his own question."""
    rounds = 50
    wrong: list[object] = []
    threads: list[threading.Thread] = []

    def ask_often(name: str) -> None:
        for n in range(rounds):
            answer = wsbroker.subscriber_count(f"{name}{n}")
            if answer != len(name) * 1000 + n:
                wrong.append((name, n, answer))

    def handle(data: str, socket_id: int) -> None:
        if data == "begin":
            from contextvars import copy_context

            for name in ("a", "bb", "ccc"):
                threads.append(threading.Thread(target=copy_context().run, args=(ask_often, name), daemon=True))
                threads[-1].start()
        ask_often("dddd")

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, "begin"))
        for n in range(5 * rounds):
            if n == rounds:
                broker.tell(message(1, "again"))
            ask = broker.until(commands.ASK)
            name = ask[3]
            assert isinstance(name, bytes)
            letters = name.rstrip(b"0123456789")
            broker.answer(ask, len(letters) * 1000 + int(name[len(letters) :]))
        if len([command for command in broker.seen if command[0] == commands.HANDLED]) < 2:
            broker.until(commands.HANDLED)
        for thread in threads:
            thread.join(PATIENCE_S)
    assert wrong == []


def test_a_thread_that_outlives_its_worker_is_told_so() -> None:
    from contextvars import Context, copy_context

    contexts: list[Context] = []
    with ScriptedBroker(handlers(message=lambda: contexts.append(copy_context()))) as broker:
        broker.tell(message(1, ""))
        broker.until_handled(1)
        broker.stop()
    with pytest.raises(wsbroker.CommandError, match="has ended"):
        contexts[0].run(wsbroker.send, 1, "x")
    with pytest.raises(wsbroker.CommandError, match="has ended"):
        contexts[0].run(wsbroker.channels)
    with pytest.raises(wsbroker.CommandError, match="has ended"):
        contexts[0].run(wsbroker.set_token, 1, "x")


def test_a_finaliser_that_interrupts_the_api_cannot_dead_lock_it() -> None:
    from wsbroker.worker.api import context_api
    from wsbroker.worker.wire_api import WireApi

    refused: list[str] = []

    def handle(data: str, socket_id: int) -> None:
        api = context_api.get()
        assert isinstance(api, WireApi)
        with api.io.write_lock:  # as if a finaliser ran while the API writes
            wsbroker.send(socket_id, "kept")
            wsbroker.set_token(socket_id, b"t")
            try:
                wsbroker.channels()
            except RuntimeError as error:
                refused.append(str(error))
            api.flush()

    with ScriptedBroker(handlers(message=handle)) as broker:
        broker.tell(message(1, ""))
        assert broker.until_handled(1) == [(commands.SEND, 1, "kept"), (commands.SET_TOKEN, 1, b"t", 0)]
    assert len(refused) == 1 and "finaliser" in refused[0]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_worker_that_is_given_up_begins_no_further_handler(is_async: bool) -> None:
    """What it was told of runs in another worker already: its batch, its backlog, what waits for a socket's turn."""
    begun: list[str] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def handle(data: str) -> None:
        begun.append(data)
        has_begun.set()
        may_end.wait(PATIENCE_S)

    async def handle_later(data: str) -> None:
        handle(data)

    spec = handlers(message=handle_later if is_async else handle, close=lambda socket_id: begun.append("close"))
    with ScriptedBroker(spec) as broker:
        broker.tell(message(1, "stuck"), message(1, "next"), closed(1))
        assert has_begun.wait(PATIENCE_S)
        broker.tell(message(2, "other"), closed(2))
        broker.wire.end.close()
        broker.control.end.close()
        while any(thread.name == "worker-0 helper" for thread in threading.enumerate()):  # it has noticed, and ended
            time.sleep(0.001)
        may_end.set()
    assert begun == ["stuck"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals to a thread")
def test_a_signal_handler_that_interrupts_the_wait_for_an_answer_cannot_dead_lock_it() -> None:
    """In a worker process the worker's thread is the one that signal handlers run in."""
    refused: list[BaseException] = []

    def handler(number: int, frame: object) -> None:
        try:
            api.is_open(2)
        except RuntimeError as error:
            refused.append(error)

    def broker() -> None:
        (ask,) = BatchUnpacker().feed(theirs.recv(1 << 16))[0]
        while not refused:
            signal.pthread_kill(worker, signal.SIGUSR1)
            time.sleep(0.001)
        theirs.sendall(pack_batch([(events.ANSWER, ask[1], True)]))

    ours, theirs = socket.socketpair()
    with ours, theirs:
        api = WireApi(ours, HandlerTimer(float("inf"), 1.0, print, print))
        worker = threading.get_ident()
        before = signal.signal(signal.SIGUSR1, handler)
        thread = threading.Thread(target=broker)
        thread.start()
        try:
            assert api.is_open(1)
        finally:
            thread.join(PATIENCE_S)
            signal.signal(signal.SIGUSR1, before)
    assert all("signal handler" in str(error) for error in refused)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_the_worker_does_not_understand_is_skipped_counted_and_logged_once(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, data)

    async def handle_async(data: str, socket_id: int) -> None:
        handle(data, socket_id)

    with ScriptedBroker(handlers(message=handle_async if is_async else handle)) as broker:
        counted = [(commands.COUNTED, report.EVENTS_REFUSED, 1)]
        broker.tell((99, 1), message(1, "a"), ("not a number",), message(1, "b"))
        sent = broker.until_handled(2)
        assert [command for command in sent if command[0] == commands.SEND] == [
            (commands.SEND, 1, "a"),
            (commands.SEND, 1, "b"),
        ]
        assert [command for command in sent if command[0] == commands.COUNTED] == counted * 2
        broker.control.write([(98,), (control.PROBE, 5)])
        assert broker.next_control(control.NOT_UNDERSTOOD, control.ALIVE) == (control.NOT_UNDERSTOOD, 98)
        assert broker.next_control(control.NOT_UNDERSTOOD, control.ALIVE) == (control.ALIVE, 5)
    [record] = caplog.records
    assert record.getMessage().startswith("event not understood and skipped") and "kind=99" in record.getMessage()


class Piece(bytes):
    """Bytes that count how often anybody looks at them."""

    looks: ClassVar[int] = 0

    def __len__(self) -> int:
        Piece.looks += 1
        return super().__len__()


class PiecewiseWire:
    """A wire that hands out a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.pieces = deque(Piece(data[at : at + 10]) for at in range(0, len(data), 10))

    def recv(self, size: int) -> bytes:
        return self.pieces.popleft() if self.pieces else b""


def test_events_that_come_in_many_pieces_cost_each_piece_once() -> None:
    sent = [[message(1, "x" * 10_000)], [message(2, "y")]]
    wire = PiecewiseWire(b"".join(map(pack_batch, sent)))
    count = len(wire.pieces)
    api = WireApi(cast(socket.socket, wire), HandlerTimer(float("inf"), 1.0, print, print))
    Piece.looks = 0
    assert [api.io.wait_for_batch(), api.io.wait_for_batch(), api.io.wait_for_batch()] == [*sent, None]
    assert Piece.looks <= 8 * count
