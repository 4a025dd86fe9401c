"""The compiled core as the pool uses it: interfaces, for which tests have plain Python fakes."""

from collections.abc import Mapping, Sized
from typing import Final, Protocol

from wsbroker.wire.commands import Command
from wsbroker.wire.events import Event

NO_WORKER: Final = -1
"""The worker index of commands that do not come from the worker of a queue."""


class WorkerQueueView(Protocol):
    """The core's queue of one worker, read only; `broker.worker_queue.WorkerQueue` is the real class."""

    @property
    def generation(self) -> int:
        """Number of times the worker was lost or replaced; the core ignores commands that carry an older number."""
        ...

    @property
    def in_flight_bytes(self) -> int:
        """Cost in bytes of the messages sent to the worker and not yet handled: the credit in use."""
        ...

    @property
    def in_flight_messages(self) -> int:
        """Number of messages sent to the worker and not yet handled."""
        ...

    @property
    def handled_messages(self) -> int:
        """Number of messages whose handlers have ended, since the start of the server."""
        ...

    @property
    def waiting_sockets(self) -> Sized:
        """Sockets whose messages wait for credit."""
        ...

    @property
    def unhandled_closes(self) -> Mapping[int, Event]:
        """CLOSE events whose handler has not run yet, by socket id."""
        ...

    @property
    def socket_count(self) -> int:
        """Number of sockets whose handlers run in this worker."""
        ...


class CoreCalls(Protocol):
    """The core as `LocalApi` uses it. Unknown socket ids are ignored and counted, never errors.

    The methods for the other calls of the API have the names in `wire.commands.ONE_WAY_METHODS` and `QUESTION_METHODS`,
    by which `LocalApi` finds them, so that a new call is not spelled here again.
    """

    def send(self, socket_id: int, data: object, /) -> None:
        """Sends one message, str or bytes-like, to a socket."""
        ...

    def publish(self, channel: bytes, data: object, exclude: tuple[int, ...], /) -> None:
        """Sends one message to all subscribers of a channel except the sockets in `exclude`."""
        ...

    def apply_commands(self, worker_index: int, generation: int, batch: list[Command], /) -> list[tuple[object, ...]]:
        """Applies a batch of commands in order, as sent by the worker of this index and generation.

        Args:
            worker_index: or `NO_WORKER`; the generation is ignored then.

        Returns:
            the commands that are the pool's to process; for `NO_WORKER` also the ANSWER events to its questions.
        """
        ...


class Core(CoreCalls, Protocol):
    """The core as the pool uses it: the calls of handlers, and the queues to the workers."""

    def add_worker_queue(self, index: int, credit_bytes: int, is_inline: bool, /) -> WorkerQueueView:
        """Adds the queue of one more worker and returns its view; indexes must count up from 0."""
        ...

    def mark_worker_lost(self, index: int, code: int, /) -> list[Event]:
        """Closes all sockets of a dead worker with this code; returns the CLOSE events whose handler has not run."""
        ...

    def pause_worker_queue(self, index: int, /) -> None:
        """Keeps messages and closes in the inboxes of a worker's sockets, so that the queue runs empty."""
        ...

    def resume_worker_queue(self, index: int, /) -> None:
        """Sends a paused worker queue's messages and closes to its worker again."""
        ...

    def drop_waiting_messages(self, /) -> int:
        """Drops all messages that still wait in inboxes, of all workers; returns their number."""

    def replace_worker(self, index: int, /) -> None:
        """Resumes a paused worker queue with another worker: the generation grows, the sockets stay."""
        ...

    def adopt_closes(self, index: int, closes: list[Event], /) -> None:
        """Posts CLOSE events of a dead worker's sockets to another worker at the end of this loop turn."""
