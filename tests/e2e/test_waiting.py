"""What clients that do not read cost, over real connections."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

import wsbroker
from kits.contract_kit import until
from kits.raw_peer import Peer, frame, request, text
from kits.server_process import ServerProcess, serving
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import Config

KIB = 1024
MIB = 1024 * KIB
CLIENTS = 20

ECHO = """
import wsbroker

def handle_socket_open(request, socket_id):
    wsbroker.subscribe(socket_id, "all")

def handle_socket_message(data, socket_id):
    if data == "fill":  # the kernel's buffers
        if wsbroker.queued_bytes(socket_id) == 0:
            wsbroker.send(socket_id, bytes(65536))
    else:
        wsbroker.send(socket_id, data)

def handle_http_request(request):
    ids = wsbroker.subscribers("all")
    return {"open": len(ids), "blocked": sum(wsbroker.queued_bytes(each) > 0 for each in ids)}
"""


def resident_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * KIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_clients_that_leave_answers_of_a_byte_unread_cost_no_more_than_their_limit(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    options = ("--worker-kind", "inline", "--max-queue-bytes", "128KiB")
    with serving("./echo.py", *options, folder=tmp_path) as server:
        address = ("127.0.0.1", server.port)
        control = Peer(address)

        def state() -> str:
            control.send(request("GET"))
            return control.answer().text

        peers = [Peer(address) for _ in range(CLIENTS)]
        for peer in peers:
            peer.upgrade()

        def are_filled() -> bool:
            for peer in peers:
                peer.send(text("fill"))
            return state() == f'{{"open":{CLIENTS},"blocked":{CLIENTS}}}'

        until(are_filled, "the kernel takes everything")
        assert are_filled()
        before = resident_bytes(server)
        echoes = frame(2, b"x") * 10_000  # 30 KB to send back, and half a megabyte as objects
        for peer in peers:
            peer.send(echoes)
        until(lambda: state() == '{"open":0,"blocked":0}', "nobody was closed for what it left unread")
        assert resident_bytes(server) - before < CLIENTS * 128 * KIB * 2
        for peer in peers:
            peer.reset()
        control.end()


class Silent:
    """An application that does nothing: the test's own thread calls the broker."""

    def handle_socket_open(self, request: object, socket_id: int) -> None:
        wsbroker.subscribe(socket_id, "all")

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        for number in range(40):
            wsbroker.send_to_channel("all", bytes([number]) * 64 * KIB)

    def handle_http_request(self, request: object) -> wsbroker.HttpResponse:
        return wsbroker.HttpResponse(200, (), bytes(8 * MIB))


@contextmanager
def running(max_waiting_bytes: int | None = None) -> Iterator[tuple[wsbroker.Server, tuple[str, int]]]:
    config = Config(worker_kind="inline", shutdown_timeout=2, max_waiting_bytes=max_waiting_bytes)
    with wsbroker.start("127.0.0.1:0", worker=Silent(), config=config, handle_signals=False) as server:
        address = server.addresses[0]
        assert isinstance(address, TcpAddress)
        yield server, ("127.0.0.1", address.port)


def test_a_client_that_reads_gets_all_that_a_handler_publishes_at_once() -> None:
    with running() as (server, address):
        reader, publisher = Peer(address), Peer(address)
        reader.upgrade()
        publisher.upgrade()
        publisher.send(text("2.5 MiB"))
        until(lambda: cast(int, server.statistics()["publications"]) == 40)
        for peer in (publisher, reader):
            assert [peer.frame()[1] for _ in range(40)] == [bytes([number]) * 64 * KIB for number in range(40)]
        assert server.statistics()["slow_consumers"] == 0
        reader.end()
        publisher.end()


def fill(socket_id: int) -> None:
    """Sends until the kernel takes nothing more."""
    while wsbroker.is_open(socket_id):
        wsbroker.send(socket_id, bytes(64 * KIB))
        wsbroker.queued_bytes(socket_id)
        if wsbroker.queued_bytes(socket_id):  # asked in a later turn: that one has been flushed
            return


def test_those_for_whom_most_waits_are_closed_before_all_of_it_fills_the_memory() -> None:
    with running(max_waiting_bytes=MIB) as (server, address):
        peers: list[Peer] = []
        for _ in range(4):
            peers.append(Peer(address))
            peers[-1].upgrade()
        ids = wsbroker.subscribers("all")
        for socket_id in ids:
            fill(socket_id)
        for socket_id, parts in zip(ids, (2, 8, 4, 0), strict=True):
            for _ in range(parts):
                wsbroker.send(socket_id, bytes(50 * KIB))
        until(lambda: cast(int, server.statistics()["waiting_bytes"]) > 700 * KIB)
        assert all(wsbroker.is_open(socket_id) for socket_id in ids)
        for _ in range(7):
            wsbroker.send(ids[3], bytes(50 * KIB))
        until(lambda: not wsbroker.is_open(ids[1]))
        assert [wsbroker.is_open(socket_id) for socket_id in ids] == [True, False, True, True]
        statistics = server.statistics()
        assert (statistics["overload_closes"], statistics["slow_consumers"]) == (1, 0)
        assert cast(int, statistics["waiting_bytes"]) < 900 * KIB
        while (found := peers[1].frame())[0] == 2:
            pass
        assert found == (8, b"\x03\xf5server overloaded")
        for peer, parts in zip(peers, (2, 0, 4, 7), strict=True):
            if parts:
                while len(peer.frame()[1]) != 50 * KIB:
                    pass
                assert [len(peer.frame()[1]) for _ in range(parts - 1)] == [50 * KIB] * (parts - 1)
        until(lambda: server.statistics()["waiting_bytes"] == 0)
        for peer in peers:
            peer.end()


def test_http_answers_that_are_not_taken_are_counted_and_those_that_are_too_much_aborted() -> None:
    with running(max_waiting_bytes=MIB) as (server, address):
        peers = [Peer(address) for _ in range(2)]
        for count, peer in enumerate(peers):
            peer.send(request("GET"))
            until(lambda count=count: server.statistics()["answers_shed"] == count)  # type: ignore[misc]
            until(lambda: cast(int, server.statistics()["answer_bytes"]) > MIB)
            assert cast(int, server.statistics()["answer_bytes"]) <= 8 * MIB + KIB
        assert len(peers[1].answer().body) == 8 * MIB
        until(lambda: server.statistics()["answer_bytes"] == 0)
        for peer in peers:
            peer.reset()
