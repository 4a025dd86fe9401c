"""The broker's end of a worker's wire: bytes in become batches, batches out become one write. Never blocks the loop."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from wsbroker.guarded_log import GuardedLog
from wsbroker.wire.framing import BatchUnpacker, pack_batch
from wsbroker.worker import forks

logger = GuardedLog(__name__)

ENDED_BY_ITSELF: Final = "it ended by itself"
"""Why a link was lost, if all that is known is that the other end is closed."""

Batch = list[tuple[object, ...]]


class _UnixLoop(Protocol):
    """`AbstractEventLoop.create_unix_connection` as both asyncio and uvloop have it: `sock` instead of a path."""

    async def create_unix_connection(
        self, factory: Callable[[], "WorkerStream"], path: None, /, *, sock: socket.socket
    ) -> tuple[asyncio.BaseTransport, "WorkerStream"]: ...


class WorkerStream(asyncio.Protocol):
    """One stream of batches.

    Args:
        name: for the log.
        on_batch: is given each batch that came in; an exception of it means that the worker speaks nonsense.
        on_lost: is called once, with the reason, when the other end is gone; not after `close`.
    """

    __slots__ = (
        "_queued_before_connect",
        "_is_closed",
        "_name",
        "_on_batch",
        "_on_lost",
        "_drain_waiter",
        "_transport",
        "_unpacker",
        "is_writing_paused",
    )

    def __init__(self, name: str, on_batch: Callable[[Batch], None], on_lost: Callable[[str], None]) -> None:
        self._name = name
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._unpacker = BatchUnpacker()
        self._transport: asyncio.Transport | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._queued_before_connect: list[bytes] = []
        """What was queued before there was a transport."""
        self.is_writing_paused = False
        """The transport has enough for now: whoever can wait calls `drain` before the next write."""

    @property
    def unwritten_bytes(self) -> int:
        """Bytes that wait in the transport, beyond what the kernel has taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, batch: Batch) -> None:
        """Queues one batch, before it is connected too; a closed link swallows it.

        Raises:
            ValueError: a field is not what the wire carries.
        """
        transport = self._transport
        if transport is not None:
            transport.write(pack_batch(batch))
        elif not self._is_closed:
            self._queued_before_connect.append(pack_batch(batch))

    async def drain(self) -> None:
        """Waits until the transport takes more, or the link is closed. For one task at a time."""
        while self.is_writing_paused and not self._is_closed:
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter

    def pause_reading(self) -> None:
        """Reads no more for now; what was read already is still handed on."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Drops the link at once; `on_lost` is not called, and what still comes in is ignored."""
        self._is_closed = True
        forks.unregister_child_action(self._detach_in_child)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._wake_drain()

    # Called by the loop. ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)
        forks.register_child_action(self._detach_in_child)
        if self._queued_before_connect:
            self._transport.write(b"".join(self._queued_before_connect))
            self._queued_before_connect.clear()

    def data_received(self, data: bytes) -> None:
        """Hands each complete batch on."""
        if self._is_closed:
            return
        try:
            for batch in self._unpacker.feed(data):
                self._on_batch(batch)
                if self._is_closed:
                    return
        except Exception as error:
            logger.exception("wire broken worker=%s", self._name)
            self._close_and_report_loss(f"what it sent could not be read or applied: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone."""
        self._close_and_report_loss(ENDED_BY_ITSELF if exc is None else f"{ENDED_BY_ITSELF}: {exc}")

    def pause_writing(self) -> None:
        """The transport's buffer is over its high mark."""
        self.is_writing_paused = True

    def resume_writing(self) -> None:
        """The transport's buffer is under its low mark."""
        self.is_writing_paused = False
        self._wake_drain()

    def _detach_in_child(self) -> None:
        """In a forked child: the worker could not learn of the server's end while the child lives."""
        if self._transport is not None:
            forks.redirect_to_null_device([self._transport.get_extra_info("socket").fileno()])

    def _close_and_report_loss(self, reason: str) -> None:
        if not self._is_closed:
            self.close()
            self._on_lost(reason)

    def _wake_drain(self) -> None:
        if self._drain_waiter is not None:
            if not self._drain_waiter.done():
                self._drain_waiter.set_result(None)
            self._drain_waiter = None


async def connect_stream(end: socket.socket, stream: WorkerStream) -> None:
    """Gives the link its transport. The socket belongs to the transport from here on, also when this fails."""
    loop = asyncio.get_running_loop()
    end.setblocking(False)
    try:
        if end.family == getattr(socket, "AF_UNIX", None):
            await cast(_UnixLoop, loop).create_unix_connection(lambda: stream, None, sock=end)
        else:
            await loop.create_connection(lambda: stream, sock=end)
    except BaseException:
        end.close()
        raise
