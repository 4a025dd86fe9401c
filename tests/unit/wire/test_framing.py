"""Batches on a stream of bytes."""

import pytest

from wsbroker.wire.framing import Unpacker, pack

BATCHES: list[list[tuple[object, ...]]] = [
    [(1, "é\ud800", b"\0", None, True, 1 << 70, ("a", (1,)), [2])],
    [],
    [(2,), (3, "x" * 1000)],
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
def test_batches_come_out_as_they_went_in_however_the_bytes_are_split(size: int) -> None:
    stream = b"".join(pack(batch) for batch in BATCHES)
    unpacker = Unpacker()
    found = [batch for at in range(0, len(stream), size) for batch in unpacker.feed(stream[at : at + size])]
    assert found == BATCHES
    assert unpacker.feed(b"") == []


def test_what_the_wire_does_not_carry_is_refused() -> None:
    with pytest.raises(ValueError):
        pack([(object(),)])
