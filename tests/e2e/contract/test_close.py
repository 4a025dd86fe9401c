"""The close handler: exactly once for each accepted socket, with the code that tells why, after it left the tables."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.frames import Opcode

from kits.contract_kit import ASYNC, ERRORS, LOST, Client, Clients, Running, Servers, fresh, until
from kits.log_records import Log
from kits.raw_peer import PATIENCE_S, close_frame, frame, text
from wsbroker.settings.config import WorkerKind

LIMIT = 1000


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with the puppet and a small limit."""
    return servers.get(app, kind, max_message_size=LIMIT)


@pytest.fixture
def watcher(clients: Clients, running: Running) -> Client:
    """A client that receives id, token, code and reason of every call of a close handler."""
    watcher = clients.borrow(running, "watcher", "websockets")
    assert watcher.ask("subscribe(me, 'closes')") is True
    return watcher


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (3000, "x" * 123), (4999, "grüße 🙂")])
def test_a_client_that_closes_tells_its_code_and_reason(
    clients: Clients, client: str, running: Running, watcher: Client, code: int, reason: str
) -> None:
    ann = clients.connect(running)
    ann.ask("set_token(me, b'hidden-from-the-log')")
    ann.close(code, reason)
    assert watcher.answer() == (ann.id, b"hidden-from-the-log", code, reason)
    watcher.hears_nothing_else()


def test_a_close_without_a_code_is_a_1005(clients: Clients, running: Running, watcher: Client) -> None:
    peer = clients.peer(running)
    peer.upgrade(text("here me"), frame(8, b""))
    socket_id = int(peer.text())
    assert peer.frame() == (Opcode.CLOSE, b"")
    assert peer.rest() == b""
    assert watcher.answer() == (socket_id, None, 1005, "")
    watcher.hears_nothing_else()


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_a_lost_connection_is_a_1006(clients: Clients, running: Running, watcher: Client, leave: str) -> None:
    peer = clients.peer(running)
    peer.upgrade(text("here me"))
    socket_id = int(peer.text())
    getattr(peer, leave)()
    assert watcher.answer() == (socket_id, None, LOST, "")
    watcher.hears_nothing_else()


def test_a_client_that_crashes_is_a_1006(clients: Clients, client: str, running: Running, watcher: Client) -> None:
    ann = clients.connect(running)
    ann.abort()
    assert watcher.answer() == (ann.id, None, LOST, "")
    watcher.hears_nothing_else()


def test_the_servers_own_close_tells_its_code(clients: Clients, client: str, running: Running, watcher: Client) -> None:
    ann = clients.connect(running)
    assert watcher.ask(f"close({ann.id}, 4321, 'because')") is None
    assert watcher.answer() == (ann.id, None, 4321, "because")
    assert ann.closed_with() == (4321, "because")
    watcher.hears_nothing_else()


def test_messages_after_the_servers_close_are_not_handled(clients: Clients, running: Running, watcher: Client) -> None:
    peer = clients.peer(running)
    peer.upgrade(text("here me"))
    socket_id = int(peer.text())
    watcher.ask(f"close({socket_id})")
    assert peer.close_frame() == (1000, "")
    peer.send(text(f"tell send({watcher.id}, 'never')"), close_frame(4000))
    assert peer.rest() == b""
    assert watcher.answer() == (socket_id, None, 1000, "")
    watcher.hears_nothing_else()


def test_messages_that_came_before_the_clients_close_are_handled_first(
    clients: Clients, running: Running, watcher: Client
) -> None:
    peer = clients.peer(running)
    say = [text(f"tell send({watcher.id}, '{number}')") for number in range(20)]
    peer.upgrade(text("here me"), *say, close_frame(4000, "done"), text("never"))
    socket_id = int(peer.text())
    watcher.receives(*(str(number) for number in range(20)))
    assert watcher.answer() == (socket_id, None, 4000, "done")
    assert peer.close_frame()[0] == 4000
    assert peer.rest() == b""
    watcher.hears_nothing_else()


BAD = {
    "a message over the limit": (frame(2, b"x" * (LIMIT + 1)), 1009),
    "fragments over the limit": (frame(2, b"x" * LIMIT, fin=False) + frame(0, b"x"), 1009),
    "text that is not UTF-8": (frame(1, b"\xff\xfe"), 1007),
    "a text that ends within a character": (frame(1, "ü".encode()[:1]), 1007),
    "a lone surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "a reason that is not UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
    "an unmasked frame": (b"\x81\x01x", 1002),
    "a reserved bit": (b"\xc1" + text("x")[1:], 1002),
    "a reserved opcode": (b"\x83" + text("x")[1:], 1002),
    "a ping in fragments": (b"\x09\x80" + bytes(4), 1002),
    "a long ping": (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a message within a message": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "a close code of one byte": (frame(8, b"\x03"), 1002),
    "a close code that must not be sent": (close_frame(1005), 1002),
    "a close code out of range": (close_frame(2999), 1002),
    "a length with its top bit set": (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),
}


@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_client_that_breaks_the_rules_is_closed(
    clients: Clients, running: Running, watcher: Client, data: bytes, code: int
) -> None:
    peer = clients.peer(running)
    peer.upgrade(text("here me"), data, text(f"tell send({watcher.id}, 'never')"))
    socket_id = int(peer.text())
    told, reason = peer.close_frame()
    assert (told, bool(reason)) == (code, True)
    peer.socket.shutdown(1)
    assert peer.rest() == b""
    assert watcher.answer() == (socket_id, None, code, reason)
    watcher.hears_nothing_else()


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_foreign_client_sees_why_its_message_was_too_big(
    clients: Clients, client: str, running: Running, watcher: Client
) -> None:
    ann = clients.connect(running)
    ann.send(b"x" * LIMIT)
    ann.receives(b"x" * LIMIT)
    ann.send(b"x" * (LIMIT + 1))
    code, reason = ann.closed_with()
    assert code == 1009
    assert watcher.answer() == (ann.id, None, 1009, reason)


def test_a_handler_that_fails_is_a_1011(
    clients: Clients, client: str, running: Running, watcher: Client, log: Log
) -> None:
    ann = clients.connect(running)
    ann.send("raise")
    assert ann.closed_with() == (1011, "handler error")
    assert watcher.answer() == (ann.id, None, 1011, "handler error")
    watcher.hears_nothing_else()
    log.forgives("handler failed")


def test_a_socket_has_left_the_tables_before_its_close_handler_runs(
    clients: Clients, client: str, running: Running, watcher: Client
) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    a, b = ann.id, bob.id
    told = (
        f"(is_open({a}), subscriptions({a}), subscribers('room'), queued_bytes({a}), subscribe({a}, 'x'), channels())"
    )
    ann.ask(f"[subscribe(me, 'room'), subscribe(me, 'own'), subscribe({b}, 'room')]")
    actions = ["send_to_channel('room', 'left')", f"send({a}, 'lost')", f"send({watcher.id}, repr({told}))"]
    ann.ask(f"closing.update({{me: {', '.join(actions)!r}}})")
    ann.close(4000)
    assert watcher.answer() == (a, None, 4000, "")
    assert watcher.answer() == (False, [], [b], 0, False, [b"closes", b"room"])
    bob.receives("left")
    watcher.hears_nothing_else()


@ASYNC
@pytest.mark.parametrize("ends_with", [close_frame(4002, "bye"), b"\xc1\x80"], ids=["close", "broken frame"])
def test_the_close_handler_is_the_last_of_its_socket(
    clients: Clients, running: Running, watcher: Client, ends_with: bytes
) -> None:
    """It waits for the handlers of all messages that came before the end, and so does the answer to the Close."""
    peer = clients.peer(running)
    gate = repr(fresh("gate"))
    peer.upgrade(text("here me"), text(f"await gate({gate}).wait()"), text("here 'second'"), ends_with)
    socket_id = int(peer.text())
    assert watcher.ask(f"gate({gate}).set()") is None
    assert [peer.text(), peer.text()] == ["True", "'second'"]
    code, sent = peer.close_frame()
    assert code == (4002 if ends_with[0] == 0x88 else 1002)
    assert watcher.answer() == (socket_id, None, code, "bye" if code == 4002 else sent)
    watcher.hears_nothing_else()


@ASYNC
@pytest.mark.parametrize("leave", ["end", "reset"])
def test_a_client_that_leaves_while_its_handler_waits_is_told_of_behind_it(
    clients: Clients, running: Running, watcher: Client, leave: str
) -> None:
    peer = clients.peer(running)
    gate = repr(fresh("gate"))
    wait = f"tell send({watcher.id}, 'second')"
    peer.upgrade(text("here me"), text(f"await gate({gate}).wait()"), text(wait))
    socket_id = int(peer.text())
    getattr(peer, leave)()
    until(lambda: watcher.ask(f"is_open({socket_id})") is False)
    assert watcher.ask(f"gate({gate}).set()") is None
    watcher.receives("second")
    assert watcher.answer() == (socket_id, None, LOST, "")
    watcher.hears_nothing_else()


@pytest.mark.parametrize("error", ERRORS)
def test_a_close_handler_that_raises_is_logged(
    clients: Clients, running: Running, watcher: Client, log: Log, error: str
) -> None:
    errors = running.count_of_workers("handler_errors")
    ann = clients.connect(running)
    ann.ask(f"closing.update({{me: {f'raised({error})'!r}}})")
    ann.close()
    assert watcher.answer() == (ann.id, None, 1000, "")
    until(lambda: running.count_of_workers("handler_errors") == errors + 1)
    assert f"handler failed handler=handle_socket_close socket={ann.id}" in log.text
    assert error.partition("(")[0] in log.text
    log.forgives("handler failed handler=handle_socket_close")


def test_every_socket_gets_its_own_close_handler(clients: Clients, running: Running, watcher: Client) -> None:
    peers = [clients.peer(running) for _ in range(40)]
    expected = []
    for number, peer in enumerate(peers):
        peer.upgrade(text("here me"))
        socket_id = int(peer.text())
        if number % 2:
            peer.send(close_frame(4000 + number))
            expected.append((socket_id, None, 4000 + number, ""))
        else:
            peer.reset()
            expected.append((socket_id, None, LOST, ""))
    assert sorted([watcher.answer() for _ in peers], key=repr) == sorted(expected, key=repr)
    watcher.hears_nothing_else()


def test_a_shutdown_is_a_1001(servers: Servers, clients: Clients, running: Running) -> None:
    """For the client; what handlers are told then stands in `test_life`, because no socket is left to tell it."""
    ann, bob = clients.connect(running, "websockets"), clients.connect(running, "aiohttp")
    with ThreadPoolExecutor(1) as executor:
        stopping = executor.submit(servers.stop)
        assert ann.closed_with() == (1001, "server shutdown")
        assert bob.closed_with() == (1001, "server shutdown")
        stopping.result(PATIENCE_S)


def test_a_client_that_never_answers_the_close_is_cut(
    servers: Servers, kind: WorkerKind, app: str, clients: Clients
) -> None:
    running = servers.get(app, kind, close_timeout=0.1)
    watcher = clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    peer = clients.peer(running)
    peer.upgrade(text("here me"))
    socket_id = int(peer.text())
    watcher.ask(f"close({socket_id})")
    assert watcher.answer() == (socket_id, None, 1000, "")
    assert peer.close_frame() == (1000, "")
    assert peer.rest() == b""
    watcher.hears_nothing_else()
