"""The connections of the load and the loop that waits for them: a pattern says what becomes of the bytes that come."""

import errno
import select
import socket
import sys
from collections.abc import Callable
from typing import Final

from wsbroker.bench.client import make_frame, split_frames
from wsbroker.websocket.frames import CLOSE, PING, PONG, TEXT

BUFFER: Final = bytearray(128 * 1024)
"""The buffer of every read: its bytes are handled before the next read."""
VIEW: Final = memoryview(BUFFER)

KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT: Final = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The key of RFC 6455 section 1.3, and the answer to it."""

READ: Final = 1
WRITE: Final = 4
EVENTS_AT_ONCE: Final = 1024
LISTEN: Final = READ | getattr(select, "EPOLLET", 0) | getattr(select, "EPOLLRDHUP", 0)
"""Edge-triggered where possible: epoll reports an arrival once, which saves 0.3 µs an event."""
_IN_PROGRESS: Final = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN}
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_CLOSE_1000: Final = make_frame(CLOSE, b"\x03\xe8")
_LINGER_0: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"


class LoadError(Exception):
    """Says why the load cannot go on."""


class Loop:
    """Waits until connections are ready and has them read or write: epoll where there is one, else poll."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}
        # Both have the same bits for reading and writing.
        if hasattr(select, "epoll"):
            epoll = select.epoll()
            self._selector: select.epoll | select.poll = epoll
            self._wait: Callable[[float], list[tuple[int, int]]] = lambda s: epoll.poll(max(s, 0.0), EVENTS_AT_ONCE)
        else:
            poll = select.poll()
            self._selector = poll
            self._wait = lambda s: poll.poll(max(s, 0.0) * 1000)

    def watch_client(self, client: "Client", is_writing: bool) -> None:
        """Watches a connection, which must read all there is each time; also for room to write if it is writing."""
        events = LISTEN | (WRITE if is_writing else 0)
        if client.fd in self._clients:
            self._selector.modify(client.fd, events)
        else:
            self._clients[client.fd] = client
            self._selector.register(client.fd, events)

    def forget_client(self, client: "Client") -> None:
        """Stops watching a connection: for a while, or before its socket is closed."""
        if self._clients.pop(client.fd, None) is not None:
            self._selector.unregister(client.fd)

    def take_turn(self, timeout_s: float) -> None:
        """Waits at most `timeout_s`, and has all connections that are ready read and write."""
        clients = self._clients
        for fd, mask in self._wait(timeout_s):
            client = clients.get(fd)
            if client is None:
                continue
            if mask != READ and mask & WRITE:
                client.send_backlog()
                if mask == WRITE:
                    continue
            client.read_all()
            if mask & ~(READ | WRITE):
                client.read_all()  # the end came with the last bytes, and is not told again


class Client:
    """A connection of the load, opened without blocking.

    Args:
        index: the number of the connection, which also picks its source address.
        greeting: a text message to send at once; the connection counts as open when the answer has come.
        is_plain: the connection is not upgraded, and is open once it is connected.
    """

    def __init__(
        self, loop: Loop, port: int, index: int, greeting: bytes | None = None, is_plain: bool = False
    ) -> None:
        self.is_open = False
        self.has_ended = False
        self.close_code: int | None = None
        self.on_open: Callable[[Client], None] = ignore_client
        self.on_end: Callable[[Client], None] = ignore_client
        self.on_bytes: Callable[[int], None] = self._read_opening
        """Called with the number of bytes that have been read into BUFFER."""
        self._loop = loop
        self._greeting = greeting
        self._rest = b""
        self._has_head = False
        self._is_plain = is_plain
        self._backlog = (
            b""
            if is_plain
            else (
                b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (port, KEY)
            )
        )
        self._socket = start_connecting(port, index)
        self._recv_into: Callable[[bytearray], int] = self._socket.recv_into
        self.fd = self._socket.fileno()
        loop.watch_client(self, is_writing=True)

    def send(self, data: bytes) -> None:
        """Sends bytes now, or as soon as the socket has room for them."""
        if self._backlog:
            self._backlog += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.disconnect()
            return
        if sent < len(data):
            self._backlog = data[sent:]
            self._loop.watch_client(self, is_writing=True)

    def close(self) -> None:
        """Sends a Close frame with 1000; the server ends the connection."""
        self.send(_CLOSE_1000)

    def disconnect(self) -> None:
        """Closes the socket at once and calls `on_end`."""
        if self.has_ended:
            return
        self.has_ended = True
        self.is_open = False
        self._loop.forget_client(self)
        self._socket.close()
        self.on_end(self)

    def reset_connection(self) -> None:
        """Ends the connection with a TCP reset, which leaves no port taken for a minute."""
        if not self.has_ended:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            self.disconnect()

    def pause_reading(self) -> None:
        """Stops reading from the socket until `resume_reading`, so that the kernel's buffers fill up."""
        self._loop.forget_client(self)

    def resume_reading(self) -> None:
        """Reads from a paused socket again, at once if bytes are there."""
        self._loop.watch_client(self, is_writing=False)

    def handle_control(self, first: int, payload: bytes) -> None:
        """Answers a ping, and notes the code of a close. `first` is the frame's first byte."""
        if first & 15 == PING:
            self.send(make_frame(PONG, payload))
        elif first & 15 == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005

    def read_all(self) -> None:
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

    def send_backlog(self) -> None:
        """Sends the bytes that had no room. Called by the loop."""
        data, self._backlog = self._backlog, b""
        self._loop.watch_client(self, is_writing=False)
        self.send(data)
        if self._is_plain and not self.is_open and not self.has_ended:
            self._mark_open()

    def _read_opening(self, size: int) -> None:
        """Reads the answers to upgrade and greeting, until a pattern sets `on_bytes`."""
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
    """Does nothing: for events that no pattern waits for."""


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
        if problem not in _IN_PROGRESS:
            raise OSError(problem, errno.errorcode.get(problem, str(problem)))
    except OSError as error:
        connection.close()
        raise LoadError(f"cannot connect to the server: {error}") from error
    return connection
