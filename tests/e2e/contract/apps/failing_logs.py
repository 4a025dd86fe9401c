"""Handlers that fail in every way, while logging fails as well: `attached` has logging raise errors."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator
from typing import Final

import wsbroker
from wsbroker.worker import api as worker_api

RAISED: Final = (ValueError, RecursionError, SystemExit, KeyboardInterrupt, MemoryError, asyncio.CancelledError)
"""The errors that logging raises, one after the other."""


class Unshowable(Exception):
    """An exception whose text and traceback raise errors."""

    def __str__(self) -> str:
        raise LookupError("in __str__")

    __repr__ = __str__

    @property
    def __traceback__(self) -> None:  # type: ignore[override]
        raise LookupError("in __traceback__")


class Fails(logging.Handler):
    """A logging handler that raises for each record, in turn in a filter, in a formatter and in `emit`."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._errors = itertools.cycle(RAISED)
        self._places = itertools.cycle(("filter", "formatter", "handler"))
        self._place = ""
        self.addFilter(self._filter)

    def _raise_in(self, place: str) -> None:
        if self._place == place:
            raise next(self._errors)(f"logging fails in a {place}")

    def _filter(self, record: logging.LogRecord) -> bool:
        self._place = next(self._places)
        self._raise_in("filter")
        return True

    def format(self, record: logging.LogRecord) -> str:
        """Raises if it is the formatter's turn."""
        self._raise_in("formatter")
        return super().format(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Formats the record; raises if it is the handler's turn."""
        self.format(record)
        self._raise_in("handler")


@contextlib.contextmanager
def attached() -> Iterator[None]:
    """Has every log line of wsbroker in this interpreter fail while the block runs."""
    handler = Fails()
    logger = logging.getLogger("wsbroker")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def handle_worker_start(arg: str | None) -> None:
    """Has logging fail in a worker with its own interpreter."""
    if worker_api.is_worker_interpreter:
        attached().__enter__()


def fail(how: str) -> object:
    """Fails in the way `how`, at once or when the result is awaited."""
    if how.startswith("async "):
        return _fail_later(how.removeprefix("async "))
    if how == "raise":
        raise LookupError("told to")
    if how == "unshowable":
        raise Unshowable
    if how == "huge":
        raise LookupError("x" * 600_000)
    if how == "wrong":
        return {1, 2}
    if how == "slow":
        time.sleep(0.4)
    return None


async def _fail_later(how: str) -> object:
    await asyncio.sleep(0)
    if how == "slow":
        await asyncio.sleep(30)
    return fail(how)


def handle_socket_open(request: wsbroker.HttpRequest, socket_id: int) -> object:
    return fail(request.headers.get("x-fail", ""))


def handle_socket_message(data: str, socket_id: int) -> object:
    if data.startswith("echo"):
        wsbroker.send(socket_id, data)
        return None
    if data == "in the loop":  # what asyncio reports
        asyncio.get_running_loop().call_soon(fail, "raise")
        return None
    return fail(data)


def handle_socket_close() -> object:
    return fail("raise")


def handle_http_request(request: wsbroker.HttpRequest) -> object:
    return fail(request.headers.get("x-fail", ""))


def handle_worker_stop() -> None:
    fail("raise")
