"""Writes the calls of its handlers into a file, so that a test sees calls made when no socket is left."""

import asyncio
import os
import threading

import wsbroker


class App:
    """The application with plain handlers."""

    def __init__(self) -> None:
        self._path: str | None = None

    def handle_worker_start(self, arg: str | None) -> None:
        self._path = arg
        self._note(f"start {wsbroker.channels()}")

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        wsbroker.send(socket_id, data)

    def handle_socket_close(self, socket_id: int, token: bytes | None, code: int, reason: str) -> None:
        assert not wsbroker.is_open(socket_id)
        self._note(f"close {code} {reason}")

    def handle_worker_stop(self) -> None:
        self._note(f"stop {wsbroker.channels()}")

    def _note(self, text: str) -> None:
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text + "\n")


class AsyncApp(App):
    """The application with async handlers."""

    async def handle_worker_start(self, arg: str | None) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().handle_worker_start(arg)

    async def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().handle_socket_message(data, socket_id)

    async def handle_socket_close(  # type: ignore[override]
        self, socket_id: int, token: bytes | None, code: int, reason: str
    ) -> None:
        await asyncio.sleep(0.01)
        super().handle_socket_close(socket_id, token, code, reason)

    async def handle_worker_stop(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().handle_worker_stop()


app = App()


class Outer:
    """A class that holds another."""

    class Inner(App):
        """An application named ``module:Outer.Inner``."""


class Stuck:
    """Waits for ever: until it is cancelled, or also then, or in a call that does not come back.

    The last two end when the file is gone that `worker_arg` names, or somebody writes into it.
    """

    def handle_worker_start(self, arg: str | None) -> None:
        self._file = arg or os.devnull

    async def handle_socket_message(self, data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, "waiting")
        if data == "block":
            wsbroker.is_open(socket_id)  # so that what was sent has left
            os.close(os.open(self._file, os.O_RDONLY))
        while os.path.exists(self._file):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                if data == "wait":
                    raise


server: wsbroker.Server | None = None
returned: list[bool] = []


class Stops:
    """An application whose handlers stop the server."""

    def handle_socket_open(self, request: wsbroker.HttpRequest) -> None:
        if request.pathname == "/stop":
            self._stop()

    def handle_socket_message(self, data: str) -> object:
        if data == "message":
            self._stop()
        elif data == "thread":
            threading.Thread(target=self._stop).start()
        elif data == "async message":
            return self._stop_later()
        return None

    def handle_socket_close(self) -> None:
        if not returned:
            self._stop()

    def handle_http_request(self, request: wsbroker.HttpRequest) -> None:
        self._stop()

    async def _stop_later(self) -> None:
        await asyncio.sleep(0)
        self._stop()

    def _stop(self) -> None:
        assert server is not None
        returned.append(True)
        server.stop()
