"""Several workers: who handles what, and that one that is busy holds up nobody else's sockets."""

import pytest

from kits.contract_kit import ASYNC, ONLY_WIRED, PLAIN, Client, Clients, Running, Servers, fresh
from kits.raw_peer import request
from wsbroker.settings.config import WorkerKind

WORKERS = 3
IDENTITY = "(__import__('os').getpid(), __import__('threading').get_ident())"
"""Differs from worker to worker, of every kind."""


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with several workers; of kind inline with one."""
    return servers.get(app, kind, workers=WORKERS)


def homes(clients: list[Client]) -> list[object]:
    """Returns the worker in which each socket's handlers run."""
    return [client.ask(IDENTITY) for client in clients]


def test_sockets_go_round_and_stay_where_they_are(clients: Clients, running: Running) -> None:
    crowd = [clients.connect(running, which) for which in ("websockets", "aiohttp") * 3]
    found = homes(crowd)
    assert len(set(found)) == (1 if running.kind == "inline" else WORKERS)
    assert found[:3] == found[3:]
    for _ in range(3):
        assert homes(crowd) == found


def test_open_message_and_close_handlers_of_a_socket_run_in_the_same_worker(clients: Clients, running: Running) -> None:
    watcher = clients.connect(running)
    for _ in range(WORKERS):
        ann = clients.opens(running, f"send(me, repr({IDENTITY}))")
        home = ann.answer()
        assert ann.ask(IDENTITY) == home
        ann.ask(f"closing.update({{me: {f'send({watcher.id}, repr({IDENTITY}))'!r}}})")
        ann.close()
        assert watcher.answer() == home


def test_the_least_connected_worker_gets_the_next_socket(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("puppet", kind, workers=WORKERS, balance="least-connections")
    crowd = [clients.connect(running) for _ in range(2 * WORKERS)]
    found = homes(crowd)
    left = found[1]
    for client, home in zip(crowd, found, strict=True):
        if home == left:
            client.close()
    again = [clients.connect(running) for _ in range(found.count(left))]
    assert set(homes(again)) == {left}


@ASYNC
def test_a_request_goes_to_the_worker_with_the_fewest_in_flight(
    clients: Clients, running: Running, kind: WorkerKind
) -> None:
    crowd = [clients.connect(running) for _ in range(WORKERS)]
    gate = fresh("gate").replace(" ", "-")
    slow = clients.peer(running)
    # It tells where it runs before it waits.
    told = f"[send({crowd[0].id},repr({IDENTITY}))]and(waited(gate('{gate}'),lambda:'slow'))".replace(" ", "")
    slow.send(request("GET", f"/?do={told}"))
    busy = crowd[0].answer()
    for _ in range(2 * WORKERS):
        idle = clients.http(running, "POST", data=IDENTITY).text
        assert kind == "inline" or idle != repr(busy)
    (there,) = [client for client, home in zip(crowd, homes(crowd), strict=True) if home == busy][:1]
    there.ask(f"gate('{gate}').set()")
    assert slow.answer().text == "slow"


@ONLY_WIRED
@PLAIN
def test_a_worker_that_is_busy_does_not_hold_up_the_sockets_of_others(clients: Clients, running: Running) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    assert ann.ask(IDENTITY) != bob.ask(IDENTITY)
    third = clients.connect(running)
    ann.send(f"here [None for one in iter(lambda: is_open({third.id}), False)] and 'done'")
    for number in range(20):
        assert bob.ask(str(number)) == number
    bob.ask(f"close({third.id})")
    assert ann.answer() == "done"


def test_what_the_workers_share_is_the_brokers(clients: Clients, running: Running) -> None:
    """Channels and sockets are known everywhere."""
    crowd = [clients.connect(running) for _ in range(WORKERS)]
    ids = [client.id for client in crowd]
    for client in crowd:
        assert client.ask("subscribe(me, 'all')") is True
    for client in crowd:
        assert client.ask("(subscribers('all'), channels(), subscriber_count('all'))") == (ids, [b"all"], WORKERS)
    for client in crowd:
        client.tell("send_to_channel('all', repr(me), exclude=(me,))")
    for client in crowd:
        others = {client.receive() for _ in range(WORKERS - 1)}
        assert others == {str(other) for other in ids if other != client.id}
        client.hears_nothing_else()
