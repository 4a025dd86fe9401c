"""A log whose methods never raise, whatever is attached to its logger and whatever is to be shown."""

import io
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.contract.apps.failing_logs import RAISED, Unshowable
from wsbroker import guarded_log
from wsbroker.guarded_log import (
    MAX_TEXT_CHARS,
    GuardedLog,
    format_error,
    format_traceback,
    format_type_name,
    log_loop_error,
    shorten_text,
)

NAME = "wsbroker.test"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger of wsbroker; removes the test's handlers afterwards."""
    logger = logging.getLogger(NAME)
    yield logger
    logger.handlers.clear()
    logger.filters.clear()
    logger.disabled = False


class Fails(logging.Handler):
    """A logging handler that raises in its filter or in `emit`, as the test says."""

    def __init__(self, place: str, error: BaseException) -> None:
        super().__init__()
        self.place = place
        self.error = error

    def filter(self, record: logging.LogRecord) -> bool:
        if self.place == "filter":
            raise self.error
        return True

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


@pytest.mark.parametrize("place", ["filter", "emit", "logger's filter"])
@pytest.mark.parametrize("kind", RAISED)
def test_what_a_part_of_logging_raises_costs_the_line_only_which_goes_to_stderr(
    logger: logging.Logger, kind: type[BaseException], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = Fails(place, kind("no disk"))
    if place == "logger's filter":
        handler.place = "filter"
        logger.addFilter(handler.filter)
    else:
        logger.addHandler(handler)
    try:
        raise LookupError("the reason")
    except LookupError:
        GuardedLog(NAME).exception("it failed socket=%d", 7)
    errors = capsys.readouterr().err
    assert errors.count("\nLookupError: the reason\n") == 1
    assert errors.startswith("ERROR wsbroker.test: it failed socket=7\nTraceback ")
    last = errors.splitlines()[-1]
    assert last.startswith(f"(the lines above could not be logged: {kind.__name__}: no disk, at {__file__}:")


class Raises(io.StringIO):
    """A stream whose methods raise."""

    def write(self, text: str) -> int:
        raise SystemExit("from the stream")


def closed() -> io.StringIO:
    """Returns a closed stream."""
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("stream", [lambda: None, closed, Raises], ids=["none", "closed", "raises"])
def test_a_stderr_that_cannot_be_written_to_costs_nothing(
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[], io.StringIO | None],
    raises: bool,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raises)
    kept = io.StringIO()
    log = GuardedLog(NAME)
    for first, second in ((stream(), kept), (stream(), stream())):
        monkeypatch.setattr(sys, "stderr", first)
        monkeypatch.setattr(sys, "__stderr__", second)
        logger.addHandler(logging.StreamHandler(first))
        log.error("one")  # the stream's own failure
        logger.handlers[:] = [Fails("emit", ValueError("no disk"))]
        log.error("two")
        logger.handlers.clear()
    monkeypatch.delattr(sys, "stderr")
    logger.addHandler(Fails("emit", ValueError("no disk")))
    log.error("three")
    assert "ERROR wsbroker.test: two\n" in kept.getvalue()


class Text:
    """A value whose texts raise."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


@pytest.mark.parametrize("raises", [True, False])
def test_values_and_exceptions_that_cannot_be_shown_cost_nothing(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raises)
    log = GuardedLog(NAME)
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    log.error("a value %s", Text())
    assert "ERROR wsbroker.test: a value %s (its values cannot be shown)\n(the lines" in capsys.readouterr().err
    log.error("an exception", exc_info=Unshowable())
    log.error("an exception", exc_info=(Unshowable, Unshowable(), None))
    log.warning("%d", "no number")


class Meta(type):
    """Of a class that does not even have a name."""

    def __getattribute__(cls, name: str) -> object:
        raise SystemExit


def test_a_text_can_always_be_had() -> None:
    odd = Meta("Odd", (Exception,), {})
    assert format_type_name(odd()) == "object"
    assert format_error(odd("x")) == "object: x"
    assert format_error(Unshowable()) == "Unshowable: (its text cannot be shown)"
    assert format_traceback(Unshowable()).endswith("\n")
    assert format_error(ValueError("a\n  b")) == "ValueError: a b"
    assert format_error(ValueError()) == "ValueError"
    assert format_traceback(ValueError("x")) == "ValueError: x\n"


def test_a_text_without_end_is_cut_in_its_middle() -> None:
    text = "a" * MAX_TEXT_CHARS + "b" * MAX_TEXT_CHARS
    assert shorten_text("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    assert len(shorten_text(text)) < MAX_TEXT_CHARS + 100
    assert f"a\n[… {MAX_TEXT_CHARS} characters left out …]\nb" in shorten_text(text)
    assert len(format_traceback(ValueError(text))) < MAX_TEXT_CHARS + 100


def test_a_line_says_where_it_was_logged_and_keeps_its_level(caplog: pytest.LogCaptureFixture) -> None:
    log = GuardedLog(NAME)
    caplog.set_level(logging.DEBUG)
    for method in (log.debug, log.info, log.warning, log.error, log.critical):
        method("text=%s", 1)
    log.log(logging.INFO, "text")
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "INFO"]
    function = "test_a_line_says_where_it_was_logged_and_keeps_its_level"
    assert {(record.filename, record.funcName) for record in caplog.records} == {("test_guarded_log.py", function)}


CONFIG = "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nlevel=DEBUG\nhandlers=\n"


@pytest.mark.parametrize("way", ["dictConfig", "fileConfig"])
def test_disable_existing_loggers_does_not_switch_it_off(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, tmp_path: Path, way: str
) -> None:
    logger.propagate = False
    log = GuardedLog(NAME)
    log.debug("looks its logger up")
    level = logging.root.level
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = [(each, each.disabled) for each in loggers]
    handlers = logging.root.handlers[:]
    try:
        if way == "dictConfig":
            logging.config.dictConfig({"version": 1})
        else:
            (tmp_path / "logging.ini").write_text(CONFIG, encoding="utf-8")
            logging.config.fileConfig(tmp_path / "logging.ini")
        assert logger.disabled
        logger.addHandler(caplog.handler)
        log.error("still here")
        assert caplog.messages == ["still here"]
        logger.setLevel(logging.CRITICAL)
        log.error("a level holds")
        assert caplog.messages == ["still here"]
    finally:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers
        for each, disabled in before:
            each.disabled = disabled


def test_an_exception_handler_of_a_loop_never_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(log_loop_error)
    handler = Fails("emit", SystemExit("no disk"))
    logging.getLogger("asyncio").addHandler(handler)

    async def goes_on() -> str:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        return "goes on"

    try:
        assert loop.run_until_complete(goes_on()) == "goes on"
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
        loop.close()
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors and "could not be logged: SystemExit: no disk" in errors


def test_its_levels_are_loggings() -> None:
    for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        assert getattr(guarded_log, name) == getattr(logging, name)
