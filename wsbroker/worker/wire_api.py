"""The API in thread, interpreter and process workers: makes each call a command, collects commands, asks questions.

`wire_io` writes the commands and reads the answers. The worker's own thread collects commands until its runtime
flushes. Other threads may hold this object too (a handler's context travels into `asyncio.to_thread`): their commands
are sent at once, behind those that were collected.

`wire_io` has the rules for calls that interrupt other calls, and for exceptions between any two lines: they hold here
too. While a handler is inside a call that writes or waits, the handler cannot be interrupted (`HandlerTimer`).
"""

from collections.abc import Callable
from functools import partial
from itertools import count
from threading import get_ident
from typing import TYPE_CHECKING, Final, cast

from wsbroker.errors import CommandError
from wsbroker.wire import commands
from wsbroker.worker import api as worker_api
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.interruption import HandlerTimer
from wsbroker.worker.known_sockets import KnownSockets
from wsbroker.worker.wire_io import STACK_DEPTH, WireIo, ensure_stack

if TYPE_CHECKING:
    from socket import socket

    from wsbroker.wire.commands import Command

FLUSH_BYTES: Final = 64 * 1024
"""Bytes of commands that wait for the runtime's flush, roughly; beyond that the commands are sent at once."""
COMMAND_BYTES: Final = 32
"""Bytes that a command counts for beside its data."""
MAX_DATA: Final = 1 << 30
"""Longest message that is taken: a batch can carry 2 GiB, and a character may be two bytes or more."""
_NESTED_CALL: Final = (
    "this is a finaliser or a signal handler that interrupted a call of wsbroker: it cannot ask the broker"
)


class WireApi(BrokerApi):
    """The API of one worker that has a wire; made on the worker's own thread.

    Args:
        wire: the worker's end; its reads and writes block.
        timer: keeps the worker's handlers to their time.
    """

    __slots__ = (
        "_commands",
        "_free_bytes",
        "_handled_messages",
        "_question_ids",
        "_thread_id",
        "_timer",
        "_token_numbers",
        "io",
        "is_forked",
        "schedule_flush",
        "sockets",
    )

    def __init__(self, wire: "socket", timer: HandlerTimer) -> None:
        self.io: Final = WireIo(wire)
        """The worker's end of the wire."""
        self.sockets: Final = KnownSockets(self.io.write_lock)
        """The tokens of the worker's sockets, and which sockets have a handler running or are closing."""
        self._timer = timer
        self._thread_id = get_ident()
        """As `io.thread_id`."""
        self._commands: Final = self.io.collected_commands
        self._handled_messages: Final = self.io.handled_messages
        self._free_bytes = FLUSH_BYTES
        """How many bytes may still be collected before `_flush_or_schedule` is called."""
        self._question_ids = count(1)
        self._token_numbers = count(1)
        self.is_forked = False
        """Whether this process is a child that a handler of this worker has forked."""
        self.schedule_flush: Callable[[], None] | None = None
        """Makes sure that a flush follows, in a worker with an event loop; None: the runtime flushes by itself."""

    # One way. ---------------------------------------------------------------------------------------------------

    def send(self, socket_id: int, data: str | bytes) -> None:
        """Sends data to one socket."""
        if get_ident() != self._thread_id:
            self._send_now((commands.SEND, socket_id, data))
            return
        self._commands.append((commands.SEND, socket_id, data))
        self._free_bytes -= len(data) + COMMAND_BYTES
        if self._free_bytes < 0:
            self._flush_or_schedule(len(data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """Sends data to the subscribers of a channel but those in `exclude`."""
        if get_ident() != self._thread_id:
            self._send_now((commands.PUBLISH, channel, data, exclude))
            return
        self._commands.append((commands.PUBLISH, channel, data, exclude))
        self._free_bytes -= len(data) + COMMAND_BYTES
        if self._free_bytes < 0:
            self._flush_or_schedule(len(data))

    def send_command(self, command: "Command") -> None:
        """Sends a one-way command; called for every call of the API but `send` and `send_to_channel`.

        A token of a socket whose handler is running is cached too, so that the handler of its next message gets the new
        token. A socket that is closed while its handler is running has no further message handled.
        """
        kind = command[0]
        is_closing = False
        if kind == commands.SET_TOKEN:
            _, socket_id, token, _ = cast("tuple[int, int, bytes | None, int]", command)
            self._send_token(socket_id, token)
            return
        if kind == commands.CLOSE:
            is_closing = self.sockets.has_running_handler(cast(int, command[1]))
        # `append_command` in line: calls of it and of another method cost 75 of 350 ns (benchmarks/micro/test_api.py).
        if get_ident() != self._thread_id:
            self._send_now(command)
        else:
            self._commands.append(command)
            self._free_bytes -= COMMAND_BYTES
            if self._free_bytes < 0:
                self._flush_or_schedule(0)
        if is_closing:
            self.sockets.closing_sockets.add(cast(int, command[1]))

    def append_command(self, command: "Command", data_bytes: int = 0) -> None:
        """Collects a command with `data_bytes` bytes of data for the next flush; on the worker's own thread only."""
        self._commands.append(command)
        self._free_bytes -= data_bytes + COMMAND_BYTES
        if self._free_bytes < 0:
            self._flush_or_schedule(data_bytes)

    def acknowledge_message(self, socket_id: int, cost: int) -> None:
        """Collects the report that a message was handled, for the next flush; on the worker's own thread only."""
        self._handled_messages.append((socket_id, cost))

    def _flush_or_schedule(self, data_bytes: int) -> None:
        """Flushes the collected commands, or has the loop flush in its next turn if there is only one small command.

        Called for the first command of a turn of the loop, and when the collected commands pass `FLUSH_BYTES`.

        Args:
            data_bytes: size of the newest command's data.

        Raises:
            ValueError: the data is longer than `MAX_DATA`; the command was taken back.
        """
        if data_bytes > MAX_DATA:
            self._commands.pop()
            raise ValueError(f"a message of {data_bytes} is more than a worker can send at once ({MAX_DATA})")
        ensure_stack(STACK_DEPTH)
        if self.schedule_flush is not None and len(self._commands) == 1 and data_bytes < FLUSH_BYTES:
            self.schedule_flush()
            self._free_bytes = FLUSH_BYTES
        else:
            self.flush()

    def flush(self) -> None:
        """Sends the commands and acknowledgements that were collected; on the own thread only."""
        timer = self._timer
        armed_call = timer.armed_call
        try:
            if armed_call is not None:
                timer.suspend_interruption()
            self.io.write_collected([])
            self._free_bytes = FLUSH_BYTES if self.schedule_flush is None else 0
        finally:
            if armed_call is not None:
                timer.armed_call = armed_call
                if timer.announced_call is armed_call:
                    timer.resume_interruption(armed_call)

    def _send_now(self, command: "Command") -> None:
        """Sends a command at once from a thread not the worker's own; after the worker's end, through the default API.

        Raises:
            ValueError: its data is longer than `MAX_DATA`.
            CommandError: the worker has ended, and there is no other API.
        """
        if self.io.is_ended:
            _get_succeeding_api().send_command(command)
            return
        if len(command) > 2 and isinstance(command[2], str | bytes) and len(command[2]) > MAX_DATA:
            raise ValueError(f"a message of {len(command[2])} is more than a worker can send at once ({MAX_DATA})")
        ensure_stack(STACK_DEPTH)
        self.io.write_collected([command])

    def send_log_record(self, record: "Command") -> bool:
        """Sends a log record at once, on any thread, also from a finaliser; returns False if the broker is gone."""
        if self.io.is_ended:
            return False
        ensure_stack(STACK_DEPTH)
        timer = self._timer
        armed_call = timer.armed_call if get_ident() == self._thread_id else None
        try:
            if armed_call is not None:
                timer.suspend_interruption()
            self.io.write_collected([record])
        finally:
            if armed_call is not None:
                timer.armed_call = armed_call
                if timer.announced_call is armed_call:
                    timer.resume_interruption(armed_call)
        return not self.io.is_ended

    # Tokens. ----------------------------------------------------------------------------------------------------

    def _send_token(self, socket_id: int, token: bytes | None) -> None:
        """Sends a socket's new token to the broker, and caches the token if a handler of the socket is running.

        Called on any thread; on another thread than the worker's own after the worker's end, the default API sends the
        token.

        Raises:
            CommandError: the worker has ended, and there is no other API.
        """
        is_own = get_ident() == self._thread_id
        if self.io.has_write_lock():
            self.io.collect_nested_command((commands.SET_TOKEN, socket_id, token, 0))
            return
        if self.io.is_ended and not is_own:
            _get_succeeding_api().send_command((commands.SET_TOKEN, socket_id, token, 0))
            return
        ensure_stack(STACK_DEPTH)
        timer = self._timer
        armed_call = timer.armed_call if is_own else None
        try:
            if armed_call is not None:
                timer.suspend_interruption()
            with self.io.write_lock:  # so that numbers grow on the wire, and the cache has the last of them
                self._cache_and_send_token(socket_id, token, is_own)
        finally:
            if armed_call is not None:
                timer.armed_call = armed_call
                if timer.announced_call is armed_call:
                    timer.resume_interruption(armed_call)
        if is_own:
            self._free_bytes -= COMMAND_BYTES
            if self._free_bytes < 0:
                self._flush_or_schedule(0)

    def _cache_and_send_token(self, socket_id: int, token: bytes | None, is_own: bool) -> None:
        """Sends SET_TOKEN; while a handler of the socket runs, caches the token too. Called with the write lock.

        Args:
            socket_id: the socket.
            token: its new token; None: no token.
            is_own: whether this is the worker's own thread.
        """
        if not self.sockets.has_running_handler(socket_id):
            self._send_token_command((commands.SET_TOKEN, socket_id, token, 0), is_own)
            return
        number = next(self._token_numbers)
        command = (commands.SET_TOKEN, socket_id, token, number)
        self.sockets.cache_own_token(socket_id, token, number, partial(self._send_token_command, command, is_own))

    def _send_token_command(self, command: "Command", is_own: bool) -> None:
        """Collects a SET_TOKEN for the next flush, or writes the command at once. Called with the write lock.

        Args:
            command: the SET_TOKEN.
            is_own: whether this is the worker's own thread, which collects commands.
        """
        if is_own:
            self._commands.append(command)
        else:
            self.io.write_batch([command])

    # Questions. -------------------------------------------------------------------------------------------------

    def ask_core(self, question: int, *arguments: object) -> object:
        """Sends a question behind everything collected, waits for the core's answer and returns the answer.

        Raises:
            CommandError: the broker is gone, or the caller has interrupted another call.
        """
        is_own = get_ident() == self._thread_id
        io = self.io
        call_id = next(self._question_ids)
        if io.is_ended and not is_own:
            return _get_succeeding_api().ask_core(question, *arguments)
        if io.is_in_use_by_caller():
            raise CommandError(_NESTED_CALL)
        ensure_stack(STACK_DEPTH)
        timer = self._timer
        armed_call = timer.armed_call if is_own else None
        try:
            if armed_call is not None:
                timer.suspend_interruption()
            io.expect_answer(call_id)  # before it is sent: from here on a thread that reads looks for the answer
            io.write_collected([(commands.ASK, call_id, question, *arguments)])
            answer = io.wait_for_answer(call_id)
            if is_own:
                self._free_bytes = FLUSH_BYTES if self.schedule_flush is None else 0
            return answer
        except BaseException:
            io.hand_over_reading()
            raise
        finally:
            io.forget_answer(call_id)
            if armed_call is not None:
                timer.armed_call = armed_call
                if timer.announced_call is armed_call:
                    timer.resume_interruption(armed_call)

    # The end. ---------------------------------------------------------------------------------------------------

    def detach_in_child(self) -> None:
        """Cuts the API off from the broker in a process that was forked from the worker's.

        If the worker's own thread has forked, in a handler, the process ends where that handler ends.
        """
        if get_ident() == self._thread_id:
            self.is_forked = True
            self._timer.mark_forked()
        self.io.detach_in_child()
        self._thread_id = 0

    def mark_ended(self) -> None:
        """Marks the worker as ended: calls of threads that outlive it go to the default API, if there is one."""
        # In this order: a signal handler that calls in between must not find a worker that still takes calls.
        self.io.mark_ended()
        self._thread_id = 0


def _get_succeeding_api() -> BrokerApi:
    """Returns the API for a thread that has outlived its worker: the default API of this interpreter.

    Raises:
        CommandError: there is none, or it is a worker's.
    """
    api = worker_api.default_api
    if api is None or isinstance(api, WireApi):
        raise CommandError("this worker has ended: a thread that outlives it has no broker to talk to")
    return api
