"""Kind `inline`: handlers run in the broker's own event loop, so there is no wire, no mailbox and no replacement.

Messages and closes do not pass through this module: the compiled inline runner calls the handlers itself, and calls
`runtime` for rare cases.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from wsbroker.errors import ConfigError, WorkerError
from wsbroker.guarded_log import GuardedLog, format_error
from wsbroker.http.request import HttpRequest
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.pool.start_reminder import StartReminder
from wsbroker.settings.config import Config
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.inline_runtime import InlineRuntime
from wsbroker.worker.loader import Handlers, load_handlers
from wsbroker.worker.options import HandlerOptions
from wsbroker.worker.slowest import SlowestCalls

logger = GuardedLog(__name__)

WORKER_NAME: Final = "inline"


class InlineWorker:
    """The one worker of an inline pool: its start, stop, open handlers and HTTP handlers.

    Args:
        config: all settings.
        spec: the argument of `register_worker`.
        api: the broker's API that the handlers call.
        options: how handlers are run.
    """

    def __init__(self, config: Config, spec: object, api: BrokerApi, options: HandlerOptions) -> None:
        self._config = config
        self._spec = spec
        self._api = api
        self._options = options
        self._handlers: Handlers | None = None
        self._runtime: InlineRuntime | None = None
        self.count_handled_messages: Callable[[], int] = int
        """Returns the number of messages handled so far; set to the compiled runner's counter when that exists."""
        self.pending_request_bytes = 0
        """Size of the requests whose open and HTTP handlers are running."""
        self.state = "starting"
        """Starting, running, stopping or ended: the `state` of `slot.WorkerStatistics`."""

    @property
    def handlers(self) -> Handlers:
        """The application's handlers; available after `start`."""
        assert self._handlers is not None, "the inline worker has not started"
        return self._handlers

    @property
    def runtime(self) -> InlineRuntime:
        """The runtime that runs the handlers; available after `start`."""
        assert self._runtime is not None, "the inline worker has not started"
        return self._runtime

    async def start(self) -> list[str]:
        """Loads the handlers and runs `handle_worker_start`; returns the names of the handlers found.

        Raises:
            ConfigError: the application cannot work.
            WorkerError: `handle_worker_start` raised.
        """
        handlers = load_handlers(self._spec)
        runtime = InlineRuntime(handlers, self._api, self._options)
        try:
            with StartReminder(WORKER_NAME):
                await runtime.start()
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            text = f"handle_worker_start of {handlers.source} failed: {format_error(error)}"
            raise WorkerError(text) from error
        self._handlers = handlers
        self._runtime = runtime
        self.state = "running"
        logger.info("worker started worker=%s handlers=%s", WORKER_NAME, ",".join(handlers.names))
        return list(handlers.names)

    async def stop(self, timeout_s: float) -> bool:
        """Waits for running handlers, then runs `handle_worker_stop`, each for at most half of the time.

        Returns:
            whether all handlers have ended in time.
        """
        if self.state != "running":
            return True
        self.state = "stopping"
        try:
            is_done = await self.runtime.stop(timeout_s / 2)
        finally:
            self.state = "ended"
        if not is_done:
            logger.error("worker did not stop in time worker=%s timeout_s=%g", WORKER_NAME, timeout_s)
        return is_done

    async def run_open_handler(
        self, socket_id: int, request: HttpRequest, size_bytes: int
    ) -> HttpResponse | Accept | None:
        """Runs the open handler of a socket; None and an `Accept` accept the socket, a response refuses it."""
        self.pending_request_bytes += size_bytes
        try:
            async with asyncio.timeout(self._config.handshake_timeout):
                return await self.runtime.run_open(request, socket_id)
        except TimeoutError:
            return HttpResponse(504, (), "Gateway Timeout")
        finally:
            self.pending_request_bytes -= size_bytes

    async def run_http_handler(self, request: HttpRequest, size_bytes: int) -> HttpResponse:
        """Runs the HTTP handler for a request; the runtime ends it after `http_timeout`."""
        self.pending_request_bytes += size_bytes
        try:
            return await self.runtime.run_http(request)
        finally:
            self.pending_request_bytes -= size_bytes

    def get_counters(self) -> dict[str, int]:
        """Returns the counts of handler errors, time-outs and the like so far, by name."""
        return {} if self._runtime is None else dict(self._runtime.counters)

    def get_slowest_calls(self) -> SlowestCalls:
        """Returns the slowest handler calls so far."""
        return SlowestCalls() if self._runtime is None else self._runtime.slowest_calls
