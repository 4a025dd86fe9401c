"""The broker's end of a worker's streams: bytes become batches, batches become bytes. Never blocks the loop."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from wsbroker.guarded_log import GuardedLog
from wsbroker.wire.framing import BatchUnpacker, pack_batch
from wsbroker.worker import forks

logger = GuardedLog(__name__)

ENDED_BY_ITSELF: Final = "it ended by itself"
"""Beginning of the loss reason of a stream whose other end was closed; why the worker ended is not known here."""

Batch = list[tuple[object, ...]]


class _UnixLoop(Protocol):
    """`AbstractEventLoop.create_unix_connection` as both asyncio and uvloop have it: with `sock` instead of a path."""

    async def create_unix_connection(
        self, factory: Callable[[], "WorkerStream"], path: None, /, *, sock: socket.socket
    ) -> tuple[asyncio.BaseTransport, "WorkerStream"]:
        """Connects the protocol that the factory makes to a connected Unix socket."""
        ...


class WorkerStream(asyncio.Protocol):
    """The broker's end of one stream between broker and worker: reads and writes batches.

    Args:
        name: the worker's name, for the log.
        on_batch: called with each batch that was read; an exception of this callback counts as a broken stream.
        on_lost: called once with the reason when the other end is gone or the stream is broken; not after `close`.
    """

    __slots__ = (
        "_queued_before_connect",
        "_is_closed",
        "_name",
        "_on_lost",
        "_drain_waiter",
        "_transport",
        "_unpacker",
        "is_writing_paused",
        "on_batch",
    )

    def __init__(self, name: str, on_batch: Callable[[Batch], None], on_lost: Callable[[str], None]) -> None:
        self._name = name
        self.on_batch = on_batch
        """Called with each batch that was read; may be replaced by another function at any time."""
        self._on_lost = on_lost
        self._unpacker = BatchUnpacker()
        self._transport: asyncio.Transport | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._queued_before_connect: list[bytes] = []
        """Packed batches that were written before the stream was connected."""
        self.is_writing_paused = False
        """Whether the transport's buffer is full: a writer that can wait awaits `drain` before its next write."""

    @property
    def unwritten_bytes(self) -> int:
        """Bytes that wait in the transport: written here, and not yet taken by the kernel."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, batch: Batch) -> None:
        """Writes one batch, or queues the batch until the stream is connected; ignored after `close`.

        Raises:
            ValueError: a field has a type that the wire does not carry.
        """
        transport = self._transport
        if transport is not None:
            transport.write(pack_batch(batch))
        elif not self._is_closed:
            self._queued_before_connect.append(pack_batch(batch))

    async def drain(self) -> None:
        """Waits until writing is not paused any more, or the stream is closed. For one task at a time."""
        while self.is_writing_paused and not self._is_closed:
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter

    def pause_reading(self) -> None:
        """Stops reading from the worker; bytes that were read already are still handed to `on_batch`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Starts reading from the worker again after `pause_reading`."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Aborts the connection at once; `on_lost` is not called, and bytes that still arrive are ignored."""
        self._is_closed = True
        forks.unregister_child_action(self._detach_in_child)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._wake_drain()

    # Called by the loop. ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport and writes the batches queued so far. Called by the loop when the stream is connected."""
        self._transport = cast(asyncio.Transport, transport)
        forks.register_child_action(self._detach_in_child)
        if self._queued_before_connect:
            self._transport.write(b"".join(self._queued_before_connect))
            self._queued_before_connect.clear()

    def data_received(self, data: bytes) -> None:
        """Hands each complete batch to `on_batch`; a batch that cannot be read or applied closes the stream as lost."""
        if self._is_closed:
            return
        try:
            for batch in self._unpacker.feed(data):
                self.on_batch(batch)
                if self._is_closed:
                    return
        except Exception as error:
            logger.exception("wire broken worker=%s", self._name)
            self._close_and_report_loss(f"what it sent could not be read or applied: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Closes the stream and reports the loss. Called by the loop when the other end is gone."""
        self._close_and_report_loss(ENDED_BY_ITSELF if exc is None else f"{ENDED_BY_ITSELF}: {exc}")

    def pause_writing(self) -> None:
        """Marks writing as paused: the transport's buffer is over its high-water mark. Called by the loop."""
        self.is_writing_paused = True

    def resume_writing(self) -> None:
        """Marks writing as possible and wakes `drain`: the buffer is under its low-water mark. Called by the loop."""
        self.is_writing_paused = False
        self._wake_drain()

    def _detach_in_child(self) -> None:
        """Redirects the socket's descriptor to the null device. Called in a child process right after a fork.

        A child that kept the connection open would hide the server's end from the worker.
        """
        if self._transport is not None:
            forks.redirect_to_null_device([self._transport.get_extra_info("socket").fileno()])

    def _close_and_report_loss(self, reason: str) -> None:
        """Closes the stream and calls `on_lost` with the reason; does nothing if the stream is closed already."""
        if not self._is_closed:
            self.close()
            self._on_lost(reason)

    def _wake_drain(self) -> None:
        """Wakes the task that waits in `drain`, if any; called when writing may go on or the stream is closed."""
        if self._drain_waiter is not None:
            if not self._drain_waiter.done():
                self._drain_waiter.set_result(None)
            self._drain_waiter = None


async def connect_stream(end: socket.socket, stream: WorkerStream) -> None:
    """Connects a stream to its socket end. The transport owns the socket from here on; on failure it is closed."""
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
