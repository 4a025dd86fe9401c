"""Returns an answer where none is taken."""

import wsbroker


def handle_socket_message(data: str, socket_id: int) -> str:
    wsbroker.send(socket_id, data)
    return data
