"""The kit for application authors."""

import array
import asyncio
import contextlib
from types import SimpleNamespace

import pytest

import wsbroker
from kits.scripted_broker import handlers
from wsbroker.testing import TestBroker


class Chat(wsbroker.Worker):
    """A small application with every handler."""

    def __init__(self) -> None:
        self.log: list[object] = []

    def handle_worker_start(self, arg: str | None, /) -> None:
        self.log.append(("start", arg))

    def handle_worker_stop(self) -> None:
        self.log.append("stop")

    def handle_socket_open(
        self, request: wsbroker.HttpRequest, socket_id: wsbroker.SocketId, /
    ) -> bool | wsbroker.HttpResponse | None:
        if request.pathname == "/private":
            return False
        if request.headers.get("x-key") == "bad":
            return wsbroker.HttpResponse(401)
        wsbroker.subscribe(socket_id, "all")
        wsbroker.send(socket_id, "welcome")
        return None

    async def handle_socket_message(
        self, data: str | bytes, socket_id: wsbroker.SocketId, token: bytes | None, /
    ) -> None:
        await asyncio.sleep(0)
        if data == "leave":
            wsbroker.close(socket_id, 4000, "left")
        elif data == "raise":
            raise LookupError("lost")
        else:
            wsbroker.set_token(socket_id, data)
            wsbroker.send_to_channel("all", f"{token!r} {data!r}", exclude=(socket_id,))

    def handle_socket_close(self, socket_id: wsbroker.SocketId, token: bytes | None, code: int, reason: str, /) -> None:
        self.log.append((socket_id, token, code, reason))
        wsbroker.send_to_channel("all", f"{socket_id} left")

    def handle_http_request(self, request: wsbroker.HttpRequest, /) -> dict[str, object]:
        return {"method": request.method, "url": request.url, "body": request.text()}


def test_an_application_runs_without_a_socket() -> None:
    chat = Chat()
    with TestBroker(chat, worker_arg="x") as broker:
        ann, bob = broker.connect(), broker.connect("/?y", {"X-Key": "good"})
        assert ann.take() == bob.take() == ["welcome"]
        ann.send("one")
        ann.send(b"two")
        assert bob.take() == ["None 'one'", "b'one' b'two'"] and ann.received == []
        assert (ann.token, ann.subscriptions) == (b"two", [b"all"])
        assert wsbroker.subscribers("all") == [ann.id, bob.id]
        ann.send("leave")
        assert (ann.is_open, ann.close_code, ann.close_reason) == (False, 4000, "left")
        assert bob.take() == ["1 left"] and wsbroker.subscribers("all") == [bob.id]
        ann.send("nobody hears this")
        bob.close(1001, "going")
        bob.close()
        assert broker.sockets == {} and wsbroker.channels() == []
        response = broker.http("POST", "/x?y", {"A": "b"}, "é")
        assert response == wsbroker.HttpResponse.json({"method": "POST", "url": "/x?y", "body": "é"})
    assert chat.log == [("start", "x"), (1, b"two", 4000, "left"), (2, None, 1001, "going"), "stop"]
    assert broker.commands[:3] == [
        ("subscribe", 1, b"all"),
        ("send", 1, "welcome"),
        ("subscribe", 2, b"all"),
    ]
    with pytest.raises(wsbroker.CommandError):
        wsbroker.channels()


def test_a_refused_socket_has_a_response_and_leaves_nothing_behind() -> None:
    broker = TestBroker(Chat)
    refused = broker.connect("/private")
    assert not refused.is_open and refused.response is not None and refused.response.status == 403
    refused = broker.connect(headers={"x-key": "bad"})
    assert refused.response is not None and refused.response.status == 401 and refused.close_code is None
    assert broker.sockets == {} and broker.channels() == []
    assert repr(refused) == "<TestSocket 2, refused>"


def test_an_accepted_socket_knows_what_its_open_handler_put_into_the_101() -> None:
    accept = wsbroker.Accept({"Set-Cookie": "a=1"}, "v2")
    broker = TestBroker(handlers(open=lambda request: accept if request.query == "v2" else None))
    socket = broker.connect("/?v2", {"Sec-WebSocket-Protocol": "v1, v2"})
    assert socket.is_open and socket.response is None
    assert (socket.subprotocol, socket.headers["set-cookie"]) == ("v2", "a=1")
    plain = broker.connect("/")
    assert plain.is_open and (plain.subprotocol, len(plain.headers)) == (None, 0)
    with pytest.raises(wsbroker.HandlerError, match="has not offered the subprotocol 'v2': it offered none"):
        broker.connect("/?v2")
    quiet = TestBroker(handlers(open=lambda request: accept), raise_errors=False)
    refused = quiet.connect().response
    assert refused is not None and refused.status == 500 and quiet.sockets == {}


def test_a_dict_with_a_status_is_a_response_and_any_other_is_json() -> None:
    answers: list[object] = [{"status": 404, "body": "no"}, {"status": 404, "detail": "no"}, {"status": "ok"}]
    broker = TestBroker(handlers(http=lambda: answers.pop(0)))
    assert broker.http("GET") == wsbroker.HttpResponse(404, {}, "no")
    assert broker.http("GET") == wsbroker.HttpResponse.json({"status": 404, "detail": "no"})
    with pytest.raises(wsbroker.HandlerError, match="the status of a response is an int, not str"):
        broker.http("GET")


def test_a_target_may_be_a_whole_url_and_must_be_one_or_a_path() -> None:
    broker = TestBroker(handlers(http=lambda request: f"{request.host} {request.url}"))
    assert broker.http("GET", "https://example.org:1/a?b").body == b"example.org:1 /a?b"
    with pytest.raises(ValueError, match="neither a path that begins with '/' nor a whole URL"):
        broker.http("GET", "a")


def test_without_an_http_handler_a_websocket_that_lost_its_upgrade_is_told_so() -> None:
    broker = TestBroker(handlers(message=lambda: None))
    assert broker.http("GET").body == b"No HTTP handler registered"
    told = broker.http("GET", "/", {"Sec-WebSocket-Key": "x"})
    assert told.status == 503 and told.body.startswith(b"No HTTP handler registered\nThis was meant to become")


def test_what_a_handler_raises_reaches_the_test_or_closes_the_socket() -> None:
    with TestBroker(Chat) as broker:
        socket = broker.connect()
        with pytest.raises(LookupError, match="lost"):
            socket.send("raise")
        assert socket.close_code == 1011
    with TestBroker(Chat, raise_errors=False) as broker:
        socket = broker.connect()
        socket.send("raise")
        assert (socket.close_code, socket.close_reason) == (1011, "handler error")


def test_a_wrong_return_is_an_error_of_the_test_or_a_500() -> None:
    wrong = handlers(open=lambda: 3, http=lambda: [1])
    with pytest.raises(wsbroker.HandlerError, match="it may return"):
        TestBroker(wrong).connect()
    with pytest.raises(wsbroker.HandlerError, match="it may return"):
        TestBroker(wrong).http("GET")
    quiet = TestBroker(wrong, raise_errors=False)
    response = quiet.connect().response
    assert response is not None and response.status == 500 and quiet.http("GET").status == 500


def test_the_test_itself_may_call_the_api() -> None:
    closed: list[int] = []
    with TestBroker(handlers(close=lambda socket_id: closed.append(socket_id))) as broker:
        one, two = broker.connect(), broker.connect()
        assert wsbroker.subscribe(one.id, "a") and not wsbroker.subscribe(one.id, "a")
        wsbroker.subscribe_nowait(one.id, "b")
        wsbroker.subscribe(two.id, "a")
        wsbroker.copy_subscriptions("a", "b")
        assert wsbroker.subscriptions(two.id) == [b"a", b"b"] and wsbroker.subscriber_count("b") == 2
        assert wsbroker.unsubscribe(two.id, "a") and not wsbroker.unsubscribe(two.id, "a")
        wsbroker.unsubscribe_nowait(two.id, "b")
        assert wsbroker.channels() == [b"a", b"b"] and wsbroker.queued_bytes(one.id) == 0
        wsbroker.send_to_channel("a", "hi")
        wsbroker.send(99, "nobody")
        wsbroker.close(one.id)
        assert closed == [1] and not wsbroker.is_open(one.id) and wsbroker.is_open(two.id)
        assert not wsbroker.subscribe(one.id, "a") and one.received == ["hi"]
        assert broker.http("GET").status == 503


def test_it_works_inside_a_running_loop_and_its_handlers_share_one() -> None:
    loops: set[object] = set()

    async def handle(data: str, socket_id: int) -> None:
        loops.add(asyncio.get_running_loop())
        wsbroker.send(socket_id, data)

    async def test() -> None:
        with TestBroker(handlers(message=handle)) as broker:
            socket = broker.connect()
            socket.send("a")
            socket.send("b")
            assert socket.received == ["a", "b"]

    asyncio.run(test())
    assert len(loops) == 1


def test_an_async_handler_that_hangs_is_a_timeout() -> None:
    async def handle() -> None:
        await asyncio.Event().wait()

    with TestBroker(handlers(message=handle), timeout_s=0.05) as broker, pytest.raises(TimeoutError):
        broker.connect().send("x")


def test_a_broken_start_handler_leaves_no_broker_behind() -> None:
    def start() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"), TestBroker(SimpleNamespace(handle_worker_start=start)):
        pass
    with pytest.raises(wsbroker.CommandError):
        wsbroker.channels()


def test_a_socket_may_not_have_more_channels_than_the_setting_allows() -> None:
    with TestBroker(Chat, max_channels_per_socket=2) as broker:
        ann, bob = broker.connect(), broker.connect()  # in the channel "all"
        assert wsbroker.subscribe(ann.id, "a")
        assert not wsbroker.subscribe(ann.id, "b") and not wsbroker.subscribe(ann.id, "a")
        wsbroker.copy_subscriptions("all", "b")
        assert wsbroker.subscribers("b") == [bob.id] and wsbroker.subscriptions(ann.id) == [b"all", b"a"]
        assert wsbroker.unsubscribe(ann.id, "all") and wsbroker.subscribe(ann.id, "b")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 5000])
def test_a_close_code_that_cannot_be_sent_is_refused_like_by_the_real_one(code: int) -> None:
    with TestBroker(Chat) as broker:
        socket = broker.connect()
        with pytest.raises(ValueError, match=f"close code {code} cannot be sent"):
            wsbroker.close(socket.id, code)
        with pytest.raises(ValueError, match=f"close code {code} cannot be sent"):
            broker.close(socket.id, code, "")
        if code not in (1005, 1006):
            with pytest.raises(ValueError, match=f"close code {code} cannot be sent"):
                socket.close(code)
        assert socket.is_open and all(name != "close" for name, *_ in broker.commands)


def test_a_client_may_close_without_a_code_or_be_lost() -> None:
    chat = Chat()
    with TestBroker(chat) as broker:
        for code in (1005, 1006):
            with pytest.raises(ValueError, match="has no reason"):
                broker.connect().close(code, "why")
            broker.connect().close(code)
        broker.connect().close()
        with pytest.raises(ValueError, match="at most 123 bytes"):
            broker.connect().close(1000, "x" * 124)
    assert [entry[2] for entry in chat.log if isinstance(entry, tuple) and len(entry) == 4] == [1005, 1006, 1005]


def test_a_token_that_is_set_after_the_close_reaches_the_close_handler() -> None:
    got: list[object] = []

    def handle(data: str, socket_id: int) -> None:
        wsbroker.close(socket_id)
        wsbroker.set_token(socket_id, data)

    with TestBroker(handlers(message=handle, close=lambda socket_id, token: got.append((socket_id, token)))) as broker:
        ann, bob = broker.connect(), broker.connect()
        ann.send("last")
        wsbroker.set_token(ann.id, "too late")
        bob.close()
        wsbroker.set_token(bob.id, "too late")
    assert got == [(1, b"last"), (2, None)] and ann.token == b"last"


def test_a_copy_takes_the_subscribers_there_are_now_and_no_channel_is_made_for_nobody() -> None:
    with TestBroker(handlers(message=lambda data: None)) as broker:
        first, both, last, later = (broker.connect() for _ in range(4))
        for socket in (first, both, last):
            wsbroker.subscribe(socket.id, "from")
        wsbroker.subscribe(both.id, "to")
        wsbroker.copy_subscriptions("from", "to")
        wsbroker.subscribe(later.id, "from")
        assert wsbroker.subscribers("to") == [both.id, first.id, last.id]
        assert wsbroker.subscribers("from") == [first.id, both.id, last.id, later.id]
        for source, target in (("nobody", "new"), ("from", "from"), ("new", "new")):
            wsbroker.copy_subscriptions(source, target)
        assert wsbroker.channels() == [b"from", b"to"] and wsbroker.subscriber_count("from") == 4
        assert broker.commands[-1] == ("copy_subscriptions", b"new", b"new")


@pytest.mark.parametrize("error", [LookupError("lost"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("raise_errors", [True, False])
def test_a_socket_whose_open_handler_raises_is_discarded_with_a_500(
    error: BaseException, is_async: bool, raise_errors: bool
) -> None:
    closed: list[int] = []

    def act(socket_id: int) -> None:
        if socket_id > 1:
            wsbroker.subscribe(socket_id, "all")
            wsbroker.close(1)
            raise error

    async def act_async(request: object, socket_id: int) -> None:
        act(socket_id)

    def act_plain(request: object, socket_id: int) -> None:
        act(socket_id)

    opens = act_async if is_async else act_plain
    spec = handlers(open=opens, message=lambda data: None, close=lambda socket_id: closed.append(socket_id))
    with TestBroker(spec, raise_errors=raise_errors) as broker:
        other = broker.connect()
        if raise_errors or isinstance(error, KeyboardInterrupt):
            with pytest.raises(type(error)):
                broker.connect()
        else:
            response = broker.connect().response
            assert response is not None and response.status == 500
        assert broker.sockets == {} and broker.channels() == [] and not other.is_open
        assert closed == [1]  # what it had closed is told, and its own socket has no close handler
        with pytest.raises(type(error)) if raise_errors else contextlib.suppress(type(error)):
            broker.connect()  # its loop still runs


def test_a_refused_socket_may_have_closed_itself_before() -> None:
    def opens(request: object, socket_id: int) -> bool:
        wsbroker.close(socket_id, 4000)
        return False

    closed: list[int] = []
    with TestBroker(handlers(open=opens, close=lambda socket_id: closed.append(socket_id))) as broker:
        response = broker.connect().response
    assert response is not None and response.status == 403 and closed == [] and broker.sockets == {}


def test_a_message_handler_that_exits_closes_its_socket_as_the_server_does() -> None:
    def handle(data: str) -> None:
        raise SystemExit(data)

    with TestBroker(handlers(message=handle)) as broker:
        socket = broker.connect()
        with pytest.raises(SystemExit):
            socket.send("1")
        assert socket.close_code == 1011
    with TestBroker(handlers(message=handle), raise_errors=False) as broker:
        socket = broker.connect()
        socket.send("1")
        assert socket.close_code == 1011


def test_a_close_handler_that_raises_does_not_keep_the_others_from_running() -> None:
    closed: list[int] = []

    def close(socket_id: int) -> None:
        closed.append(socket_id)
        raise LookupError(socket_id)

    def http() -> str:
        for socket_id in (1, 2, 3):
            wsbroker.close(socket_id)
        return "closed"

    with TestBroker(handlers(message=lambda data: None, close=close, http=http)) as broker:
        for _ in range(3):
            broker.connect()
        with pytest.raises(LookupError):
            broker.http("GET")
        assert closed == [1, 2, 3]


def test_buffers_are_sent_and_received_as_their_bytes() -> None:
    got: list[object] = []
    with TestBroker(handlers(message=lambda data: got.append(data))) as broker:
        socket = broker.connect()
        wsbroker.send(socket.id, array.array("H", [1, 2]))
        socket.send(array.array("H", [3]))
        assert socket.received == [array.array("H", [1, 2]).tobytes()] and got == [array.array("H", [3]).tobytes()]
