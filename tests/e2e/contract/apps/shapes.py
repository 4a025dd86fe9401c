"""Handlers in several shapes: classes of their own, derived from `Worker`, with fewer arguments than there are."""

import wsbroker


class Shouting:
    """An application that is a plain class."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, data.upper())


class Typed(wsbroker.Worker):
    """An application derived from `Worker`, with one handler."""

    def handle_socket_message(self, data: str | bytes, socket_id: int, token: bytes | None, /) -> None:
        wsbroker.send(socket_id, data)


class Few:
    """An application whose handlers take fewer arguments than the server has."""

    def handle_worker_start(self) -> None: ...

    def handle_socket_open(self) -> bool:
        return True

    def handle_socket_message(self, data: str) -> None:
        wsbroker.send_to_channel("nobody", data)

    def handle_socket_close(self) -> None: ...

    def handle_http_request(self) -> str:
        return "no arguments"
