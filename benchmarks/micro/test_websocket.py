"""What frames cost: decoding, unmasking, encoding, and the handshake. Run it on both builds to compare them.

    pytest benchmarks/micro/test_websocket.py

The columns are per call of the benchmarked function: `BATCH` messages for decoding, one otherwise.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kits.websocket_kit import KEY, frame, xored
from wsbroker.websocket.decoder import BINARY, NEED_DATA, TEXT, Decoder
from wsbroker.websocket.frames import CONTINUATION, encode_frame, encode_text
from wsbroker.websocket.handshake import check_upgrade
from wsbroker.websocket.masking import read_key, unmask

BATCH = 1000
SIZES = [64, 1024, 16384]

# What Firefox sends.
REQUEST = [
    ("Host", "localhost:3000"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "*/*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Sec-WebSocket-Version", "13"),
    ("Origin", "http://localhost:3000"),
    ("Sec-WebSocket-Extensions", "permessage-deflate"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-Fetch-Dest", "empty"),
    ("Sec-Fetch-Mode", "websocket"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache"),
    ("Upgrade", "websocket"),
]


def decode_all(decoder: Decoder, data: bytes) -> None:
    decoder.receive_data(data)
    while decoder.next_event() != NEED_DATA:
        pass


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_decoding_a_batch_of_messages_in_one_read(benchmark: BenchmarkFixture, opcode: int, size: int) -> None:
    decoder = Decoder(1 << 20)
    benchmark(decode_all, decoder, frame(opcode, b"x" * size) * BATCH)
    assert decoder.frame_count % BATCH == 0


def test_decoding_a_batch_of_empty_fragments(benchmark: BenchmarkFixture) -> None:
    decoder = Decoder(1 << 20)
    decode_all(decoder, frame(BINARY, b"", fin=False))
    benchmark(decode_all, decoder, frame(CONTINUATION, b"", fin=False) * BATCH)
    assert decoder.frame_count % BATCH == 1


def test_decoding_a_text_of_1_mib_in_reads_of_4_kib(benchmark: BenchmarkFixture) -> None:
    data = frame(TEXT, b"x" * (1 << 20))
    reads = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    decoder = Decoder(1 << 20)

    def decode_reads() -> None:
        for read in reads:
            decode_all(decoder, read)

    benchmark(decode_reads)
    assert decoder.frame_count > 0


@pytest.mark.parametrize("size", SIZES)
def test_unmasking_a_payload(benchmark: BenchmarkFixture, size: int) -> None:
    payload = b"x" * size
    assert benchmark(unmask, xored(payload), 0, size, read_key(KEY, 0)) == payload


@pytest.mark.parametrize("size", SIZES)
def test_encoding_a_frame(benchmark: BenchmarkFixture, size: int) -> None:
    assert benchmark(encode_frame, BINARY, b"x" * size)[-1:] == b"x"


@pytest.mark.parametrize("size", SIZES)
def test_encoding_a_text(benchmark: BenchmarkFixture, size: int) -> None:
    assert benchmark(encode_text, "x" * size)[-1:] == b"x"


def test_checking_a_browsers_handshake(benchmark: BenchmarkFixture) -> None:
    assert benchmark(check_upgrade, "GET", 1, 1, REQUEST, (), None).accept_key
