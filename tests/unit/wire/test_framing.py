"""Batches on a stream of bytes."""

from typing import ClassVar

import pytest

from wsbroker.wire.framing import BatchUnpacker, pack_batch

BATCHES: list[list[tuple[object, ...]]] = [
    [(1, "é\ud800", b"\0", None, True, 1 << 70, ("a", (1,)), [2])],
    [],
    [(2,), (3, "x" * 1000)],
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
def test_batches_come_out_as_they_went_in_however_the_bytes_are_split(size: int) -> None:
    stream = b"".join(pack_batch(batch) for batch in BATCHES)
    unpacker = BatchUnpacker()
    found = [batch for at in range(0, len(stream), size) for batch in unpacker.feed(stream[at : at + size])]
    assert found == BATCHES
    assert unpacker.feed(b"") == []


def test_what_the_wire_does_not_carry_is_refused() -> None:
    with pytest.raises(ValueError):
        pack_batch([(object(),)])


class Piece(bytes):
    """Bytes that count how often anybody looks at them."""

    looks: ClassVar[int] = 0

    def __len__(self) -> int:
        Piece.looks += 1
        return super().__len__()


def test_a_batch_in_many_pieces_costs_each_piece_once() -> None:
    batch: list[tuple[object, ...]] = [(1, b"x" * 10_000)]
    stream = pack_batch(batch)
    pieces = [Piece(stream[at : at + 10]) for at in range(0, len(stream), 10)]
    unpacker = BatchUnpacker()
    Piece.looks = 0
    found = [batch for piece in pieces for batch in unpacker.feed(piece)]
    assert found == [batch]
    assert Piece.looks <= 4 * len(pieces)
