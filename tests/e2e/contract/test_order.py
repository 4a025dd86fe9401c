"""Order: each socket receives everything in the order in which it was asked for, whatever the way it comes."""

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

import wsbroker
from kits.contract_kit import Client, Clients, Running, Servers
from kits.raw_peer import PATIENCE_S, text
from wsbroker.settings.config import WorkerKind


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with the puppet, in several workers where there can be several."""
    return servers.get(app, kind, workers=3)


def test_sends_and_publications_of_many_channels_keep_their_order(
    clients: Clients, client: str, running: Running
) -> None:
    ann = clients.connect(running)
    calls: list[str] = [f"subscribe(me, '{channel}')" for channel in range(10)]
    expected: list[str | bytes] = []
    chance = random.Random(1)
    for number in range(600):
        way = chance.randrange(12)
        calls.append(f"send(me, '{number}')" if way > 9 else f"send_to_channel('{way}', '{number}')")
        expected.append(str(number))
    ann.tell(f"[{', '.join(calls)}]")
    ann.receives(*expected)
    ann.hears_nothing_else()


def test_who_joins_and_leaves_within_a_turn_hears_exactly_its_share(clients: Clients, running: Running) -> None:
    """One handler, so one turn: a model of three sockets says what each of them must hear."""
    ann, bob, cid = (clients.connect(running, which) for which in ("websockets", "aiohttp", "websockets"))
    everybody = {one.id: one for one in (ann, bob, cid)}
    chance = random.Random(2)
    members: dict[str, list[int]] = defaultdict(list)
    calls: list[str] = []
    expected: dict[int, list[str | bytes]] = {socket_id: [] for socket_id in everybody}
    for number in range(400):
        channel, one = chance.choice("xyz"), chance.choice(list(everybody))
        match chance.randrange(8):
            case 0:
                calls.append(f"subscribe({one}, '{channel}')")
                if one not in members[channel]:
                    members[channel].append(one)
            case 1:
                calls.append(f"unsubscribe_nowait({one}, '{channel}')")
                if one in members[channel]:
                    members[channel].remove(one)
            case 2:
                calls.append(f"send({one}, b'{number}')")
                expected[one].append(str(number).encode())
            case 3:
                target = chance.choice("xyz")
                calls.append(f"copy_subscriptions('{channel}', '{target}')")
                members[target] += [member for member in members[channel] if member not in members[target]]
            case 4:
                calls.append(f"send_to_channel('{channel}', '{number}', exclude=({one},))")
                for member in members[channel]:
                    if member != one:
                        expected[member].append(str(number))
            case _:
                calls.append(f"send_to_channel('{channel}', '{number}')")
                for member in members[channel]:
                    expected[member].append(str(number))
    for start in range(0, len(calls), 100):
        ann.tell(f"[{', '.join(calls[start : start + 100])}]")
    for socket_id, hearer in everybody.items():
        hearer.receives(*expected[socket_id])
        hearer.hears_nothing_else()


def test_publishers_of_several_sockets_do_not_mix_up_their_own_order(clients: Clients, running: Running) -> None:
    reader = clients.connect(running)
    reader.ask("[subscribe(me, 'all'), subscribe(me, 'odd')]")
    peers = [clients.peer(running) for _ in range(6)]
    for number, peer in enumerate(peers):
        peer.upgrade()
        channel = "odd" if number % 2 else "all"
        peer.send(*(text(f"tell send_to_channel('{channel}', '{number} {count}')") for count in range(100)))
    heard: dict[str, list[int]] = defaultdict(list)
    for _ in range(600):
        message = reader.receive()
        assert isinstance(message, str)
        publisher, _, count = message.partition(" ")
        heard[publisher].append(int(count))
    assert heard == {str(number): list(range(100)) for number in range(6)}
    reader.hears_nothing_else()


def test_a_threads_calls_are_applied_in_its_order(clients: Clients, client: str, running: Running) -> None:
    ann = clients.connect(running)
    others = ThreadPoolExecutor(3)

    def publish(name: str) -> None:
        for number in range(100):
            if number % 10 == 5:
                assert wsbroker.subscribe(ann.id, f"{name} {number}") is True
                wsbroker.send_to_channel(f"{name} {number}", f"{name} {number}")
                assert wsbroker.unsubscribe(ann.id, f"{name} {number}") is True
            else:
                wsbroker.send(ann.id, f"{name} {number}")

    with others:
        done = [others.submit(publish, name) for name in "abc"]
        heard: dict[str, list[int]] = defaultdict(list)
        for _ in range(300):
            name, _, number = str(ann.receive()).partition(" ")
            heard[name].append(int(number))
        for one in done:
            one.result(PATIENCE_S)
    assert heard == {name: list(range(100)) for name in "abc"}


def test_what_a_handler_asks_before_an_answer_is_applied_before_it(
    clients: Clients, client: str, running: Running
) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    calls = (
        "send(me, 'one')",
        f"subscribe({bob.id}, 'room')",
        "send_to_channel('room', 'two')",
        "subscriber_count('room')",
        f"unsubscribe({bob.id}, 'room')",
        "send_to_channel('room', 'three')",
        f"close({bob.id}, 4000)",
        f"is_open({bob.id})",
    )
    ann.send(f"here ({', '.join(calls)})")
    ann.receives("one")
    assert ann.answer() == (None, True, None, 1, True, None, None, False)
    bob.receives("two")
    assert bob.closed_with() == (4000, "")


def test_publishing_to_a_thousand_subscriptions_at_once(clients: Clients, running: Running) -> None:
    """Many channels, many sockets, one turn; each hears the same in the same order."""
    peers = [clients.peer(running) for _ in range(30)]
    for peer in peers:
        peer.upgrade(text("here [subscribe(me, str(number)) for number in range(30)] == [True] * 30"))
        assert peer.text() == "True"
    control = clients.connect(running)
    control.ask("[send_to_channel(str(number * 7 % 30), str(number)) for number in range(300)]")
    for peer in peers:
        assert [peer.text() for _ in range(300)] == [str(number) for number in range(300)]


def test_a_close_is_the_last_that_a_socket_hears(clients: Clients, client: str, running: Running) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    both = f"[subscribe({ann.id}, 'room'), subscribe({bob.id}, 'room')]"
    calls = f"[send_to_channel('room', '1'), close({ann.id}, 4001), send_to_channel('room', '2'), send({ann.id}, '3')]"
    bob.ask(both)
    bob.tell(calls)
    bob.receives("1", "2")
    assert ann.is_closed_after() == (["1"], 4001, "")


def test_subscription_order_is_kept_while_others_leave(clients: Clients, running: Running) -> None:
    crowd: list[Client] = [clients.connect(running, "websockets") for _ in range(8)]
    ids = [one.id for one in crowd]
    control = crowd[0]
    chance = random.Random(3)
    expected: list[int] = []
    for _ in range(60):
        one = chance.choice(ids)
        if one in expected:
            expected.remove(one)
            assert control.ask(f"unsubscribe({one}, 'room')") is True
        else:
            expected.append(one)
            assert control.ask(f"subscribe({one}, 'room')") is True
        assert control.ask("subscribers('room')") == expected
