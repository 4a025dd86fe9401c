"""Echoes, and appends a line to a file for each call of a handler, so that a test can count the calls."""

import os

import wsbroker


class App:
    """The application; all workers append to the same file."""

    def handle_worker_start(self, arg: str | None) -> None:
        assert arg is not None
        self._file = os.open(arg, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        os.write(self._file, f"message {socket_id} {data}\n".encode())
        wsbroker.send(socket_id, f"{socket_id} {data}")

    def handle_socket_close(self, socket_id: int, token: bytes | None, code: int) -> None:
        os.write(self._file, f"close {socket_id} {code}\n".encode())

    def handle_worker_stop(self) -> None:
        os.write(self._file, b"stop\n")


app = App()
