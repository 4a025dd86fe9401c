"""Bodies: what clients that send request bodies in crumbs, leave in their middle, or never end them cost the others.

The load is plain blocking sockets in threads: a bystander asks and asks, and notes how long each answer took.
"""

import socket
import threading
import time
from typing import Final

import wsbroker
from benchmarks.soaking.report import Report, mib
from benchmarks.soaking.server import Control, ServerProcess

PROMISED_S: Final = 0.5
"""The longest that a bystander may wait, beyond what the undisturbed one did."""
WAVES: Final = 15
LIMIT_BYTES: Final = 128 << 20
"""`max_request_bytes_total` of the server: what is the default in a container of 512 MB."""
OVERHEAD_BYTES: Final = 48 << 20
"""What connections cost besides, and what the allocator keeps."""
HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\n"
CRUMBS: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000
UNFINISHED: Final = HEAD + b"Content-Length: 1048576\r\n\r\n" + b"x" * 1_000_000


class Sizes:
    """The application."""

    def handle_http_request(self, request: wsbroker.HttpRequest) -> str:
        """Answers with the size of the body."""
        return str(len(request.body))


class Bystander(threading.Thread):
    """Asks for something small over and over."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.waits_s: list[float] = []
        self._port = port
        self._is_over = threading.Event()

    def run(self) -> None:
        """Asks until `worst` is called."""
        with connected(self._port) as connection:
            while not self._is_over.wait(0.005):
                start = time.monotonic()
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                connection.recv(4096)
                self.waits_s.append(time.monotonic() - start)

    def worst(self) -> float:
        """Ends it; returns the longest wait in seconds."""
        self._is_over.set()
        self.join(60)
        return float("inf") if self.is_alive() else max(self.waits_s)


def run(report: Report, clients: int) -> None:
    """Runs it.

    Args:
        clients: at a time.
    """
    with ServerProcess(Control, Sizes, worker_kind="inline", max_request_bytes_total=LIMIT_BYTES) as server:
        port = server.address[1]
        _crumbs(report, port, clients)
        before = int(str(server.ask("rss_bytes")))
        _waves(port, clients, 1)
        first = int(str(server.ask("rss_bytes")))
        _waves(port, clients, WAVES - 1)
        last = int(str(server.ask("rss_bytes")))
        report.figure("memory before, after the first and after all waves", f"{mib(before)}, {mib(first)}, {mib(last)}")
        report.check(last - first < OVERHEAD_BYTES, "waves of leavers leave nothing behind", mib(last - first))
        connections = [send(port, UNFINISHED) for _ in range(5 * clients)]
        held = int(str(server.ask("rss_bytes"))) - before
        for connection in connections:
            connection.close()
        report.number("held_bytes", held)
        report.check(held < LIMIT_BYTES + OVERHEAD_BYTES, f"{5 * clients} unfinished bodies hold", mib(held))


def _crumbs(report: Report, port: int, clients: int) -> None:
    quiet = Bystander(port)
    quiet.start()
    time.sleep(1.0)
    undisturbed = quiet.worst()
    bystander = Bystander(port)
    bystander.start()
    senders = [threading.Thread(target=send, args=(port, CRUMBS), daemon=True) for _ in range(clients)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    worst = bystander.worst()
    report.number("undisturbed_ms", undisturbed * 1e3)
    report.number("worst_ms", worst * 1e3)
    report.figure("longest wait, undisturbed", f"{undisturbed * 1e3:.0f} ms")
    report.check(worst < PROMISED_S + undisturbed, f"beside {clients} clients with crumbs", f"{worst * 1e3:.0f} ms")


def _waves(port: int, clients: int, count: int) -> None:
    for _ in range(count):
        connections = [send(port, UNFINISHED) for _ in range(clients)]
        time.sleep(0.2)
        for connection in connections:
            connection.close()
        time.sleep(0.2)


def connected(port: int) -> socket.socket:
    """Returns a connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def send(port: int, data: bytes) -> socket.socket:
    """Sends as much of a request as the server takes, on a connection of its own; returns that."""
    connection = connected(port)
    try:
        connection.sendall(data)
        if data is CRUMBS:
            connection.recv(4096)
    except OSError:
        pass  # it was refused
    return connection
