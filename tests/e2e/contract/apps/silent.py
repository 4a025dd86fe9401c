"""An application without a message handler."""

import wsbroker


def handle_socket_open(request: wsbroker.HttpRequest, socket_id: int) -> None:
    if request.pathname == "/hello":
        wsbroker.send(socket_id, "from the open handler")


def handle_http_request() -> str:
    return "no messages"
