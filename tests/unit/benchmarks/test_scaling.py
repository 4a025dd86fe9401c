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


def test_the_sockets_are_dealt_out_to_the_channels() -> None:
    work = scaling.subscribed(12, 3)
    assert [work.broker.subscriber_count(name) for name in work.names] == [4, 4, 4]
    sent = work.broker.counters.publications
    scaling.publish_on_all(work)
    assert work.broker.counters.publications == sent + 3


def test_the_lists_beside_us_write_the_same() -> None:
    lists = scaling.Lists(8, 4, 2)
    written: list[bytes] = []
    lists._write = written.append
    lists.turn()
    frame = bytes([0x81, 64]) + scaling.PAYLOAD.encode()
    assert written == [frame * 2] * 8
    lists.turn()
    assert written == [frame * 2] * 16


@pytest.mark.parametrize("found, verdict", [(1.0, "ok"), (2.0, "OVER")])
def test_a_claim_says_whether_it_holds(found: float, verdict: str) -> None:
    line = str(Claim("it", found, "≤ 1.5", found <= 1.5))
    assert line.split() == [verdict, "it:", f"{found:.2f}", "(≤", "1.5)"]
