"""Commands of the pool: what one side makes, the other side reads, also after the wire has carried it."""

from collections.abc import Callable

import pytest

from wsbroker.wire import commands
from wsbroker.wire.commands import Command
from wsbroker.wire.framing import BatchUnpacker, pack_batch

HEADERS = [("Content-Type", "text/plain"), ("X-Twice", "1"), ("X-Twice", "2")]
LOG_FIELDS: commands.LogFields = (30, "app", "message", "", "", 1_700_000_000, "app.py", 12, "handle", "worker-0", 7)


@pytest.mark.parametrize(
    ("command", "read", "fields"),
    [
        (commands.make_open_result(7, 101, HEADERS, b"chat"), commands.read_open_result, (7, 101, HEADERS, b"chat")),
        (commands.make_response(3, 404, HEADERS, b"no"), commands.read_response, (3, 404, HEADERS, b"no")),
        (commands.make_started(("handle_socket_open",)), commands.read_started, ["handle_socket_open"]),
        (commands.make_start_failed("text", "trace", True), commands.read_start_failed, ("text", "trace", True)),
        (commands.make_counted("slow", 2), commands.read_counted, ("slow", 2)),
        (commands.make_slowest("handle", 5, 0.25, 1e9), commands.read_slowest, ("handle", 5, 0.25, 1e9)),
        (commands.make_log(LOG_FIELDS), commands.read_log, LOG_FIELDS),
    ],
)
def test_a_command_of_the_pool_is_read_as_it_was_made(
    command: Command, read: Callable[[Command], object], fields: object
) -> None:
    [[carried]] = BatchUnpacker().feed(pack_batch([command]))
    assert carried == command and read(carried) == fields


def test_the_pools_commands_begin_where_the_cores_end() -> None:
    numbers = {name: value for name, value in vars(commands).items() if name.isupper() and type(value) is int}
    of_the_pool = {name for name, value in numbers.items() if value >= commands.FIRST_POOL_COMMAND}
    assert of_the_pool - {"FIRST_POOL_COMMAND"} == {
        *("OPEN_RESULT", "RESPONSE", "STARTED", "START_FAILED", "STOPPED", "COUNTED", "LOG", "SLOWEST"),
    }


def test_every_call_has_its_name_once() -> None:
    assert not {*commands.ONE_WAY_METHODS.values()} & {*commands.QUESTION_METHODS.values()}
    assert max(*commands.ONE_WAY_METHODS, *commands.QUESTION_METHODS) < commands.FIRST_POOL_COMMAND
