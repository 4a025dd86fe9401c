"""The API of the main interpreter: from the loop's thread, from others, from signal handlers, before and after."""

import asyncio
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import cast

import pytest

from kits.pool_fakes import Batch, FakeCore, run
from wsbroker.errors import CommandError
from wsbroker.pool import local_api
from wsbroker.pool.local_api import LocalApi
from wsbroker.wire import commands
from wsbroker.worker.api import BrokerApi

ASKS: list[Callable[[LocalApi], object]] = [
    lambda api: api.subscribe(1, b"a"),
    lambda api: api.unsubscribe(1, b"a"),
    lambda api: api.subscriber_count(b"a"),
    lambda api: api.subscribers(b"a"),
    lambda api: api.subscriptions(1),
    lambda api: api.channels(),
    lambda api: api.is_open(1),
    lambda api: api.queued_bytes(1),
]
TELLS: list[Callable[[LocalApi], None]] = [
    lambda api: api.send(1, "x"),
    lambda api: api.send_to_channel(b"a", b"x", (2, 3)),
    lambda api: api.subscribe_nowait(1, b"a"),
    lambda api: api.unsubscribe_nowait(1, b"a"),
    lambda api: api.set_token(1, b"t"),
    lambda api: api.copy_subscriptions(b"a", b"b"),
    lambda api: api.close(1, 1000, "bye"),
]
ALL: list[Callable[[LocalApi], object]] = [*ASKS, *TELLS]


class LoopThread:
    """A broker's loop in another thread, so that the test is the main thread."""

    def __init__(self, command_bytes: int = 1 << 20) -> None:
        self.core = FakeCore()
        self.api = LocalApi(self.core, command_bytes)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> "LoopThread":
        self._thread.start()
        self.call(self.api.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.call(self.api.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def call(self, function: Callable[[], None]) -> None:
        """Runs it in the loop and waits for it."""

        async def work() -> None:
            function()

        asyncio.run_coroutine_threadsafe(work(), self.loop).result(10)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The loop is busy with something else meanwhile."""
        release = threading.Event()
        is_held = threading.Event()

        def hold() -> None:
            is_held.set()
            release.wait(10)

        self.loop.call_soon_threadsafe(hold)
        assert is_held.wait(10)
        try:
            yield
        finally:
            release.set()


def in_thread(work: Callable[[], object]) -> Callable[[], list[object]]:
    """Starts it in a thread; returns what waits for its end and gives its results or exceptions."""
    results: list[object] = []

    def main() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=main)
    thread.start()

    def join() -> list[object]:
        thread.join(10)
        assert not thread.is_alive()
        return results

    return join


def wait_for(is_true: Callable[[], bool]) -> None:
    """Spins until another thread has made it true; never decides by itself."""
    while not is_true():
        pass


@pytest.mark.parametrize("call", ALL)
def test_every_call_before_the_start_is_refused(call: Callable[[LocalApi], object]) -> None:
    with pytest.raises(CommandError, match="no broker is running: call wsbroker.start") as caught:
        call(LocalApi(FakeCore(), 1000))
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("call", ALL)
def test_every_call_after_the_stop_is_refused_in_every_thread(call: Callable[[LocalApi], object]) -> None:
    async def main() -> None:
        api = LocalApi(FakeCore(), 1000)
        api.start()
        api.stop()
        with pytest.raises(CommandError, match="the broker was stopped"):
            call(api)
        (error,) = in_thread(lambda: call(api))()
        assert isinstance(error, CommandError)

    run(main())


@pytest.mark.parametrize("call", ALL)
def test_a_call_does_the_same_in_the_loop_and_in_another_thread(call: Callable[[LocalApi], object]) -> None:
    async def main() -> tuple[FakeCore, object]:
        core = FakeCore()
        core.members[b"a"] = [4, 1]
        api = LocalApi(core, 1000)
        api.start()
        result = call(api)
        api.stop()
        return core, result

    inside, result = run(main())
    with LoopThread() as outside:
        outside.core.members[b"a"] = [4, 1]
        assert call(outside.api) == result
    # The number of a worker's SET_TOKEN is 0 for "nobody's".
    told = [entry[:3] if entry[0] == commands.SET_TOKEN else entry for entry in outside.core.log]
    assert told == inside.log


def test_the_calls_of_a_thread_are_applied_in_its_order() -> None:
    with LoopThread() as house:
        api = house.api
        for n in range(300):
            api.send(1, str(n))
            if n % 3 == 0:
                api.subscribe_nowait(n, b"a")
                assert api.subscribers(b"a") == list(range(0, n + 1, 3))
    sent = [entry[2] for entry in house.core.log if entry[0] == commands.SEND]
    assert sent == [str(n) for n in range(300)]


def test_many_calls_wake_the_loop_once() -> None:
    with LoopThread() as house:
        applied: list[int] = []
        apply = house.api._apply

        def counting(lane_index: int, generation: int, batch: Batch) -> Batch:
            applied.append(len(batch))
            return apply(lane_index, generation, batch)

        house.api._apply = counting
        with house.held():
            for n in range(500):
                house.api.send(1, str(n))
        assert house.api.channels() == []
    assert applied[0] in (500, 501)
    assert sum(applied) == 501


def test_a_thread_waits_while_its_commands_fill_the_limit() -> None:
    size = 1000
    with LoopThread(command_bytes=10 * size) as house:
        api = house.api

        def flood() -> None:
            for _ in range(100):
                api.send(1, "x" * size)

        with house.held():
            join = in_thread(flood)
            wait_for(lambda: bool(api._blocked_callers))
            assert 8 * size < api.waiting_bytes <= 10 * size
            assert house.core.log == []
        assert join() == [None]
        assert api.channels() == []
        assert len(house.core.log) == 100
        house.call(lambda: None)
        assert api.waiting_bytes == 0


def test_one_command_larger_than_the_limit_passes_when_nothing_waits() -> None:
    with LoopThread(command_bytes=10) as house:
        house.api.send(1, "x" * 1000)
        house.api.send(1, "y" * 1000)
    assert [entry[2] for entry in house.core.log] == ["x" * 1000, "y" * 1000]


def test_who_waits_when_the_broker_stops_does_not_hang() -> None:
    with LoopThread(command_bytes=1000) as house:
        api = house.api

        def flood() -> None:
            for _ in range(3):
                api.send(1, "x" * 600)

        with house.held():
            asks = in_thread(lambda: api.subscriber_count(b"a"))
            tells = in_thread(flood)
            wait_for(lambda: bool(api._blocked_callers and api._pending_questions))
            house.loop.call_soon_threadsafe(api.stop)
        (answer,) = asks()
        assert answer == 0
        (end,) = tells()
        assert isinstance(end, CommandError)
        house.call(api.start)


def test_a_loop_that_was_closed_without_stop_refuses_instead_of_hanging() -> None:
    async def main() -> LocalApi:
        api = LocalApi(FakeCore(), 1000)
        api.start()
        return api

    api = run(main())
    (error,) = in_thread(lambda: api.subscriber_count(b"a"))()
    assert isinstance(error, CommandError)


def test_a_batch_that_cannot_be_applied_frees_who_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    with LoopThread() as house:
        house.core.poison = "poison"
        with house.held():
            house.api.send(1, "poison")
            join = in_thread(lambda: house.api.subscriber_count(b"a"))
            wait_for(lambda: bool(house.api._pending_questions))
        (error,) = join()
        assert isinstance(error, CommandError)
        assert house.api.subscriber_count(b"a") == 0
    assert "commands of a thread could not be applied" in caplog.text


# Signal handlers. -----------------------------------------------------------------------------------------------


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Takes SIGUSR1 meanwhile."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class Recorder:
    """Makes calls from a signal handler, in the forms a handler can have."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.results: list[object] = []

    def method(self, number: int, frame: FrameType | None) -> None:
        try:
            self.results.append(self.call())
        except Exception as error:
            self.results.append(error)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.method(number, frame)

    def with_argument(self, more: str, number: int, frame: FrameType | None) -> None:
        self.method(number, frame)


@pytest.mark.parametrize("form", ["method", "object", "partial", "lambda"])
def test_asking_from_a_signal_handler_is_refused(form: str) -> None:
    with LoopThread() as house:
        recorder = Recorder(lambda: house.api.subscriber_count(b"a"))
        forms: dict[str, Callable[[int, FrameType | None], object]] = {
            "method": recorder.method,
            "object": recorder,
            "partial": functools.partial(recorder.with_argument, "more"),
            "lambda": lambda number, frame: recorder.method(number, frame),
        }
        with handling(forms[form]):
            signal.raise_signal(signal.SIGUSR1)
            assert house.api.subscriber_count(b"a") == 0  # outside the handler it is fine
        (error,) = recorder.results
        assert isinstance(error, CommandError) and "signal handler" in str(error)


def test_telling_from_a_signal_handler_works() -> None:
    with LoopThread() as house:
        with handling(lambda number, frame: house.api.send(1, "from the handler")):
            signal.raise_signal(signal.SIGUSR1)
        assert house.api.channels() == []
        assert house.core.log == [(commands.SEND, 1, "from the handler")]


class InterruptedLock:
    """A lock whose holder is interrupted by a signal each time it has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGUSR1)

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("outer", ["tell", "ask"])
def test_a_signal_inside_a_call_never_dead_locks(outer: str) -> None:
    with LoopThread() as house:
        api = house.api
        count = iter(range(3))
        errors: list[CommandError] = []

        def handler(number: int, frame: FrameType | None) -> None:
            n = next(count, None)
            if n is None:
                return
            api.send(1, f"nested {n}")
            try:
                api.channels()
            except CommandError as error:
                errors.append(error)

        api._lock = InterruptedLock()  # type: ignore[assignment]
        with handling(handler):
            if outer == "tell":
                api.send(1, "outer")
            else:
                assert api.channels() == []
            api.send(1, "after")
            api.send(1, "last")
        api._lock = threading.Lock()
        assert api.channels() == []
    assert len(errors) == 3
    sent = [entry[2] for entry in house.core.log]
    assert sorted(map(str, sent)) == sorted(
        ["nested 0", "nested 1", "nested 2", "after", "last", *(["outer"] if outer == "tell" else [])]
    )
    nested = [text for text in sent if str(text).startswith("nested")]
    assert nested == sorted(map(str, nested))
    assert sent[-1] == "last"


def test_frames_of_a_handler_are_only_looked_for_in_the_main_thread() -> None:
    with LoopThread() as house:

        def handler(number: int, frame: FrameType | None) -> object:
            return house.api.subscriber_count(b"a")

        with handling(handler):
            assert in_thread(lambda: handler(0, None))() == [0]


def test_a_builtin_handler_has_no_frames_to_find() -> None:
    with handling(signal.default_int_handler):
        assert not local_api._find_signal_codes()


# On the loop's own thread. --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ASKS)
def test_asking_from_a_signal_handler_is_refused_on_the_loops_thread_too(ask: Callable[[LocalApi], object]) -> None:
    recorder = Recorder(lambda: ask(api))
    api = LocalApi(FakeCore(), 1 << 20)

    async def main() -> None:
        with handling(recorder.method):
            api.start()
            signal.raise_signal(signal.SIGUSR1)
            ask(api)  # outside the handler it is fine
        api.refresh_signal_handlers()
        recorder.method(0, None)  # a call like any other now
        api.stop()

    run(main())
    refused, answered = recorder.results
    assert isinstance(refused, CommandError) and "signal handler" in str(refused)
    assert not isinstance(answered, BaseException)


@pytest.mark.parametrize("tell", TELLS)
def test_telling_from_a_signal_handler_works_on_the_loops_thread_too(tell: Callable[[LocalApi], None]) -> None:
    core = FakeCore()
    api = LocalApi(core, 1 << 20)

    async def main() -> None:
        with handling(lambda number, frame: tell(api)):
            api.start()
            signal.raise_signal(signal.SIGUSR1)
        assert len(core.log) == 1
        api.stop()

    run(main())


@pytest.mark.parametrize("tell", TELLS)
def test_a_command_that_was_made_already_reaches_the_core_like_the_call_that_makes_it(
    tell: Callable[[LocalApi], None],
) -> None:
    """Code in the loop may have the context of a worker that has ended; its calls come here as commands."""
    core = FakeCore()
    api = LocalApi(core, 1 << 20)
    made: list[commands.Command] = []

    class Maker(BrokerApi):
        def send_command(self, command: commands.Command) -> None:
            made.append(command)

    async def main() -> None:
        api.start()
        tell(api)
        tell(cast(LocalApi, Maker()))
        api.send_command(made[0])
        assert len(core.log) == 2 and core.log[0] == core.log[1]
        api.stop()

    run(main())


def test_a_question_by_its_number_is_answered_like_the_call_that_asks_it() -> None:
    core = FakeCore()
    api = LocalApi(core, 1 << 20)

    async def main() -> None:
        api.start()
        assert api.ask_core(commands.SUBSCRIBE, 1, b"a") is True
        assert api.subscribe(1, b"a") is api.ask_core(commands.SUBSCRIBE, 1, b"a") is False
        assert api.channels() == api.ask_core(commands.CHANNELS)
        api.stop()

    run(main())


def test_each_call_has_a_direct_path_to_the_core() -> None:
    names = {*commands.ONE_WAY_METHODS.values(), *commands.QUESTION_METHODS.values()}
    assert names <= vars(LocalApi).keys()
    assert {vars(LocalApi)[name].__name__ for name in names} == names


def test_a_handler_that_was_taken_later_is_noticed_when_the_api_looks() -> None:
    api = LocalApi(FakeCore(), 1 << 20)
    recorder = Recorder(api.channels)

    async def main() -> None:
        api.start()
        with handling(recorder):
            api.refresh_signal_handlers()
            signal.raise_signal(signal.SIGUSR1)
        api.stop()

    run(main())
    assert isinstance(recorder.results[0], CommandError)


def test_without_signal_handlers_of_the_program_a_question_goes_straight_to_the_core() -> None:
    """`run` and `asyncio.run` have handlers too, which ask nothing."""
    core = FakeCore()
    api = LocalApi(core, 1 << 20)

    async def main() -> None:
        assert callable(signal.getsignal(signal.SIGINT))
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
        api.start()
        assert api._core_methods["is_open"] == core.is_open
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)
        api.stop()

    run(main())


def test_a_loop_in_another_thread_is_no_matter_of_signals() -> None:
    with handling(lambda number, frame: None), LoopThread() as house:
        assert house.api._core_methods["is_open"] == house.core.is_open
