"""The pool and its workers over real streams: the workers are functions in threads, the core is a fake."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import cast

import pytest

from kits.pool_fakes import LOOPS, Batch, FakeWorkerEnd, PoolKit, Script, run, send_started, serve_events
from wsbroker.errors import ConfigError, WorkerError
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse
from wsbroker.pool import restart_policy as restarts
from wsbroker.settings.config import Settings
from wsbroker.wire import commands, control, events

NAMES = {events.ANSWER: "ANSWER", events.STOP: "STOP"}
OPEN_NAME = "handle_socket_open"
HTTP_NAME = "handle_http_request"
REQUEST = HttpRequest("GET", "/a?b=c", [("Host", "example.org")], remote="127.0.0.1")
Work = Callable[[PoolKit], Coroutine[object, object, None]]


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[cast(str, request.param)]


@pytest.fixture
def live(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., PoolKit]:
    """Starts a pool with these workers, runs the test with it and stops it; fails if a task or thread is left."""

    def live(work: Work, *scripts: Script, settings: Settings | None = None) -> PoolKit:
        async def main() -> PoolKit:
            kit = PoolKit(*scripts, settings=settings)
            await kit.pool.start()
            try:
                await work(kit)
            finally:
                await kit.pool.stop(5)
            return kit

        return run(main(), loop_factory)

    return live


def reads_until(wire: FakeWorkerEnd, kind: int) -> Batch:
    """Reads events until an event of this kind has come; returns all events read."""
    seen: Batch = []
    while not any(event[0] == kind for event in seen):
        batch = wire.read()
        if not batch:
            return seen
        seen += batch
    return seen


def with_names(*names: str) -> Script:
    return lambda wire: serve_events(wire, *names)


def dies_at_the_first_message(wire: FakeWorkerEnd) -> None:
    send_started(wire, OPEN_NAME, HTTP_NAME)
    reads_until(wire, events.MESSAGE)


# Start and stop. ------------------------------------------------------------------------------------------------


def test_start_returns_when_every_worker_has_found_its_handlers(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        assert kit.pool.handlers_found == {OPEN_NAME, "handle_socket_message"}
        assert kit.pool.has_open_handler and not kit.pool.has_http_handler
        assert [entry["state"] for entry in kit.pool.collect_statistics()] == ["running"] * 3
        assert [host.name for host in kit.scripts.made_hosts] == ["worker-0", "worker-1", "worker-2"]

    live(work, with_names(OPEN_NAME, "handle_socket_message"), settings=Settings(workers=3))


def test_a_worker_that_cannot_start_fails_the_start_with_its_text_and_stops_the_others(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(wire: FakeWorkerEnd) -> None:
        wire.write((commands.START_FAILED, "no handlers in app: found nothing", "Traceback: all of it", True))

    async def main() -> None:
        kit = PoolKit(serve_events, fails, settings=Settings(workers=2))
        with pytest.raises(ConfigError, match="^no handlers in app: found nothing$") as caught:
            await kit.pool.start()
        assert str(caught.value.__cause__).endswith(":\nTraceback: all of it")
        for host in kit.scripts.made_hosts:
            await host.wait_until_ended()

    run(main(), loop_factory)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("script_error", "text"),
    [
        (SystemExit(3), "worker worker-0 ended before it had started: SystemExit(3)"),
        (OSError("no room"), "worker worker-0 ended before it had started: OSError: no room"),
        (None, "worker worker-0 ended before it had started: it ended by itself"),
    ],
)
def test_a_worker_that_ends_while_it_starts_says_why(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], script_error: BaseException | None, text: str
) -> None:
    def ends(wire: FakeWorkerEnd) -> None:
        if script_error is not None:
            raise script_error

    async def main() -> None:
        with pytest.raises(WorkerError) as caught:
            await PoolKit(ends).pool.start()
        assert str(caught.value) == text

    run(main(), loop_factory)


def test_a_cancelled_start_leaves_nothing_behind(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    def never(wire: FakeWorkerEnd) -> None:
        wire.read()

    async def main() -> None:
        kit = PoolKit(serve_events, never, settings=Settings(workers=2))
        starting = asyncio.ensure_future(kit.pool.start())
        while len(kit.scripts.made_hosts) < 2:
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        for host in kit.scripts.made_hosts:
            await host.wait_until_ended()

    run(main(), loop_factory)


def test_stop_lets_the_worker_finish_what_came_before(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        for n in range(500):
            kit.post_message(1, str(n))

    kit = live(work)
    assert [entry[2] for entry in kit.core.log if entry[0] == commands.SEND] == [str(n) for n in range(500)]
    assert not kit.scripts.made_hosts[0]._thread or not kit.scripts.made_hosts[0]._thread.is_alive()


def test_stop_waits_for_close_handlers_that_the_core_still_holds_back(live: Callable[..., PoolKit]) -> None:
    """Credit comes back with HANDLED, and only then does the core send what waited in an inbox."""
    close: tuple[object, ...] = (events.CLOSE, 1, None, 0, 1001, "")
    seen: list[object] = []

    def handles(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        seen.extend(event[0] for event in reads_until(wire, events.MESSAGE))
        wire.write((commands.HANDLED, [(1, 1)]))
        seen.extend(event[0] for event in reads_until(wire, events.CLOSE))
        wire.write((commands.CLOSE_HANDLED, 1))
        seen.extend(event[0] for event in reads_until(wire, events.STOP))
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        kit.post_message(1, "x")
        kit.core.worker_queues[0].unhandled_closes[1] = close
        apply = kit.core.apply_commands

        def with_credit(worker_index: int, generation: int, batch: Batch) -> Batch:
            if batch[0][0] == commands.HANDLED:
                asyncio.get_running_loop().call_soon(kit.pool.post_events, 0, [close])
            return apply(worker_index, generation, batch)

        worker = kit.pool._slots[0].worker
        assert worker is not None
        worker._apply = with_credit

    live(work, handles)
    assert seen == [events.MESSAGE, events.CLOSE, events.STOP]


def test_stop_leaves_a_stuck_worker_behind_and_says_so(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def stuck(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        release.wait(10)

    async def main() -> None:
        kit = PoolKit(serve_events, stuck, settings=Settings(workers=2))
        await kit.pool.start()
        loop = asyncio.get_running_loop()
        before = loop.time()
        await kit.pool.stop(0.2)
        assert loop.time() - before < 2
        release.set()
        for host in kit.scripts.made_hosts:
            await host.wait_until_ended()
        assert [host.kills for host in kit.scripts.made_hosts] == [0, 1]

    run(main(), loop_factory)
    assert "worker did not stop in time, left behind worker=worker-1" in caplog.text


def test_a_hung_worker_does_not_use_up_the_time_to_stop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    def hangs(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        reads_until(wire, events.STOP)
        wire.write_control((control.HUNG, "handle_worker_stop", 0, 8.0))
        wire.read()

    async def main() -> None:
        kit = PoolKit(hangs)
        await kit.pool.start()
        await kit.pool.stop(15)
        await kit.scripts.made_hosts[0].wait_until_ended()

    run(main(), loop_factory)
    assert "worker lost while stopping worker=worker-0" in caplog.text


# Messages. ------------------------------------------------------------------------------------------------------


def test_a_message_comes_back_as_commands(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        kit.post_message(7, "hello")
        await kit.core.wait_until(lambda: len(kit.core.log) == 2)
        assert kit.core.log == [(commands.SEND, 7, "hello"), (commands.HANDLED, [(7, 1)])]
        assert kit.pool.collect_statistics()[0]["handled"] == 1

    live(work)


def test_order_is_kept_while_the_mailbox_fills_and_empties(live: Callable[..., PoolKit]) -> None:
    """Some batches go straight to the wire, some wait in the stream, some are merged: all in one order."""
    gate = threading.Semaphore(0)

    def slow(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        for _ in range(5):
            gate.acquire()
            for _ in range(30):
                batch = wire.read()
                wire.write(*[(commands.SEND, event[1], event[3]) for event in batch])
        serve_rest(wire)

    def serve_rest(wire: FakeWorkerEnd) -> None:
        while batch := wire.read():
            wire.write(*[(commands.SEND, event[1], event[3]) for event in batch if event[0] == events.MESSAGE])
            if batch[-1][0] == events.STOP:
                wire.write((commands.STOPPED,))
                return

    async def work(kit: PoolKit) -> None:
        n = 0
        depths = []
        for round_number in range(60):
            for _ in range(20):
                batch: Batch = [(events.MESSAGE, 1, "x" * (1 << 10 + n % 5), n + step) for step in range(3)]
                n += 3
                kit.pool.post_events(0, batch)
            depths.append(kit.pool.collect_statistics()[0]["mailbox_batches"])
            if round_number % 10 == 9:
                gate.release()
            await asyncio.sleep(0)
        assert max(depths) > 10, "the mailbox was never used"
        assert kit.pool.collect_statistics()[0]["unwritten_bytes"] < 6 << 20
        gate.release(5)
        await kit.core.wait_until(lambda: len(kit.core.log) == n)
        assert [entry[2] for entry in kit.core.log] == list(range(n))
        assert kit.pool.collect_statistics()[0]["mailbox_batches"] == 0

    live(work, slow)


def test_an_answer_overtakes_a_full_mailbox(live: Callable[..., PoolKit]) -> None:
    gate = threading.Event()
    answers: Batch = []

    def asks(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        gate.wait(10)
        wire.write((commands.ASK, 5, commands.SUBSCRIBER_COUNT, b"a"))
        read = reads_until(wire, events.ANSWER)
        answers.extend(event for event in read if event[0] == events.ANSWER)
        # It came long before the end of what was posted first.
        wire.write((commands.SEND, 1, len(read)))
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        kit.core.members[b"a"] = [1, 2, 3]
        for _ in range(4000):
            kit.post_message(1, "x" * 1000)
        waiting = kit.pool.collect_statistics()[0]["mailbox_batches"]
        assert waiting > 3000
        gate.set()
        await kit.core.wait_until(lambda: bool(kit.core.log))
        assert kit.core.log[0][2] < 4000 - waiting + 1100  # type: ignore[operator]

    live(work, asks)
    assert answers == [(events.ANSWER, 5, 3)]


def test_events_before_an_answer_in_its_batch_keep_their_place(live: Callable[..., PoolKit]) -> None:
    gate = threading.Event()
    order: list[object] = []

    def reads(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        gate.wait(10)
        for event in reads_until(wire, events.STOP):
            order.append(event[3] if event[0] == events.MESSAGE else NAMES[cast(int, event[0])])
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        for n in range(2000):
            kit.pool.post_events(0, [(events.MESSAGE, 1, "x" * 1000, n)])
        kit.pool.post_events(0, [(events.MESSAGE, 1, "last", 2000), (events.ANSWER, 1, True), (events.ANSWER, 2, True)])
        gate.set()

    live(work, reads)
    assert [entry for entry in order if isinstance(entry, int)] == list(range(2001))
    assert order.count("ANSWER") == 2 and order.index("ANSWER") < order.index(2000)


def test_a_batch_that_the_wire_refuses_loses_the_worker_and_not_the_core(
    live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(kit: PoolKit) -> None:
        kit.pool.post_events(0, [(events.MESSAGE, 1, object(), 1)])
        await kit.core.wait_until(lambda: bool(kit.core.lost_queues))

    live(work)
    assert "an event could not be sent to it" in caplog.text


def test_counts_are_added_up(live: Callable[..., PoolKit]) -> None:
    def counts(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        wire.write(
            (commands.COUNTED, "slow_handlers", 2),
            (commands.COUNTED, "slow_handlers", 3),
            (commands.COUNTED, "handler_errors", 1),
            (commands.COUNTED, "handler_timeouts", 2),
            (commands.SLOWEST, "handle_socket_message", 8, 0.5, 1000.0),
            (commands.SLOWEST, "handle_http_request", 0, 0.75, 1001.0),
        )
        wire.write((commands.SEND, 1, "done"))
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        await kit.core.wait_until(lambda: bool(kit.core.log))
        kit.core.worker_queues[0].in_flight_bytes = 77
        kit.core.worker_queues[0].in_flight_messages = 3
        kit.core.worker_queues[0].socket_count = 2
        kit.core.worker_queues[0].waiting_sockets.append("a socket")
        (statistics,) = kit.pool.collect_statistics()
        assert statistics == {
            "name": "worker-0",
            "state": "running",
            "restarts": 0,
            "sockets": 2,
            "sockets_waiting": 1,
            "mailbox_messages": 3,
            "mailbox_bytes": 77,
            "mailbox_batches": 0,
            "unwritten_bytes": 0,
            "opens_in_flight": 0,
            "requests_in_flight": 0,
            "asked_bytes": 0,
            "handled": 0,
            "errors": 3,
            "slowest": [
                {"handler": "handle_http_request", "socket_id": 0, "seconds": 0.75, "at": 1001.0},
                {"handler": "handle_socket_message", "socket_id": 8, "seconds": 0.5, "at": 1000.0},
            ],
            "counts": {"slow_handlers": 5, "handler_errors": 1, "handler_timeouts": 2},
        }

    live(work, counts)


# Which worker. --------------------------------------------------------------------------------------------------


def test_sockets_go_round_robin(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        assert [kit.pool.choose_worker_index() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]

    live(work, settings=Settings(workers=3))


def test_sockets_go_to_the_worker_with_the_fewest_connections_if_asked(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        queues = kit.core.worker_queues
        queues[0].socket_count, queues[1].socket_count, queues[2].socket_count = 5, 2, 3
        assert kit.pool.choose_worker_index() == 1
        for queue in queues:
            queue.socket_count = 4
        assert sorted(kit.pool.choose_worker_index() for _ in range(3)) == [0, 1, 2]

    live(work, serve_events, settings=Settings(workers=3, balance="least-connections"))


# Open handlers. -------------------------------------------------------------------------------------------------


def test_without_an_open_handler_no_hop_is_made(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        opening = kit.pool.run_open_handler(1, 0, REQUEST)
        with pytest.raises(StopIteration) as result:  # it never suspends
            opening.send(None)
        assert result.value.value is None

    live(work, with_names("handle_socket_message"))


@pytest.mark.parametrize(("status", "answer"), [(101, None), (403, HttpResponse(403, {}, b"no"))])
def test_the_open_handler_accepts_or_its_answer_is_sent(
    live: Callable[..., PoolKit], status: int, answer: HttpResponse | None
) -> None:
    async def work(kit: PoolKit) -> None:
        assert await kit.pool.run_open_handler(1, 0, REQUEST) == answer
        assert kit.pool.collect_statistics()[0]["opens_in_flight"] == 0

    live(work, lambda wire: serve_events(wire, OPEN_NAME, opened=status))


def test_an_open_handler_gets_the_request_and_one_that_never_answers_is_a_504(live: Callable[..., PoolKit]) -> None:
    seen: Batch = []

    def mute(wire: FakeWorkerEnd) -> None:
        send_started(wire, OPEN_NAME)
        seen.extend(reads_until(wire, events.DROP_UNOPENED))
        wire.write((commands.OPEN_RESULT, 9, 101, [], b""), (commands.SEND, 9, "late"))
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        answer = await kit.pool.run_open_handler(9, 0, REQUEST)
        assert isinstance(answer, HttpResponse) and answer.status == 504
        await kit.core.wait_until(lambda: bool(kit.core.log))  # the late answer was read, and ignored

    live(work, mute, settings=Settings(workers=1, handshake_timeout=0.05))
    assert seen == [(events.OPEN, 9, REQUEST.fields()), (events.DROP_UNOPENED, 9)]


def test_a_client_that_goes_away_while_opening_is_forgotten(live: Callable[..., PoolKit]) -> None:
    seen: Batch = []
    looked = threading.Event()

    def late(wire: FakeWorkerEnd) -> None:
        send_started(wire, OPEN_NAME)
        seen.extend(reads_until(wire, events.OPEN))
        wire.write((commands.SEND, 9, "opening"))
        seen.extend(reads_until(wire, events.DROP_UNOPENED))
        looked.wait(10)
        wire.write((commands.OPEN_RESULT, 9, 101, [], b""), (commands.SEND, 9, "late"))
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        opening = asyncio.ensure_future(kit.pool.run_open_handler(9, 0, REQUEST))
        await kit.core.wait_until(lambda: bool(kit.core.log))
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert kit.pool.collect_statistics()[0]["opens_in_flight"] == 1  # the handler may still run
        looked.set()
        await kit.core.wait_until(lambda: len(kit.core.log) == 2)
        assert kit.pool.collect_statistics()[0]["opens_in_flight"] == 0

    live(work, late)
    assert [event[0] for event in seen] == [events.OPEN, events.DROP_UNOPENED]


def test_open_handlers_that_wait_are_bounded_in_bytes(live: Callable[..., PoolKit]) -> None:
    def never(wire: FakeWorkerEnd) -> None:
        send_started(wire, OPEN_NAME)
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        waiting = [asyncio.ensure_future(kit.pool.run_open_handler(n, 0, REQUEST)) for n in range(20)]
        await asyncio.sleep(0)
        assert 10 < sum(opening.done() for opening in waiting) < 20
        for opening in waiting:
            opening.cancel()
        await asyncio.wait(waiting)
        answer = await kit.pool.run_open_handler(99, 0, REQUEST)
        assert isinstance(answer, HttpResponse) and answer.status == 503
        assert kit.pool.collect_statistics()[0]["asked_bytes"] <= 3000

    live(work, never, settings=Settings(workers=1, mailbox_bytes=3000))


def test_a_socket_gone_after_it_was_accepted_is_forgotten_on_request(live: Callable[..., PoolKit]) -> None:
    seen: Batch = []

    def reads(wire: FakeWorkerEnd) -> None:
        send_started(wire, OPEN_NAME)
        seen.extend(reads_until(wire, events.STOP))
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        kit.pool.drop_unopened_socket(9, 0)

    live(work, reads)
    assert seen == [(events.DROP_UNOPENED, 9), (events.STOP,)]


# HTTP. ----------------------------------------------------------------------------------------------------------


def test_without_an_http_handler_the_answer_is_503_and_no_hop_is_made(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        response = await kit.pool.run_http_handler(REQUEST)
        assert (response.status, response.body) == (503, b"No HTTP handler registered")

    live(work, serve_events)


def test_requests_go_to_the_worker_with_the_fewest_in_flight(live: Callable[..., PoolKit]) -> None:
    release = threading.Event()

    def holds(wire: FakeWorkerEnd) -> None:
        send_started(wire, HTTP_NAME)
        held = []
        while batch := wire.read():
            for event in batch:
                if event[0] == events.HTTP:
                    held.append(event[1])
                    wire.write((commands.SEND, 0, threading.current_thread().name))
                    if len(held) == 2:
                        release.wait(10)
                        answer = (200, [("A", "b"), ("A", "c")], b"ok")
                        wire.write(*[(commands.RESPONSE, number, *answer) for number in held])
                elif event[0] == events.STOP:
                    wire.write((commands.STOPPED,))
                    return

    async def work(kit: PoolKit) -> None:
        requests = []
        for n in range(6):
            requests.append(asyncio.ensure_future(kit.pool.run_http_handler(REQUEST)))
            await asyncio.sleep(0)
            in_flight = [entry["requests_in_flight"] for entry in kit.pool.collect_statistics()]
            assert sum(in_flight) == n + 1 and max(in_flight) - min(in_flight) <= 1
        release.set()
        for response in await asyncio.gather(*requests):
            assert response == HttpResponse(200, [("A", "b"), ("A", "c")], b"ok")
        assert [entry["asked_bytes"] for entry in kit.pool.collect_statistics()] == [0, 0, 0]

    live(work, holds, settings=Settings(workers=3))


def test_a_request_over_its_time_is_a_504_and_counts_until_it_is_answered(live: Callable[..., PoolKit]) -> None:
    release = threading.Event()

    def slow(wire: FakeWorkerEnd) -> None:
        send_started(wire, HTTP_NAME)
        (request,) = reads_until(wire, events.HTTP)
        release.wait(10)
        wire.write((commands.RESPONSE, request[1], 200, [], b"late"), (commands.SEND, 0, "late"))
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        assert (await kit.pool.run_http_handler(REQUEST)).status == 504
        assert kit.pool.collect_statistics()[0]["requests_in_flight"] == 1
        release.set()
        await kit.core.wait_until(lambda: bool(kit.core.log))
        assert kit.pool.collect_statistics()[0]["requests_in_flight"] == 0

    live(work, slow, settings=Settings(workers=1, http_timeout=0.05))


def test_requests_that_wait_are_bounded_in_bytes(live: Callable[..., PoolKit]) -> None:
    def never(wire: FakeWorkerEnd) -> None:
        send_started(wire, HTTP_NAME)
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        big = HttpRequest("POST", "/", body=b"x" * 600_000)
        waiting = [asyncio.ensure_future(kit.pool.run_http_handler(big)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await kit.pool.run_http_handler(big)
        assert refused.status == 503 and refused.headers["Retry-After"] == "1"
        for request in waiting:
            request.cancel()
        await asyncio.wait(waiting)
        assert (await kit.pool.run_http_handler(big)).status == 503  # given up by us is not done by the worker

    live(work, never, settings=Settings(workers=2, mailbox_bytes=1_000_000))


# Lost workers. --------------------------------------------------------------------------------------------------


def test_a_lost_worker_closes_its_sockets_answers_what_it_was_asked_and_is_replaced(
    live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(kit: PoolKit) -> None:
        pool, core = kit.pool, kit.core
        core.worker_queues[0].unhandled_closes[5] = (events.CLOSE, 5, b"t", 0, 1000, "")
        opening = asyncio.ensure_future(pool.run_open_handler(9, 0, REQUEST))
        request = asyncio.ensure_future(pool.run_http_handler(REQUEST))
        await asyncio.sleep(0)
        kit.post_message(1, "die")
        answer = await opening
        assert isinstance(answer, HttpResponse) and (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await request).status == 500
        assert core.lost_queues == [(0, 1012)] and core.adopted == []
        # Meanwhile nobody is let in, and nothing waits for nobody.
        kit.post_message(1, "to a socket that is closed")
        answer = await pool.run_open_handler(10, 0, REQUEST)
        assert isinstance(answer, HttpResponse) and answer.status == 503
        assert (await pool.run_http_handler(REQUEST)).status == 503
        await core.wait_until(lambda: commands.CLOSE_HANDLED in [entry[0] for entry in core.log])
        assert core.adopted == [(0, [(events.CLOSE, 5, b"t", 0, 1000, "")])]
        assert await pool.run_open_handler(11, 0, REQUEST) is None
        assert (await pool.run_http_handler(REQUEST)).status == 200
        assert pool.collect_statistics()[0]["restarts"] == 1
        assert core.worker_queues[0].generation == 1

    live(work, dies_at_the_first_message, with_names(OPEN_NAME, HTTP_NAME))
    assert "worker lost worker=worker-0 reason='it ended by itself' close_handlers_left=1" in caplog.text


def test_close_handlers_of_a_lost_worker_run_in_another_one(live: Callable[..., PoolKit]) -> None:
    async def work(kit: PoolKit) -> None:
        core = kit.core
        core.worker_queues[0].unhandled_closes[5] = (events.CLOSE, 5, None, 0, 1000, "")
        kit.post_message(1, "die")
        await core.wait_until(lambda: (commands.CLOSE_HANDLED, 5) in core.log)
        assert core.adopted == [(1, [(events.CLOSE, 5, None, 0, 1000, "")])]
        assert [kit.pool.choose_worker_index() for _ in range(3)] == [1, 1, 1]

    live(work, dies_at_the_first_message, serve_events, settings=Settings(workers=2))


@pytest.mark.parametrize("handler", ["handle_socket_message", "handle_socket_close"])
def test_a_hung_worker_is_abandoned_and_its_late_output_ignored(
    live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture, handler: str
) -> None:
    release = threading.Event()
    late: list[str] = []

    def hangs(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        reads_until(wire, events.MESSAGE)
        wire.write_control((control.INTERRUPTED, handler, 3, 5.0))
        wire.write_control((control.HUNG, handler, 3, 8.0))
        release.wait(10)
        try:
            wire.write((commands.SEND, 3, "late"))
            late.append("sent")
        except OSError:
            late.append("refused")

    async def work(kit: PoolKit) -> None:
        kit.post_message(3, "hang")
        await kit.core.wait_until(lambda: kit.pool.collect_statistics()[0]["restarts"] == 1)
        release.set()
        await kit.scripts.made_hosts[0].wait_until_ended()
        while not kit.pool._slots[0].is_running:
            await asyncio.sleep(0.001)
        kit.post_message(4, "hello")
        await kit.core.wait_until(lambda: (commands.SEND, 4, "hello") in kit.core.log)
        assert (commands.SEND, 3, "late") not in kit.core.log
        assert [host.kills for host in kit.scripts.made_hosts] == [1, 0]

    live(work, hangs, serve_events)
    assert late == ["refused"]
    assert f"{handler} (socket 3) hangs: it has not ended 8.0 s after its start" in caplog.text


def test_a_probe_without_an_answer_loses_the_worker(
    live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture
) -> None:
    def deaf(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        reads_until(wire, events.STOP)

    async def work(kit: PoolKit) -> None:
        worker = kit.pool._slots[0].worker
        assert worker is not None
        for _ in range(3):  # one question, two intervals without an answer
            worker.check_liveness()
        assert kit.core.lost_queues == []
        worker.check_liveness()
        assert kit.core.lost_queues == [(0, 1012)]

    live(work, deaf, serve_events, settings=Settings(workers=1, worker_hang_timeout=3.0))
    assert "it did not answer a probe for 3 s" in caplog.text


def test_answered_probes_are_fine_and_one_is_out_at_a_time(live: Callable[..., PoolKit]) -> None:
    probes: list[object] = []

    def answers(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        for _ in range(5):
            data = wire.control.recv(4096)
            probes.append(len(data))
            wire.write_control((control.ALIVE, len(probes)))
            wire.write((commands.SEND, 0, len(probes)))
        reads_until(wire, events.STOP)
        wire.write((commands.STOPPED,))

    async def work(kit: PoolKit) -> None:
        worker = kit.pool._slots[0].worker
        assert worker is not None
        for n in range(1, 6):
            worker.check_liveness()
            while worker._monitor.is_probe_unanswered:
                await asyncio.sleep(0)
            assert worker._monitor.last_probe_number == n
        assert kit.core.lost_queues == []

    live(work, answers, settings=Settings(workers=1, worker_hang_timeout=1.0))
    assert len(set(probes)) == 1


def test_nonsense_on_the_wire_loses_the_worker(live: Callable[..., PoolKit]) -> None:
    def babbles(wire: FakeWorkerEnd) -> None:
        send_started(wire)
        reads_until(wire, events.MESSAGE)
        wire.wire.sendall(b"\0\0\0\x10HTTP/1.1 200 OK\r\n\r\n")
        wire.read()

    async def work(kit: PoolKit) -> None:
        kit.post_message(1, "x")
        await kit.core.wait_until(lambda: bool(kit.core.lost_queues))

    live(work, babbles, serve_events)


def test_a_crash_loop_ends_in_one_fatal_error(live: Callable[..., PoolKit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "FIRST_DELAY_S", 0.001)

    def dies(wire: FakeWorkerEnd) -> None:
        send_started(wire)

    async def work(kit: PoolKit) -> None:
        await kit.core.wait_until(lambda: bool(kit.fatal_errors))
        assert [str(error) for error in kit.fatal_errors] == [
            "worker worker-0 was lost more than 5 times within 60 s, the last time because it ended by itself"
        ]
        assert isinstance(kit.fatal_errors[0], WorkerError)
        assert kit.pool.has_open_handler, "sockets would be accepted for a worker that is not there"
        assert len(kit.scripts.made_hosts) == 6
        assert kit.pool.choose_worker_index() == 0
        answer = await kit.pool.run_open_handler(1, 0, REQUEST)
        assert isinstance(answer, HttpResponse) and answer.status == 503

    live(work, dies)


def test_a_replacement_that_cannot_start_is_tried_again(
    live: Callable[..., PoolKit], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "FIRST_DELAY_S", 0.001)

    def fails(wire: FakeWorkerEnd) -> None:
        wire.write((commands.START_FAILED, "cannot import 'app'", "", True))

    async def work(kit: PoolKit) -> None:
        kit.core.worker_queues[0].unhandled_closes[5] = (events.CLOSE, 5, None, 0, 1000, "")
        kit.post_message(1, "die")
        await kit.core.wait_until(lambda: (commands.CLOSE_HANDLED, 5) in kit.core.log)
        assert kit.pool.collect_statistics()[0]["restarts"] == 3

    live(work, dies_at_the_first_message, fails, fails, serve_events)
    assert caplog.text.count("replacement failed worker=worker-0 reason=\"cannot import 'app'\"") == 2


def test_stop_while_a_replacement_is_due_starts_none(
    live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(kit: PoolKit) -> None:
        kit.core.worker_queues[0].unhandled_closes[5] = (events.CLOSE, 5, None, 0, 1000, "")
        kit.post_message(1, "die")
        await kit.core.wait_until(lambda: bool(kit.core.lost_queues))

    kit = live(work, dies_at_the_first_message, serve_events)
    assert len(kit.scripts.made_hosts) == 1
    assert "close handlers not run" in caplog.text


def test_nothing_is_left_after_many_losses(live: Callable[..., PoolKit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "FIRST_DELAY_S", 0.0)
    monkeypatch.setattr(restarts, "MAX_DEATHS", 1000)
    before = threading.active_count()

    async def work(kit: PoolKit) -> None:
        for n in range(50):
            while not kit.pool._slots[0].is_running:
                await asyncio.sleep(0)
            kit.post_message(1, "die")
            await kit.core.wait_until(lambda n=n: len(kit.core.lost_queues) == n + 1)  # type: ignore[misc]
        for host in kit.scripts.made_hosts:
            await host.wait_until_ended()
        assert len(kit.pool._tasks) <= 3

    live(work, dies_at_the_first_message)
    assert threading.active_count() == before


def test_log_lines_of_a_life_are_few(live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def work(kit: PoolKit) -> None:
        kit.post_message(1, "secret")

    live(work)
    assert "secret" not in caplog.text
    lines = [record.message for record in caplog.records if record.name.startswith("wsbroker.pool")]
    assert lines[0] == "workers kind=thread count=1 reason='as configured'"
    assert lines[1] == "worker started worker=worker-0 generation=0 handlers="
    assert len(lines) == 3


def test_the_ends_of_a_wire_are_not_inherited(live: Callable[..., PoolKit]) -> None:
    seen: list[bool] = []

    def looks(wire: FakeWorkerEnd) -> None:
        for end in (wire.wire, wire.control):
            seen.append(end.get_inheritable())
            assert end.type == socket.SOCK_STREAM
        serve_events(wire)

    async def work(kit: PoolKit) -> None:
        kit.post_message(1, "x")

    live(work, looks)
    assert seen == [False, False]


def test_what_the_pool_does_not_understand_is_skipped_counted_and_logged_once(
    live: Callable[..., PoolKit], caplog: pytest.LogCaptureFixture
) -> None:
    def talks(wire: FakeWorkerEnd) -> None:
        wire.write_control((97, 1), (control.NOT_UNDERSTOOD, 5))
        wire.write((95,), (commands.SEND, 1, "between"), (95, 1), (96,))
        wire.write_control((97, 1))
        serve_events(wire)

    async def work(kit: PoolKit) -> None:
        await kit.core.wait_until(lambda: (commands.SEND, 1, "between") in kit.core.log)
        while (
            kit.pool.collect_statistics()[0]["counts"].get("control_messages_refused", 0) < 3
        ):  # a stream of their own
            await asyncio.sleep(0.001)
        assert kit.pool.collect_statistics()[0]["counts"] == {"commands_refused": 3, "control_messages_refused": 3}

    live(work, talks)
    texts = sorted(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert texts == [
        "command not understood and skipped, please report this worker=worker-0 kind=95",
        "control message not understood and skipped, please report this worker=worker-0 kind=97",
        "control message to the worker not understood and skipped, please report this worker=worker-0 kind=5",
    ]
