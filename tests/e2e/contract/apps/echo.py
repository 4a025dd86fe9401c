"""Echoes each message."""

import wsbroker


def handle_socket_message(data: str | bytes, socket_id: int) -> None:
    wsbroker.send(socket_id, data)
