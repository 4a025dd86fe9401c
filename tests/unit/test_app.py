"""Starting and stopping: what interrupts a start, and what is left when it failed. (The rest: tests/e2e/contract)"""

import asyncio
import threading

import pytest

import wsbroker
from wsbroker import app

BIND = "127.0.0.1:0"


class Idle:
    """A worker that handles nothing worth mentioning."""

    def handle_socket_message(self, data: object) -> None:
        """Nothing."""


class NeverStarts:
    """A worker whose database does not answer."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.has_ended = False

    async def handle_worker_start(self, arg: object) -> None:
        self.is_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.has_ended = True

    def handle_socket_message(self, data: object) -> None:
        """Nothing."""


def test_a_start_that_is_cancelled_does_not_wait_for_its_workers() -> None:
    async def main() -> None:
        worker = NeverStarts()
        entering = asyncio.create_task(wsbroker.serve(BIND, worker=worker, worker_kind="inline").__aenter__())
        await worker.is_asked.wait()
        entering.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await entering
        assert worker.has_ended
        async with wsbroker.serve(BIND, worker=Idle(), worker_kind="inline") as server:
            assert server.is_running

    asyncio.run(main())


def test_a_stop_that_is_asked_for_before_the_loop_runs_is_not_lost() -> None:
    opened: list[bool] = []
    server, addresses = app._prepare(BIND, Idle(), None, {"worker_kind": "inline"})
    server._ask_to_stop(None)
    app._run_loop(server._live(addresses, lambda: opened.append(True)))
    assert not server.is_running and not opened


def test_a_server_whose_task_is_cancelled_closes_its_port() -> None:
    async def main() -> None:
        opened = asyncio.Event()
        server, addresses = app._prepare(BIND, Idle(), None, {"worker_kind": "inline"})
        life = asyncio.create_task(server._live(addresses, opened.set))
        await opened.wait()
        (address,) = server.addresses
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        async with wsbroker.serve(str(address).removeprefix("http://"), worker=Idle(), worker_kind="inline"):
            pass

    asyncio.run(main())


def test_a_thread_that_cannot_be_started_leaves_room_for_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            wsbroker.start(BIND, worker=Idle(), worker_kind="inline")
    with wsbroker.start(BIND, worker=Idle(), worker_kind="inline") as server:
        assert server.is_running


def test_run_inside_an_event_loop_says_what_to_use_instead() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="async with wsbroker.serve"):
            wsbroker.run(BIND, worker=Idle(), worker_kind="inline")

    asyncio.run(main())


def test_a_server_that_has_stopped_leaves_no_timer_in_the_loop_of_its_program() -> None:
    async def main() -> None:
        async with wsbroker.serve(BIND, worker=Idle(), worker_kind="inline") as server:
            node = server._node
        assert node is not None
        assert node.sockets.is_stopped and node.sockets.count == 0

    asyncio.run(main())
