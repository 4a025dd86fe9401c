"""What a worker remembers of its sockets: tokens of its own and of others, running handlers, and what is dropped."""

from collections import deque
from threading import RLock

import pytest

from wsbroker.worker.known_sockets import KnownSockets


def make_sockets() -> KnownSockets:
    """Returns the tables of a worker that has no socket yet."""
    return KnownSockets(RLock())


def test_a_handler_runs_for_the_socket_of_the_moment_and_for_those_that_await() -> None:
    sockets = make_sockets()
    assert not sockets.has_running_handler(0) and not sockets.has_running_handler(1)
    sockets.running_socket_id = 1
    sockets.event_queues[2] = None
    sockets.event_queues[3] = deque()
    assert [socket_id for socket_id in range(5) if sockets.has_running_handler(socket_id)] == [1, 2, 3]


def test_a_token_of_the_core_replaces_an_own_one_that_the_core_had_seen_and_no_newer_one() -> None:
    sockets = make_sockets()
    sockets.cache_own_token(1, b"own", 5, lambda: None)
    sockets.apply_token_event(1, b"older", 4)
    assert sockets.tokens == {1: b"own"} and sockets.own_token_numbers == {1: 5}
    sockets.apply_token_event(1, b"newer", 5)
    assert sockets.tokens == {1: b"newer"} and sockets.own_token_numbers == {}
    sockets.apply_token_event(1, None, 5)
    assert sockets.tokens == {}


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_token_whose_command_cannot_be_sent_is_taken_back(before: bytes | None) -> None:
    sockets = make_sockets()
    if before is not None:
        sockets.cache_own_token(1, before, 1, lambda: None)
    cached = dict(sockets.tokens), dict(sockets.own_token_numbers)

    def fail() -> None:
        assert sockets.tokens == {1: b"own"} and sockets.own_token_numbers == {1: 2}
        raise MemoryError

    with pytest.raises(MemoryError):
        sockets.cache_own_token(1, b"own", 2, fail)
    assert (sockets.tokens, sockets.own_token_numbers) == cached


def test_nothing_is_kept_of_a_socket_that_was_dropped() -> None:
    sockets = make_sockets()
    for socket_id in (1, 2):
        sockets.cache_own_token(socket_id, b"token", socket_id, lambda: None)
        sockets.closing_sockets.add(socket_id)
    sockets.drop_socket(1)
    assert (sockets.tokens, sockets.own_token_numbers, sockets.closing_sockets) == ({2: b"token"}, {2: 2}, {2})
    sockets.drop_socket(3)  # never known here
