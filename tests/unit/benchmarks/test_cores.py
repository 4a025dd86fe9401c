"""The experiment of computing handlers: the work of a handler, and the claims."""

from benchmarks import cores_app
from benchmarks.cores import claim_cores
from benchmarks.experiments import Claim


def test_a_handlers_work_depends_on_the_number_of_rounds_and_is_64_characters_long() -> None:
    assert len(cores_app.compute_digest(1)) == 64
    assert cores_app.compute_digest(2) == cores_app.compute_digest(2) != cores_app.compute_digest(3)


def test_two_workers_are_judged_beside_one_and_beside_two_threads() -> None:
    rates = {
        name: {"per_second": rate, "load_percent": 3.0}
        for name, rate in (("thread × 2", 1000.0), ("process × 1", 1000.0), ("process × 2", 1550.0))
    }
    questions = {name: {"lowest": 1.0, "p50": p50, "p90": 99.0} for name, p50 in (("inline", 16.2), ("process", 150.0))}
    result = {"handlers_per_second": rates, "subscribe_us": questions, "kinds": ["process"], "workers": 2}
    subject = "handlers of 1 ms a second: process × 2 beside"
    assert claim_cores(result) == [
        Claim(f"{subject} process × 1", "1.55", "≥ 1.6", False),
        Claim(f"{subject} thread × 2", "1.55", "≥ 1.5", True),
        Claim("the same from a worker of kind inline, process", "16, 150"),
    ]
    questions["interpreter"] = {"lowest": 1.0, "p50": 101.0, "p90": 99.0}
    assert claim_cores(result)[2:] == [
        Claim("subscribe from an idle interpreter worker, µs", "101", "≤ 100", False),
        Claim("the same from a worker of kind inline, process", "16, 150"),
    ]
