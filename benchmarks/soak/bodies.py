"""Bodies: what clients that send request bodies in crumbs, leave in their middle, or never end them cost the others.

The load is plain blocking sockets in threads. A bystander sends small requests and notes how long each answer took.
"""

import socket
import threading
import time
from typing import Final, cast

import wsbroker
from benchmarks.soak.report import Report, format_mib
from benchmarks.soak.server import Control, ServerProcess

PROMISED_S: Final = 0.5
"""The longest that a bystander may wait, beyond the longest wait of an undisturbed one."""
WAVES: Final = 15
LIMIT_BYTES: Final = 128 << 20
"""`max_request_bytes_total` of the server: the default in a container of 512 MB."""
OVERHEAD_BYTES: Final = 48 << 20
"""What the connections and the allocator's gaps may cost besides."""
HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\n"
CRUMBS: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000
UNFINISHED: Final = HEAD + b"Content-Length: 1048576\r\n\r\n" + b"x" * 1_000_000


class BodySizes:
    """Answers every request with the size of its body."""

    def handle_http_request(self, request: wsbroker.HttpRequest) -> str:
        """Returns the size of the request's body."""
        return str(len(request.body))


class Bystander(threading.Thread):
    """Sends small requests, one after the other, from its start until `stop_and_read_worst_s`."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.waits_s: list[float] = []
        self._port = port
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        """Sends requests and notes the waits. Runs in the thread."""
        with open_connection(self._port) as connection:
            while not self._is_over.wait(0.005):
                start = time.monotonic()
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                connection.recv(4096)
                self.waits_s.append(time.monotonic() - start)

    def stop_and_read_worst_s(self) -> float:
        """Stops the thread; returns the longest wait in seconds."""
        self._is_over.set()
        self.join(60)
        return float("inf") if self.is_alive() else max(self.waits_s)


def run(report: Report, clients: int) -> None:
    """Sends bodies in crumbs, abandoned and unfinished; checks a bystander's waits and the memory.

    Args:
        clients: how many at a time.
    """
    with ServerProcess(Control, BodySizes, worker_kind="inline", max_request_bytes_total=LIMIT_BYTES) as server:
        _send_crumbs(report, server.port, clients)
        before = cast(int, server.ask("read_rss_bytes"))
        _abandon_bodies(server.port, clients, 1)
        first = cast(int, server.ask("read_rss_bytes"))
        _abandon_bodies(server.port, clients, WAVES - 1)
        last = cast(int, server.ask("read_rss_bytes"))
        memory = ", ".join(map(format_mib, (before, first, last)))
        report.show_figure("memory before, after the first and after all waves", memory)
        report.check(last - first < OVERHEAD_BYTES, "waves of leavers leave nothing behind", format_mib(last - first))
        connections = [send_request(server.port, UNFINISHED) for _ in range(5 * clients)]
        held = cast(int, server.ask("read_rss_bytes")) - before
        for connection in connections:
            connection.close()
        report.keep_numbers("held_bytes", held)
        claim = f"{5 * clients} unfinished bodies hold"
        report.check(held < LIMIT_BYTES + OVERHEAD_BYTES, claim, format_mib(held))


def _send_crumbs(report: Report, port: int, clients: int) -> None:
    """Sends bodies in chunks of one byte from all clients at once, beside a bystander."""
    quiet = Bystander(port)
    time.sleep(1.0)
    undisturbed_s = quiet.stop_and_read_worst_s()
    bystander = Bystander(port)
    senders = [threading.Thread(target=send_request, args=(port, CRUMBS), daemon=True) for _ in range(clients)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    worst_s = bystander.stop_and_read_worst_s()
    report.keep_numbers("undisturbed_ms", undisturbed_s * 1e3)
    report.keep_numbers("worst_ms", worst_s * 1e3)
    report.show_figure("longest wait, undisturbed", f"{undisturbed_s * 1e3:.0f} ms")
    is_right = worst_s < PROMISED_S + undisturbed_s
    report.check(is_right, f"beside {clients} clients with crumbs", f"{worst_s * 1e3:.0f} ms")


def _abandon_bodies(port: int, clients: int, waves: int) -> None:
    """Has all clients send half a body and leave, once per wave."""
    for _ in range(waves):
        connections = [send_request(port, UNFINISHED) for _ in range(clients)]
        time.sleep(0.2)
        for connection in connections:
            connection.close()
        time.sleep(0.2)


def open_connection(port: int) -> socket.socket:
    """Opens a blocking connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def send_request(port: int, data: bytes) -> socket.socket:
    """Sends as much of a request as the server takes, on a new connection, and returns the connection."""
    connection = open_connection(port)
    try:
        connection.sendall(data)
        if data is CRUMBS:
            connection.recv(4096)
    except OSError:
        pass  # the server refused the request
    return connection
