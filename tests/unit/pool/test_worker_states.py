"""The states of a worker, without a worker: what the table allows, and what it must not."""

from wsbroker.pool.worker_states import TRANSITIONS, WorkerEvent, WorkerState

FINAL_STATES = {WorkerState.ENDED, WorkerState.ABANDONED}


def test_every_state_has_a_row_and_only_the_final_ones_have_no_way_out() -> None:
    assert set(TRANSITIONS) == set(WorkerState)
    assert {state for state, row in TRANSITIONS.items() if not row} == FINAL_STATES


def test_a_worker_that_has_not_ended_can_be_closed_and_declared_lost() -> None:
    for state in set(WorkerState) - FINAL_STATES:
        assert TRANSITIONS[state][WorkerEvent.CLOSED] is WorkerState.ENDED
        assert TRANSITIONS[state][WorkerEvent.DECLARED_LOST] is WorkerState.ABANDONED


def test_no_event_leads_back_to_an_earlier_state() -> None:
    order = list(WorkerState)
    for state, row in TRANSITIONS.items():
        assert all(order.index(following) > order.index(state) for following in row.values())


def test_every_state_has_one_of_the_four_names_of_the_statistics() -> None:
    names = [state.public_name for state in WorkerState]
    assert names == ["starting", "running", "stopping", "stopping", "ended", "ended"]
