"""The responses that the front sends without a handler."""

import pytest

from wsbroker.errors import HandshakeError
from wsbroker.front.error_responses import (
    CONNECTION_LIMIT_REACHED,
    ENCODED_CONNECTION_LIMIT_REACHED,
    encode_last_response,
    error_response_for,
    handshake_error_response,
)


@pytest.mark.parametrize("status, phrase", [(400, "Bad Request"), (413, ""), (500, "Internal Server Error"), (418, "")])
def test_a_status_has_a_response_with_its_phrase(status: int, phrase: str) -> None:
    response = error_response_for(status)
    assert response.status == status
    assert response.body.startswith(f"{status} {phrase}".encode()) and response.body.endswith(b"\n")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_503_says_that_there_is_no_room_for_the_request_and_when_to_retry() -> None:
    response = error_response_for(503)
    assert response.status == 503 and b"unfinished requests" in response.body
    assert response.headers["retry-after"] == "5"


def test_a_refused_handshake_keeps_status_text_and_fields_of_its_error() -> None:
    response = handshake_error_response(HandshakeError(426, "13 <please>", (("Sec-WebSocket-Version", "13"),)))
    assert (response.status, response.body) == (426, b"13 &lt;please&gt;\n")
    assert response.headers["sec-websocket-version"] == "13"


def test_the_response_to_a_connection_too_many_is_encoded_once() -> None:
    assert encode_last_response(CONNECTION_LIMIT_REACHED) == ENCODED_CONNECTION_LIMIT_REACHED
    assert ENCODED_CONNECTION_LIMIT_REACHED.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nConnection: close\r\n\r\nthis server has no room" in ENCODED_CONNECTION_LIMIT_REACHED
