"""Its close handler raises."""

import wsbroker


def handle_socket_message(data: str | bytes, socket_id: int) -> None:
    wsbroker.send(socket_id, data)


def handle_socket_close(socket_id: int) -> None:
    raise LookupError("in the close handler")


def handle_http_request() -> None: ...
