"""The fan-out of `wsbroker bench`, the table and the arguments."""

import asyncio
import json
from typing import cast

import pytest

from kits.websocket_kit import decode
from wsbroker.bench.client import BenchClient, Target
from wsbroker.bench.command import format_table, main
from wsbroker.bench.scenarios import BenchResult, Publisher, Subscriber

pytestmark = pytest.mark.anyio


class Paper:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> list[str]:
        """The data of the publications since the last call."""
        found = [json.loads(str(event[1]))["data"] for event in decode(self.written)]
        self.written = b""
        return found


def publishing(subscribers: int, in_flight: int, size: int = 20) -> tuple[Publisher, list[Subscriber], Paper]:
    client, paper = BenchClient(Target.from_url("ws://x/")), Paper()
    client.connection_made(cast(asyncio.Transport, paper))
    publications = Publisher(client, "c", size, in_flight, subscribers)
    return publications, [Subscriber(publications) for _ in range(subscribers)], paper


def message(data: str) -> bytes:
    return json.dumps({"type": "message", "channel": "c", "data": data}).encode()


async def test_the_next_publication_goes_when_every_subscriber_has_one() -> None:
    publications, (first, second), paper = publishing(2, 2)
    publications.publish_until_full()
    one, two = paper.take()
    assert len(one) == 20
    first.on_message(message(one))
    first.on_message(message(two))
    assert paper.take() == []
    second.on_message(message(one))
    assert [data[:12] for data in paper.take()] == ["@0000000003."]
    assert (publications.delivered, publications.problem_count) == (3, 0)
    assert publications.histogram.total == 3


@pytest.mark.parametrize("seen", [[2], [1, 1], [1, 3], [2, 1]])
async def test_lost_doubled_and_swapped_messages_are_noticed(seen: list[int]) -> None:
    publications, (listener,), paper = publishing(1, 4)
    publications.publish_until_full()
    data = paper.take()
    for number in seen:
        listener.on_message(message(data[number - 1]))
    assert publications.problem_count > 0
    assert publications.first_problem


async def test_a_message_without_a_number_is_noticed() -> None:
    publications, (listener,), _ = publishing(1, 1)
    for data in (b"hello", b"@x", b""):
        listener.on_message(data)
    assert publications.problem_count > 0


async def test_a_message_to_the_publisher_is_a_problem() -> None:
    publications, _, _ = publishing(1, 1)
    publications.on_publisher_message(b'{"type":"error"}')
    assert "error" in publications.first_problem


async def test_the_table_says_what_was_measured_and_warns_of_a_busy_client() -> None:
    result = BenchResult(
        "fanout", "ws://x/", 100, 2.0, 1000, 500.0, {"p50": 1500.0, "max": 20_000.0}, 3, "3 are missing", 97
    )
    text = format_table(result)
    assert "1,000   500 per second" in text
    assert "p50 1.50 ms   max 20 ms" in text
    assert "3   3 are missing" in text
    assert "no time left" in text
    assert "no time left" not in format_table(BenchResult("rtt", "ws://x/", 1, client_cpu_percent=20.0))


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "Missing argument 'URL'"),
        (["ftp://x"], "must start with ws://"),
        (["ws://x", "load"], "'load' is not one of 'rtt', 'fanout', 'storm'"),
        (["ws://x", "fanout", "--connections", "1"], "2 connections or more"),
        (["ws://x", "--seconds", "1e9"], "not in the range"),
        (["ws://x", "--secret", "ä"], "printable ASCII"),
    ],
)
async def test_a_usage_error_is_one_line(argv: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("wsbroker bench: error: ") and err.count("\n") == 1
    assert problem in err
