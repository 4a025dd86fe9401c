"""What the pool needs of the compiled core, as types: tests put a plain Python fake in its place."""

from collections.abc import Mapping, Sized
from typing import Protocol

from wsbroker.wire.commands import Command
from wsbroker.wire.events import Event


class WorkerQueueView(Protocol):
    """The core's book-keeping of the way to one worker, read only."""

    @property
    def generation(self) -> int:
        """Grows when the worker is lost; what an older one still says is ignored."""
        ...

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of messages that are on their way or being handled (credit in use)."""
        ...

    @property
    def in_flight_messages(self) -> int:
        """How many those are."""
        ...

    @property
    def handled_messages(self) -> int:
        """Messages whose handlers have ended, since the start."""
        ...

    @property
    def waiting_sockets(self) -> Sized:
        """Sockets with messages that wait for credit."""
        ...

    @property
    def unhandled_closes(self) -> Mapping[int, Event]:
        """CLOSE events whose handler has not run yet, by socket id."""
        ...

    @property
    def socket_count(self) -> int:
        """Sockets pinned to this worker."""
        ...


class CoreCalls(Protocol):
    """What handlers can ask, as the core answers it. Unknown ids are ignored and counted, never errors."""

    def send(self, socket_id: int, data: object, /) -> None: ...
    def publish(self, channel: bytes, data: object, exclude: tuple[int, ...], /) -> None: ...
    def subscribe(self, socket_id: int, channel: bytes, /) -> bool: ...
    def unsubscribe(self, socket_id: int, channel: bytes, /) -> bool: ...
    def subscribe_nowait(self, socket_id: int, channel: bytes, /) -> None: ...
    def unsubscribe_nowait(self, socket_id: int, channel: bytes, /) -> None: ...
    def set_token(self, socket_id: int, token: bytes | None, /) -> None: ...
    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes, /) -> None: ...
    def close(self, socket_id: int, code: int, reason: str, /) -> None: ...
    def subscriber_count(self, channel: bytes, /) -> int: ...
    def subscribers(self, channel: bytes, /) -> list[int]: ...
    def subscriptions(self, socket_id: int, /) -> list[bytes]: ...
    def channels(self) -> list[bytes]: ...
    def is_open(self, socket_id: int, /) -> bool: ...
    def queued_bytes(self, socket_id: int, /) -> int: ...

    def apply_commands(self, worker_index: int, generation: int, batch: list[Command], /) -> list[tuple[object, ...]]:
        """Applies commands in order; returns what is not the core's (lane -1: the ANSWER events to its questions)."""
        ...


class Core(CoreCalls, Protocol):
    """`CoreCalls`, and the ways to the workers."""

    def add_worker_queue(self, index: int, credit_bytes: int, is_inline: bool, /) -> WorkerQueueView:
        """Adds the way to one more worker; indexes count from 0."""
        ...

    def mark_worker_lost(self, index: int, code: int, /) -> list[Event]:
        """Closes all sockets of a dead worker; returns the CLOSE events whose handler has not run."""
        ...

    def pause_worker_queue(self, index: int, /) -> None:
        """Keeps the messages and closes of a lane with their sockets, so that its worker runs empty."""
        ...

    def resume_worker_queue(self, index: int, /) -> None:
        """Lets them go on."""
        ...

    def drop_waiting_messages(self, /) -> int:
        """Drops the messages that workers have not been given yet; returns how many."""

    def replace_worker(self, index: int, /) -> None:
        """Another worker has taken over a lane that was held: the generation grows, the sockets stay."""
        ...

    def adopt_closes(self, index: int, closes: list[Event], /) -> None:
        """Gives CLOSE events of a dead worker to another one: they are posted to it at the end of this turn."""
