"""The broker's end of a worker's wire, with which a test sends events and reads commands one by one."""

import socket
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from types import SimpleNamespace, TracebackType

from wsbroker.http.request import HttpRequest
from wsbroker.wire import commands, control, events
from wsbroker.wire.framing import BatchUnpacker, pack_batch
from wsbroker.worker.main import worker_main
from wsbroker.worker.report import LONG
from wsbroker.worker.wire_api import WireApi

Command = tuple[object, ...]
PATIENCE_S = 10.0
"""How long a test waits for what must come; reached only when it does not."""


def handlers(**functions: Callable[..., object]) -> object:
    """Returns an object with these handlers; ``message`` stands for ``handle_socket_message`` and so on."""
    full = {
        "start": "handle_worker_start",
        "stop": "handle_worker_stop",
        "open": "handle_socket_open",
        "message": "handle_socket_message",
        "close": "handle_socket_close",
        "http": "handle_http_request",
    }
    return SimpleNamespace(**{full[name]: function for name, function in functions.items()})


def request_fields(
    method: str = "GET", path: str = "/", body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> tuple[object, ...]:
    """Returns the values of an HTTP request as the wire carries them."""
    return HttpRequest(method, path, [("Host", "example.org"), *headers], body).fields()


class _Stream:
    """One end of a stream of batches."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(PATIENCE_S)
        self._unpacker = BatchUnpacker()
        self._read: deque[Command] = deque()

    def write(self, batch: list[tuple[object, ...]]) -> None:
        self.end.sendall(pack_batch(batch))

    def read(self) -> Command | None:
        """Returns the next tuple that the worker has written; None if the worker has closed the stream."""
        while not self._read:
            data = self.end.recv(1 << 16)
            if not data:
                return None
            for batch in self._unpacker.feed(data):
                self._read += batch
        return self._read.popleft()


class ScriptedBroker:
    """A worker in a thread, whose wire and control stream the test reads and writes as the broker would."""

    def __init__(self, spec: object, **options: object) -> None:
        our_wire, its_wire = socket.socketpair()
        our_control, its_control = socket.socketpair()
        self.wire = _Stream(our_wire)
        self.control = _Stream(our_control)
        self.error: BaseException | None = None
        self.seen: list[Command] = []
        """Every command that was read, in order."""
        self.slow: list[Command] = []
        """But for these: what it tells of its slowest calls,"""
        self.long = 0
        """and how often one took a good part of its time."""
        arguments = {"handler_timeout": PATIENCE_S, "name": "worker-0", **options}

        def run() -> None:
            try:
                worker_main(its_wire, its_control, [], spec, arguments)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=Context().run, args=(run,), name="scripted", daemon=True)
        self.thread.start()

    def __enter__(self) -> "ScriptedBroker":
        assert self.next()[0] == commands.STARTED
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if kind is None:
            assert self.error is None, self.error

    def end(self) -> None:
        """Closes the broker's ends and waits for the worker."""
        self.wire.end.close()
        self.control.end.close()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def tell(self, *batch: tuple[object, ...]) -> None:
        """Sends one batch of events to the worker."""
        self.wire.write(list(batch))

    def next(self) -> Command:
        """Returns the worker's next command; keeps reports on slow calls apart."""
        command = self.wire.read()
        while command is not None and (command[0] == commands.SLOWEST or command == (commands.COUNTED, LONG, 1)):
            if command[0] == commands.SLOWEST:
                self.slow.append(command[1:])
            else:
                self.long += 1
            command = self.wire.read()
        assert command is not None, "the worker has closed its wire"
        self.seen.append(command)
        return command

    def until(self, *kinds: int) -> Command:
        """Reads commands up to the first one of these kinds."""
        while True:
            command = self.next()
            if command[0] in kinds:
                return command

    def until_handled(self, amount: int) -> list[Command]:
        """Reads until `amount` messages are acknowledged; returns the other commands that were read meanwhile."""
        since: list[Command] = []
        while amount:
            command = self.next()
            if command[0] == commands.HANDLED:
                done = command[1]
                assert isinstance(done, list)
                amount -= len(done)
            else:
                since.append(command)
        assert amount == 0
        return since

    def answer(self, ask: Command, value: object) -> None:
        """Sends the answer to a question, the ASK command `ask`, to the worker."""
        assert ask[0] == commands.ASK
        self.tell((events.ANSWER, ask[1], value))

    def stop(self) -> list[Command]:
        """Has the worker stop; returns the commands that came before the worker had stopped."""
        self.tell((events.STOP,))
        before = len(self.seen)
        self.until(commands.STOPPED)
        return self.seen[before:-1]

    def next_control(self, *kinds: int) -> Command:
        """Returns the next message of one of these kinds on the control stream; drops others."""
        while True:
            message = self.control.read()
            assert message is not None, "the worker has closed its control stream"
            if message[0] in kinds:
                return message

    def probe(self, number: int) -> None:
        """Asks whether the control thread runs, and waits for its answer."""
        self.control.write([(control.PROBE, number)])
        assert self.next_control(control.ALIVE) == (control.ALIVE, number)


def message(socket_id: int, data: str | bytes, cost: int = 1) -> tuple[object, ...]:
    """Returns a MESSAGE event."""
    return (events.MESSAGE, socket_id, data, cost)


def closed(socket_id: int, token: bytes | None = None, seen: int = 0) -> tuple[object, ...]:
    """Returns a CLOSE event, with code 1000 and reason "bye"."""
    return (events.CLOSE, socket_id, token, seen, 1000, "bye")


def kept_state(api: object) -> list[str]:
    """Returns the names of the tables of a worker's API that are not empty."""
    assert isinstance(api, WireApi)
    tables: dict[str, object] = {
        "tokens": api.sockets.tokens,
        "own_token_numbers": api.sockets.own_token_numbers,
        "closing_sockets": api.sockets.closing_sockets,
        "event_queues": api.sockets.event_queues,
        "answers": api.io._answers,
        "event_backlog": api.io._event_backlog,
        "handled_messages": api.io.handled_messages,
    }
    return [name for name, table in tables.items() if table]
