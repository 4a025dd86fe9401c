"""`Server`: what applications use of a running server, from any thread. See `lifecycle` for its states."""

from types import TracebackType

from wsbroker.errors import CommandError
from wsbroker.server.lifecycle import Lifecycle
from wsbroker.server.waiting import mark_as_waiting, wait_until_set
from wsbroker.settings.addresses import Address


class Server:
    """A running server. Made by `start` and `serve`; a context manager that stops it at the end."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    @property
    def addresses(self) -> list[Address]:
        """The addresses where the server listens, with the real port where 0 was given; ``str()`` of one is its URL."""
        return list(self._lifecycle.addresses)

    @property
    def is_running(self) -> bool:
        """True until the server has stopped."""
        return not self._lifecycle.stopped.is_set()

    @property
    def wants_restart(self) -> bool:
        """True after `--reload` has stopped the server in order to start the process anew."""
        return self._lifecycle.wants_restart

    @mark_as_waiting
    def stop(self, timeout_s: float | None = None) -> None:
        """Stops the server: sockets are closed with 1001, handlers end, then this returns.

        A second call waits for the first. Called by a handler, or on the event loop's thread, this requests the stop
        and returns at once.

        Args:
            timeout_s: how long a clean stop may take, in seconds; None: the setting `shutdown_timeout`; 0: drop
                everything now.

        Raises:
            TypeError: `timeout_s` is no number.
            ValueError: a negative `timeout_s`.
        """
        if timeout_s is not None and (isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float)):
            raise TypeError(f"timeout_s must be a number of seconds or None, not {type(timeout_s).__name__}")
        if timeout_s is not None and not timeout_s >= 0:
            raise ValueError(f"timeout_s is {timeout_s!r}; a stop takes 0 seconds or more")
        self._lifecycle.request_stop(timeout_s)
        if not self._lifecycle.may_not_wait:
            wait_until_set(self._lifecycle.stopped)

    @mark_as_waiting
    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the server has stopped and returns True; returns False if `timeout_s` seconds pass before.

        Raises:
            WorkerError: the workers failed for good, which stopped the server.
            RuntimeError: called on the event loop's thread, which would wait for itself.
        """
        if self._lifecycle.is_loop_thread:
            raise CommandError("wait() would block the event loop it waits for: use 'await server.wait_closed()'")
        if not wait_until_set(self._lifecycle.stopped, timeout_s):
            return False
        self._lifecycle.raise_failure()
        return True

    async def wait_closed(self) -> None:
        """Waits until the server has stopped, in a coroutine on the server's own loop (`serve`).

        Raises:
            WorkerError: the workers failed for good, which stopped the server.
        """
        await self._lifecycle.wait_until_stopped()
        self._lifecycle.raise_failure()

    def reload(self, timeout_s: float | None = None) -> None:
        """Replaces the workers by new ones with the present code; no socket closes, no message is lost.

        Only for workers of kind `interpreter` and `process`, which have modules of their own. If the new code cannot
        be loaded, the old workers stay. Another reload cancels a running one, and so does the stop of the server. On
        the event loop's thread, or in a handler, this requests a reload and returns at once; the log has the outcome.

        Args:
            timeout_s: how long to wait for the end, in seconds; None: as long as it takes.

        Raises:
            ConfigError: the kind of worker does not allow it, or the new code cannot be loaded.
            WorkerError: a new worker could not be started, an old one did not come to the end of its handlers (the
                text says how many have the new code), or the reload was called off.
            TimeoutError: the reload still goes on after `timeout_s` seconds.
            RuntimeError: the server has stopped.
        """
        self._lifecycle.reload_workers(timeout_s)

    def statistics(self) -> dict[str, object]:
        """Returns counters and sizes of the core, and under ``"workers"`` a list with those of each worker.

        May be called by any thread.

        Of each worker: `name`, `state`, `restarts`, `sockets`; `mailbox_messages` and `mailbox_bytes` that are on their
        way or being handled, `mailbox_batches` and `unwritten_bytes` that it has not read, `sockets_waiting` because
        its mailbox is full; `opens_in_flight` and `requests_in_flight`, together of `asked_bytes`; messages `handled`;
        `errors`, handlers that raised, returned what they may not, or were interrupted; `slowest`, the five slowest
        calls of handlers since the start, each with `handler`, `socket_id` (0: an HTTP request), `seconds` and the time
        `at` which it ended; and under `counts` what the worker counts by name, such as `long_handlers`, the calls
        that took longer than a tenth of `handler_timeout`.

        Raises:
            RuntimeError: the server has stopped, or its event loop has been busy for ten seconds.
        """
        return self._lifecycle.collect_statistics()

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return repr(self._lifecycle)
