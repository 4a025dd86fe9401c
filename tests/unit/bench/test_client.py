"""The client of `wsbroker bench` and of the soak runs, on a transport of paper; and the URLs it takes."""

import asyncio
import base64
import hashlib
from typing import cast

import pytest

from kits.websocket_kit import decode
from wsbroker.bench.client import BenchClient, BenchError, Target, make_frame
from wsbroker.websocket.frames import BINARY, PING, TEXT, encode_close, encode_frame, encode_text

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


def connected(target: Target = TARGET) -> tuple[BenchClient, Paper]:
    """A client whose TCP connection is open."""
    client, paper = BenchClient(target), Paper()
    client.connection_made(cast(asyncio.Transport, paper))
    return client, paper


def opened() -> tuple[BenchClient, Paper]:
    """A client whose upgrade was accepted."""
    client, paper = connected()
    client.data_received(head(client.format_upgrade()))
    assert client.is_open
    return client, paper


async def test_the_upgrade_names_host_and_path_and_carries_the_secret() -> None:
    client, paper = connected(Target.from_url("wss://broker.test/a/b?c=d", "s3cret"))
    opening = asyncio.ensure_future(client.open())
    await asyncio.sleep(0)
    lines = paper.written.decode().split("\r\n")
    assert lines[0] == "GET /a/b?c=d HTTP/1.1"
    assert "Host: broker.test" in lines
    assert "Authorization: Bearer s3cret" in lines
    client.data_received(head(paper.written))
    await opening


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 1 << 20])
async def test_messages_come_whole_however_the_bytes_are_split(step: int) -> None:
    sent = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 65535, b"e" * 65536]
    client, _ = connected()
    data = head(client.format_upgrade()) + b"".join(encode_frame(BINARY, payload) for payload in sent)
    data += encode_text("f") + b"\x01\x02fr\x00\x02ag\x80\x04ment"
    for at in range(0, len(data), step):
        client.data_received(data[at : at + step])
    assert [await client.receive_message() for _ in range(8)] == [*sent, b"f", b"fragment"]


async def test_a_callback_is_given_the_messages_instead() -> None:
    messages: list[bytes] = []
    client, _ = opened()
    client.on_message = messages.append
    client.data_received(encode_text("hi") + encode_frame(BINARY, b"ho"))
    assert messages == [b"hi", b"ho"] and not client.messages


async def test_a_ping_is_answered_and_a_close_too() -> None:
    client, paper = opened()
    client.data_received(encode_frame(PING, b"abc") + encode_close(1013, "later"))
    assert decode(paper.written) == [("pong", b"abc", 3), ("close", 1013, "")]
    assert (client.ping_count, client.close_code, client.close_reason) == (1, 1013, "later")
    assert client.close_text == " with 1013"


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_is_what_the_brokers_decoder_reads(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    assert decode(make_frame(BINARY, payload)) == [("binary", payload, size)]
    assert decode(make_frame(TEXT, b"x" * size)) == [("text", "x" * size, size)]


async def test_text_and_bytes_are_sent_as_such() -> None:
    client, paper = opened()
    client.send_message("y")
    client.send_message(b"z")
    assert decode(paper.written) == [("text", "y", 1), ("binary", b"z", 1)]


@pytest.mark.parametrize(
    ("answer", "problem", "status"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "wants a secret", 401),
        (b"HTTP/1.1 503 Full\r\n\r\n", "refused the connection: 'HTTP/1.1 503 Full'", 503),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: nonsense\r\n\r\n", "wrong Sec-WebSocket-Accept", 0),
        (b"SSH-2.0\r\n\r\n", "refused the connection", 0),
        (b"x" * 70_000, "an endless head", 0),
    ],
)
async def test_an_upgrade_that_is_refused_says_why(answer: bytes, problem: str, status: int) -> None:
    client, paper = connected()
    opening = asyncio.ensure_future(client.open())
    await asyncio.sleep(0)
    client.data_received(answer)
    with pytest.raises(BenchError, match=problem) as caught:
        await opening
    assert (paper.is_aborted, caught.value.status) == (True, status)


@pytest.mark.parametrize(
    "frame", [b"\x81\x82abcdxy", b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00", b"\xc1\x00", b"\x83\x00", b"\x09\x00"]
)
async def test_a_frame_that_no_server_may_send_ends_the_connection(frame: bytes) -> None:
    client, paper = opened()
    client.data_received(frame)
    assert paper.is_aborted and client.problem is not None


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
    client, _ = opened()
    client.data_received(bytes([0x81, len(answer)]) + answer)
    with pytest.raises(BenchError, match=problem):
        await client.send_request("pong", type="ping")


async def test_a_call_that_waits_for_a_message_ends_with_the_connection() -> None:
    client, _ = opened()
    waiting = asyncio.ensure_future(client.receive_message())
    await asyncio.sleep(0)
    client.data_received(encode_text("late"))
    assert await waiting == b"late"
    failing = asyncio.ensure_future(client.receive_message())
    await asyncio.sleep(0)
    client.data_received(encode_close(1001, ""))
    client.connection_lost(None)
    with pytest.raises(BenchError, match="closed the connection with 1001"):
        await failing


async def test_a_connection_that_ends_without_a_close_is_abnormal() -> None:
    client, _ = opened()
    client.connection_lost(None)
    assert await client.wait_until_lost() == 1006


async def test_a_server_that_hangs_up_before_it_answers_is_reported_as_such() -> None:
    client, _ = connected()
    client.connection_lost(None)
    with pytest.raises(BenchError, match="hung up before it answered"):
        await client.open()


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
