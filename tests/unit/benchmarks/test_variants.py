"""The experiments on variants of a server: the order of the turns, the work of a handler, the claims."""

from benchmarks.experiments import Claim
from benchmarks.load.app import compute_digest
from benchmarks.load.row import Row
from benchmarks.load.run import find_ratio
from benchmarks.load.variants import claim_cores


def test_a_ratio_is_the_median_over_the_rounds_that_have_both_variants() -> None:
    turns = [[Row(cpu_us=2.0), Row(cpu_us=us)] for us in (2.0, 6.0, 20.0)]
    assert find_ratio(turns, 1) == 3.0
    assert find_ratio([[None, Row(cpu_us=1.0)], *turns, [Row(cpu_us=1.0), None]], 1) == 3.0
    assert find_ratio([[Row(), Row(cpu_us=1.0)]], 1) is None


def test_a_handlers_work_depends_on_the_number_of_rounds_and_is_64_characters_long() -> None:
    assert len(compute_digest(1)) == 64
    assert compute_digest(2) == compute_digest(2) != compute_digest(3)


def test_two_workers_are_judged_beside_one_and_beside_two_threads() -> None:
    numbers = (("thread × 2", 1000.0), ("process × 1", 1000.0), ("process × 2", 1550.0))
    rows = [{"name": name, "rate": rate} for name, rate in numbers]
    questions = [{"name": name, "latency_us": {"p50": us}} for name, us in (("inline", 16.2), ("process", 150.0))]
    result = {"rows": rows, "questions": questions, "kinds": ["process"]}
    subject = "handlers of 1 ms a second: process × 2 beside"
    assert claim_cores(result) == [
        Claim(f"{subject} process × 1", "1.55", "≥ 1.6", False),
        Claim(f"{subject} thread × 2", "1.55", "≥ 1.5", True),
        Claim("the same from a worker of kind inline, process", "16, 150"),
    ]
    questions.append({"name": "interpreter", "latency_us": {"p50": 101.0}})
    assert claim_cores(result)[2:] == [
        Claim("subscribe from an idle interpreter worker, µs", "101", "≤ 100", False),
        Claim("the same from a worker of kind inline, process", "16, 150"),
    ]
