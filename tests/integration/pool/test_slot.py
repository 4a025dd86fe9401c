"""Replacing workers by a reload, with the real core: at whatever point it is interrupted, there is one outcome."""

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
"""Seconds between two tests of a claim in `until`, which has no limit but that of the test."""
REQUEST = HttpRequest("GET", "/")


class Turns(TurnScheduler):
    """Runs the broker's turn in the next iteration of the loop."""

    broker: Broker

    def schedule_turn(self) -> None:
        asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.broker.is_turn_scheduled = False
        self.broker.deliver_batches()
        self.broker.flush()


class Version:
    """A worker with one version of the code: notes the events it gets, and waits where the test makes it wait."""

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
        """Runs the worker: reports its start, handles events until STOP or the end of the stream, and ends."""
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
        """Handles one event; returns False after STOP."""
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
        """Answers an HTTP request once `may_answer` is set. Runs in a thread of its own."""
        self.may_answer.wait()
        wire.write((commands.PUBLISH, b"all", "from a request", ()), (commands.RESPONSE, number, 200, [], b"old"))

    def die(self) -> None:
        """Ends the worker at once, at whatever point it waits."""
        assert self._wire is not None
        self._wire.wire.shutdown(socket.SHUT_RDWR)
        self.release()

    def release(self) -> None:
        """Sets all gates, so that the worker waits for nothing."""
        for gate in self.gates:
            gate.set()


class ReloadKit:
    """A pool with the real core and fake workers: one version for each worker that is started."""

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
        api = LocalApi(core, 1 << 20)
        self.pool = Pool(config, "not.imported", core, api, self.fatal.append, make_host=self.scripts)
        self.broker.deliver_batch = self.pool.post_events

    @property
    def slot(self) -> WorkerSlot:
        """The first slot of the pool."""
        return self.pool._slots[0]

    def socket(self, worker_index: int = 0, is_open: bool = True) -> RecordingSocket:
        """Registers a new socket of a worker."""
        found = RecordingSocket(self.broker.allocate_socket_id(), self.broker.worker_queues[worker_index])
        found.is_blocked = False
        self.broker.register_socket(found)
        if is_open:
            self.broker.mark_socket_open(found)
        return found

    def say(self, sender: RecordingSocket, text: str) -> None:
        """Delivers a message of a socket to the broker."""
        self.broker.receive_message(sender, text, len(text))

    def reload(self) -> "asyncio.Task[None]":
        """Starts a reload of the pool in a task."""
        return asyncio.create_task(self.pool.reload())

    async def until(self, claim: Callable[[], object]) -> None:
        """Polls the claim until it is true."""
        while not claim():
            await asyncio.sleep(POLL_S)

    def speaks(self, version: Version) -> bool:
        """Returns whether this version's worker is the running worker of the first slot."""
        worker = self.slot.worker
        return worker is not None and self.host_of(version) is worker._host and self.slot.is_running

    def host_of(self, version: Version) -> object:
        """Returns the host of this version's worker; None if no worker of the version was started."""
        return next((host for host in self.scripts.made_hosts if host.script is version), None)

    def alive(self) -> list[int]:
        """Returns the numbers of the workers that run, in the order of their start from 0."""
        threads = [host._thread for host in self.scripts.made_hosts]
        return [number for number, thread in enumerate(threads) if thread is not None and thread.is_alive()]

    async def reloads_beside(self, old: Version) -> "tuple[RecordingSocket, asyncio.Task[None]]":
        """Starts a reload that must wait, because the old worker is handling the message "1" of a socket."""
        talker = self.socket()
        old.may_handle.clear()
        self.say(talker, "1")
        await self.until(lambda: old.notes)
        reloading = self.reload()
        await self.held()
        return talker, reloading

    async def held(self) -> None:
        """Waits until the reload has paused the first worker queue."""
        await self.until(lambda: self.broker.worker_queues[0].is_paused)


def live(
    work: Callable[[ReloadKit], Coroutine[object, object, None]], *versions: Version, settings: Settings | None = None
) -> ReloadKit:
    """Runs a test with a started pool and stops the pool; fails if a worker is left."""

    async def main() -> ReloadKit:
        kit = ReloadKit(*versions, settings=settings)
        await kit.pool.start()
        try:
            await work(kit)
        finally:
            for version in versions:
                version.release()
            await kit.pool.stop(5)
        assert kit.alive() == []
        return kit

    return run(main())


def test_sockets_tokens_and_waiting_messages_go_to_the_new_worker_in_order() -> None:
    old, new = Version(), Version()

    async def work(kit: ReloadKit) -> None:
        talker, reloading = await kit.reloads_beside(old)
        kit.say(talker, "2")
        old.may_handle.set()
        await reloading
        kit.say(talker, "3")
        await kit.until(lambda: len(new.notes) == 2)
        assert (old.notes[0], new.notes) == ("1", ["2", "3"])
        assert talker.received == []

    live(work, old, new)


# The new worker is lost. ----------------------------------------------------------------------------------------------


def test_a_new_worker_lost_while_the_old_one_stops_is_replaced() -> None:
    old, new, replacement = Version(), Version(), Version()

    async def work(kit: ReloadKit) -> None:
        talker = kit.socket()
        old.may_stop.clear()
        await kit.pool.reload()
        await kit.until(lambda: "stop" in old.notes)
        new.die()
        await kit.until(lambda: kit.speaks(replacement))
        assert talker.received == [b"close"]
        await kit.until(lambda: replacement.notes == [("close", talker.id)])
        later = kit.socket()
        kit.say(later, "hello")
        await kit.until(lambda: "hello" in replacement.notes)

    live(work, old, new, replacement)


def test_a_new_worker_lost_before_it_took_over_leaves_the_old_one_where_it_is() -> None:
    old, new = Version(), Version()

    async def work(kit: ReloadKit) -> None:
        talker = kit.socket()
        old.may_handle.clear()
        kit.say(talker, "1")
        reloading = kit.reload()
        await kit.held()
        kit.say(talker, "2")
        new.die()
        with pytest.raises(
            ReloadUnfinished, match="0 of 1 workers have the new code.* was lost before it could take over"
        ):
            await reloading
        old.may_handle.set()
        await kit.until(lambda: old.notes == ["1", "2"])
        assert talker.received == []

    live(work, old, new)


# The old worker is lost. ----------------------------------------------------------------------------------------------


def test_an_old_worker_lost_while_it_runs_empty_makes_way_at_once() -> None:
    old, new = Version(), Version()

    async def work(kit: ReloadKit) -> None:
        talker, reloading = await kit.reloads_beside(old)
        old.die()
        await reloading
        assert kit.speaks(new)
        assert talker.received == [b"close"]
        await kit.until(lambda: new.notes == [("close", talker.id)])
        assert kit.broker.counters.messages_lost == 1

    live(work, old, new)


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_replacement_on_its_way_makes_way_for_the_new_worker(when: str) -> None:
    """The replacement may have imported the old code; and two workers would handle one queue."""
    old, new, replacement = Version(), Version(), Version()
    new.may_start.clear()
    replacement.may_start.clear()

    async def work(kit: ReloadKit) -> None:
        if when == "before":
            old.die()
            await kit.until(lambda: not kit.slot.is_running)
        reloading = kit.reload()
        await kit.until(lambda: len(kit.scripts.made_hosts) == 2)
        if when == "while":
            old.die()
        await kit.until(lambda: len(kit.scripts.made_hosts) == 3)
        new.may_start.set()
        await reloading
        assert kit.speaks(new)
        replacement.may_start.set()
        await kit.until(lambda: kit.alive() == [1])
        kit.say(kit.socket(), "hello")
        await kit.until(lambda: new.notes == ["hello"])
        assert replacement.notes == []
        assert len(kit.scripts.made_hosts) == 3

    live(work, old, new, replacement)


def test_a_replacement_that_has_started_meanwhile_is_exchanged_like_any_other_worker() -> None:
    old, new, replacement = Version(), Version(), Version()
    new.may_start.clear()

    async def work(kit: ReloadKit) -> None:
        reloading = kit.reload()
        await kit.until(lambda: len(kit.scripts.made_hosts) == 2)
        old.die()
        await kit.until(lambda: kit.speaks(replacement))
        talker = kit.socket()
        new.may_start.set()
        await reloading
        kit.say(talker, "hello")
        await kit.until(lambda: new.notes == ["hello"] and replacement.notes == ["stop"])

    live(work, old, new, replacement)


# The pool stops. ------------------------------------------------------------------------------------------------------


def test_a_stop_while_messages_wait_has_the_old_worker_handle_them_and_the_closes() -> None:
    old, new = Version(), Version()

    async def work(kit: ReloadKit) -> None:
        talker, reloading = await kit.reloads_beside(old)
        kit.say(talker, "2")
        kit.broker.mark_connection_lost(talker, 1006, "")
        stopping = asyncio.create_task(kit.pool.stop(5))
        with pytest.raises(ReloadUnfinished, match="it was called off, the server stops"):
            await reloading
        old.may_handle.set()
        await stopping
        assert (old.notes, new.notes) == (["1", "2", ("close", talker.id), "stop"], ["stop"])

    live(work, old, new)


def test_a_stop_while_the_new_worker_starts_ends_both() -> None:
    old, new = Version(), Version()
    new.may_start.clear()

    async def work(kit: ReloadKit) -> None:
        reloading = kit.reload()
        await kit.until(lambda: len(kit.scripts.made_hosts) == 2)
        kit.scripts.made_hosts[1].kill = lambda: bool(new.release())  # type: ignore[method-assign, func-returns-value]
        await kit.pool.stop(5)
        with pytest.raises(ReloadUnfinished):
            await reloading
        assert kit.alive() == []
        with pytest.raises(WorkerError, match="being stopped"):
            await kit.pool.reload()

    live(work, old, new)


def test_a_stop_waits_for_the_old_worker_that_has_been_exchanged() -> None:
    old, new = Version(), Version()
    old.may_stop.clear()

    async def work(kit: ReloadKit) -> None:
        await kit.pool.reload()
        stopping = asyncio.create_task(kit.pool.stop(5))
        await kit.until(lambda: "stop" in old.notes and "stop" in new.notes)
        assert not stopping.done()
        old.may_stop.set()
        await stopping
        assert kit.alive() == []

    live(work, old, new)


def test_whoever_waits_for_a_reload_may_go_away() -> None:
    old, new = Version(), Version()
    new.may_start.clear()

    async def work(kit: ReloadKit) -> None:
        reloading = kit.reload()
        await kit.until(lambda: len(kit.scripts.made_hosts) == 2)
        reloading.cancel()
        await asyncio.wait([reloading])
        new.may_start.set()
        await kit.until(lambda: kit.speaks(new))

    live(work, old, new)


# New code that hangs, and another reload. -----------------------------------------------------------------------------


def test_a_reload_calls_off_the_one_whose_code_hangs_and_ends_its_worker() -> None:
    old, hangs, good = Version(), Version(), Version()
    hangs.may_start.clear()

    async def work(kit: ReloadKit) -> None:
        first = kit.reload()
        await kit.until(lambda: len(kit.scripts.made_hosts) == 2)
        kit.scripts.made_hosts[1].kill = lambda: bool(hangs.release())  # type: ignore[method-assign, func-returns-value]
        await kit.pool.reload()
        with pytest.raises(ReloadUnfinished, match="it was called off, another one has begun"):
            await first
        assert kit.speaks(good)
        await kit.until(lambda: kit.alive() == [2])

    live(work, old, hangs, good)


def test_of_three_reloads_at_once_the_last_one_counts() -> None:
    old, new = Version(), Version()

    async def work(kit: ReloadKit) -> None:
        outcomes = await asyncio.gather(*(kit.pool.reload() for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ReloadUnfinished, ReloadUnfinished, type(None)]
        assert kit.speaks(new)

    live(work, old, new)


def test_a_reload_waits_for_workers_that_start_for_the_first_time() -> None:
    slow, new = Version(), Version()
    slow.may_start.clear()

    async def main() -> None:
        kit = ReloadKit(slow, new)
        starting = asyncio.create_task(kit.pool.start())
        await kit.until(lambda: len(kit.scripts.made_hosts) == 1)
        reloading = [asyncio.create_task(kit.pool.reload()) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert len(kit.scripts.made_hosts) == 1
        slow.release()
        await starting
        outcomes = await asyncio.gather(*reloading, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ReloadUnfinished, type(None)]
        assert kit.speaks(new)
        await kit.pool.stop(5)
        assert kit.alive() == []

    run(main())


# Nothing is held longer than needed. ----------------------------------------------------------------------------------


def test_a_request_in_flight_is_answered_by_the_old_worker_while_sockets_go_on_with_the_new_one() -> None:
    old, new = Version("handle_http_request"), Version("handle_http_request")
    old.may_answer.clear()

    async def work(kit: ReloadKit) -> None:
        talker = kit.socket()
        kit.broker.subscribe(talker.id, b"all")
        asking = asyncio.create_task(kit.pool.run_http_handler(REQUEST))
        await kit.until(lambda: "request" in old.notes)
        await kit.pool.reload()
        kit.say(talker, "hello")
        await kit.until(lambda: new.notes == ["hello"])
        assert (await kit.pool.run_http_handler(REQUEST)).status == 200
        assert new.notes == ["hello", "request"] and not asking.done()
        old.may_answer.set()
        assert (await asking).body == b"old"
        await kit.until(lambda: talker.received == [b"from a request"] * 2)  # its effects count
        await kit.until(lambda: old.notes == ["request", "stop"] and kit.alive() == [1])

    live(work, old, new)


@pytest.mark.parametrize("where", ["may_stop", "may_end"])
def test_an_old_worker_that_does_not_come_to_its_end_holds_no_socket(where: str) -> None:
    old, new = Version(), Version()
    getattr(old, where).clear()

    async def work(kit: ReloadKit) -> None:
        talker = kit.socket()
        await kit.pool.reload()
        kit.say(talker, "hello")
        await kit.until(lambda: new.notes == ["hello"] and old.notes == ["stop"])
        assert kit.alive() == [0, 1]

    live(work, old, new)


# Some can, others cannot. ---------------------------------------------------------------------------------------------


def test_one_worker_that_does_not_run_empty_does_not_keep_the_others_and_is_told() -> None:
    busy, idle, new = Version("handle_socket_close"), Version("handle_socket_close"), Version("handle_socket_message")

    async def work(kit: ReloadKit) -> None:
        first = cast(Version, kit.scripts.made_hosts[0].script)
        talker = kit.socket()
        first.may_handle.clear()
        kit.say(talker, "1")
        await kit.until(lambda: first.notes)
        text = "1 of 2 workers have the new code, reload again for the others: worker-0 has not come to the end"
        with pytest.raises(ReloadUnfinished, match=text):
            await kit.pool.reload()
        assert kit.pool.handlers_found == {"handle_socket_close", "handle_socket_message"}
        kit.say(talker, "2")
        first.may_handle.set()
        await kit.until(lambda: first.notes == ["1", "2"])
        await kit.pool.reload()
        assert kit.pool.handlers_found == {"handle_socket_message"}

    live(work, busy, idle, new, settings=Settings(workers=2, handler_timeout=0.05, worker_hang_timeout=0.05))


# After a loss. --------------------------------------------------------------------------------------------------------


def test_a_socket_whose_101_came_out_after_its_worker_was_lost_gets_its_close_handler() -> None:
    old, replacement = Version(), Version()

    async def work(kit: ReloadKit) -> None:
        late = kit.socket(is_open=False)
        old.die()
        await kit.until(lambda: not kit.slot.is_running)
        kit.broker.mark_socket_open(late)
        await kit.until(lambda: replacement.notes == [("close", late.id)])
        await kit.until(lambda: not kit.broker.worker_queues[0].unhandled_closes)

    live(work, old, replacement)


def test_an_exception_while_a_worker_is_retired_leaves_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(worker: RemoteWorker, timeout_s: float) -> bool:
        monkeypatch.undo()
        raise OSError("no descriptors left")

    async def work(kit: ReloadKit) -> None:
        monkeypatch.setattr(RemoteWorker, "stop", fails)
        await kit.reload()
        await kit.until(lambda: not kit.slot._retiring_workers)
        assert kit.slot.is_running
        talker = kit.socket()
        kit.say(talker, "1")
        await kit.until(lambda: new.notes)
        await kit.until(lambda: kit.alive() == [1])

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

    async def work(kit: ReloadKit) -> None:
        old.may_answer.clear()
        asking = asyncio.create_task(kit.pool.run_http_handler(REQUEST))
        await kit.until(lambda: "request" in old.notes)
        await kit.reload()
        monkeypatch.setattr(RemoteWorker, "stop", fails_once)
        old.release()
        await asking
        await kit.pool.stop(5)
        assert new.notes == ["stop"] and old.notes == ["request", "stop"]

    old, new = Version("handle_http_request"), Version("handle_http_request")
    live(work, old, new)


def test_a_worker_is_replaced_also_if_the_reason_of_its_end_cannot_be_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(worker: RemoteWorker, reason: str) -> str:
        raise OSError("no descriptors left")

    async def work(kit: ReloadKit) -> None:
        monkeypatch.setattr(RemoteWorker, "find_loss_reason", fails)
        old.die()
        await kit.until(lambda: kit.speaks(new))

    old, new = Version(), Version()
    live(work, old, new)
    assert "cannot find out why a worker was lost worker=worker-0" in caplog.text
