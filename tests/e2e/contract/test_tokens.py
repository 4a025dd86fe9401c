"""Tokens: the core owns them, and a socket's next message sees what its last one set, in the same segment too."""

import pytest

from kits.contract_kit import ASYNC, Clients, Refused, Running, Servers
from kits.raw_peer import text, upgrade
from wsbroker.settings.config import WorkerKind


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with the puppet, in several workers where there can be several."""
    return servers.get(app, kind, workers=3)


def test_the_next_message_in_the_same_segment_sees_the_token(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.upgrade()
    messages = [text(f"here (token, set_token(me, '{number}'))") for number in range(200)]
    peer.send(*messages)
    answers = [peer.text() for _ in messages]
    assert answers == ["(None, None)", *(f"(b'{number}', None)" for number in range(199))]


def test_of_several_tokens_the_last_one_stays(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.upgrade(
        text("tell (set_token(me, 'a'), set_token(me, None), set_token(me, 'b'))"),
        text("here token"),
        text("tell set_token(me, None)"),
        text("here token"),
    )
    assert [peer.text(), peer.text()] == ["b'b'", "None"]


def test_the_first_message_sees_the_token_of_the_open_handler(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(upgrade("/?do=set_token(me,'from-the-open-handler')"), text("here token"), text("here token"))
    assert peer.head().startswith(b"HTTP/1.1 101 ")
    assert [peer.text(), peer.text()] == ["b'from-the-open-handler'"] * 2


def test_threads_of_a_handler_set_tokens_too(clients: Clients, client: str, running: Running, app: str) -> None:
    ann = clients.connect(running)
    for place in ("thread",) if app == "puppet" else ("to_thread", "executor"):
        for number in range(10):
            assert ann.ask(f"(set_token(me, '{place} {number}'), is_open(me))", place) == (None, True)
            assert ann.ask("token") == f"{place} {number}".encode()


def test_a_socket_can_set_the_token_of_another(clients: Clients, client: str, running: Running) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    for number in range(10):
        assert ann.ask(f"(set_token({bob.id}, '{number}'), is_open({bob.id}))") == (None, True)
        assert bob.ask("token") == str(number).encode()
    assert ann.ask("token") is None


def test_sockets_of_different_workers_can_too(clients: Clients, running: Running) -> None:
    everybody = [clients.connect(running) for _ in range(6)]
    for number, one in enumerate(everybody):
        for other in everybody:
            token = f"from {number}"
            assert one.ask(f"(set_token({other.id}, {token!r}), is_open({other.id}))") == (None, True)
        assert [other.ask("token") for other in everybody] == [f"from {number}".encode()] * 6


def test_a_foreign_change_that_is_older_than_ones_own_is_ignored(clients: Clients, running: Running) -> None:
    """Whoever sets tokens meanwhile: what a message sets, the next one of that segment sees."""
    peer, bob = clients.peer(running), clients.connect(running)
    peer.upgrade(text("here me"))
    socket_id = int(peer.text())
    for number in range(50):
        bob.tell(f"set_token({socket_id}, 'foreign')")
        own = f"own {number}"
        peer.send(text(f"tell set_token(me, {own!r})"), text("here token"))
        seen = peer.text()
        assert seen in (repr(own.encode()), "b'foreign'"), seen
    assert bob.ask(f"(set_token({socket_id}, 'last'), is_open({socket_id}))") == (None, True)
    peer.send(text("here token"))
    assert peer.text() == "b'last'"


@ASYNC
def test_a_waiting_handler_keeps_the_token_it_was_called_with(clients: Clients, running: Running) -> None:
    peer, bob = clients.peer(running), clients.connect(running)
    third = clients.connect(running)
    peer.upgrade(
        text("here me"),
        text("tell set_token(me, 'old')"),
        text(f"await send(me, 'called') or when(lambda: not is_open({third.id}), lambda: token)"),
        text("here token"),
    )
    socket_id = int(peer.text())
    assert peer.text() == "called"
    assert bob.ask(f"(set_token({socket_id}, 'new'), is_open({socket_id}))") == (None, True)
    peer.send(text("here token"))
    third.close()
    assert peer.text() == "b'old'"
    # A message that its worker had already when another one set the token may come with either.
    assert peer.text() in ("b'old'", "b'new'")
    assert peer.text() == "b'new'"


def test_the_close_handler_gets_the_last_token(clients: Clients, client: str, running: Running) -> None:
    watcher, ann = clients.connect(running), clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    ann.ask("set_token(me, 'own')")
    assert watcher.ask(f"(set_token({ann.id}, 'foreign'), is_open({ann.id}))") == (None, True)
    ann.close()
    assert watcher.answer() == (ann.id, b"foreign", 1000, "")


def test_ids_and_tokens_are_never_used_again(clients: Clients, running: Running) -> None:
    seen: list[int] = []
    for _ in range(5):
        ann = clients.connect(running)
        assert ann.ask("token") is None
        ann.ask("set_token(me, 'x')")
        seen.append(ann.id)
        ann.close()
        with pytest.raises(Refused):
            clients.opens(running, "set_token(me, 'refused') or False")
    assert seen == sorted(set(seen)) and seen[0] >= 1
