"""The experiment of the core's growth, on sizes too small to mean anything."""

import pytest

from benchmarks.experiments import claim_at_least, claim_at_most
from benchmarks.micro import scaling


def test_every_figure_is_measured_and_every_claim_judged() -> None:
    for rows, claims in (
        scaling.measure_growth(1, ((2, 1), (4, 1))),
        scaling.measure_growth(1, ((8, 1), (8, 4)), "channels"),
        scaling.measure_subscriptions(1, (1, 2), 8),
        scaling.measure_direct_answer(1, 8),
    ):
        assert len(rows) == 2
        assert len(claims) == 1 and float(claims[0].figure) > 0


def test_the_sockets_are_dealt_out_to_the_channels() -> None:
    work = scaling.make_subscribed(12, 3)
    assert [work.broker.subscriber_count(name) for name in work.names] == [4, 4, 4]
    sent = work.broker.counters.publications
    scaling.publish_on_all(work)
    assert work.broker.counters.publications == sent + 3


def test_the_lists_beside_us_write_the_same() -> None:
    lists = scaling.Lists(8, 4, 2)
    written: list[bytes] = []
    lists._write = written.append
    lists.take_turn()
    frame = bytes([0x81, 64]) + scaling.PAYLOAD.encode()
    assert written == [frame * 2] * 8
    lists.take_turn()
    assert written == [frame * 2] * 16


@pytest.mark.parametrize("value, verdict", [(1.0, "ok"), (2.0, "OVER")])
def test_a_claim_says_whether_it_holds(value: float, verdict: str) -> None:
    line = str(claim_at_most("it", value, 1.5))
    assert line.split() == [verdict, "it:", f"{value:.2f}", "(≤", "1.5)"]
    assert claim_at_least("it", value, 1.5).holds == (verdict == "OVER")
