"""Time limits of handlers: counted from the call, an async handler is cancelled, a plain one interrupted."""

import pytest

from kits.contract_kit import ASYNC, ONLY_WIRED, PLAIN, Clients, Refused, Running, Servers, doing, fresh
from kits.log_records import Log
from kits.raw_peer import text
from wsbroker.settings.config import WorkerKind

LIMIT_S = 0.3
"""Much longer than every other handler here takes."""
TOO_LONG = "handler took too long handler="
SPIN = "next(0 for one in iter(int, 1) if one)"
"""Runs for ever, in Python."""


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with little time for handlers."""
    return servers.get(app, kind, handler_timeout=LIMIT_S)


@ASYNC
def test_an_async_handler_is_cancelled_and_its_socket_closed(
    clients: Clients, client: str, running: Running, log: Log
) -> None:
    watcher, ann = clients.connect(running), clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    ann.send(f"await cleaned(gate({fresh('gate')!r}), lambda: send({watcher.id}, 'cancelled'))")
    assert ann.closed_with() == (1011, "handler error")
    heard = {str(watcher.receive()), str(watcher.receive())}
    assert heard == {"cancelled", repr((ann.id, None, 1011, "handler error"))}
    watcher.hears_nothing_else()
    log.forgives(TOO_LONG + "handle_socket_message")


@ASYNC
def test_messages_behind_it_are_not_handled(clients: Clients, running: Running, log: Log) -> None:
    watcher, peer = clients.connect(running), clients.peer(running)
    never = text(f"tell send({watcher.id}, 'never')")
    peer.upgrade(text(f"await gate({fresh('gate')!r}).wait()"), never, never)
    assert peer.close_frame() == (1011, "handler error")
    watcher.hears_nothing_else()
    log.forgives(TOO_LONG + "handle_socket_message")


@ASYNC
def test_an_open_handler_that_takes_too_long_is_a_504(
    clients: Clients, client: str, running: Running, log: Log
) -> None:
    watcher = clients.connect(running)
    gate = repr(fresh("gate"))
    with pytest.raises(Refused) as caught:
        told = f"send({watcher.id}, repr(me)), subscribe(me, 'gone'), send(me, 'never')"
        clients.opens(running, f"[{told}] and gate({gate}).wait()")
    assert caught.value.status == 504
    assert caught.value.body in ("Gateway Timeout", None)
    socket_id = watcher.answer()
    assert watcher.ask(f"(is_open({socket_id}), subscribers('gone'))") == (False, [])
    log.forgives(TOO_LONG + "handle_socket_open")


def test_the_time_runs_from_the_call_and_not_while_a_message_waits(
    servers: Servers, kind: WorkerKind, clients: Clients
) -> None:
    """Each takes a tenth of the limit, all together take longer than the limit."""
    running = servers.get("async_puppet", kind, handler_timeout=0.5)
    peer = clients.peer(running)
    peer.upgrade(*[text("await slept(0.05)")] * 11)
    assert [peer.text() for _ in range(11)] == ["'slept'"] * 11


@ASYNC
def test_a_handler_that_catches_its_cancellation_may_say_good_bye(clients: Clients, running: Running, log: Log) -> None:
    watcher, ann = clients.connect(running), clients.connect(running)
    ann.send(f"await stubborn(gate({fresh('gate')!r}), lambda: send({watcher.id}, 'still here'))")
    assert ann.closed_with() == (1011, "handler error")
    watcher.receives("still here")
    log.forgives(TOO_LONG + "handle_socket_message")


def test_on_handler_error_log_keeps_the_socket(servers: Servers, kind: WorkerKind, clients: Clients, log: Log) -> None:
    running = servers.get("async_puppet", kind, handler_timeout=LIMIT_S, on_handler_error="log")
    ann = clients.connect(running)
    ann.send(f"await gate({fresh('gate')!r}).wait()")
    assert ann.ask("is_open(me)") is True
    log.forgives(TOO_LONG + "handle_socket_message")


@ONLY_WIRED
@PLAIN
def test_a_plain_handler_is_interrupted_and_its_socket_closed(clients: Clients, running: Running, log: Log) -> None:
    watcher, ann = clients.connect(running), clients.connect(running)
    watcher.ask("subscribe(me, 'closes')")
    ann.send(f"tell (send(me, 'before'), {SPIN})")
    ann.receives("before")
    assert ann.closed_with() == (1011, "handler error")
    assert watcher.answer() == (ann.id, None, 1011, "handler error")
    # The worker goes on.
    assert watcher.ask("1") == 1
    watcher.hears_nothing_else()
    log.forgives(TOO_LONG + "handle_socket_message")


@ONLY_WIRED
@PLAIN
def test_a_plain_open_handler_is_interrupted_too(clients: Clients, running: Running, log: Log) -> None:
    with pytest.raises(Refused) as caught:
        clients.opens(running, SPIN)
    assert caught.value.status == 504
    log.forgives(TOO_LONG + "handle_socket_open")


@ONLY_WIRED
@ASYNC
def test_a_plain_step_of_an_async_handler_is_interrupted_too(
    clients: Clients, client: str, running: Running, log: Log
) -> None:
    ann, bob = clients.connect(running), clients.connect(running)
    ann.send(f"tell {SPIN}")
    assert ann.closed_with() == (1011, "handler error")
    assert bob.ask("1") == 1
    log.forgives(TOO_LONG + "handle_socket_message")


@ONLY_WIRED
@PLAIN
def test_a_close_handler_that_takes_too_long_is_interrupted(clients: Clients, running: Running, log: Log) -> None:
    watcher, ann = clients.connect(running), clients.connect(running)
    ann.ask(f"closing.update({{me: {f'[send({watcher.id}, 1 and str(me)), {SPIN}]'!r}}})")
    ann.close()
    watcher.receives(str(ann.id))
    assert watcher.ask("1") == 1
    log.forgives(TOO_LONG + "handle_socket_close")


def test_a_plain_handler_in_the_event_loop_is_only_logged(servers: Servers, clients: Clients, log: Log) -> None:
    """Nothing can interrupt it there."""
    running = servers.get("puppet", "inline", handler_timeout=0.02)
    ann = clients.connect(running)
    assert ann.ask("__import__('time').sleep(0.05)") is None
    assert ann.ask("is_open(me)") is True
    assert "handler took too long in the event loop, everybody waited handler=handle_socket_message" in log.text
    log.forgives("handler took too long in the event loop")


@ASYNC
def test_http_has_a_time_limit_of_its_own(clients: Clients, running: Running) -> None:
    assert clients.http(running, "GET", doing(f"slept({LIMIT_S + 0.05})")).text == "slept"
