"""Opens and requests that a worker has not answered: their answers, their size, and the end of the worker."""

from kits.pool_fakes import run
from wsbroker.http.response import Accept, HttpResponse
from wsbroker.pool.pending_requests import PendingRequests, answer_with_timeout


def test_answers_reach_their_requests_and_their_size_is_counted_off() -> None:
    async def work() -> None:
        pending = PendingRequests("worker-0")
        plain, chosen, refused = (pending.add_open(socket_id, 10) for socket_id in (1, 2, 3))
        response = pending.add_request(1, 100)
        assert (pending.open_count, pending.request_count, len(pending), pending.size_bytes) == (3, 1, 4, 130)
        pending.answer_open(1, 101, [], b"")
        pending.answer_open(2, 101, [("A", "b")], b"chat")
        pending.answer_open(3, 403, [], b"no")
        pending.answer_request(1, 201, [], b"made")
        assert plain.result() is None
        assert isinstance(chosen.result(), Accept)
        denial = refused.result()
        assert isinstance(denial, HttpResponse) and denial.status == 403
        assert response.result().status == 201
        assert (len(pending), pending.size_bytes) == (0, 0)

    run(work())


def test_an_answer_to_an_unknown_request_is_ignored() -> None:
    pending = PendingRequests("worker-0")
    pending.answer_open(1, 101, [], b"")
    pending.answer_request(1, 200, [], b"")
    assert (len(pending), pending.size_bytes) == (0, 0)


def test_a_request_counts_after_its_time_out_until_the_worker_answers() -> None:
    async def work() -> None:
        pending = PendingRequests("worker-0")
        response = pending.add_request(1, 100)
        answer_with_timeout(response)
        assert response.result().status == 504
        assert (len(pending), pending.size_bytes) == (1, 100)
        pending.answer_request(1, 200, [], b"late")
        answer_with_timeout(response)
        assert response.result().status == 504
        assert (len(pending), pending.size_bytes) == (0, 0)

    run(work())


def test_a_lost_worker_answers_opens_with_503_and_requests_with_500() -> None:
    async def work() -> None:
        pending = PendingRequests("worker-0")
        opening, response = pending.add_open(1, 10), pending.add_request(1, 100)
        abandoned = pending.add_open(2, 10), pending.add_request(2, 100)
        for future in abandoned:
            future.cancel()
        pending.answer_all_as_lost()
        unavailable = opening.result()
        assert isinstance(unavailable, HttpResponse) and unavailable.status == 503
        assert response.result().status == 500
        assert (len(pending), pending.size_bytes) == (0, 0)

    run(work())
