"""Delays of replacements, and crash loops, with invented times."""

from wsbroker.pool.restart_policy import LAST_DELAY_S, MAX_DEATHS, SUCCESSFUL_RUN_S, RestartPolicy


def test_the_back_off_doubles_up_to_its_limit() -> None:
    restarts = RestartPolicy()
    delays = [restarts.record_death(now=1000.0 * n, lived_s=1.0) for n in range(10)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LAST_DELAY_S, LAST_DELAY_S, LAST_DELAY_S]
    assert restarts.restart_count == 10


def test_more_than_five_deaths_within_a_minute_are_a_crash_loop() -> None:
    restarts = RestartPolicy()
    assert all(restarts.record_death(now=10.0 * n, lived_s=0.0) is not None for n in range(MAX_DEATHS))
    assert restarts.record_death(now=60.0, lived_s=0.0) is None


def test_six_deaths_in_more_than_a_minute_are_none() -> None:
    restarts = RestartPolicy()
    assert all(restarts.record_death(now=12.1 * n, lived_s=1.0) is not None for n in range(20))


def test_a_worker_that_ran_for_a_while_starts_the_count_again() -> None:
    restarts = RestartPolicy()
    for n in range(MAX_DEATHS):
        restarts.record_death(now=float(n), lived_s=0.0)
    assert restarts.record_death(now=6.0 + SUCCESSFUL_RUN_S, lived_s=SUCCESSFUL_RUN_S) == 0.1
