"""A server that is stopped while sockets flood it: all of them are closed, and every close handler runs."""

import time
from typing import cast

import pytest

import wsbroker
from kits.raw_peer import Peer, text
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import Config, WorkerKind

SOCKETS = 10


class Counts:
    """Handlers of 0.3 ms that count."""

    def __init__(self) -> None:
        self.opens = 0
        self.messages = 0
        self.closes = 0
        self.after_stop = 0
        self.has_stopped = False

    def handle_socket_open(self, request: wsbroker.HttpRequest, socket_id: int) -> None:
        self.opens += 1

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        time.sleep(0.0003)
        self.messages += 1
        self.after_stop += self.has_stopped

    def handle_socket_close(self, socket_id: int) -> None:
        self.closes += 1
        self.after_stop += self.has_stopped

    def handle_worker_stop(self) -> None:
        self.has_stopped = True


@pytest.mark.parametrize("kind", ["inline", "thread"])
def test_messages_that_there_is_no_time_for_are_dropped_and_closes_are_not(
    kind: WorkerKind, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts()
    config = Config(worker_kind=kind, shutdown_timeout=3, close_timeout=0.2)
    server = wsbroker.start("127.0.0.1:0", worker=counts, config=config, handle_signals=False)
    address = server.addresses[0]
    assert isinstance(address, TcpAddress)
    peers = [Peer(("127.0.0.1", address.port)) for _ in range(SOCKETS)]
    for peer in peers:
        peer.upgrade()
    for peer in peers:
        peer.send(text("x") * 1000)  # three seconds of handlers and more
    while cast(int, server.statistics()["messages_received"]) < 1000:
        time.sleep(0.01)
    server.stop()
    time.sleep(0.1)
    assert (counts.opens, counts.closes, counts.has_stopped, counts.after_stop) == (SOCKETS, SOCKETS, True, 0)
    assert 0 < counts.messages < 10_000
    assert "messages dropped, there is no time left for their handlers" in caplog.text
    assert "Traceback" not in caplog.text
    for peer in peers:
        peer.end()
