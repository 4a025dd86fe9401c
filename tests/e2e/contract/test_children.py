"""Processes that a handler starts: they are none of the server's business, nor is the server theirs."""

import http.client
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kits.contract_kit import APPS, KINDS
from kits.forked_programs import Forks, Program, program
from kits.raw_peer import PATIENCE_S, Peer, close_frame, text
from wsbroker.settings.config import WorkerKind

FORKING = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "interpreter"], indirect=True)
"""An isolated subinterpreter refuses to fork."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")


@pytest.fixture(params=["App", "AsyncApp"], scope="module")
def parents(request: pytest.FixtureRequest, forks: Forks, kind: WorkerKind) -> Iterator[Program]:
    """A server whose handlers have children, for all tests of a kind."""
    arguments = [f"{APPS}parents:{request.param}", "--bind=127.0.0.1:0", f"--worker-kind={kind}", "--workers=1"]
    quiet = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}  # a fork while threads run: that is what this is about
    with program(forks, *arguments, "--handler-timeout=60", environment=quiet) as server:
        assert server.port
        yield server
        assert server.stop() == 0
        assert "the child goes on" not in server.log


@pytest.fixture
def peer(parents: Program) -> Iterator[Peer]:
    """A connection to the server of `parents`, on which nothing is received but what the test reads."""
    peer = Peer(("127.0.0.1", parents.port))
    peer.upgrade()
    yield peer
    peer.send(close_frame(1000))
    assert peer.close_frame() == (1000, "")
    assert peer.rest() == b""
    peer.end()


@FORKING
@pytest.mark.parametrize(("how", "status"), [("returns", 0), ("exits", 7), ("raises", 1), ("calls", 4), ("shows", 0)])
def test_a_forked_child_ends_with_its_handler_and_never_speaks(
    how: str, status: int, peer: Peer, parents: Program
) -> None:
    peer.send(text(f"child {how}"), text(f"child {how}"))
    assert [peer.text(), peer.text()] == [f"status {status}"] * 2
    if how == "raises":
        parents.wait_for_line(re.compile("LookupError: the child's"), PATIENCE_S)


def test_a_subinterpreter_refuses_to_fork(parents: Program, kind: WorkerKind) -> None:
    if kind != "interpreter":
        pytest.skip("the others do fork")
    peer = Peer(("127.0.0.1", parents.port))
    peer.upgrade(text("child returns"))
    assert peer.close_frame() == (1011, "handler error")
    peer.end()
    parents.wait_for_line(re.compile("RuntimeError: fork not supported for isolated subinterpreters"), PATIENCE_S)


@FORKING
def test_so_does_one_of_a_request(parents: Program) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", parents.port, timeout=PATIENCE_S)
    for _ in range(2):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"status 0"
    connection.close()


@FORKING
def test_a_child_can_be_terminated_from_its_first_instant_on(peer: Peer) -> None:
    for how, found in {"forked and ended at once": "-15", "process ended": "[-15, -15]", "pool ended": "True"}.items():
        peer.send(text(how))
        assert peer.text() == found, how


@FORKING
@pytest.mark.parametrize("parents", ["AsyncApp"], indirect=True)
def test_so_it_is_with_what_an_async_handler_leaves_to_its_loop(peer: Peer) -> None:
    for how, found in {"loop's program ended": "-15", "thread's child": "0", "task's child": "0"}.items():
        peer.send(text(how))
        assert peer.text() == found, how


def test_a_program_that_a_handler_starts_has_all_signals_at_their_defaults(peer: Peer) -> None:
    peer.send(text("program shows"), text("program ended"))
    assert peer.text() == "[True, True, True] set()"
    assert peer.text() == str(-signal.SIGTERM)


@FORKING
def test_a_child_that_lives_on_holds_no_connection_and_no_port(forks: Forks, kind: WorkerKind, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    arguments = [f"{APPS}parents:app", f"--worker-kind={kind}", "--workers=1", f"--worker-arg={tmp_path / 'pipe'}"]
    quiet = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    with program(forks, "--bind=127.0.0.1:0", *arguments, environment=quiet) as server:
        other = Peer(("127.0.0.1", server.port))
        other.upgrade()
        peer = Peer(("127.0.0.1", server.port))
        peer.upgrade(text("leave a child"))
        assert peer.text() == "left"
        peer.send(close_frame(1000))
        assert peer.close_frame() == (1000, "")
        assert peer.rest() == b""  # the server ends TCP, as RFC 6455 asks it to
        peer.end()
        port = server.port
        server.process.send_signal(signal.SIGTERM)
        assert other.close_frame() == (1001, "server shutdown")
        other.send(close_frame(1001))
        assert other.rest() == b""
        other.end()
        assert server.process.wait() == 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()
        with open(tmp_path / "pipe", "wb"):
            pass  # the child was there all the time, or this would wait for ever
    assert "left_behind=0" in server.log
