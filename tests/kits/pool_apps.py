"""Applications for the tests of the pool. They run in every kind of worker and report only over the wire."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading

import wsbroker
from wsbroker import HttpRequest, HttpResponse

log = logging.getLogger(__name__)


class Echo:
    """Echoes messages by a sync handler."""

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        wsbroker.send(socket_id, data)


class AsyncEcho:
    """Echoes messages by an async handler."""

    async def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        await asyncio.sleep(0)
        wsbroker.send(socket_id, data)


class Threads:
    """Calls the broker from a thread of its own: a question, then a hundred messages."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        thread = threading.Thread(target=self.work, args=(socket_id, data), daemon=data.startswith("daemon"))
        thread.start()
        if data.endswith("waited for"):
            thread.join()
            wsbroker.send(socket_id, "after")

    def work(self, socket_id: int, data: str) -> None:
        wsbroker.send(socket_id, repr((wsbroker.subscribe(socket_id, data), wsbroker.subscriber_count(data))))
        for n in range(100):
            wsbroker.send(socket_id, str(n))


class OpenAndHttp:
    """Answers opens and HTTP requests as their query says."""

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> object:
        assert request.headers["Host"] == "example.org"
        return {"yes": True, "no": False, "nothing": None, "teapot": HttpResponse(418, {"A": "b"}, "x"), "odd": 7}[
            request.query
        ]

    async def handle_http_request(self, request: HttpRequest) -> object:
        if request.query == "raise":
            raise LookupError("not for the client")
        return {"query": request.query}


class Slow:
    """Accepts a socket after 30 s."""

    async def handle_socket_open(self, request: HttpRequest, socket_id: int) -> None:
        await asyncio.sleep(30)


class FailsToStart(Echo):
    """Raises in a sync start handler."""

    def handle_worker_start(self, arg: str | None) -> None:
        raise ConnectionError("no database")


class WrongStart(Echo):
    """Has a start handler with an argument too many, which no worker can call."""

    def handle_worker_start(self, one: object, two: object) -> None: ...


class FailsToStartLater(Echo):
    """Raises in an async start handler."""

    async def handle_worker_start(self, arg: str | None) -> None:
        raise ConnectionError("no database")


class NeverStarts(Echo):
    """Waits in its start handler until the file named by `worker_arg` exists."""

    async def handle_worker_start(self, arg: str | None) -> None:
        assert arg is not None
        while not os.path.exists(arg):
            await asyncio.sleep(0.005)


class Counts:
    """Sends a message at its start and at its stop."""

    def handle_worker_start(self, arg: str | None) -> None:
        wsbroker.send(1, repr((arg, wsbroker.subscriber_count("a"))))

    async def handle_worker_stop(self) -> None:
        wsbroker.send(1, "last words")

    def handle_socket_message(self, data: str) -> None: ...


class Hangs:
    """Loops, or blocks in C code without interruption until the pipe named by `worker_arg` is opened for writing."""

    def handle_worker_start(self, arg: str | None) -> None:
        self.arg = arg

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        if data == "loop":
            while True:
                pass
        if data == "block":
            assert self.arg is not None
            try:
                os.open(self.arg, os.O_RDONLY)  # waits for a writer; the interruption comes when there is one
            finally:
                wsbroker.send(socket_id, "late")
        wsbroker.send(socket_id, data)


class Dies:
    """Ends its process in the way that the message names."""

    def handle_worker_start(self, arg: str | None) -> None:
        self.arg = arg

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        if data == "exit":
            os._exit(3)
        if data == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if data == "fault":
            import ctypes
            import faulthandler

            faulthandler.disable()
            ctypes.string_at(0)
        if data == "memory":
            self.use_up_memory()
        if data == "fork":
            if os.fork() == 0:
                assert self.arg is not None
                os.open(self.arg, os.O_RDONLY)
                os._exit(0)
            os._exit(4)
        wsbroker.send(socket_id, data)

    def use_up_memory(self) -> None:
        """Allocates memory up to a limit and keeps it, so that every further allocation fails."""
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
        self.hoard: list[object] = []
        size = 1 << 20
        while size > 16:
            try:
                while True:
                    self.hoard.append(bytes(size))
            except MemoryError:
                size //= 2


class Where:
    """Sends facts about the interpreter and process in which it runs."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        if data == "modules":
            wsbroker.send(socket_id, " ".join(sys.modules))
        elif data == "process":
            wsbroker.send(socket_id, str(os.getpid()))
        elif data == "descriptors":
            names = []
            for number in sorted(map(int, os.listdir("/proc/self/fd"))):
                with contextlib.suppress(FileNotFoundError):  # that of the list itself
                    names.append(os.readlink(f"/proc/self/fd/{number}"))
            wsbroker.send(socket_id, "\n".join(names))
        elif data == "main":
            wsbroker.send(socket_id, repr(sorted(vars(sys.modules["__main__"]))))
        else:
            wsbroker.send(socket_id, repr((sys.argv, sys.path, threading.current_thread().name)))


class Logs:
    """Logs the text of a message at the level that the message names."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        level, _, text = data.partition(" ")
        try:
            raise ValueError("in the log")
        except ValueError:
            log.log(int(level), "said %s", text, exc_info=level == "40", stack_info=level == "20")
        logging.getLogger("quiet").info("not wanted")
        wsbroker.send(socket_id, "logged")


class Drill:
    """Echoes; some messages make it hang or end its process. Publishes each close to a channel.

    Each handler first writes a line into a file, so that its start is known whatever happens to the worker.
    """

    def handle_worker_start(self, arg: str | None) -> None:
        assert arg is not None
        self.folder = arg
        self.log = os.open(f"{arg}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle_socket_open(self, request: HttpRequest, socket_id: int) -> None:
        if request.query == "watch":
            wsbroker.subscribe(socket_id, "closes")

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        self.note(f"message {socket_id} {data}")
        if data == "who":
            wsbroker.send(socket_id, f"{socket_id} {threading.current_thread().name} {os.getpid()}")
        elif data == "block":
            try:
                os.open(f"{self.folder}/pipe", os.O_RDONLY)  # waits for a writer; nothing interrupts it before
            finally:
                wsbroker.send_to_channel("closes", "late")
        elif data == "stubborn":
            try:
                self.wait_for_end()
            except BaseException:  # a handler is interrupted once
                self.wait_for_end()
            wsbroker.send_to_channel("closes", "late")
        elif data == "exit":
            os._exit(3)
        elif data == "fault":
            import ctypes

            ctypes.string_at(0)
        else:
            wsbroker.send(socket_id, data)

    def handle_socket_close(self, socket_id: int, token: bytes | None, code: int) -> None:
        worker = threading.current_thread().name
        self.note(f"close {socket_id} {code} {worker}")
        wsbroker.send_to_channel("closes", f"{socket_id} {code} {worker}")

    def note(self, text: str) -> None:
        """Writes a line into the log file of the drill."""
        os.write(self.log, f"{text}\n".encode())

    def wait_for_end(self) -> None:
        """Keeps the interpreter busy until the drill ends."""
        while not self.may_end():
            pass

    def may_end(self) -> bool:
        """Returns whether the drill has ended, so that hanging handlers may end."""
        return os.path.exists(f"{self.folder}/end")


class AsyncDrill(Drill):
    """The same as `Drill` with async handlers, one of which ignores its cancellation."""

    async def handle_socket_message(self, data: str, socket_id: int) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        if data != "swallow":
            super().handle_socket_message(data, socket_id)
            return
        self.note(f"message {socket_id} {data}")
        while not self.may_end():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)
        wsbroker.send_to_channel("closes", "late")


class DiesAgain(Echo):
    """Ends its process on a message, and at every later start once the file named by `worker_arg` exists."""

    def handle_worker_start(self, arg: str | None) -> None:
        assert arg is not None
        if os.path.exists(arg):
            os._exit(5)

    def handle_socket_message(self, data: str | bytes, socket_id: int) -> None:
        os._exit(5)
