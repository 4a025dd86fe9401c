"""The opens and HTTP requests that one worker has not answered yet; answers them with an error if the worker cannot."""

import asyncio
from typing import TypeAlias

from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import Accept, HttpResponse

logger = GuardedLog(__name__)

OpenVerdict: TypeAlias = HttpResponse | Accept | None
"""The decision about an opening socket: None and an `Accept` accept the socket, a response replaces the 101."""


class PendingRequests:
    """The unanswered opens and HTTP requests of one worker, with their size.

    A request stays here after its time-out until the worker answers it: its handler may still run.

    Args:
        worker: the worker's name, for the log.
    """

    __slots__ = ("_opens", "_requests", "_worker", "size_bytes")

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._opens: dict[int, tuple[asyncio.Future[OpenVerdict], int]] = {}
        self._requests: dict[int, tuple[asyncio.Future[HttpResponse], int]] = {}
        self.size_bytes = 0
        """Size of all unanswered opens and requests."""

    def __len__(self) -> int:
        """Returns the number of unanswered opens and requests."""
        return len(self._opens) + len(self._requests)

    @property
    def open_count(self) -> int:
        """Number of opens that the worker has not answered."""
        return len(self._opens)

    @property
    def request_count(self) -> int:
        """Number of HTTP requests that the worker has not answered."""
        return len(self._requests)

    def add_open(self, socket_id: int, size_bytes: int) -> asyncio.Future[OpenVerdict]:
        """Adds an open handler's call that a worker is to answer; returns the future of the handler's decision."""
        verdict: asyncio.Future[OpenVerdict] = asyncio.get_running_loop().create_future()
        self._opens[socket_id] = (verdict, size_bytes)
        self.size_bytes += size_bytes
        return verdict

    def add_request(self, number: int, size_bytes: int) -> asyncio.Future[HttpResponse]:
        """Adds an HTTP request under its number; returns the future of its response."""
        response: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self._requests[number] = (response, size_bytes)
        self.size_bytes += size_bytes
        return response

    def answer_open(self, socket_id: int, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Removes a socket's open and sets the decision from the worker's answer; ignores an unknown socket."""
        pending = self._opens.pop(socket_id, None)
        if pending is not None:
            verdict, size_bytes = pending
            self.size_bytes -= size_bytes
            if not verdict.done():
                verdict.set_result(self._make_open_verdict(status, headers, body))

    def answer_request(self, number: int, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Removes an HTTP request and sets its response from the worker's answer; ignores an unknown number."""
        pending = self._requests.pop(number, None)
        if pending is not None:
            response, size_bytes = pending
            self.size_bytes -= size_bytes
            if not response.done():
                response.set_result(self._make_response(status, headers, body))

    def answer_all_as_lost(self) -> None:
        """Answers every pending open with 503 and every HTTP request with 500; called when the worker is gone."""
        opens, self._opens = self._opens, {}
        for verdict, _ in opens.values():
            if not verdict.done():
                verdict.set_result(make_unavailable_response())
        requests, self._requests = self._requests, {}
        self.size_bytes = 0
        for response, _ in requests.values():
            if not response.done():
                response.set_result(HttpResponse(500, {}, "Internal Server Error"))

    def _make_open_verdict(self, status: int, headers: list[tuple[str, str]], body: bytes) -> OpenVerdict:
        """Makes the decision about a socket from its worker's answer: 101 accepts, another status refuses."""
        if status != 101:
            return self._make_response(status, headers, body)
        if not headers and not body:
            return None
        try:
            return Accept(headers, body.decode() or None)
        except (TypeError, ValueError) as error:
            logger.error("101 cannot be sent worker=%s: %s", self._worker, error)
            return HttpResponse(500, (), "Internal Server Error")

    def _make_response(self, status: int, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        """Makes the response from a worker's answer; logs an illegal answer and makes a 500 of it.

        Workers check their answers themselves, so that an illegal answer is a fault of the worker.
        """
        try:
            return HttpResponse(status, headers, body)
        except (TypeError, ValueError) as error:
            logger.error("response cannot be sent worker=%s: %s", self._worker, error)
            return HttpResponse(500, (), "Internal Server Error")


def make_unavailable_response() -> HttpResponse:
    """Makes the 503 sent while a worker is being replaced: trying again is safe, and soon useful."""
    return HttpResponse(503, {"Retry-After": "1"}, "Service Unavailable")


def answer_with_timeout(answer: "asyncio.Future[HttpResponse] | asyncio.Future[OpenVerdict]") -> None:
    """Answers an open or request with 504 unless it has an answer. Called by the loop after its time-out."""
    if not answer.done():
        answer.set_result(HttpResponse(504, {}, "Gateway Timeout"))
