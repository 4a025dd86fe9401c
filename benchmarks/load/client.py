"""A connection of the load: opened without blocking; then a scenario says what becomes of the bytes that come."""

import errno
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from benchmarks.load.loop import Loop
from wsbroker.bench.client import make_frame, split_frames
from wsbroker.websocket.frames import CLOSE, PING, PONG, TEXT

BUFFER: Final = bytearray(128 * 1024)
"""The buffer of every read: its bytes are handled before the next read."""
VIEW: Final = memoryview(BUFFER)

KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT: Final = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The key of RFC 6455 section 1.3, and the answer to it."""

OPENING_AT_ONCE: Final = 64
STUCK_S: Final = 20.0
_IN_PROGRESS: Final = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN}
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_CLOSE_1000: Final = make_frame(CLOSE, b"\x03\xe8")
_LINGER_0: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"


class LoadError(Exception):
    """Says why the load cannot go on."""


class Client:
    """A WebSocket connection of the load, opened without blocking.

    Args:
        index: the number of the connection, which also picks its source address.
        greeting: a text message to send at once; the connection counts as open when the answer has come.
        first_bytes: sent in place of the upgrade request: the connection speaks plain HTTP.
    """

    def __init__(
        self, loop: Loop, port: int, index: int, greeting: bytes | None = None, first_bytes: bytes = b""
    ) -> None:
        self.loop = loop
        self.index = index
        self.is_open = False
        self.has_ended = False
        self.close_code: int | None = None
        self.on_open: Callable[[Client], None] = ignore_client
        self.on_end: Callable[[Client], None] = ignore_client
        self.on_bytes: Callable[[int], None] = self._on_opening_bytes
        """Called with the number of bytes that have been read into BUFFER."""
        self.socket = start_connecting(port, index)
        self.fd = self.socket.fileno()
        self._greeting = greeting
        self._rest = b""
        self._has_head = False
        self._backlog = b""
        self._recv_into: Callable[[bytearray], int] = self.socket.recv_into
        loop.watch_reads(self.fd, self._on_readable)
        self._backlog = first_bytes or (
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (port, KEY)
        )
        loop.watch_writes(self.fd, self._on_writable)

    def send(self, data: bytes) -> None:
        """Sends bytes now, or as soon as the socket has room for them."""
        if self._backlog:
            self._backlog += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.disconnect()
            return
        if sent < len(data):
            self._backlog = data[sent:]
            self.loop.watch_writes(self.fd, self._on_writable)

    def close(self) -> None:
        """Sends a Close frame with 1000; the server ends the connection."""
        self.send(_CLOSE_1000)

    def disconnect(self) -> None:
        """Closes the socket at once and calls `on_end`."""
        if self.has_ended:
            return
        self.has_ended = True
        self.is_open = False
        self.loop.stop_watching(self.fd)
        self.socket.close()
        self.on_end(self)

    def reset_connection(self) -> None:
        """Ends the connection with a TCP reset, which leaves no port taken for a minute."""
        if not self.has_ended:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            self.disconnect()

    def handle_control(self, first: int, payload: bytes) -> None:
        """Answers a ping, and notes the code of a close. `first` is the frame's first byte."""
        if first & 15 == PING:
            self.send(make_frame(PONG, payload))
        elif first & 15 == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005

    def _on_readable(self) -> None:
        """Reads all that has come into BUFFER and passes each read's size to `on_bytes`. Called by the loop."""
        recv_into = self._recv_into
        size = len(BUFFER)
        while size == len(BUFFER):  # less than a full one: that was all there is
            try:
                size = recv_into(BUFFER)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            if not size:
                self.disconnect()
                return
            on_bytes = self.on_bytes  # a name first: calling an attribute that is no method is not optimised in 3.11
            on_bytes(size)

    def _on_writable(self) -> None:
        """Sends the bytes that had no room. Called by the loop."""
        data, self._backlog = self._backlog, b""
        self.loop.watch_writes(self.fd, None)
        self.send(data)

    def _on_opening_bytes(self, size: int) -> None:
        """Reads the answers to upgrade and greeting, until a scenario sets `on_bytes`."""
        data = self._rest + VIEW[:size]
        if not self._has_head:
            head, separator, data = data.partition(b"\r\n\r\n")
            if not separator:
                self._rest = head
                return
            if b" 101 " not in head[:14] or ACCEPT not in head:
                raise LoadError(f"the server refused an upgrade: {bytes(head[:80])!r}")
            self._has_head = True
            if self._greeting is None:
                self._mark_open()
            else:
                self.send(make_frame(TEXT, self._greeting))
        done = 0
        for first, start, done in split_frames(data):
            if first & 8:
                self.handle_control(first, data[start:done])
            elif not self.is_open:
                self._mark_open()
        self._rest = data[done:]

    def _mark_open(self) -> None:
        """Notes that the connection is open and calls `on_open`."""
        self.is_open = True
        self.on_open(self)


def ignore_client(client: Client) -> None:
    """Does nothing: for events that no scenario waits for."""


def start_connecting(port: int, index: int) -> socket.socket:
    """Returns a socket that is connecting; on Linux from one of many loopback addresses with 28,000 ports each."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{2 + index % 250}", 0))
        problem = connection.connect_ex(("127.0.0.1", port))
        if problem not in _IN_PROGRESS and problem:
            raise OSError(problem, errno.errorcode.get(problem, str(problem)))
    except OSError as error:
        connection.close()
        raise LoadError(f"cannot connect to the server: {error}") from error
    return connection


def open_clients(
    loop: Loop,
    port: int,
    greetings: Iterable[bytes | None],
    now_s: Callable[[], float],
    progress: Callable[[int], None],
) -> list[Client]:
    """Opens a connection for each greeting, OPENING_AT_ONCE at a time, and returns them in that order."""
    waiting = deque(enumerate(greetings))
    clients: list[Client] = []
    opened = 0
    news_s = now_s()

    def count_open(client: Client) -> None:
        """Counts an open connection. Called by each client."""
        nonlocal opened, news_s
        opened += 1
        news_s = now_s()

    while waiting or opened < len(clients):
        while waiting and len(clients) - opened < OPENING_AT_ONCE:
            index, greeting = waiting.popleft()
            client = Client(loop, port, index, greeting)
            client.on_open = count_open
            clients.append(client)
        loop.take_turn(0.5)
        progress(opened)
        if any(client.has_ended for client in clients[-OPENING_AT_ONCE:]):
            raise LoadError(f"the server ended a connection while {opened} were open")
        if now_s() - news_s > STUCK_S:
            raise LoadError(f"the server opens no more connections: {opened} are open")
    return clients
