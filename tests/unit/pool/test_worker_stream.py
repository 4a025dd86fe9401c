"""A worker stream: any split of the bytes gives the same batches, and the end is reported once."""

import asyncio

import pytest

from kits.pool_fakes import Batch, run
from wsbroker.pool.worker_stream import WorkerStream
from wsbroker.wire.framing import pack_batch


class FakeTransport(asyncio.Transport):
    """A transport that keeps the bytes written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_aborted = False

    def write(self, data: "bytes | bytearray | memoryview[int]") -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))


class Kit:
    """A worker stream on a fake transport."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.losses: list[str] = []
        self.stream = WorkerStream("worker-0", self.batches.append, self.losses.append)
        self.transport = FakeTransport()
        self.stream.connection_made(self.transport)


def test_bytes_split_anywhere_become_the_same_batches() -> None:
    batches: list[Batch] = [[(1, 2, "ä"), (3, b"x", None)], [], [(4, (5, 6))]]
    stream = b"".join(map(pack_batch, batches))
    for size in range(1, len(stream) + 1):
        kit = Kit()
        for start in range(0, len(stream), size):
            kit.stream.data_received(stream[start : start + size])
        assert kit.batches == batches


def test_what_is_written_before_there_is_a_transport_is_the_first_on_it() -> None:
    stream = WorkerStream("worker-0", lambda batch: None, lambda reason: None)
    stream.write([(1,)])
    stream.write([(2,)])
    transport = FakeTransport()
    stream.connection_made(transport)
    stream.write([(3,)])
    assert b"".join(transport.written) == pack_batch([(1,)]) + pack_batch([(2,)]) + pack_batch([(3,)])


def test_a_closed_link_swallows_what_is_written() -> None:
    stream = WorkerStream("worker-0", lambda batch: None, lambda reason: None)
    stream.close()
    stream.write([(1,)])
    transport = FakeTransport()
    stream.connection_made(transport)
    assert transport.written == []


def test_nonsense_loses_the_link_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    kit = Kit()
    kit.stream.data_received(b"\0\0\0\x04GET ")
    assert kit.transport.is_aborted
    assert len(kit.losses) == 1 and kit.losses[0].startswith("what it sent could not be read or applied")
    assert "wire broken worker=worker-0" in caplog.text
    kit.stream.data_received(pack_batch([(1,)]))
    kit.stream.connection_lost(None)
    assert kit.batches == [] and len(kit.losses) == 1


def test_the_end_of_the_other_side_is_told_once() -> None:
    kit = Kit()
    kit.stream.connection_lost(None)
    kit.stream.connection_lost(None)
    assert kit.losses == ["it ended by itself"]


def test_a_closed_link_is_silent() -> None:
    kit = Kit()
    kit.stream.close()
    kit.stream.write([(1,)])
    kit.stream.data_received(pack_batch([(1,)]))
    kit.stream.connection_lost(OSError("gone"))
    assert (kit.batches, kit.losses, kit.transport.written, kit.stream.unwritten_bytes) == ([], [], [], 0)


def test_a_batch_that_closes_the_link_is_its_last() -> None:
    kit = Kit()
    seen: list[Batch] = []

    def take(batch: Batch) -> None:
        seen.append(batch)
        stream.close()

    stream = WorkerStream("worker-0", take, kit.losses.append)
    stream.connection_made(kit.transport)
    stream.data_received(pack_batch([(1,)]) + pack_batch([(2,)]))
    assert seen == [[(1,)]] and kit.losses == []


@pytest.mark.parametrize("ends_by", ["resume", "close"])
def test_drain_waits_while_the_transport_is_full(ends_by: str) -> None:
    async def main() -> None:
        kit = Kit()
        await kit.stream.drain()
        kit.stream.pause_writing()
        draining = asyncio.ensure_future(kit.stream.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        if ends_by == "resume":
            kit.stream.resume_writing()
        else:
            kit.stream.close()
        await draining

    run(main())
