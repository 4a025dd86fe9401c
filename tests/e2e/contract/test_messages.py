"""The message handler: what it is given, when it runs, and what happens when it fails."""

import pytest
from websockets.frames import Opcode

from kits.contract_kit import ASYNC, ERRORS, Client, Clients, Running, Servers, fresh
from kits.log_records import Log
from kits.raw_peer import frame, text
from wsbroker.settings.config import WorkerKind


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with the puppet."""
    return servers.get(app, kind)


@pytest.fixture
def ann(clients: Clients, client: str, running: Running) -> Client:
    """A client; each test runs with every client library."""
    return clients.connect(running)


# What it is given. ----------------------------------------------------------------------------------------------------


def test_binary_messages_arrive_as_bytes_and_text_as_str(ann: Client) -> None:
    for binary in (b"", b"\x00", bytes(range(256)), b"here 1", b"x" * 65536):
        ann.send(binary)
        assert ann.receive() == binary
    for word in ("", "a", "ü", "\0", "🙂" * 1000, "a" * 60_000):
        assert ann.ask(f"{word!r}") == word
    assert ann.ask("[type(one) for one in (me, token)] == [int, type(None)]") is True


def test_a_message_in_many_frames_is_one_message(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    whole = "here 'grüße 🙂'".encode()
    parts = [frame(1, whole[:8], fin=False), *(frame(0, bytes([byte]), fin=False) for byte in whole[8:])]
    peer.upgrade(*parts, frame(9, b"still there?"), frame(0, b""))
    assert peer.frame() == (Opcode.PONG, b"still there?")
    assert peer.text() == "'grüße 🙂'"


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_message_byte_by_byte_is_the_same(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.upgrade()
    for byte in text("here 1") + frame(2, b"\xff") + frame(9, b""):
        peer.send(bytes([byte]))
    assert sorted([peer.frame(), peer.frame(), peer.frame()]) == [(1, b"1"), (2, b"\xff"), (10, b"")]


@pytest.mark.one_kind
@pytest.mark.one_app
def test_every_ping_is_answered_while_the_server_is_read_from(ann: Client, clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.upgrade()
    for number in range(20):
        peer.send(frame(9, b"%d" % number))
        assert peer.frame() == (Opcode.PONG, b"%d" % number)


def test_messages_of_a_socket_are_handled_in_order_one_after_the_other(ann: Client) -> None:
    ann.ask("state.update(seen=[])")
    for number in range(500):
        ann.tell(f"state['seen'].append({number})")
    assert ann.ask("state['seen'] == list(range(500))") is True


def test_a_thousand_messages_in_one_segment_come_in_order(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.upgrade(*(text(f"here {number}") for number in range(1000)))
    assert [peer.text() for _ in range(1000)] == [str(number) for number in range(1000)]


# Handlers that wait. --------------------------------------------------------------------------------------------------


@ASYNC
def test_the_next_message_of_a_socket_waits_and_other_sockets_go_on(clients: Clients, running: Running) -> None:
    ann, bob = clients.connect(running, "websockets"), clients.connect(running, "aiohttp")
    gate = repr(fresh("gate"))
    ann.send(f"await gate({gate}).wait()")
    ann.send("here 'second'")
    ann.send(b"third")
    # Bob's handlers run while Ann's waits.
    for number in range(10):
        assert bob.ask(str(number)) == number
    assert bob.ask(f"send({ann.id}, 'not held back')") is None
    ann.receives("not held back")
    assert bob.ask(f"gate({gate}).set()") is None
    assert [ann.answer(), ann.answer()] == [True, "second"]
    ann.receives(b"third")


@ASYNC
def test_many_sockets_wait_at_the_same_time(clients: Clients, running: Running) -> None:
    peers = [clients.peer(running) for _ in range(50)]
    opener = clients.connect(running)
    gate = repr(fresh("gate"))
    for peer in peers:
        peer.upgrade(text(f"tell send({opener.id}, 'waits')"), text(f"await gate({gate}).wait()"), text("here 2"))
    opener.receives(*["waits"] * 50)
    opener.ask(f"gate({gate}).set()")
    for peer in peers:
        assert [peer.text(), peer.text()] == ["True", "2"]


@ASYNC
def test_a_context_variable_that_a_handler_sets_is_its_own(clients: Clients, running: Running) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    assert ann.ask("asked_by.get()") == ann.id
    assert bob.ask("asked_by.get()") == bob.id
    before = "[asked_by.get() == me, [asked_by.set(-1), asked_by.get()][1]]"
    assert [ann.ask(before), ann.ask(before)] == [[True, -1]] * 2


def test_plain_and_async_handlers_mix(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    """An async open and close handler beside a plain message handler that sometimes returns a coroutine."""
    running = servers.get("mixed", kind)
    watcher = clients.connect(running)
    watcher.receives("opened")
    watcher.send("watch")
    watcher.receives("watching")
    ann = clients.connect(running, "aiohttp")
    ann.receives("opened")
    for number in range(20):
        ann.send(f"plain {number}")
        ann.send(f"later {number}")
    ann.receives(*(f"{word} {number}" for number in range(20) for word in ("plain", "later")))
    ann.close()
    watcher.receives("opened", "closed")


# Handlers that fail. --------------------------------------------------------------------------------------------------

FAILED = "handler failed handler=handle_socket_message"


def test_a_handler_that_raises_costs_its_socket(ann: Client, clients: Clients, running: Running, log: Log) -> None:
    watcher = clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    socket_id = ann.id
    errors = running.count_of_workers("handler_errors")
    ann.tell("send(me, 'before')")
    ann.send("raise")
    ann.receives("before")
    assert ann.closed_with() == (1011, "handler error")
    assert watcher.answer() == (socket_id, None, 1011, "handler error")
    watcher.hears_nothing_else()
    assert running.count_of_workers("handler_errors") == errors + 1
    assert f"{FAILED} socket={socket_id}" in log.text and "LookupError: as told" in log.text
    log.forgives(FAILED)


def test_messages_that_were_read_already_are_not_handled_after_a_failure(
    clients: Clients, running: Running, log: Log
) -> None:
    watcher, peer = clients.connect(running), clients.peer(running)
    never = text(f"tell send({watcher.id}, 'never')")
    peer.upgrade(text("tell send(me, 'before')"), text("raise"), *[never] * 100)
    assert peer.text() == "before"
    assert peer.close_frame() == (1011, "handler error")
    watcher.hears_nothing_else()
    log.forgives(FAILED)


def test_on_handler_error_log_keeps_the_socket(
    servers: Servers, kind: WorkerKind, app: str, clients: Clients, client: str, log: Log
) -> None:
    running = servers.get(app, kind, on_handler_error="log")
    errors = running.count_of_workers("handler_errors")
    ann = clients.connect(running)
    for _ in range(3):
        ann.send("raise")
    assert ann.ask("is_open(me)") is True
    assert running.count_of_workers("handler_errors") == errors + 3
    log.forgives(FAILED)


@pytest.mark.parametrize("error", [*ERRORS, "GeneratorExit()", "BaseException('x')"])
def test_nothing_that_a_handler_raises_ends_its_worker(
    clients: Clients, running: Running, log: Log, error: str
) -> None:
    """All of it is an error of the handler: logged, and its socket closed; the others of its worker stay."""
    ann, bob = clients.connect(running), clients.connect(running)
    ann.send(f"raise {error}")
    assert ann.closed_with() == (1011, "handler error")
    assert bob.ask("is_open(me)") is True
    assert f"{FAILED} socket={ann.id}" in log.text and error.partition("(")[0] in log.text
    log.forgives(FAILED)


def test_a_return_value_is_ignored_with_one_warning(ann: Client, running: Running, log: Log) -> None:
    for _ in range(3):
        ann.send("return 'a text'")
        assert ann.answer() == "a text"
    assert log.text.count("what a handler returned is ignored handler=handle_socket_message type=str") == 1


def test_without_a_message_handler_messages_are_dropped(
    servers: Servers, kind: WorkerKind, clients: Clients, log: Log
) -> None:
    running = servers.get("silent", kind)
    ann = clients.connect(running, path="/hello")
    for number in range(5):
        ann.send(str(number))
    assert clients.http(running).text == "no messages"
    ann.receives("from the open handler")
    ann.close()
    assert log.text.count("messages are dropped") <= 1


# From the application's side. -----------------------------------------------------------------------------------------


def test_a_message_to_oneself_is_answered_in_the_order_of_the_calls(ann: Client) -> None:
    sizes = [0, 1, 125, 126, 65535, 65536, 200_000]
    ann.tell(f"[send(me, 'x' * size) for size in {sizes}]")
    ann.receives(*("x" * size for size in sizes))


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_frame_is_as_short_as_it_can_be(clients: Clients, running: Running) -> None:
    """RFC 6455 section 5.2 has the minimal number of bytes for the length."""
    peer = clients.peer(running)
    for size, head in (
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65536, b"\x82\x7f" + (65536).to_bytes(8, "big")),
    ):
        peer = clients.peer(running)
        peer.upgrade(frame(2, b"x" * size))
        assert peer.take(len(head) + size) == head + b"x" * size
