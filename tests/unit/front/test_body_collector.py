"""Collecting the body of a request."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from wsbroker.front.body_collector import BODY_COMPLETE, BodyCollector

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def started(limit_bytes: int = 100) -> tuple[StreamReader, BodyCollector]:
    """Returns the stream and the collector of a body of which no byte has arrived."""
    loop = asyncio.get_running_loop()
    content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    return content, BodyCollector(content, limit_bytes, loop.create_future())


async def test_a_body_is_whole_when_its_end_has_come() -> None:
    content, collector = started(10**6)
    for part in (b"a", b"bc", b"d" * 5000, b"e", b"f" * 5000):
        content.feed_data(part)
        collector.collect_available_bytes()
        assert not collector.outcome.done()
    content.feed_eof()
    collector.collect_available_bytes()
    assert collector.outcome.result() == BODY_COMPLETE
    assert collector.size_bytes == 10_004
    assert collector.pop_body() == b"abc" + b"d" * 5000 + b"e" + b"f" * 5000


async def test_small_parts_are_joined() -> None:
    content, collector = started(10**6)
    for _ in range(20_000):
        content.feed_data(b"ab")
        collector.collect_available_bytes()
    assert len(collector._parts) == 1  # objects of their own would take twenty times the bytes


@pytest.mark.parametrize("size", [100, 101])
async def test_a_body_over_the_limit_is_a_413_before_its_end(size: int) -> None:
    content, collector = started(100)
    content.feed_data(b"x" * size)
    collector.collect_available_bytes()
    assert collector.outcome.done() == (size > 100)
    if size > 100:
        assert (collector.outcome.result(), collector.size_bytes, collector.pop_body()) == (413, 0, b"")


async def test_a_broken_body_is_a_400_and_raises_nothing() -> None:
    content, collector = started()
    content.feed_data(b"x")
    error = RequestPayloadError("broken")
    content.set_exception(error)
    collector.collect_available_bytes()
    assert collector.outcome.result() == 400
    assert error.__traceback__ is None


async def test_what_was_given_up_stays_given_up_and_is_let_go() -> None:
    content, collector = started()
    content.feed_data(b"x")
    collector.collect_available_bytes()
    collector.set_outcome(408)
    content.feed_eof()
    collector.collect_available_bytes()
    collector.set_outcome(BODY_COMPLETE)
    assert (collector.outcome.result(), collector.pop_body()) == (408, b"")
