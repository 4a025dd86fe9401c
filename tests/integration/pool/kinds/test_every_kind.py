"""The pool's side of every kind of worker: real workers, the core is a fake.

What shows from outside is tested with whole servers, in `contract`.
"""

import asyncio
import errno
import logging
import os
import sys
import threading
import time
import types
from pathlib import Path
from typing import cast

import pytest

import wsbroker
from kits.pool_apps import Echo, OpenAndHttp
from kits.pool_fakes import LOOPS, run
from kits.pool_kit import APPS, ELSEWHERE, KINDS, WIRED, Pipe, Shop, live, start_error
from wsbroker.errors import ConfigError, WorkerError
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import HttpResponse
from wsbroker.pool import start_reminder
from wsbroker.pool.kinds import host
from wsbroker.settings.config import Settings
from wsbroker.wire import commands, events

REQUEST = HttpRequest("GET", "/a?b=c", [("Host", "example.org")])

# Messages. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "loop"), [*[(kind, "uvloop") for kind in WIRED], ("thread", "asyncio")])
@pytest.mark.parametrize("app", ["Echo", "AsyncEcho"])
def test_messages_come_back_in_order(app: str, kind: str, loop: str) -> None:
    async def work(shop: Shop) -> None:
        for n in range(200):
            shop.message(n % 2 + 1, str(n), n % 2)
        await shop.core.wait_until(lambda: len(shop.sent) == 200)
        for socket_id in (1, 2):
            mine = [entry[2] for entry in shop.core.log if entry[:2] == (commands.SEND, socket_id)]
            assert mine == [str(n) for n in range(socket_id - 1, 200, 2)]
        await shop.core.wait_until(lambda: shop.handled == 200)

    shop = live(APPS + app, work, loop, worker_kind=kind, workers=2)
    assert sum(entry["handled"] for entry in shop.pool.collect_statistics()) == 200


@pytest.mark.parametrize("kind", WIRED)
@pytest.mark.parametrize("how", ["waited for", "left alone", "daemon, waited for", "daemon, left alone"])
def test_a_thread_that_a_handler_starts_asks_and_sends_in_order(kind: str, how: str) -> None:
    async def work(shop: Shop) -> None:
        shop.message(1, how)
        total = 102 if how.endswith("waited for") else 101
        await shop.core.wait_until(lambda: len(shop.sent) == total)
        mine = [text for text in shop.sent if text != "after"]
        assert mine == ["(True, 1)", *map(str, range(100))]
        await shop.core.wait_until(lambda: shop.handled == 1)

    live(APPS + "Threads", work, worker_kind=kind)


# Opens and requests. --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_handler_that_takes_too_long_is_a_504(kind: str) -> None:
    async def work(shop: Shop) -> None:
        answer = await shop.pool.run_open_handler(1, 0, REQUEST)
        assert isinstance(answer, HttpResponse) and answer.status == 504

    live(APPS + "Slow", work, worker_kind=kind, handler_timeout=0.05)


# Start and stop. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_that_cannot_work_is_a_config_error_with_the_loaders_text(kind: str) -> None:
    error = start_error("no_such_module_here", worker_kind=kind)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("cannot import 'no_such_module_here': there is no module named 'no_such_module_here'")
    error = start_error("json.tool:main", worker_kind=kind)
    assert isinstance(error, ConfigError) and "no handlers in" in str(error)
    error = start_error(APPS + "WrongStart", worker_kind=kind)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("handle_worker_start(one, two) in ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("app", ["FailsToStart", "FailsToStartLater"])
def test_a_start_handler_that_raises_is_a_worker_error(kind: str, app: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    error = start_error(APPS + app, worker_kind=kind, workers=1)
    assert isinstance(error, WorkerError)
    assert str(error) == f"handle_worker_start of {APPS}{app} failed: ConnectionError: no database"
    assert "no database" in str(error.__cause__)
    assert "Traceback" not in caplog.text
    assert caplog.text.count("workers stopped") == 1


@pytest.mark.parametrize("kind", WIRED)
def test_a_worker_for_which_there_are_no_descriptors_ends_the_start_at_once_with_what_to_do(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(host, "socket", types.SimpleNamespace(socketpair=refuse))
    before = time.monotonic()
    error = start_error(APPS + "Echo", worker_kind=kind)
    assert time.monotonic() - before < 4  # a worker that had begun would be waited for, 5 s and more
    assert isinstance(error, WorkerError) and str(error) == (
        "worker worker-0 cannot be started: [Errno 24] Too many open files: "
        "raise the limit of open files (ulimit -n, LimitNOFILE)"
    )
    assert "workers stopped count=1 left_behind=0" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_fails_to_import_says_where(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"broken_app_{kind}"
    (tmp_path / f"{name}.py").write_text("import json\n\nsend = undefined\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    error = start_error(name, worker_kind=kind)
    assert str(error) == (
        f"cannot import '{name}': NameError: name 'undefined' is not defined (imported by {name}, at {name}.py line 3)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_worker_gets_the_argument_and_runs_its_stop_handler(kind: str) -> None:
    async def work(shop: Shop) -> None:
        await shop.core.wait_until(lambda: len(shop.sent) == workers)

    workers = 1 if kind == "inline" else 2
    shop = live(APPS + "Counts", work, worker_kind=kind, workers=workers, worker_arg="dsn")
    assert shop.sent == ["('dsn', 0)"] * workers + ["last words"] * workers


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_that_does_not_end_is_said_again_and_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(start_reminder, "REMINDER_INTERVAL_S", 0.02)
    gate = tmp_path / "gate"

    async def main() -> None:
        shop = Shop(APPS + "NeverStarts", Settings(worker_kind=kind, workers=1, worker_arg=str(gate)))  # type: ignore[typeddict-item]
        starting = asyncio.ensure_future(shop.pool.start())
        while caplog.text.count("worker has not started yet") < 2:
            await asyncio.sleep(0.005)
        gate.touch()
        await starting
        await shop.pool.stop(5)

    run(main())
    name = "inline" if kind == "inline" else "worker-0"
    assert f"handle_worker_start has not returned worker={name} seconds=0.04" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_pool_refuses_sockets_and_requests(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work(shop: Shop) -> None:
        await shop.pool.stop(5)
        await shop.pool.stop(5)
        answer = await shop.pool.run_open_handler(1, 0, REQUEST)
        assert isinstance(answer, HttpResponse) and answer.status == 503
        assert (await shop.pool.run_http_handler(REQUEST)).status == 503
        if shop.pool.inline_worker is None:
            shop.message(1, "nobody there")

    caplog.set_level(logging.INFO)
    live(APPS + "OpenAndHttp", work, worker_kind=kind)
    assert caplog.text.count("workers stopped") == 1


def test_the_inline_worker_shows_its_handlers_and_its_runtime() -> None:
    async def work(shop: Shop) -> None:
        inline = shop.pool.inline_worker
        assert inline is not None
        assert inline.handlers.message_arity == 2
        assert inline.handlers.raw_message_handler is not None
        inline.handlers.raw_message_handler("hi", 3)
        assert shop.sent == ["hi"]
        inline.runtime.on_message_failed(3, LookupError("here"))
        assert (commands.CLOSE, 3, 1011, "handler error") in shop.core.log
        (statistics,) = shop.pool.collect_statistics()
        assert statistics["name"] == "inline" and statistics["state"] == "running"
        assert statistics["counts"] == {"handler_errors": 1}
        assert shop.pool.choose_worker_index() == 0

    live(Echo, work, worker_kind="inline")


def test_requests_that_inline_handlers_work_on_are_bounded_in_bytes() -> None:
    class Waits:
        def __init__(self) -> None:
            self.gate = asyncio.Event()

        async def handle_http_request(self, request: HttpRequest) -> str:
            await self.gate.wait()
            return "done"

        async def handle_socket_open(self, request: HttpRequest, socket_id: int) -> None:
            await self.gate.wait()

    async def work(shop: Shop) -> None:
        big = HttpRequest("POST", "/", body=b"x" * 600_000)
        first = asyncio.ensure_future(shop.pool.run_http_handler(big))  # an idle worker takes any one
        await asyncio.sleep(0)
        refused, not_opened = await shop.pool.run_http_handler(big), await shop.pool.run_open_handler(1, 0, big)
        assert isinstance(not_opened, HttpResponse) and (refused.status, not_opened.status) == (503, 503)
        spec.gate.set()
        assert (await first).body == b"done"
        assert (await shop.pool.run_http_handler(big)).body == b"done" and await shop.pool.run_open_handler(
            1, 0, big
        ) is None

    spec = Waits()
    live(spec, work, worker_kind="inline", mailbox_bytes=1_000_000)


def test_a_live_object_is_shared_by_threads() -> None:
    class Counts(Echo):
        def __init__(self) -> None:
            self.count = 0

        def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
            self.count += 1
            super().handle_socket_message(data, socket_id)

    async def work(shop: Shop) -> None:
        await shop.says(1, "a", 0)
        await shop.says(2, "b", 1)

    spec = Counts()
    shop = live(spec, work, worker_kind="auto", workers=2)
    assert shop.pool.kind == "thread" and spec.count == 2


# Watching. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WIRED)
def test_a_loop_of_pure_python_is_interrupted_and_its_worker_goes_on(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(shop: Shop) -> None:
        await shop.says(1, "loop")
        assert (commands.HANDLER_FAILED, 1) in shop.core.log
        await shop.says(2, "the same worker")
        assert shop.sent == ["the same worker"]
        assert shop.pool.collect_statistics()[0]["counts"] == {"handler_timeouts": 1, "long_handlers": 1}
        assert shop.core.lost_queues == []

    live(APPS + "Hangs", work, worker_kind=kind, handler_timeout=0.05)
    assert "handler took too long handler=handle_socket_message socket=1 worker=worker-0" in caplog.text


@pytest.mark.parametrize("kind", WIRED)
def test_a_call_that_nothing_interrupts_costs_its_worker_and_nothing_more(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = Pipe(tmp_path)

    async def work(shop: Shop) -> None:
        core = shop.core
        core.worker_queues[0].unhandled_closes[1] = (events.CLOSE, 1, None, 0, 1012, "")
        before = threading.active_count()
        shop.message(1, "block")
        await core.wait_until(lambda: bool(core.lost_queues))
        assert core.lost_queues == [(0, 1012)]
        assert core.adopted == [(1, [(events.CLOSE, 1, None, 0, 1012, "")])]
        await core.wait_until(lambda: (commands.CLOSE_HANDLED, 1) in core.log)
        await shop.says(2, "other worker", 1)
        await shop.until_running(1)
        await shop.says(3, "replacement")
        assert shop.sent == ["other worker", "replacement"]
        if kind != "process":  # which was killed
            await pipe.release()
        while threading.active_count() > before:
            await asyncio.sleep(0.001)
        await shop.says(3, "still there")
        assert "late" not in shop.sent

    live(
        APPS + "Hangs",
        work,
        worker_kind=kind,
        workers=2,
        handler_timeout=0.05,
        worker_hang_timeout=0.05,
        worker_arg=str(pipe.path),
    )
    assert "worker lost worker=worker-0 reason='handle_socket_message (socket 1) hangs: it has not ended" in caplog.text


@pytest.mark.parametrize("kind", WIRED)
def test_a_busy_handler_does_not_keep_its_worker_from_answering_probes(kind: str, tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)

    async def work(shop: Shop) -> None:
        shop.message(1, "block")
        worker = shop.pool._slots[0].worker
        assert worker is not None
        for _ in range(5):
            worker.check_liveness()
            while worker._monitor.is_probe_unanswered:
                await asyncio.sleep(0)
        assert shop.core.lost_queues == []
        await pipe.release()

    live(APPS + "Hangs", work, worker_kind=kind, worker_arg=str(pipe.path))


@pytest.mark.parametrize("kind", WIRED)
def test_stop_with_a_stuck_handler_takes_no_longer_than_allowed(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = Pipe(tmp_path)

    async def main() -> None:
        settings = Settings(
            worker_kind=cast("wsbroker.settings.config.WorkerKind", kind), workers=1, worker_arg=str(pipe.path)
        )
        shop = Shop(APPS + "Hangs", settings)
        await shop.pool.start()
        shop.message(1, "block")
        worker = shop.pool._slots[0].worker
        assert worker is not None
        loop = asyncio.get_running_loop()
        before = loop.time()
        await shop.pool.stop(0.2)
        assert loop.time() - before < 2
        if kind != "process":
            await pipe.release()
        await worker._host.wait_until_ended()

    run(main(), LOOPS["uvloop"])
    fate = "killed" if kind == "process" else "left behind"
    assert f"worker did not stop in time, {fate} worker=worker-0" in caplog.text


# Where handlers run. --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_interpreter_of_its_own_loads_nothing_heavy(kind: str) -> None:
    async def work(shop: Shop) -> None:
        modules = (await shop.asks("modules")).split()
        assert "wsbroker.worker.main" in modules
        heavy = {"anyio", "aiohttp", "uvloop", "click", "librt", "pytest"}
        assert heavy & {module.partition(".")[0] for module in modules} == {"asyncio"} & heavy
        rooms = {module.split(".")[1] for module in modules if module.startswith("wsbroker.")}
        assert rooms == {"worker", "wire", "http", "process_exit", "types", "errors", "guarded_log"}

    live(APPS + "Where", work, worker_kind=kind)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_interpreter_of_its_own_looks_like_the_servers(kind: str) -> None:
    async def work(shop: Shop) -> None:
        assert await shop.asks("everything else") == repr((sys.argv, sys.path, "worker-0"))
        main = await shop.asks("main")
        assert "pytest" not in main and "console_main" not in main
        assert (await shop.asks("process") == str(os.getpid())) == (kind == "interpreter")

    live(APPS + "Where", work, worker_kind=kind)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_what_a_worker_logs_is_logged_here_with_the_levels_of_this_program(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging.getLogger("quiet"), "level", logging.WARNING)

    async def work(shop: Shop) -> None:
        for level in (10, 20, 40):
            assert await shop.asks(f"{level} this") == "logged"

    before = time.time()
    live(APPS + "Logs", work, worker_kind=kind)
    records = [record for record in caplog.records if record.name in ("kits.pool_apps", "quiet")]
    assert [(record.levelno, record.getMessage()) for record in records] == [(20, "said this"), (40, "said this")]
    info, error = records
    assert info.stack_info is not None and "handle_socket_message" in info.stack_info
    assert error.exc_text is not None and error.exc_text.endswith("ValueError: in the log")
    assert (error.threadName, error.processName, error.filename) == ("worker-0", "worker-0", "pool_apps.py")
    assert (error.process == os.getpid()) == (kind == "interpreter")
    assert before <= error.created <= time.time()
    assert "ValueError: in the log" in caplog.text


def test_a_class_of_an_importable_module_runs_in_every_kind() -> None:
    async def work(shop: Shop) -> None:
        assert await shop.pool.run_http_handler(REQUEST) == HttpResponse.json({"query": "b=c"})

    for kind in ELSEWHERE:
        live(OpenAndHttp, work, worker_kind=kind)
