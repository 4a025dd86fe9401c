"""A bare client connection that sends exactly the bytes of the test, and reads the frames and responses of a server."""

import socket
from typing import Final

from websockets.frames import Frame, Opcode

from kits.front_kit import KEY as KEY
from kits.front_kit import upgrade as upgrade

PATIENCE_S: Final = 20.0
"""The longest time that any step of the contract tests may take."""


class Answer:
    """A response to a plain HTTP request; the headers' names are in lower case."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body!r}>"


class Peer:
    """A bare client connection; sends exactly the bytes that the test passes."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE_S)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, PATIENCE_S)
        self._read = bytearray()

    def send(self, *parts: bytes) -> None:
        """Sends bytes, in one segment as long as they fit."""
        self.socket.sendall(b"".join(parts))

    def receive(self) -> bytes:
        """Returns the next bytes that arrive; b"" at the end of the connection, also after a reset."""
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""

    def _need(self, size: int) -> None:
        while len(self._read) < size:
            part = self.receive()
            assert part, f"closed in the middle: {bytes(self._read)!r}"
            self._read += part

    def take(self, size: int) -> bytes:
        """Returns the next `size` bytes."""
        self._need(size)
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def head(self) -> bytes:
        """Returns the next response head."""
        while b"\r\n\r\n" not in self._read:
            self._need(len(self._read) + 1)
        return self.take(self._read.index(b"\r\n\r\n") + 4)

    def answer(self) -> Answer:
        """Returns the next response, of the length in its header."""
        head = self.head()
        headers = fields_of(head)
        return Answer(int(head.split(b" ", 2)[1]), headers, self.take(int(headers.get("content-length", "0"))))

    def upgrade(self, *more: bytes, path: str = "/") -> None:
        """Sends an upgrade request, with `more` in the same segment, and reads the 101."""
        self.send(upgrade(path), *more)
        head = self.head()
        assert head.startswith(b"HTTP/1.1 101 "), head

    def frame(self) -> tuple[int, bytes]:
        """Returns opcode and payload of the next frame of a server."""
        first, size = self.take(2)
        assert first & 0x70 == 0 and first & 0x80 and size < 128
        if size == 126:
            size = int.from_bytes(self.take(2), "big")
        elif size == 127:
            size = int.from_bytes(self.take(8), "big")
        return first & 15, self.take(size)

    def text(self) -> str:
        """Returns the next message, which has to be a text."""
        opcode, payload = self.frame()
        assert opcode == Opcode.TEXT, (opcode, payload)
        return payload.decode()

    def close_frame(self) -> tuple[int, str]:
        """Returns code and reason of the next frame, which has to be a Close."""
        opcode, payload = self.frame()
        assert opcode == Opcode.CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def rest(self) -> bytes:
        """Returns all bytes until the server ends the connection."""
        while part := self.receive():
            self._read += part
        return self.take(len(self._read))

    def reset(self) -> None:
        """Resets the connection, as a crashed machine does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def end(self) -> None:
        """Closes the connection."""
        self.socket.close()


def request(method: str, path: str = "/", *more: str, body: bytes = b"") -> bytes:
    """Returns the bytes of a plain request, with a Content-Length if there is a body."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *length, *more, "", ""]).encode() + body


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """Returns the bytes of a client's frame, masked."""
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def text(message: str) -> bytes:
    """Returns the bytes of a text message as a client sends it."""
    return frame(1, message.encode())


def close_frame(code: int, reason: str = "") -> bytes:
    """Returns the bytes of a client's Close frame."""
    return frame(8, code.to_bytes(2, "big") + reason.encode())


def fields_of(head: bytes) -> dict[str, str]:
    """Returns the fields of a response head, names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
