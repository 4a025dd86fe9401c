"""What the scaling benchmark measures and says, on sizes that say nothing."""

import pytest

from benchmarks import scaling
from benchmarks.claim import Claim


def test_every_figure_is_measured_and_every_claim_judged() -> None:
    for rows, claims in (
        scaling.subscribers_flat(1, (2, 4)),
        scaling.channels_flat(1, (1, 4), 8),
        scaling.beside_lists(1, (1, 2), 8),
        scaling.answer_is_cheap(1, 8),
    ):
        assert len(rows) == 2
        assert len(claims) == 1 and claims[0].found > 0


def test_twice_as_many_subscribers_are_twice_as_many_writes() -> None:
    work = scaling.subscribed(12, 3)
    scaling.publish_on_all(work)
    assert work.writes == 12
    assert [work.broker.subscriber_count(name) for name in work.names] == [4, 4, 4]


def test_the_lists_beside_us_write_the_same() -> None:
    lists = scaling.Lists(8, 4, 2)
    written_by_turn: list[int] = []

    class Keeping(list[bytes]):
        def clear(self) -> None:
            written_by_turn.append(len(self))

    lists._written = Keeping()
    lists.turn()
    assert written_by_turn == [8]
    frame = bytes([0x81, 64]) + scaling.PAYLOAD.encode()
    assert lists._written == [frame * 2] * 8


@pytest.mark.parametrize("found, verdict", [(1.0, "ok"), (2.0, "OVER")])
def test_a_claim_says_whether_it_holds(found: float, verdict: str) -> None:
    line = str(Claim("it", found, "≤ 1.5", found <= 1.5))
    assert line.split() == [verdict, "it:", f"{found:.2f}", "(≤", "1.5)"]
