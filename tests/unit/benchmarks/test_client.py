"""The load's client, on a transport of paper; the server's side of a frame is made by the broker's own code."""

import asyncio
import struct
from typing import cast

import pytest

import kits.benchmark_kit  # noqa: F401
from benchmarks.client import (
    ABNORMAL,
    BINARY,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Client,
    close_frame,
    frame,
    masked,
    upgrade_request,
)
from kits.websocket_kit import decode
from wsbroker.websocket.frames import encode_close, encode_frame, encode_text

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


class PaperTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


def a_client(*reads: bytes, answers_pings: bool = True) -> tuple[Client, PaperTransport]:
    """One that has got these bytes."""
    client, transport = Client(answers_pings=answers_pings), PaperTransport()
    client.connection_made(cast(asyncio.BaseTransport, transport))
    for read in reads:
        client.data_received(read)
    return client, transport


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_is_what_the_brokers_decoder_reads(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    assert decode(frame(payload, BINARY)) == [("binary", payload, size)]
    assert decode(frame(b"x" * size, TEXT, 0x01020304)) == [("text", "x" * size, size)]


def test_a_close_frame_has_code_and_reason_or_nothing() -> None:
    assert decode(close_frame(4000, "why")) == [("close", 4000, "why")]
    assert decode(close_frame(None)) == [("close", NO_CODE, "")]


def test_masking_twice_is_nothing() -> None:
    assert masked(masked(b"hello", 0x89ABCDEF), 0x89ABCDEF) == b"hello"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 1 << 20])
def test_messages_are_the_same_however_their_bytes_are_split(step: int) -> None:
    sent = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 65535, b"e" * 65536]
    data = ANSWER + b"".join(encode_frame(BINARY, payload) for payload in sent) + encode_text("f")
    client, _ = a_client(*(data[at : at + step] for at in range(0, len(data), step)))
    assert client.is_open
    assert list(client.messages) == [*sent, b"f"]


def test_pings_are_answered_unless_it_is_told_not_to() -> None:
    client, transport = a_client(ANSWER + encode_frame(PING, b"now"))
    assert (client.pings, decode(transport.written)) == (1, decode(frame(b"now", PONG)))
    silent, transport = a_client(ANSWER + encode_frame(PING, b""), answers_pings=False)
    assert (silent.pings, transport.written) == (1, b"")


def test_the_servers_close_is_kept_and_answered() -> None:
    client, transport = a_client(ANSWER + encode_close(1012, "worker restart"))
    assert (client.code, client.reason) == (1012, "worker restart")
    assert decode(transport.written) == [("close", 1012, "")]


def test_a_connection_that_ends_without_a_close_is_abnormal() -> None:
    client, _ = a_client(ANSWER)
    client.connection_lost(None)
    assert (client.is_lost, client.code) == (True, ABNORMAL)


@pytest.mark.parametrize("bad", [b"\x81\x81\0\0\0\0a", b"\x01\x00", b"\xc1\x00", b"\x83\x00"])
def test_what_the_server_may_not_send_is_a_problem(bad: bytes) -> None:
    client, transport = a_client(ANSWER + bad)
    assert client.problem is not None and transport.is_aborted


def test_a_refusal_tells_its_status() -> None:
    async def main() -> None:
        client, transport = a_client()
        opening = asyncio.ensure_future(client.open("/path"))
        await asyncio.sleep(0)
        assert transport.written == upgrade_request("/path")
        client.data_received(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await opening

    with pytest.raises(Exception, match="403 Forbidden") as caught:
        asyncio.run(main())
    assert getattr(caught.value, "status", 0) == 403


def test_receive_waits_for_a_message_and_fails_when_the_connection_ends() -> None:
    async def main() -> bytes:
        client, _ = a_client(ANSWER)
        waiting = asyncio.ensure_future(client.receive())
        await asyncio.sleep(0)
        client.data_received(encode_text("late"))
        message = await waiting
        failing = asyncio.ensure_future(client.receive())
        await asyncio.sleep(0)
        client.data_received(b"\x88\x02" + struct.pack("!H", 1001))
        client.connection_lost(None)
        with pytest.raises(Exception, match="1001"):
            await failing
        return message

    assert asyncio.run(main()) == b"late"
