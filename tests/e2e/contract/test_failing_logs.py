"""What goes wrong while something is reported costs no more than the report; and what must be seen is seen."""

import re
import signal
from collections.abc import Iterator

import pytest

from e2e.contract.apps import failing_logs
from kits.contract_kit import APPS, ELSEWHERE, Clients, Refused, Running, Servers, until
from kits.forked_programs import Forks, program
from kits.log_records import Log
from kits.raw_peer import PATIENCE_S, Peer, request, text
from kits.server_process import START_S
from wsbroker.settings.config import WorkerKind

LIMIT_S = 0.2
"""Of handlers; a slow one takes longer."""
FAILURES = ("raise", "unshowable", "huge", "async raise", "async unshowable", "async slow")
"""What ends a message with 1011, and everything else with 500 (a slow one: 504)."""


@pytest.fixture(scope="module")
def running_with_failing_logs(servers: Servers, kind: WorkerKind) -> Iterator[Running]:
    """A server whose logging fails, in this process and in its workers."""
    with failing_logs.attached():
        yield servers.of(
            APPS + "failing_logs", kind, handler_timeout=LIMIT_S, http_timeout=LIMIT_S, worker_hang_timeout=PATIENCE_S
        )
        servers.stop()


@pytest.fixture
def running(running_with_failing_logs: Running, log: Log) -> Iterator[Running]:
    """The server whose logging fails; checks after the test that its workers are the same."""
    running = running_with_failing_logs
    yield running
    workers = running.server.statistics()["workers"]
    assert isinstance(workers, list)
    assert [(worker["state"], worker["restarts"]) for worker in workers] == [("running", 0)]
    log.forgives("LookupError", "Unshowable", "handler failed", "took too long", "returned what it may not")


@pytest.mark.parametrize("how", FAILURES)
def test_a_message_handler_that_fails_closes_its_socket_and_no_other(
    clients: Clients, running: Running, how: str
) -> None:
    bystander = clients.connect(running)
    ann = clients.connect(running)
    errors = running.count_of_workers("handler_errors") + running.count_of_workers("handler_timeouts")
    ann.send(how)
    assert ann.closed_with()[0] == 1011
    bystander.send("echo")
    bystander.receives("echo")
    until(lambda: running.count_of_workers("handler_errors") + running.count_of_workers("handler_timeouts") > errors)


@pytest.mark.parametrize("how", (*FAILURES, "wrong", "async wrong"))
def test_an_open_or_http_handler_that_fails_is_answered(clients: Clients, running: Running, how: str) -> None:
    status = 504 if how == "async slow" else 500
    with pytest.raises(Refused) as refused:
        clients.connect(running, "websockets", headers={"X-Fail": how})
    assert refused.value.status == status
    assert clients.http(running, headers={"X-Fail": how}).status == status
    assert clients.http(running).status == 200


def test_what_is_slow_odd_or_goes_wrong_in_the_loop_goes_on(
    clients: Clients, running: Running, kind: WorkerKind
) -> None:
    ann = clients.connect(running)
    for how in ("wrong", "async wrong", *(("slow",) if kind == "inline" else ()), "async "):
        ann.send(how)
        ann.send(f"echo {how}")
        ann.receives(f"echo {how}")
    for _ in range(2 * len(failing_logs.RAISED)):
        if kind != "inline":
            ann.send("async ")  # from here on there is a loop
        ann.send("in the loop")
        ann.send("echo")
        ann.receives("echo")
    if kind != "inline":
        ann.send("async ")  # takes a turn of the loop: the last failure has been reported behind it
        ann.send("echo end")
        ann.receives("echo end")


def test_what_cannot_be_logged_is_written_to_stderr(
    clients: Clients, running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    ann = clients.connect(running)
    ann.send("raise")
    assert ann.closed_with()[0] == 1011
    errors = ""

    def is_written() -> bool:
        nonlocal errors
        errors += capfd.readouterr().err
        return re.search(r"the lines above could not be logged: \w+: logging fails in a \w+, at ", errors) is not None

    until(is_written)
    assert "ERROR wsbroker.worker: handler failed handler=handle_socket_message" in errors
    assert "LookupError: told to" in errors


def test_a_peers_and_an_operators_lines_that_fail_cost_no_answer(clients: Clients, running: Running) -> None:
    for _ in range(2 * len(failing_logs.RAISED)):
        peer = clients.peer(running)
        peer.send(b"GET / HTTP/1.1\r\nno field\r\n\r\n")
        assert peer.answer().status == 400
    assert clients.http(running).status == 200


@pytest.mark.parametrize("configured", ["root", "named"])
def test_failures_are_seen_where_the_application_disables_existing_loggers(
    forks: Forks, kind: WorkerKind, configured: str
) -> None:
    """And so is where the server listens, and what comes after a reload."""
    environment = {"OWN_LOGS": configured}
    with program(
        forks, "--bind=127.0.0.1:0", f"{APPS}own_logs", f"--worker-kind={kind}", environment=environment
    ) as server:
        for number in range(2 if kind in ELSEWHERE and configured == "root" else 1):
            if number:
                server.process.send_signal(signal.SIGHUP)
                server.wait_for_line(re.compile(r"wsbroker\.server\.\w+: reloaded"), START_S)
            peer = Peer(("127.0.0.1", server.port))
            peer.upgrade(text(f"of message {number}"))
            assert peer.close_frame()[0] == 1011
            peer.end()
            server.wait_for_line(re.compile(f"^LookupError: of message {number}$"), PATIENCE_S)
        peer = Peer(("127.0.0.1", server.port))
        peer.send(request("GET"))
        assert peer.answer().status == 500
        server.wait_for_line(re.compile("^LookupError: of a request$"), PATIENCE_S)
        peer.end()
        assert server.stop() == 0
        own = "own ERROR" if configured == "root" else " ERROR  "
        assert f"{own} wsbroker.worker: handler failed handler=handle_http_request" in server.log
