"""Log records of a worker with an interpreter of its own: how they cross, and where they go when nobody is there."""

import logging
from typing import cast

import pytest

from wsbroker.guarded_log import MAX_TEXT_CHARS
from wsbroker.pool.log_replay import replay_record
from wsbroker.wire import commands
from wsbroker.wire.framing import BatchUnpacker, pack_batch
from wsbroker.worker.logs import WireLogHandler, configured_log_levels, set_up_logging
from wsbroker.worker.wire_api import WireApi

NAME = "tests.logs"


class FakeWireApi:
    """Keeps what is sent, as the wire carries it."""

    def __init__(self) -> None:
        self.records: list[commands.Command] = []
        self.is_ended = False

    def send_log_record(self, record: commands.Command) -> bool:
        if not self.is_ended:
            self.records += BatchUnpacker().feed(pack_batch([record]))[0]
        return not self.is_ended

    def replay(self) -> None:
        """The broker's side gets them all."""
        for record in self.records:
            replay_record("worker-3", record)


@pytest.fixture
def api() -> FakeWireApi:
    return FakeWireApi()


@pytest.fixture
def logger(api: FakeWireApi) -> logging.Logger:
    """The worker's logger: nobody in this process knows it."""
    logger = logging.Manager(logging.RootLogger(logging.DEBUG)).getLogger(NAME)
    logger.addHandler(WireLogHandler(cast(WireApi, api), "worker-3"))
    return logger


def test_a_record_comes_out_as_it_went_in(
    logger: logging.Logger, api: FakeWireApi, caplog: pytest.LogCaptureFixture
) -> None:
    class Text(str):
        """What `marshal` would refuse."""

    caplog.set_level(logging.DEBUG)
    try:
        raise LookupError("here")
    except LookupError:
        logger.exception(Text("%s and %d"), Text("one"), 2)
    logger.debug("plain")
    api.replay()
    failed, plain = caplog.records
    assert (failed.name, failed.levelno, failed.getMessage()) == (NAME, logging.ERROR, "one and 2")
    assert failed.exc_text is not None and failed.exc_text.endswith("LookupError: here")
    assert (failed.funcName, failed.filename) == ("test_a_record_comes_out_as_it_went_in", "test_logs.py")
    assert (plain.getMessage(), plain.exc_text, plain.stack_info) == ("plain", None, None)
    assert (plain.processName, plain.threadName) == ("worker-3", "MainThread")


def test_a_level_of_the_program_that_has_changed_holds(
    logger: logging.Logger, api: FakeWireApi, caplog: pytest.LogCaptureFixture
) -> None:
    logger.info("not wanted any more")
    caplog.set_level(logging.WARNING, NAME)
    api.replay()
    assert caplog.records == []


def test_a_filter_of_the_program_that_raises_costs_nothing(
    logger: logging.Logger, api: FakeWireApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(record: logging.LogRecord) -> bool:
        raise ValueError("in a filter")

    logger.error("hello")
    monkeypatch.setattr(logging.getLogger(NAME), "filters", [fails])
    api.replay()
    assert "ValueError: in a filter" in capsys.readouterr().err


@pytest.mark.parametrize("error", [SystemExit("no disk"), KeyboardInterrupt("no disk"), RecursionError("no disk")])
def test_a_record_that_the_program_cannot_handle_is_written_to_stderr(
    logger: logging.Logger,
    api: FakeWireApi,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fails(record: logging.LogRecord) -> bool:
        raise error

    try:
        raise LookupError("here")
    except LookupError:
        logger.exception("it failed")
    monkeypatch.setattr(logging.getLogger(NAME), "filters", [fails])
    api.replay()
    errors = capsys.readouterr().err
    assert errors.startswith("ERROR tests.logs: it failed (worker=worker-3)\nTraceback ")
    assert f"\nLookupError: here\n(the lines above could not be logged: {type(error).__name__}: no disk, at " in errors


def test_what_a_worker_says_is_heard_where_existing_loggers_were_disabled(
    api: FakeWireApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wsbroker.worker", NAME):
        there = logging.Manager(logging.RootLogger(logging.DEBUG)).getLogger(name)
        there.addHandler(WireLogHandler(cast(WireApi, api), "worker-3"))
        there.error("from %s", name)
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    api.replay()
    assert caplog.messages == ["from wsbroker.worker"]


class Odd:
    """Nothing that a wire carries."""

    def __str__(self) -> str:
        return "odd"


def test_a_record_with_anything_in_its_fields_crosses(
    logger: logging.Logger, api: FakeWireApi, caplog: pytest.LogCaptureFixture
) -> None:
    """An application may make its records itself."""
    odd = {
        **{name: Odd() for name in ("msg", "stack_info", "pathname", "funcName", "threadName", "process", "lineno")},
        "args": (),
        "created": float("nan"),
        "exc_info": True,
        "levelno": logging.ERROR,
        "name": NAME,
    }
    logger.handle(logging.makeLogRecord(odd))
    api.replay()
    (first,) = caplog.records
    assert (first.getMessage(), first.stack_info, first.funcName, first.lineno) == ("odd", "odd", "odd", 0)
    assert first.exc_text == "(no traceback that could be shown)"
    logger.error("%s %r \ud800", Odd(), {1, 2})  # not replayed: pytest-xdist cannot send what pytest would capture
    assert api.records[-1][3] == "odd {1, 2} \ud800"


class Unshowable(Exception):
    """Cannot be formatted."""

    def __str__(self) -> str:
        raise LookupError

    @property
    def __cause__(self) -> None:  # type: ignore[override]
        raise LookupError


def test_a_traceback_that_cannot_be_formatted_or_is_huge_crosses_in_part(
    logger: logging.Logger, api: FakeWireApi, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (Unshowable(), ValueError("x" * 3 * MAX_TEXT_CHARS)):
        logger.error("it failed", exc_info=error)
    logger.error("y" * 3 * MAX_TEXT_CHARS)
    api.replay()
    odd, huge, long = caplog.records
    assert odd.exc_text == "Unshowable: (its text cannot be shown) (its traceback cannot be shown)\n"
    assert huge.exc_text is not None and MAX_TEXT_CHARS < len(huge.exc_text) < MAX_TEXT_CHARS + 100
    assert MAX_TEXT_CHARS < len(long.getMessage()) < MAX_TEXT_CHARS + 100


def test_what_is_logged_when_the_broker_is_gone_goes_to_stderr(
    logger: logging.Logger, api: FakeWireApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.is_ended = True
    logger.warning("last words")
    assert capsys.readouterr().err.rstrip().endswith("WARNING tests.logs: last words (worker=worker-3)")


def test_arguments_that_cannot_be_formatted_are_told_as_ever(
    logger: logging.Logger, api: FakeWireApi, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.warning("%d", "not a number")
    assert api.records == []
    assert "--- Logging error ---" in capsys.readouterr().err


def test_levels_that_are_set_here_hold_there(
    api: FakeWireApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "tests.quiet")
    levels = configured_log_levels()
    assert levels[""] == logging.getLogger().level and levels["tests.quiet"] == logging.ERROR
    assert "tests.never_set" not in levels
    loud = logging.getLogger("tests.loud")
    monkeypatch.setattr(loud, "level", logging.NOTSET)
    handler = set_up_logging(
        {"": logging.getLogger().level, "tests.loud": logging.DEBUG}, cast(WireApi, api), "worker-3"
    )
    try:
        loud.debug("hello")
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record[3] for record in api.records] == ["hello"]
