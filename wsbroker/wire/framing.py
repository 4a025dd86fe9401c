"""Batches as bytes on a stream, packed and unpacked: a 4-byte big-endian length, then `marshal` of a list of tuples.

`marshal` carries 1 to 4 million small messages a second between interpreters of one installation, refuses other types
with a ValueError, and is only ever read from our own workers (never from a client).
"""

import marshal
from typing import Final

HEADER_BYTES: Final = 4
"""Bytes of the length in front of each batch."""
MAX_BATCH_BYTES: Final = (1 << 31) - 1
"""Longest batch, without its header."""


def pack_batch(batch: list[tuple[object, ...]]) -> bytes:
    """Returns the bytes of one batch, ready to be written to the wire.

    Raises:
        ValueError: a field has a type that `marshal` refuses, or the batch is 2 GiB or more.
    """
    body = marshal.dumps(batch)
    size = len(body)
    if size > MAX_BATCH_BYTES:
        raise ValueError(f"a batch of {size} bytes is over the wire's limit of {MAX_BATCH_BYTES}")
    return size.to_bytes(HEADER_BYTES, "big") + body


def split_batches(chunks: list[bytes], size: int) -> tuple[list[list[tuple[object, ...]]], list[bytes]]:
    """Returns the batches that are complete in these bytes, oldest first, and the remaining bytes in pieces.

    Changes nothing, so a call that an exception has interrupted can be repeated. O(1) while the first batch is not
    complete, so that a batch of 100 MiB costs as much in pieces of 4 KiB as in one.

    Args:
        chunks: the bytes in pieces, as they were read.
        size: the number of bytes in all pieces; the caller keeps count.
    """
    if size < HEADER_BYTES:
        return [], chunks
    first = chunks[0]
    if len(first) < HEADER_BYTES:
        first = b"".join(chunks)
        chunks = [first]
    if size < HEADER_BYTES + int.from_bytes(first[:HEADER_BYTES], "big"):
        return [], chunks  # not joined before the batch is complete: that would cost the square of its size
    data = b"".join(chunks)
    batches: list[list[tuple[object, ...]]] = []
    start = 0
    with memoryview(data) as view:
        while size - start >= HEADER_BYTES:
            end = start + HEADER_BYTES + int.from_bytes(view[start : start + HEADER_BYTES], "big")
            if end > size:
                break
            batches.append(marshal.loads(view[start + HEADER_BYTES : end]))
            start = end
    return batches, [data[start:]] if start < size else []


class BatchUnpacker:
    """Turns the bytes of a stream, split anywhere, back into batches."""

    __slots__ = ("_chunks", "_buffered_bytes")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        """Bytes in `_chunks`."""

    def feed(self, data: bytes) -> list[list[tuple[object, ...]]]:
        """Adds the next bytes of the stream; returns the batches that are complete now, oldest first."""
        chunks = self._chunks
        chunks.append(data)
        self._buffered_bytes += len(data)
        batches, rest = split_batches(chunks, self._buffered_bytes)
        if rest is not chunks:
            self._chunks = rest
            self._buffered_bytes = sum(map(len, rest))
        return batches
