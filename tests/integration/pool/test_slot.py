"""Exchanging workers, with the real core: whatever interrupts it and wherever, there is one outcome."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import cast

import pytest

from kits.broker_kit import RecordingSocket
from kits.pool_fakes import FakeWorkerEnd, ScriptedHosts, run, send_started
from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import Limits
from wsbroker.broker.registry import TurnScheduler
from wsbroker.errors import WorkerError
from wsbroker.http.request import HttpRequest
from wsbroker.pool.interfaces import Core
from wsbroker.pool.local_api import LocalApi
from wsbroker.pool.pool import Pool, ReloadUnfinished
from wsbroker.pool.remote_worker import RemoteWorker
from wsbroker.pool.slot import WorkerSlot
from wsbroker.settings.config import Config, Settings
from wsbroker.wire import commands, events

POLL_S = 0.002
"""How often `until` looks; whatever it waits for has no limit but that of the test."""
REQUEST = HttpRequest("GET", "/")


class Turns(TurnScheduler):
    """Ends the broker's turn when the loop comes round."""

    broker: Broker

    def schedule_turn(self) -> None:
        asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.broker.is_turn_scheduled = False
        self.broker.deliver_batches()
        self.broker.flush()


class Version:
    """A worker with one version of the code: notes what it is told, and waits where the test has it wait."""

    def __init__(self, *handlers: str) -> None:
        self.handlers = handlers
        self.notes: list[object] = []
        """messages, ("close", socket id), "request", "stop"; in order"""
        self.may_start = threading.Event()
        self.may_handle = threading.Event()
        self.may_answer = threading.Event()
        self.may_stop = threading.Event()
        self.may_end = threading.Event()
        self.gates = (self.may_start, self.may_handle, self.may_answer, self.may_stop, self.may_end)
        for gate in self.gates:
            gate.set()
        self._wire: FakeWorkerEnd | None = None

    def __call__(self, wire: FakeWorkerEnd) -> None:
        self._wire = wire
        self.may_start.wait()
        helper = threading.Thread(target=wire.answer_probes, daemon=True)
        helper.start()
        send_started(wire, *self.handlers)
        while batch := wire.read():
            if not all(self._handle(wire, event) for event in batch):
                break
        self.may_end.wait()
        wire.control.shutdown(socket.SHUT_RDWR)
        helper.join()

    def _handle(self, wire: FakeWorkerEnd, event: tuple[object, ...]) -> bool:
        kind = event[0]
        if kind == events.MESSAGE:
            self.notes.append(event[2])
            self.may_handle.wait()
            wire.write((commands.HANDLED, [(event[1], event[3])]))
        elif kind == events.CLOSE:
            self.notes.append(("close", event[1]))
            wire.write((commands.CLOSE_HANDLED, event[1]))
        elif kind == events.HTTP:
            self.notes.append("request")
            threading.Thread(target=self._answer, args=(wire, event[1]), daemon=True).start()
        elif kind == events.STOP:
            self.notes.append("stop")
            self.may_stop.wait()
            wire.write((commands.STOPPED,))
            return False
        return True

    def _answer(self, wire: FakeWorkerEnd, number: object) -> None:
        self.may_answer.wait()
        wire.write((commands.PUBLISH, b"all", "from a request", ()), (commands.RESPONSE, number, 200, [], b"old"))

    def die(self) -> None:
        """Ends it, wherever it is."""
        assert self._wire is not None
        self._wire.wire.shutdown(socket.SHUT_RDWR)
        self.release()

    def release(self) -> None:
        """Nothing waits any more."""
        for gate in self.gates:
            gate.set()


class House:
    """A pool with the real core and fake workers: one version for each that is started."""

    def __init__(self, *versions: Version, settings: Settings | None = None) -> None:
        waker = Turns()
        self.broker = waker.broker = Broker(Limits(), waker)
        self.versions = versions
        self.scripts = ScriptedHosts(*versions)
        self.fatal: list[Exception] = []
        core = cast(Core, self.broker)
        given = settings or Settings()
        given.setdefault("workers", 1)
        given.setdefault("worker_kind", "process")
        config = Config.of(**given)
        port = LocalApi(core, 1 << 20)
        self.pool = Pool(config, "not.imported", core, port, self.fatal.append, make_host=self.scripts)
        self.broker.deliver_batch = self.pool.post_events

    @property
    def place(self) -> WorkerSlot:
        """The first one."""
        return self.pool._slots[0]

    def socket(self, worker_index: int = 0, is_open: bool = True) -> RecordingSocket:
        """A new socket of a worker."""
        found = RecordingSocket(self.broker.allocate_socket_id(), self.broker.worker_queues[worker_index])
        found.is_blocked = False
        self.broker.register_socket(found)
        if is_open:
            self.broker.mark_socket_open(found)
        return found

    def say(self, sender: RecordingSocket, text: str) -> None:
        """A message comes in."""
        self.broker.receive_message(sender, text, len(text))

    def reload(self) -> "asyncio.Task[None]":
        """Begins one."""
        return asyncio.create_task(self.pool.reload())

    async def until(self, claim: Callable[[], object]) -> None:
        """Waits until it is true."""
        while not claim():
            await asyncio.sleep(POLL_S)

    def speaks(self, version: Version) -> bool:
        """Whether this version's worker has the first place."""
        worker = self.place.worker
        return worker is not None and self.host_of(version) is worker._host and self.place.is_running

    def host_of(self, version: Version) -> object:
        """What carries it."""
        return next((host for host in self.scripts.made_hosts if host.script is version), None)

    def alive(self) -> list[int]:
        """Which of the workers made so far run, by number."""
        threads = [host._thread for host in self.scripts.made_hosts]
        return [number for number, thread in enumerate(threads) if thread is not None and thread.is_alive()]

    async def reloads_beside(self, old: Version) -> "tuple[RecordingSocket, asyncio.Task[None]]":
        """Begins a reload that has to wait, for the old worker is handling the message "1" of a socket."""
        talker = self.socket()
        old.may_handle.clear()
        self.say(talker, "1")
        await self.until(lambda: old.notes)
        reloading = self.reload()
        await self.held()
        return talker, reloading

    async def held(self) -> None:
        """Waits until messages wait for the exchange."""
        await self.until(lambda: self.broker.worker_queues[0].is_paused)


def live(
    work: Callable[[House], Coroutine[object, object, None]], *versions: Version, settings: Settings | None = None
) -> House:
    """Runs a test in a pool that has started; nothing may be left of it when it has stopped."""

    async def main() -> House:
        house = House(*versions, settings=settings)
        await house.pool.start()
        try:
            await work(house)
        finally:
            for version in versions:
                version.release()
            await house.pool.stop(5)
        assert house.alive() == []
        return house

    return run(main())


def test_sockets_tokens_and_waiting_messages_go_to_the_new_worker_in_order() -> None:
    old, new = Version(), Version()

    async def work(house: House) -> None:
        talker, reloading = await house.reloads_beside(old)
        house.say(talker, "2")
        old.may_handle.set()
        await reloading
        house.say(talker, "3")
        await house.until(lambda: len(new.notes) == 2)
        assert (old.notes[0], new.notes) == ("1", ["2", "3"])
        assert talker.received == []

    live(work, old, new)


# The new worker is lost. ----------------------------------------------------------------------------------------------


def test_a_new_worker_lost_while_the_old_one_stops_is_replaced() -> None:
    old, new, replacement = Version(), Version(), Version()

    async def work(house: House) -> None:
        talker = house.socket()
        old.may_stop.clear()
        await house.pool.reload()
        await house.until(lambda: "stop" in old.notes)
        new.die()
        await house.until(lambda: house.speaks(replacement))
        assert talker.received == [b"close"]
        await house.until(lambda: replacement.notes == [("close", talker.id)])
        later = house.socket()
        house.say(later, "hello")
        await house.until(lambda: "hello" in replacement.notes)

    live(work, old, new, replacement)


def test_a_new_worker_lost_before_it_took_over_leaves_the_old_one_where_it_is() -> None:
    old, new = Version(), Version()

    async def work(house: House) -> None:
        talker = house.socket()
        old.may_handle.clear()
        house.say(talker, "1")
        reloading = house.reload()
        await house.held()
        house.say(talker, "2")
        new.die()
        with pytest.raises(
            ReloadUnfinished, match="0 of 1 workers have the new code.* was lost before it could take over"
        ):
            await reloading
        old.may_handle.set()
        await house.until(lambda: old.notes == ["1", "2"])
        assert talker.received == []

    live(work, old, new)


# The old worker is lost. ----------------------------------------------------------------------------------------------


def test_an_old_worker_lost_while_it_runs_empty_makes_way_at_once() -> None:
    old, new = Version(), Version()

    async def work(house: House) -> None:
        talker, reloading = await house.reloads_beside(old)
        old.die()
        await reloading
        assert house.speaks(new)
        assert talker.received == [b"close"]
        await house.until(lambda: new.notes == [("close", talker.id)])
        assert house.broker.counters.messages_lost == 1

    live(work, old, new)


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_replacement_on_its_way_makes_way_for_the_new_worker(when: str) -> None:
    """It may have imported the old code; and two workers would speak for one lane."""
    old, new, replacement = Version(), Version(), Version()
    new.may_start.clear()
    replacement.may_start.clear()

    async def work(house: House) -> None:
        if when == "before":
            old.die()
            await house.until(lambda: not house.place.is_running)
        reloading = house.reload()
        await house.until(lambda: len(house.scripts.made_hosts) == 2)
        if when == "while":
            old.die()
        await house.until(lambda: len(house.scripts.made_hosts) == 3)
        new.may_start.set()
        await reloading
        assert house.speaks(new)
        replacement.may_start.set()
        await house.until(lambda: house.alive() == [1])
        house.say(house.socket(), "hello")
        await house.until(lambda: new.notes == ["hello"])
        assert replacement.notes == []
        assert len(house.scripts.made_hosts) == 3

    live(work, old, new, replacement)


def test_a_replacement_that_has_started_meanwhile_is_exchanged_like_any_other_worker() -> None:
    old, new, replacement = Version(), Version(), Version()
    new.may_start.clear()

    async def work(house: House) -> None:
        reloading = house.reload()
        await house.until(lambda: len(house.scripts.made_hosts) == 2)
        old.die()
        await house.until(lambda: house.speaks(replacement))
        talker = house.socket()
        new.may_start.set()
        await reloading
        house.say(talker, "hello")
        await house.until(lambda: new.notes == ["hello"] and replacement.notes == ["stop"])

    live(work, old, new, replacement)


# The pool stops. ------------------------------------------------------------------------------------------------------


def test_a_stop_while_messages_wait_has_the_old_worker_handle_them_and_the_closes() -> None:
    old, new = Version(), Version()

    async def work(house: House) -> None:
        talker, reloading = await house.reloads_beside(old)
        house.say(talker, "2")
        house.broker.mark_connection_lost(talker, 1006, "")
        stopping = asyncio.create_task(house.pool.stop(5))
        with pytest.raises(ReloadUnfinished, match="it was called off, the server stops"):
            await reloading
        old.may_handle.set()
        await stopping
        assert (old.notes, new.notes) == (["1", "2", ("close", talker.id), "stop"], ["stop"])

    live(work, old, new)


def test_a_stop_while_the_new_worker_starts_ends_both() -> None:
    old, new = Version(), Version()
    new.may_start.clear()

    async def work(house: House) -> None:
        reloading = house.reload()
        await house.until(lambda: len(house.scripts.made_hosts) == 2)
        house.scripts.made_hosts[1].kill = lambda: bool(new.release())  # type: ignore[method-assign, func-returns-value]
        await house.pool.stop(5)
        with pytest.raises(ReloadUnfinished):
            await reloading
        assert house.alive() == []
        with pytest.raises(WorkerError, match="being stopped"):
            await house.pool.reload()

    live(work, old, new)


def test_a_stop_waits_for_the_old_worker_that_has_been_exchanged() -> None:
    old, new = Version(), Version()
    old.may_stop.clear()

    async def work(house: House) -> None:
        await house.pool.reload()
        stopping = asyncio.create_task(house.pool.stop(5))
        await house.until(lambda: "stop" in old.notes and "stop" in new.notes)
        assert not stopping.done()
        old.may_stop.set()
        await stopping
        assert house.alive() == []

    live(work, old, new)


def test_whoever_waits_for_a_reload_may_go_away() -> None:
    old, new = Version(), Version()
    new.may_start.clear()

    async def work(house: House) -> None:
        reloading = house.reload()
        await house.until(lambda: len(house.scripts.made_hosts) == 2)
        reloading.cancel()
        await asyncio.wait([reloading])
        new.may_start.set()
        await house.until(lambda: house.speaks(new))

    live(work, old, new)


# New code that hangs, and another reload. -----------------------------------------------------------------------------


def test_a_reload_calls_off_the_one_whose_code_hangs_and_ends_its_worker() -> None:
    old, hangs, good = Version(), Version(), Version()
    hangs.may_start.clear()

    async def work(house: House) -> None:
        first = house.reload()
        await house.until(lambda: len(house.scripts.made_hosts) == 2)
        house.scripts.made_hosts[1].kill = lambda: bool(hangs.release())  # type: ignore[method-assign, func-returns-value]
        await house.pool.reload()
        with pytest.raises(ReloadUnfinished, match="it was called off, another one has begun"):
            await first
        assert house.speaks(good)
        await house.until(lambda: house.alive() == [2])

    live(work, old, hangs, good)


def test_of_three_reloads_at_once_the_last_one_counts() -> None:
    old, new = Version(), Version()

    async def work(house: House) -> None:
        outcomes = await asyncio.gather(*(house.pool.reload() for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ReloadUnfinished, ReloadUnfinished, type(None)]
        assert house.speaks(new)

    live(work, old, new)


def test_a_reload_waits_for_workers_that_start_for_the_first_time() -> None:
    slow, new = Version(), Version()
    slow.may_start.clear()

    async def main() -> None:
        house = House(slow, new)
        starting = asyncio.create_task(house.pool.start())
        await house.until(lambda: len(house.scripts.made_hosts) == 1)
        reloading = [asyncio.create_task(house.pool.reload()) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert len(house.scripts.made_hosts) == 1
        slow.release()
        await starting
        outcomes = await asyncio.gather(*reloading, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ReloadUnfinished, type(None)]
        assert house.speaks(new)
        await house.pool.stop(5)
        assert house.alive() == []

    run(main())


# Nothing is held longer than needed. ----------------------------------------------------------------------------------


def test_a_request_in_flight_is_answered_by_the_old_worker_while_sockets_go_on_with_the_new_one() -> None:
    old, new = Version("handle_http_request"), Version("handle_http_request")
    old.may_answer.clear()

    async def work(house: House) -> None:
        talker = house.socket()
        house.broker.subscribe(talker.id, b"all")
        asking = asyncio.create_task(house.pool.run_http_handler(REQUEST))
        await house.until(lambda: "request" in old.notes)
        await house.pool.reload()
        house.say(talker, "hello")
        await house.until(lambda: new.notes == ["hello"])
        assert (await house.pool.run_http_handler(REQUEST)).status == 200
        assert new.notes == ["hello", "request"] and not asking.done()
        old.may_answer.set()
        assert (await asking).body == b"old"
        await house.until(lambda: talker.received == [b"from a request"] * 2)  # its effects count
        await house.until(lambda: old.notes == ["request", "stop"] and house.alive() == [1])

    live(work, old, new)


@pytest.mark.parametrize("where", ["may_stop", "may_end"])
def test_an_old_worker_that_does_not_come_to_its_end_holds_no_socket(where: str) -> None:
    old, new = Version(), Version()
    getattr(old, where).clear()

    async def work(house: House) -> None:
        talker = house.socket()
        await house.pool.reload()
        house.say(talker, "hello")
        await house.until(lambda: new.notes == ["hello"] and old.notes == ["stop"])
        assert house.alive() == [0, 1]

    live(work, old, new)


# Some can, others cannot. ---------------------------------------------------------------------------------------------


def test_one_worker_that_does_not_run_empty_does_not_keep_the_others_and_is_told() -> None:
    busy, idle, new = Version("handle_socket_close"), Version("handle_socket_close"), Version("handle_socket_message")

    async def work(house: House) -> None:
        first = cast(Version, house.scripts.made_hosts[0].script)
        talker = house.socket()
        first.may_handle.clear()
        house.say(talker, "1")
        await house.until(lambda: first.notes)
        text = "1 of 2 workers have the new code, reload again for the others: worker-0 has not come to the end"
        with pytest.raises(ReloadUnfinished, match=text):
            await house.pool.reload()
        assert house.pool.handlers_found == {"handle_socket_close", "handle_socket_message"}
        house.say(talker, "2")
        first.may_handle.set()
        await house.until(lambda: first.notes == ["1", "2"])
        await house.pool.reload()
        assert house.pool.handlers_found == {"handle_socket_message"}

    live(work, busy, idle, new, settings=Settings(workers=2, handler_timeout=0.05, worker_hang_timeout=0.05))


# After a loss. --------------------------------------------------------------------------------------------------------


def test_a_socket_whose_101_came_out_after_its_worker_was_lost_gets_its_close_handler() -> None:
    old, replacement = Version(), Version()

    async def work(house: House) -> None:
        late = house.socket(is_open=False)
        old.die()
        await house.until(lambda: not house.place.is_running)
        house.broker.mark_socket_open(late)
        await house.until(lambda: replacement.notes == [("close", late.id)])
        await house.until(lambda: not house.broker.worker_queues[0].unhandled_closes)

    live(work, old, replacement)


def test_an_exception_while_a_worker_is_retired_leaves_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(worker: RemoteWorker, timeout_s: float) -> bool:
        monkeypatch.undo()
        raise OSError("no descriptors left")

    async def work(house: House) -> None:
        monkeypatch.setattr(RemoteWorker, "stop", fails)
        await house.reload()
        await house.until(lambda: not house.place._retiring_workers)
        assert house.place.is_running
        talker = house.socket()
        house.say(talker, "1")
        await house.until(lambda: new.notes)
        await house.until(lambda: house.alive() == [1])

    old, new = Version(), Version()
    live(work, old, new)
    assert "worker could not be retired worker=worker-0" in caplog.text
    assert "worker lost while it was leaving" in caplog.text


def test_one_worker_that_cannot_be_stopped_does_not_keep_the_others_of_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop = RemoteWorker.stop
    failed: list[RemoteWorker] = []

    async def fails_once(worker: RemoteWorker, timeout_s: float) -> bool:
        done = await stop(worker, timeout_s)
        if not failed:
            failed.append(worker)
            raise OSError("no descriptors left")
        return done

    async def work(house: House) -> None:
        old.may_answer.clear()
        asking = asyncio.create_task(house.pool.run_http_handler(REQUEST))
        await house.until(lambda: "request" in old.notes)
        await house.reload()
        monkeypatch.setattr(RemoteWorker, "stop", fails_once)
        old.release()
        await asking
        await house.pool.stop(5)
        assert new.notes == ["stop"] and old.notes == ["request", "stop"]

    old, new = Version("handle_http_request"), Version("handle_http_request")
    live(work, old, new)


def test_a_worker_is_replaced_also_if_the_reason_of_its_end_cannot_be_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(worker: RemoteWorker, reason: str) -> str:
        raise OSError("no descriptors left")

    async def work(house: House) -> None:
        monkeypatch.setattr(RemoteWorker, "find_loss_reason", fails)
        old.die()
        await house.until(lambda: house.speaks(new))

    old, new = Version(), Version()
    live(work, old, new)
    assert "cannot find out why a worker was lost worker=worker-0" in caplog.text
