"""The benchmark of computing handlers: what it has them do, and what it says."""

from benchmarks import cores, cores_app
from benchmarks.cores import Kind, Rate


def test_a_handlers_work_depends_on_the_number_of_rounds_and_is_64_characters_long() -> None:
    assert len(cores_app.compute(1)) == 64
    assert cores_app.compute(2) == cores_app.compute(2) != cores_app.compute(3)


def test_two_workers_are_judged_beside_one_and_beside_two_threads() -> None:
    rates = {
        Kind("thread", 2): Rate(1000.0, 3.0),
        Kind("process", 1): Rate(1000.0, 3.0),
        Kind("process", 2): Rate(1550.0, 5.0),
    }
    beside_one, beside_threads = cores.judged(rates, ["process"], 2)
    assert (beside_one.what, beside_one.found, beside_one.holds) == (
        "handlers of 1 ms a second: process × 2 beside process × 1",
        1.55,
        False,
    )
    assert (beside_threads.what, beside_threads.holds) == (
        "handlers of 1 ms a second: process × 2 beside thread × 2",
        True,
    )
