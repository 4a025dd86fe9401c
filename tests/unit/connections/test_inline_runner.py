"""Inline handlers: arity, errors, async results in order, closes behind messages."""

import pytest

from kits.connections_kit import Bench, close_frame, text
from wsbroker.connections.connections import ConnectionSettings
from wsbroker.connections.inline_runner import TURN_SHARE_EVENTS


@pytest.mark.parametrize("arity", [0, 1, 2, 3])
def test_a_handler_gets_as_many_arguments_as_it_takes(arity: int) -> None:
    got: list[tuple[object, ...]] = []
    bench = Bench()
    bench.sockets.inline_runner = bench.make_runner(lambda *arguments: got.append(arguments), arity)
    connection, _ = bench.connect()
    connection.data_received(text("x"))
    bench.loop.run()
    assert got == [("x", connection.id, None)[:arity]]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_handler_raises_is_reported_and_the_next_message_handled(error: BaseException) -> None:
    def handler(data: str, socket_id: int, token: object) -> None:
        if data == "bad":
            raise error
        handled.append(data)

    handled: list[str] = []
    bench = Bench(handler=handler)
    connection, _ = bench.connect()
    other, _ = bench.connect()
    connection.data_received(text("bad"))
    other.data_received(text("good"))
    bench.loop.run()
    assert bench.errors == [(connection.id, error)]
    assert handled == ["good"]


def test_messages_of_a_socket_wait_for_its_async_handler_and_others_do_not() -> None:
    bench = Bench(handler=lambda data, socket_id, token: data)
    one, _ = bench.connect()
    other, _ = bench.connect()
    one.data_received(text("1") + text("2") + text("3"))
    other.data_received(text("a"))
    bench.loop.run()
    assert bench.results == [(one.id, "1"), (other.id, "a")]
    bench.runner.resume_socket(one.id)
    bench.runner.resume_socket(one.id)
    assert bench.results == [(one.id, "1"), (other.id, "a"), (one.id, "2"), (one.id, "3")]


def test_the_close_handler_waits_for_the_messages_before_it() -> None:
    bench = Bench(handler=lambda data, socket_id, token: data)
    connection, _ = bench.connect()
    connection.data_received(text("1") + text("2") + close_frame(1000))
    bench.loop.run()
    assert bench.closes == []
    bench.runner.resume_socket(connection.id)
    assert bench.closes == []
    bench.runner.resume_socket(connection.id)
    bench.loop.run()
    assert [close[2] for close in bench.closes] == [1000]
    assert bench.runner.busy_sockets == {}


def test_an_async_close_handler_ends_with_its_release() -> None:
    bench = Bench()
    bench.close_ends_at_once = False
    connection, _ = bench.connect()
    connection.connection_lost(None)
    bench.loop.run()
    assert list(bench.runner.busy_sockets) == [connection.id]
    bench.runner.resume_socket(connection.id)
    assert bench.runner.busy_sockets == {}
    bench.runner.resume_socket(connection.id)


def test_results_that_end_at_once_do_not_pile_up_the_stack() -> None:
    def begin(socket_id: int, result: object) -> None:
        bench.results.append((socket_id, result))
        if result != "first":
            runner.resume_socket(socket_id)

    bench = Bench()
    runner = bench.sockets.inline_runner = bench.make_runner(lambda data, socket_id, token: data, 3, begin)
    connection, _ = bench.connect()
    connection.data_received(text("first"))
    for _ in range(20):
        connection.data_received(text("x") * 100)
        bench.loop.run()
    runner.resume_socket(connection.id)
    bench.loop.run()
    assert len(bench.results) == 2001
    assert connection.unhandled_bytes == 0


def test_a_failure_outside_the_handlers_does_not_take_the_other_events_of_the_turn_with_it() -> None:
    def handler(data: str, socket_id: int, token: object) -> None:
        if data == "bad":
            raise ValueError
        bench.messages.append((data, socket_id, token))

    class Full(list[tuple[int, BaseException]]):
        """A log that cannot be written."""

        def append(self, error: tuple[int, BaseException]) -> None:
            raise OSError("no space left on device")

    bench = Bench(handler=handler)
    bench.errors = Full()
    connection, _ = bench.connect()
    other, _ = bench.connect()
    connection.data_received(text("bad"))
    other.data_received(text("good") + close_frame(4000))
    with pytest.raises(OSError, match="no space"):
        bench.loop.run()
    bench.loop.run()
    assert [message[0] for message in bench.messages] == ["good"]
    assert [close[2] for close in bench.closes] == [4000]


def test_a_token_that_is_set_while_a_socket_closes_reaches_its_close_handler() -> None:
    def handler(data: str, socket_id: int, token: object) -> object:
        if data == "await":
            return data
        bench.broker.close(socket_id, 1000, "")
        bench.broker.set_token(socket_id, b"after its close")
        return None

    bench = Bench(handler=handler)
    one, _ = bench.connect()
    other, _ = bench.connect()
    one.data_received(text("await"))
    other.data_received(text("close"))
    bench.loop.run()
    one.connection_lost(None)
    bench.broker.set_token(one.id, b"while its handler awaits")
    bench.loop.run()
    bench.runner.resume_socket(one.id)
    bench.broker.set_token(one.id, b"too late")
    bench.loop.run()
    assert [close[:2] for close in bench.closes] == [
        (other.id, b"after its close"),
        (one.id, b"while its handler awaits"),
    ]
    assert bench.broker.inline_queue.current_socket is None and not bench.runner.busy_sockets
    assert bench.broker.counters.unroutable == 1


def record_by_socket(bench: Bench) -> list[int]:
    """The sockets whose messages have been handled, in order, each run of one once with its length."""
    runs: list[int] = []
    last = 0
    for _, socket_id, _ in bench.messages:
        if socket_id == last:
            runs[-1] += 1
        else:
            runs.append(1)
            last = socket_id
    return runs


def test_a_socket_that_has_had_its_share_of_a_turn_goes_on_behind_the_others() -> None:
    bench = Bench(ConnectionSettings(read_budget_frames=10_000))
    flood, _ = bench.connect()
    other, _ = bench.connect()
    flood.data_received(text("x") * 700)
    other.data_received(text("y"))
    bench.loop.run()
    assert record_by_socket(bench) == [TURN_SHARE_EVENTS, 1, 700 - TURN_SHARE_EVENTS]
    assert bench.messages[TURN_SHARE_EVENTS] == ("y", other.id, None)
    assert (flood.unhandled_bytes, flood.inbox, flood.is_busy, bench.runner.is_behind) == (0, None, False, False)


def test_what_comes_while_a_socket_waits_for_its_next_share_stays_behind_what_waits() -> None:
    bench = Bench(ConnectionSettings(read_budget_frames=10_000))
    flood, _ = bench.connect()
    flood.data_received(b"".join(text(str(number)) for number in range(1000)))
    bench.sockets.run_turn()
    flood.data_received(text("1000") + text("1001") + close_frame(4000))
    bench.loop.run()
    assert [message[0] for message in bench.messages] == [str(number) for number in range(1002)]
    assert [close[2] for close in bench.closes] == [4000]
    assert not bench.runner.is_behind


def test_what_an_async_handler_has_held_up_goes_on_in_shares_too() -> None:
    def handler(data: str, socket_id: int, token: object) -> object:
        bench.messages.append((data, socket_id, token))
        return data if data == "await" else None

    bench = Bench(ConnectionSettings(read_budget_frames=10_000), handler=handler)
    flood, _ = bench.connect()
    flood.data_received(text("await") + text("x") * 600)
    bench.loop.run()
    bench.runner.resume_socket(flood.id)
    assert len(bench.messages) == 1 + TURN_SHARE_EVENTS
    bench.loop.run()
    assert len(bench.messages) == 601
    assert flood.unhandled_bytes == 0 and not bench.runner.is_behind


def test_a_failure_outside_the_handlers_does_not_strand_what_a_socket_has_waiting() -> None:
    def handler(data: str, socket_id: int, token: object) -> object:
        if data == "bad":
            raise ValueError
        bench.messages.append((data, socket_id, token))
        return data if data == "await" else None

    class Full(list[tuple[int, BaseException]]):
        """A log that cannot be written."""

        def append(self, error: tuple[int, BaseException]) -> None:
            raise OSError("no space left on device")

    bench = Bench(handler=handler)
    bench.errors = Full()
    connection, _ = bench.connect()
    connection.data_received(text("await") + text("bad") + text("good"))
    bench.loop.run()
    with pytest.raises(OSError, match="no space"):
        bench.runner.resume_socket(connection.id)
    bench.loop.run()
    assert [message[0] for message in bench.messages] == ["await", "good"]
    assert bench.broker.inline_queue.current_socket is None and not bench.runner.is_behind


def test_a_socket_is_not_being_handled_any_more_once_its_held_messages_have_been() -> None:
    bench = Bench(handler=lambda data, socket_id, token: data if data == "await" else None)
    connection, _ = bench.connect()
    connection.data_received(text("await") + text("x"))
    bench.loop.run()
    bench.runner.resume_socket(connection.id)
    connection.connection_lost(None)
    bench.broker.set_token(connection.id, b"too late")
    assert bench.broker.counters.unroutable == 1
    bench.loop.run()
    assert [close[1] for close in bench.closes] == [None]
