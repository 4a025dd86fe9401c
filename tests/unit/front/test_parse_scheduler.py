"""Turns to parse: connections with more input than one loop turn allows take turns, within a common budget."""

import asyncio

import pytest

from wsbroker.front.parse_scheduler import PARSE_BUDGETS_PER_LOOP_TURN, ParseScheduler

pytestmark = pytest.mark.anyio

MAX_LINES = 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeConnection:
    """A connection that has so many lines to parse, MAX_LINES at most in each turn."""

    def __init__(self, scheduler: ParseScheduler, turns: list["FakeConnection"], line_count: int) -> None:
        self.scheduler = scheduler
        self.turns = turns
        self.remaining_lines = line_count
        self.error: Exception | None = None
        self.is_closed = False
        self.might_parse: list[bool] = []

    def parse_pending_data(self) -> int:
        self.turns.append(self)
        self.might_parse.append(self.scheduler.may_parse_chunks(self))
        if self.error is not None:
            raise self.error
        parsed = min(MAX_LINES, self.remaining_lines)
        self.remaining_lines -= parsed
        if self.remaining_lines:
            self.scheduler.schedule_parsing(self)
        return parsed

    def close_after_failure(self) -> None:
        self.is_closed = True


def scheduled(line_counts: list[int]) -> tuple[ParseScheduler, list[FakeConnection], list[FakeConnection]]:
    """Returns a scheduler, connections that wait for their turns, and the list of the turns that they take."""
    scheduler = ParseScheduler(asyncio.get_running_loop(), MAX_LINES)
    turns: list[FakeConnection] = []
    connections = [FakeConnection(scheduler, turns, count) for count in line_counts]
    for connection in connections:
        scheduler.schedule_parsing(connection)
    return scheduler, connections, turns


async def test_connections_take_turns_until_all_is_parsed() -> None:
    scheduler, connections, turns = scheduled([25, 5, 15])
    for _ in range(10):
        await asyncio.sleep(0)
    first, second, third = connections
    assert turns == [first, second, third, first, third, first]
    assert all(scheduler.may_parse_chunks(connection) for connection in connections)
    assert all(connection.might_parse for connection in connections)


async def test_a_loop_turn_parses_no_more_than_the_budgets_of_a_few_connections() -> None:
    _, _, turns = scheduled([1000] * 50)
    for turn in range(1, 10):
        await asyncio.sleep(0)
        assert len(turns) <= turn * PARSE_BUDGETS_PER_LOOP_TURN
    assert len(set(turns)) == len(turns), "no connection has a second turn before all had their first"


async def test_while_connections_wait_only_the_one_whose_turn_it_is_may_parse_chunks() -> None:
    scheduler, connections, _ = scheduled([1000] * 3)
    other = FakeConnection(scheduler, [], 1)
    assert not any(scheduler.may_parse_chunks(connection) for connection in [*connections, other])
    await asyncio.sleep(0)
    assert connections[0].might_parse == [True]
    assert not scheduler.may_parse_chunks(other)


async def test_a_connection_that_is_removed_has_no_turn() -> None:
    scheduler, (first, second), turns = scheduled([10, 10])
    scheduler.remove_connection(first)
    await asyncio.sleep(0)
    assert turns == [second]


async def test_a_connection_that_fails_is_closed_and_the_others_go_on() -> None:
    _, (first, second), turns = scheduled([10, 10])
    first.error = RuntimeError("broken")
    await asyncio.sleep(0)
    assert turns == [first, second]
    assert (first.is_closed, second.is_closed, second.remaining_lines) == (True, False, 0)
