"""Clients that read slowly or flood: they wait or are closed, and other clients are not affected."""

import threading
from collections.abc import Iterator

import pytest
from websockets.frames import Opcode

import wsbroker
from kits.contract_kit import ASYNC, PLAIN, Client, Clients, Running, Servers, fresh, until
from kits.raw_peer import PATIENCE_S, Peer, frame, text
from wsbroker.settings.config import WorkerKind

QUEUE = 64 * 1024
BIG = 256 * 1024
"""More than the kernel's buffers hold after a few of them."""


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with a small `max_queue_bytes`."""
    return servers.get(app, kind, max_queue_bytes=QUEUE)


@pytest.fixture
def narrow(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server that lets little wait on the way to handlers and from them, and much for a socket.

    The inbox of one socket does not fill its worker's mailbox, and those of ten do.
    """
    return servers.get(
        app, kind, command_bytes=64 * 1024, inbox_bytes=8192, mailbox_bytes=32 * 1024, max_queue_bytes=1 << 30
    )


def lazy(clients: Clients, running: Running) -> tuple[Peer, int]:
    """A client that has stopped reading, and its socket's id."""
    peer = clients.peer(running)
    peer.upgrade(text("here (me, subscribe(me, 'news'))[0]"))
    return peer, int(peer.text())


def fill(control: Client, lazy_id: int, reader_id: int) -> None:
    """Publishes until the client that does not read is closed, no faster than the other client reads."""
    for number in range(200):
        control.ask(f"send_to_channel('news', bytes([{number}]) * {BIG})")
        until(lambda: control.ask(f"queued_bytes({reader_id})") == 0)
        if control.ask(f"is_open({lazy_id})") is False:
            return


def test_a_slow_consumer_is_closed_and_nobody_else_notices(clients: Clients, client: str, running: Running) -> None:
    watcher = clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    reader = clients.connect(running)
    reader.ask("subscribe(me, 'news')")
    peer, socket_id = lazy(clients, running)
    heard: list[bytes] = []
    drain = threading.Thread(target=lambda: heard.extend(received(reader)))
    drain.start()
    control = clients.connect(running)
    fill(control, socket_id, reader.id)
    assert control.ask(f"(is_open({socket_id}), subscribers('news'))") == (False, [reader.id])
    assert watcher.answer() == (socket_id, None, 1013, "slow consumer")
    control.ask(f"send({reader.id}, 'end')")
    drain.join(PATIENCE_S)
    assert heard == [bytes([number]) * BIG for number in range(len(heard))] and len(heard) > 1
    # It still reads what was on its way, whole frames, and then why it was closed.
    number = 0
    while (found := peer.frame())[0] == Opcode.BINARY:
        assert found[1] == bytes([number]) * BIG
        number += 1
    assert found == (Opcode.CLOSE, b"\x03\xf5slow consumer")
    assert 0 < number <= len(heard)
    watcher.hears_nothing_else()


def received(client: Client) -> Iterator[bytes]:
    """Returns the binary messages that a client receives before the next text."""
    while isinstance(message := client.receive(), bytes):
        yield message


@pytest.mark.parametrize("policy", ["drop_new", "drop_old"])
@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_policy_drops_whole_messages_and_keeps_the_socket(
    servers: Servers, kind: WorkerKind, clients: Clients, policy: str
) -> None:
    """With the default limit, which is larger than what a transport holds by itself."""
    running = servers.get("puppet" if policy == "drop_new" else "async_puppet", kind, slow_consumer=policy)
    peer, socket_id = lazy(clients, running)
    control = clients.connect(running)
    size, count = 128 * 1024, 120
    for number in range(count):
        control.ask(f"send_to_channel('news', bytes([{number}]) * {size})")
    assert control.ask(f"is_open({socket_id})") is True
    dropped = running.count("frames_dropped")
    assert dropped > 0
    numbers = []
    for _ in range(count - dropped):
        opcode, payload = peer.frame()
        assert opcode == Opcode.BINARY
        assert payload == payload[:1] * size
        numbers.append(payload[0])
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    assert (numbers[-1] == count - 1) == (policy == "drop_old")
    peer.send(text("here 'alive'"))
    assert peer.text() == "'alive'"


@pytest.mark.one_kind
@pytest.mark.one_app
def test_an_empty_outbox_takes_any_one_message(clients: Clients, client: str, running: Running) -> None:
    ann = clients.connect(running)
    ann.tell(f"send(me, 'x' * {QUEUE * 50})")
    ann.receives("x" * QUEUE * 50)


def test_queued_bytes_counts_what_waits(clients: Clients, running: Running) -> None:
    peer, socket_id = lazy(clients, running)
    control = clients.connect(running)
    control.ask(f"send({socket_id}, bytes({BIG * 40}))")
    waiting = control.ask(f"queued_bytes({socket_id})")
    assert isinstance(waiting, int) and 0 < waiting <= BIG * 40 + 10
    assert peer.frame() == (Opcode.BINARY, bytes(BIG * 40))
    until(lambda: control.ask(f"queued_bytes({socket_id})") == 0)


def test_queued_bytes_counts_what_this_handler_has_sent(clients: Clients, client: str, running: Running) -> None:
    ann = clients.connect(running)
    ann.send("here [send(me, 'x' * 100), queued_bytes(me)][1]")
    ann.receives("x" * 100)
    assert ann.answer() == 102


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_peer_that_takes_nothing_is_cut(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("puppet", kind, write_timeout=0.2, max_queue_bytes=1 << 30)
    watcher = clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    peer, socket_id = lazy(clients, running)
    watcher.ask(f"send({socket_id}, bytes({BIG * 40}))")
    assert watcher.answer() == (socket_id, None, 1013, "no progress within write_timeout")
    watcher.hears_nothing_else()
    peer.end()


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_peer_that_answers_no_ping_is_cut(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    """The other clients answer by themselves, and stay."""
    running = servers.get("puppet", kind, ping_interval=0.1, pong_timeout=0.5)
    watcher, other = clients.connect(running, "websockets"), clients.connect(running, "websockets")
    watcher.ask("subscribe(me, 'closes')")
    peer = clients.peer(running)
    peer.upgrade(text("here me"))
    socket_id = int(peer.text())
    assert peer.frame() == (Opcode.PING, b"")
    peer.send(frame(10, b""))
    assert peer.frame() == (Opcode.PING, b"")
    assert peer.rest() == b""
    assert watcher.answer() == (socket_id, None, 1006, "no pong within pong_timeout")
    assert other.ask("is_open(me)") is True


@ASYNC
def test_a_flood_of_messages_waits_with_its_socket(clients: Clients, narrow: Running) -> None:
    """The handler of the first message waits, so what comes behind it is not read for ever; nothing is lost."""
    full = narrow.count("inboxes_full")
    control, peer = clients.connect(narrow), clients.peer(narrow)
    gate = repr(fresh("gate"))
    peer.upgrade(text(f"await gate({gate}).wait()"))
    messages = [frame(2, b"%6d" % number + bytes(10_000)) for number in range(1500)]
    writing = threading.Thread(target=lambda: peer.send(*messages))
    writing.start()
    until(lambda: narrow.count("inboxes_full") > full)
    assert control.ask("'not held back'") == "not held back"
    assert writing.is_alive()
    assert control.ask(f"gate({gate}).set()") is None
    assert peer.text() == "True"
    for number in range(1500):
        assert peer.frame() == (Opcode.BINARY, b"%6d" % number + bytes(10_000))
    writing.join(PATIENCE_S)


def test_megabytes_of_commands_from_a_thread_wait_for_the_loop(clients: Clients, client: str, narrow: Running) -> None:
    """`command_bytes` is small: the caller blocks now and then, nothing is lost, nobody dead-locks."""
    reader = clients.connect(narrow)
    reader.ask("subscribe(me, 'data')")
    threads = [threading.Thread(target=publish, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    heard: dict[bytes, list[int]] = {b"a": [], b"b": [], b"c": []}
    for _ in range(900):
        message = reader.receive()
        assert isinstance(message, bytes) and len(message) == 10_005
        heard[message[:1]].append(int(message[1:5]))
    assert heard == {name: list(range(300)) for name in (b"a", b"b", b"c")}
    for thread in threads:
        thread.join(PATIENCE_S)


def publish(name: bytes) -> None:
    """Publishes several megabytes."""
    for number in range(300):
        wsbroker.send_to_channel("data", name + b"%4d" % number + bytes(10_000))


def test_megabytes_of_commands_from_a_handler_arrive(clients: Clients, client: str, narrow: Running, app: str) -> None:
    ann = clients.connect(narrow)
    calls = "[send(me, bytes([number % 256]) * 20_000) for number in range(500)] and None"
    for where in ("tell", "thread") if app == "puppet" else ("tell", "to_thread"):
        ann.send(f"{where} {calls}")
        for number in range(500):
            ann.receives(bytes([number % 256]) * 20_000)
        if where != "tell":
            assert ann.answer() is None


def test_mailboxes_that_are_full_lose_nothing(clients: Clients, narrow: Running) -> None:
    peers = [clients.peer(narrow) for _ in range(10)]
    for peer in peers:
        peer.upgrade(*(frame(2, b"%4d" % number + bytes(1000)) for number in range(100)))
    for peer in peers:
        for number in range(100):
            assert peer.frame() == (Opcode.BINARY, b"%4d" % number + bytes(1000))


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_flood_of_pings_is_answered_within_bounds(clients: Clients, running: Running) -> None:
    """While nothing is read, only the newest pong waits; pings whose pongs were dropped are no error."""
    peer = clients.peer(running)
    peer.upgrade()
    peer.send(*(frame(9, b"%5d" % number) for number in range(5000)), text("here 'behind'"))
    last = -1
    while (found := peer.frame())[0] == Opcode.PONG:
        assert int(found[1]) > last
        last = int(found[1])
    assert found == (Opcode.TEXT, b"'behind'") or last == 4999


@PLAIN
def test_a_greedy_client_does_not_hold_up_another(clients: Clients, narrow: Running) -> None:
    """Its messages are handled in many turns, between which others are served: long before its last."""
    greedy, ann = clients.peer(narrow), clients.connect(narrow)
    greedy.upgrade(frame(2, b"first"))
    writing = threading.Thread(target=lambda: greedy.send(*[frame(2, b"x")] * 20_000, frame(2, b"last")))
    writing.start()
    assert greedy.frame() == (Opcode.BINARY, b"first")
    assert ann.ask("'served'") == "served"
    heard = 0
    while greedy.frame() != (Opcode.BINARY, b"last"):
        heard += 1
    assert heard == 20_000
    writing.join(PATIENCE_S)
