"""The open handler: before the 101, with a socket that exists already."""

from typing import Final

import pytest
from websockets.frames import Opcode

from kits.contract_kit import ASYNC, CLIENTS, ERRORS, Client, Clients, Refused, Running, Servers, doing, fresh, until
from kits.log_records import Log
from kits.raw_peer import request, text, upgrade
from wsbroker.settings.config import WorkerKind

LEGAL: Final = "it may return True or None (accept), False (403), an HttpResponse (sent as it is) or an Accept "


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server whose open handler evaluates the expression in the path."""
    return servers.get(app, kind)


@pytest.fixture
def watcher(clients: Clients, running: Running) -> Client:
    """A client that receives the arguments of every call of a close handler."""
    watcher = clients.borrow(running, "watcher", "websockets")
    assert watcher.ask("subscribe(me, 'closes')") is True
    return watcher


@pytest.mark.parametrize("verdict", ["True", "None"])
def test_true_and_none_accept(clients: Clients, client: str, running: Running, verdict: str) -> None:
    ann = clients.opens(running, verdict)
    assert ann.ask("is_open(me)") is True


def test_false_is_a_403(clients: Clients, client: str, running: Running) -> None:
    with pytest.raises(Refused) as caught:
        clients.opens(running, "False")
    assert caught.value.status == 403
    assert caught.value.body in ("Forbidden", None)  # aiohttp's client does not show it


def test_a_response_is_sent_as_it_is(clients: Clients, client: str, running: Running) -> None:
    with pytest.raises(Refused) as caught:
        clients.opens(
            running, "HttpResponse(401, {'WWW-Authenticate': 'Bearer', 'X-Why': 'ü'.upper()}, 'who are you?')"
        )
    assert caught.value.status == 401
    headers = {name.lower(): value for name, value in caught.value.headers.items()}
    assert headers["www-authenticate"] == "Bearer"
    assert caught.value.body in ("who are you?", None)


def test_a_redirect_is_a_response_too(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(upgrade("/?do=HttpResponse(302,[('Location','/there'),('Set-Cookie','a=1'),('Set-Cookie','b=2')])"))
    head = peer.head()
    assert head.startswith(b"HTTP/1.1 302 ")
    assert b"Location: /there\r\n" in head and head.count(b"Set-Cookie: ") == 2
    assert peer.rest() == b""


@pytest.mark.parametrize("status", [200, 204, 599])
def test_any_status_but_101_refuses(clients: Clients, client: str, running: Running, status: int) -> None:
    with pytest.raises(Refused) as caught:
        clients.opens(running, f"HttpResponse({status})")
    assert caught.value.status == status


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_is_a_500_that_tells_the_client_nothing(
    clients: Clients, client: str, running: Running, log: Log, error: str
) -> None:
    with pytest.raises(Refused) as caught:
        clients.opens(running, f"raised({error})")
    assert caught.value.status == 500
    assert caught.value.body in ("Internal Server Error", None)
    assert "handler failed handler=handle_socket_open" in log.text and error.partition("(")[0] in log.text
    assert clients.http(running).text == "OK"
    log.forgives("handler failed handler=handle_socket_open")


@pytest.mark.parametrize("returned", ["0", "1", "'yes'", "b''", "404", "{'status': 200}", "(True,)"])
def test_anything_else_is_a_500_and_a_line_that_lists_what_is_legal(
    clients: Clients, running: Running, log: Log, returned: str
) -> None:
    with pytest.raises(Refused) as caught:
        clients.opens(running, returned)
    assert (caught.value.status, caught.value.body) == (500, "Internal Server Error")
    kind_of = type(eval(returned)).__name__
    article = "an" if kind_of == "int" else "a"
    assert (f"handle_socket_open returned {article} {kind_of}; {LEGAL}") in log.text
    log.forgives("handler returned what it may not handler=handle_socket_open")


def test_it_sees_the_request(clients: Clients, running: Running) -> None:
    shown = (
        "[request.method, request.pathname, request.remote, request.scheme, request.headers['x-name'], request.body]"
    )
    ann = clients.opens(running, f"send(me, repr({shown}))", **{"X-Name": "value"})
    assert ann.answer() == ["GET", "/", "127.0.0.1", "http", "value", b""]


def test_the_socket_exists_already_and_what_it_is_sent_comes_behind_the_101(
    clients: Clients, client: str, running: Running
) -> None:
    state = "(is_open(me), subscribe(me, 'news'), subscriptions(me), subscribers('news') == [me], queued_bytes(me) > 0)"
    actions = [
        "send(me, 'first')",
        f"send(me, repr({state}))",
        "send_to_channel('news', b'third')",
        "set_token(me, 'hidden-from-the-log')",
        "send(me, 'last')",
    ]
    ann = clients.opens(running, f"[{', '.join(actions)}] and None", client)
    assert ann.receive() == "first"
    assert ann.answer() == (True, True, [b"news"], True, True)
    ann.receives(b"third", "last")
    assert ann.ask("(token, subscriptions(me))") == (b"hidden-from-the-log", [b"news"])


def test_others_can_send_to_a_socket_that_is_still_opening(clients: Clients, running: Running) -> None:
    """Whoever publishes meanwhile is not the handler that is asked."""
    ann = clients.connect(running)
    told = f"[subscribe(me, 'lobby'), send({ann.id}, repr(me)), send_to_channel('lobby', 'hello', exclude=(me,))]"
    bob = clients.opens(running, f"{told} and send_to_channel('lobby', 'welcome')")
    bob_id = ann.answer()
    bob.receives("welcome")
    assert bob.ask("me") == bob_id


def test_a_refused_socket_was_never_there(clients: Clients, watcher: Client, running: Running, log: Log) -> None:
    calls = f"send({watcher.id}, repr(me)), subscribe(me, 'gone'), set_token(me, 'x'), send(me, 'lost')"
    for verdict in ("False", "HttpResponse(200)", "1/0"):
        with pytest.raises(Refused):
            clients.opens(running, f"[{calls}] and {verdict}")
        socket_id = watcher.answer()
        assert watcher.ask(f"(is_open({socket_id}), subscriptions({socket_id}), subscribers('gone'))") == (
            False,
            [],
            [],
        )
    # A close handler would have been heard before the end of this.
    watcher.hears_nothing_else()
    log.forgives("handler failed handler=handle_socket_open")


def test_a_socket_that_its_open_handler_closes_opens_and_closes(
    clients: Clients, client: str, watcher: Client, running: Running
) -> None:
    ann = clients.opens(
        running, "[send(me, repr(me)), close(me, 4009, 'not today'), send(me, 'late')] and None", client
    )
    socket_id = ann.answer()
    assert ann.closed_with() == (4009, "not today")
    assert watcher.answer() == (socket_id, None, 4009, "not today")
    watcher.hears_nothing_else()


def test_early_messages_wait_for_the_open_handler(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(upgrade("/?do=set_token(me,'opened')"), text("here token"), text("here (token, 2)"))
    assert peer.head().startswith(b"HTTP/1.1 101 ")
    assert [peer.text(), peer.text()] == ["b'opened'", "(b'opened', 2)"]


def test_an_upgrade_behind_plain_requests_is_the_same(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(request("GET"), request("POST", body=b"1+1"), upgrade("/?do=send(me,'hello')"))
    assert [peer.answer().text, peer.answer().text] == ["OK", "2"]
    assert peer.head().startswith(b"HTTP/1.1 101 ")
    assert peer.text() == "hello"
    peer.send(text("here 'and on'"))
    assert peer.text() == "'and on'"


@ASYNC
def test_a_client_that_leaves_while_it_is_opening_was_never_there(
    clients: Clients, running: Running, watcher: Client
) -> None:
    for leave in ("end", "reset"):
        peer, gate = clients.peer(running), fresh("gate").replace(" ", "-")
        told = f"[send({watcher.id},repr(me)),subscribe(me,'gone'),send(me,'x')]and(gate('{gate}').wait())"
        peer.send(upgrade(f"/?do={told}"))
        socket_id = watcher.answer()
        assert watcher.ask(f"(is_open({socket_id}), subscribers('gone') == [{socket_id}])") == (True, True)
        getattr(peer, leave)()
        until_closed(watcher, socket_id)
        assert watcher.ask(f"(gate('{gate}').set(), subscribers('gone'))") == (None, [])
        until(lambda: running.count("connections") == 1)
    watcher.hears_nothing_else()


def test_without_an_open_handler_everybody_is_welcome(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("echo", kind)
    for client in CLIENTS:
        ann = clients.connect(running, client, "/any/path?x=1")
        ann.send("hello")
        assert ann.receive() == "hello"


def test_the_first_101_has_what_the_rfc_wants(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(upgrade())
    assert peer.head() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    peer.send(text("here 'hello'"))
    assert peer.frame() == (Opcode.TEXT, b"'hello'")


# Accept: more in the 101. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_an_open_handler_chooses_an_offered_subprotocol(clients: Clients, running: Running, client: str) -> None:
    chosen = "Accept(subprotocol=request.headers['sec-websocket-protocol'].split(',')[1].strip())"
    ann = clients.connect(running, client, doing(chosen), subprotocols=["v1", "v2", "v3"])
    assert ann.subprotocol == "v2"
    assert ann.ask("(is_open(me), 1)") == (True, 1)
    assert clients.connect(running, client, doing("Accept()"), subprotocols=["v1"]).subprotocol is None


@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
def test_an_open_handler_adds_fields_to_the_101(clients: Clients, running: Running, before: bool) -> None:
    accept = "Accept([('Set-Cookie','a=1'),('Set-Cookie','b=2'),('X-Name','\\xfc\\t!')],'two')"
    peer = clients.peer(running)
    if before:
        peer.send(request("GET"))
        assert peer.answer().text == "OK"
    peer.send(
        upgrade(doing(f"send(me,'hello')or({accept})"), "Sec-WebSocket-Protocol: one", "Sec-WebSocket-Protocol: two")
    )
    assert peer.head() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: two\r\n"
        b"Set-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\n"
        b"X-Name: \xc3\xbc\t!\r\n\r\n"
    )
    assert peer.text() == "hello"


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        ("Accept(subprotocol='three')", "the client has not offered the subprotocol 'three'"),
        ("Accept(subprotocol='ONE')", "the client has not offered the subprotocol 'ONE'"),
        ("Accept(subprotocol='')", "the client has not offered the subprotocol ''"),
        ("Accept({'Upgrade': 'h2c'})", "the header 'Upgrade' of a 101 is the server's"),
        ("Accept({'connection': 'close'})", "the header 'connection' of a 101 is the server's"),
        (
            "Accept([('Sec-WebSocket-Extensions', 'x')])",
            "the header 'Sec-WebSocket-Extensions' of a 101 is the server's",
        ),
        (
            "Accept({'Sec-WebSocket-Protocol': 'one'})",
            "the header 'Sec-WebSocket-Protocol' of a 101 is the server's: use its subprotocol",
        ),
    ],
)
def test_an_accept_that_the_client_may_not_be_answered_is_a_500_and_a_line_that_lists_what_is_legal(
    clients: Clients, running: Running, watcher: Client, log: Log, accept: str, problem: str
) -> None:
    with pytest.raises(Refused) as caught:
        told = f"[send({watcher.id}, repr(me)), subscribe(me, 'gone')] and {accept}"
        clients.connect(running, path=doing(told), subprotocols=["one", "two"])
    assert caught.value.status == 500
    assert caught.value.body in ("Internal Server Error", None)
    socket_id = watcher.answer()
    assert watcher.ask(f"(is_open({socket_id}), subscribers('gone'))") == (False, [])
    until(lambda: f"handle_socket_open returned an Accept that cannot be sent (ValueError: {problem}" in log.text)
    assert LEGAL in log.text
    log.forgives("handler returned what it may not handler=handle_socket_open")


def test_an_accept_with_a_control_character_cannot_be_made(clients: Clients, running: Running) -> None:
    for value in ("a\\r\\nSet-Cookie: b", "\\x1b[31m", "\\x7f"):
        made = clients.http(running, "POST", data=f"Accept({{'X': '{value}'}})").text
        assert made == "!ValueError: the value of header 'X' has a control character in it; of those only TAB may be"


def until_closed(watcher: Client, socket_id: object) -> None:
    """Waits until the broker no longer knows a socket."""
    until(lambda: watcher.ask(f"is_open({socket_id})") is False)
