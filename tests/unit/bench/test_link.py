"""The client of `wsbroker bench`, on a transport of paper; and the URLs it takes."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from kits.websocket_kit import decode

pytestmark = pytest.mark.anyio
TARGET = Target.from_url("ws://broker.test:3000/", "s3cret")


class Paper:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


def head(link_request: bytes, status: str = "101 Switching Protocols") -> bytes:
    """The answer to an upgrade."""
    key = link_request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    accept = base64.b64encode(digest).decode()
    return f"HTTP/1.1 {status}\r\nUpgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n".encode()


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[BenchClient, Paper]]:
    link, paper = BenchClient(TARGET), Paper()
    link.connection_made(cast(asyncio.Transport, paper))
    link.data_received(head(paper.written))
    await link.opened
    paper.written = b""
    yield link, paper


async def test_the_upgrade_names_host_and_path_and_carries_the_secret() -> None:
    link, paper = BenchClient(Target.from_url("wss://broker.test/a/b?c=d", "s3cret")), Paper()
    link.connection_made(cast(asyncio.Transport, paper))
    lines = paper.written.decode().split("\r\n")
    assert lines[0] == "GET /a/b?c=d HTTP/1.1"
    assert "Host: broker.test" in lines
    assert "Authorization: Bearer s3cret" in lines


async def test_messages_come_whole_however_the_bytes_are_split() -> None:
    long = b"x" * 300
    data = b"\x81\x02hi" + b"\x81\x7e\x01\x2c" + long + b"\x01\x02fr\x00\x02ag\x80\x04ment" + b"\x82\x01b"
    for size in (1, 2, 3, 7, len(data)):
        async with opened() as (link, _):
            for at in range(0, len(data), size):
                link.data_received(data[at : at + size])
            assert [await link.receive_message() for _ in range(4)] == [b"hi", long, b"fragment", b"b"]


async def test_what_comes_behind_the_answer_to_the_upgrade_is_not_lost() -> None:
    link, paper = BenchClient(TARGET), Paper()
    link.connection_made(cast(asyncio.Transport, paper))
    link.data_received(head(paper.written) + b"\x81\x02hi")
    assert await link.receive_message() == b"hi"


async def test_a_ping_is_answered_and_a_close_too() -> None:
    async with opened() as (link, paper):
        link.data_received(b"\x89\x03abc\x88\x02\x03\xf5")
        assert decode(paper.written) == [("pong", b"abc", 3), ("close", 1013, "")]
        assert link.close_text == " with 1013"


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
async def test_what_is_sent_is_what_a_server_reads(size: int) -> None:
    async with opened() as (link, paper):
        link.send_text("y" * size)
        assert decode(paper.written) == [("text", "y" * size, size)]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "wants a secret"),
        (b"HTTP/1.1 503 Full\r\n\r\n", "refused the connection: 'HTTP/1.1 503 Full'"),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: nonsense\r\n\r\n", "wrong Sec-WebSocket-Accept"),
        (b"SSH-2.0\r\n\r\n", "refused the connection"),
        (b"x" * 70_000, "an endless head"),
    ],
)
async def test_an_upgrade_that_is_refused_says_why(answer: bytes, problem: str) -> None:
    link, paper = BenchClient(TARGET), Paper()
    link.connection_made(cast(asyncio.Transport, paper))
    link.data_received(answer)
    with pytest.raises(BenchError, match=problem):
        await link.opened
    assert paper.is_aborted


@pytest.mark.parametrize("frame", [b"\x81\x82abcdxy", b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00"])
async def test_a_frame_that_no_server_may_send_ends_the_connection(frame: bytes) -> None:
    async with opened() as (link, paper):
        link.data_received(frame)
        assert paper.is_aborted


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"welcome!", "does not speak the protocol of the built-in application"),
        (b"[1]", "does not speak the protocol"),
        (b'{"type":"ping"}', "does not speak the protocol"),
        (
            b'{"type":"error","error":"auth_required","message":"a secret is needed"}',
            "a secret is needed; use --secret",
        ),
    ],
)
async def test_an_answer_of_another_protocol_says_so(answer: bytes, problem: str) -> None:
    async with opened() as (link, _):
        link.data_received(bytes([0x81, len(answer)]) + answer)
        with pytest.raises(BenchError, match=problem):
            await link.send_request("pong", type="ping")


async def test_who_waits_is_told_of_the_end() -> None:
    async with opened() as (link, _):
        link.connection_lost(None)
        with pytest.raises(BenchError, match="closed the connection"):
            await link.receive_message()


async def test_a_server_that_hangs_up_before_it_answers_is_told_as_such() -> None:
    link = BenchClient(TARGET)
    link.connection_lost(None)
    with pytest.raises(BenchError, match="hung up before it answered"):
        await link.opened


@pytest.mark.parametrize(
    ("url", "shown", "host", "port"),
    [
        ("ws://127.0.0.1:3000", "ws://127.0.0.1:3000/", "127.0.0.1", 3000),
        ("127.0.0.1:3000", "ws://127.0.0.1:3000/", "127.0.0.1", 3000),
        ("http://broker.test/x", "ws://broker.test/x", "broker.test", 80),
        ("wss://broker.test", "wss://broker.test/", "broker.test", 443),
        ("https://u:p@broker.test:1/x?y", "wss://broker.test:1/x?y", "broker.test", 1),
        ("ws://[::1]:3000/", "ws://[::1]:3000/", "::1", 3000),
    ],
)
async def test_urls_that_can_be_measured(url: str, shown: str, host: str, port: int) -> None:
    target = Target.from_url(url)
    assert (str(target), target.host, target.port) == (shown, host, port)


@pytest.mark.parametrize("url", ["ftp://x/", "ws://", "ws://x:99999/", "ws://x/\r\nA: b", "ws://x/a b", "ws://ü/"])
async def test_urls_that_cannot_be_measured(url: str) -> None:
    with pytest.raises(ValueError):
        Target.from_url(url)


async def test_the_secret_is_not_shown() -> None:
    assert "s3cret" not in repr(TARGET) + str(TARGET)
    with pytest.raises(ValueError, match="secret"):
        Target.from_url("ws://x/", "a\r\nb")
