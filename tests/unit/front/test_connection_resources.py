"""What the HTTP connections share: the count of unsent bytes with its limit, and the deadlines."""

import asyncio

import pytest
from aiohttp import web

from wsbroker.front import connection_resources
from wsbroker.front.connection_resources import FREED_LIMIT_DIVISOR, ConnectionResources
from wsbroker.front.rate_limited_log import RateLimitedLog
from wsbroker.guarded_log import GuardedLog
from wsbroker.settings.config import Config

pytestmark = pytest.mark.anyio

LIMIT = 16 * 1024 * 1024


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeConnection:
    """A connection with unsent bytes, which records what the resources call."""

    def __init__(self, resources: ConnectionResources, answer_bytes: int = 0) -> None:
        self.resources = resources
        self.answer_bytes = 0
        self.calls: list[str] = []
        if answer_bytes:
            self.leave_unsent(answer_bytes)

    def leave_unsent(self, byte_count: int) -> None:
        """Adds unsent bytes, as a client that does not read leaves them."""
        self.answer_bytes += byte_count
        self.resources.add_answer_bytes(byte_count, self)

    def on_write_timeout(self) -> None:
        self.calls.append("write timeout")

    def on_linger_timeout(self) -> None:
        self.calls.append("linger timeout")

    def abort_unread_responses(self) -> None:
        self.calls.append("abort")
        self.resources.answer_bytes -= self.answer_bytes
        self.answer_bytes = 0


def new_resources(connections: list[FakeConnection]) -> ConnectionResources:
    """Returns resources with a limit of LIMIT unsent bytes, for connections that the test appends."""
    loop = asyncio.get_running_loop()
    log = RateLimitedLog(GuardedLog("x"), loop.time)
    return ConnectionResources(Config.of(max_waiting_bytes=LIMIT), loop, web.Server(_unused), log, connections)


async def _unused(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("not called")


async def test_unsent_bytes_within_the_limit_abort_no_connection() -> None:
    connections: list[FakeConnection] = []
    resources = new_resources(connections)
    connections += [FakeConnection(resources, LIMIT // 4) for _ in range(4)]
    assert (resources.answer_bytes, resources.peak_answer_bytes, resources.answers_shed) == (LIMIT, LIMIT, 0)
    assert all(connection.calls == [] for connection in connections)


async def test_past_the_limit_the_connections_with_the_most_unsent_bytes_are_aborted_but_never_the_newest() -> None:
    connections: list[FakeConnection] = []
    resources = new_resources(connections)
    small, large, newest = (
        FakeConnection(resources, 1000),
        FakeConnection(resources, LIMIT // 2),
        FakeConnection(resources),
    )
    connections += [small, large, newest]
    newest.leave_unsent(LIMIT - LIMIT // FREED_LIMIT_DIVISOR - 1000)
    assert (small.calls, large.calls, newest.calls) == ([], ["abort"], [])
    assert (resources.answers_shed, resources.answer_bytes) == (1, LIMIT - LIMIT // FREED_LIMIT_DIVISOR)
    newest.leave_unsent(LIMIT)
    assert (small.calls, newest.calls) == (["abort"], []), "one response may go beyond the limit"
    assert resources.answers_shed == 2


async def test_when_too_many_connections_linger_the_next_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_resources, "MAX_LINGERING", 2)
    resources = new_resources([])
    first, second, third = (FakeConnection(resources) for _ in range(3))
    for connection in (first, second, third, first):
        resources.start_linger_deadline(connection)
    assert (first.calls, second.calls, third.calls) == ([], [], ["linger timeout"])
    resources.clear_deadlines()
    assert len(resources.linger_deadlines) == 0
