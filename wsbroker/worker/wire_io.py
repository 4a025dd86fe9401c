"""A worker's end of the wire: packs and writes the collected commands, reads events, gives threads their answers.

The worker's own thread collects commands in a list and sends them as one batch when its runtime flushes, or when a
handler asks something. Other threads may write too: they send at once, behind everything that the own thread has
collected, so what a handler did before it started them stays before.

Any thread may wait for an answer while the own thread is idle, blocked in a handler, or waiting for an answer itself.
So reading has no owner: of the threads that wait for something from the wire one reads, hands out answers, keeps events
for the own thread, and wakes the others (a leader and its followers; there is no reader thread to switch to).

A finaliser or a signal handler may call the API between any two lines of this module, on a thread that holds one of
its locks, or that reads. So each lock knows its holder, and the wire its reader: a command made there is left to the
interrupted call to send, and a question, which could only dead-lock, is refused (by `wire_api`).

Nor may an exception between two lines cost more than the call that it ends: a handler that recurses runs out of stack
here, a signal handler may raise. So a call first makes sure of the stack that it needs (`ensure_stack`), commands are
packed before they are taken off their list, and bytes that were read are kept until all of them were parsed. Where
bytes may have left and their number is unknown, the wire is shut down, and with it this worker (`_fail_wire`).
"""

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from threading import Condition, RLock, get_ident
from typing import TYPE_CHECKING, Final, cast

from wsbroker.errors import CommandError
from wsbroker.wire import commands
from wsbroker.wire.events import ANSWER
from wsbroker.wire.framing import pack_batch, split_batches

if TYPE_CHECKING:
    from socket import socket

    from wsbroker.wire.commands import Command
    from wsbroker.wire.events import Event

READ_BYTES: Final = 256 * 1024
"""Bytes that one call of `recv` reads at most."""
STACK_DEPTH: Final = 20
"""Calls within calls that the deepest call of `wire_api` and of this module needs."""
_BROKER_GONE: Final = "the broker has gone away: this worker is ending and has nobody to ask"
_PENDING: Final = object()


class WireIo:
    """The worker's end of one wire; made on the worker's own thread.

    Args:
        wire: the socket; its reads and writes block.
    """

    __slots__ = (
        "_answers",
        "_condition",
        "_event_backlog",
        "_has_lock",
        "_has_nested_commands",
        "_lock",
        "_measured_size",
        "_parsed_batches",
        "_reader_thread_id",
        "_unparsed",
        "_wire",
        "collected_commands",
        "handled_messages",
        "has_write_lock",
        "is_abandoned",
        "is_ended",
        "on_abandoned",
        "thread_id",
        "wake_loop",
        "write_lock",
    )

    def __init__(self, wire: "socket") -> None:
        self._wire = wire
        self.thread_id = get_ident()
        """The worker's own thread; 0, which no thread has: the worker has ended, or this is a forked child."""
        self.collected_commands: Final[list[Command]] = []
        """Commands of the own thread that have not been sent yet."""
        self.handled_messages: Final[list[tuple[int, int]]] = []
        """``(socket_id, cost)`` of each message whose handler has ended and that was not acknowledged yet."""
        self.write_lock: Final = RLock()
        """Held by the thread that packs and writes a batch."""
        self.has_write_lock: Final = _make_owner_check(self.write_lock)
        """Returns whether the calling thread holds `write_lock`."""
        self._has_nested_commands = False
        """Whether a finaliser or signal handler has added a command for the writer that it interrupted to send."""
        self._lock = RLock()
        """Held for all attributes that follow, but not while a thread waits in `recv`."""
        self._has_lock = _make_owner_check(self._lock)
        self._condition = Condition(self._lock)
        self._unparsed: list[bytes] = []
        """Bytes that were read and not parsed into `_answers` or `_parsed_batches` yet, in pieces."""
        self._measured_size = (0, 0)
        """How many pieces of `_unparsed` have been measured, and their bytes. Replaced as a whole, with the lock."""
        self._parsed_batches: tuple[list[Event], ...] = ()
        """Batches of events that were read after those of the backlog. Replaced as a whole, with the lock."""
        self._event_backlog: deque[list[Event]] = deque()
        """Batches of events for the own thread, oldest first; only that thread uses them."""
        self._answers: dict[int, object] = {}
        """Answers by the id of their question; `_PENDING`: the answer has not come yet."""
        self._reader_thread_id = 0
        """The thread that waits in `recv` right now; 0: none."""
        self.is_ended = False
        """Whether the other end of the wire is gone, or the worker has ended."""
        self.is_abandoned = False
        """Whether the broker has given this worker up: another worker handles the events that this worker has not."""
        self.on_abandoned: Callable[[], None] | None = None
        """Called on any thread when no further handler may begin; set by the runtime."""
        self.wake_loop: Callable[[], None] | None = None
        """Called on any thread when events were read outside the loop; set in a worker with an event loop."""

    def is_in_use_by_caller(self) -> bool:
        """Returns whether the calling thread is inside this object already, so that waiting here would dead-lock it."""
        return self._reader_thread_id == get_ident() or self.has_write_lock() or self._has_lock()

    # Writing. ---------------------------------------------------------------------------------------------------

    def collect_nested_command(self, command: "Command") -> None:
        """Adds a command for the holder of the write lock to send; called by code that has interrupted that holder."""
        self.collected_commands.append(command)
        self._has_nested_commands = True

    def write_collected(self, extra_commands: "list[Command]") -> None:
        """Sends the commands that the own thread has collected, and `extra_commands` behind them."""
        if self.has_write_lock():
            self.collected_commands.extend(extra_commands)
            self._has_nested_commands = True
            return
        with self.write_lock:
            self.write_batch(extra_commands)
            while self._has_nested_commands:
                self._has_nested_commands = False
                self.write_batch([])

    def write_batch(self, extra_commands: "list[Command]") -> None:
        """Sends the collected commands and acknowledgements, and `extra_commands` behind them, as one batch.

        Called with the write lock: only its holder takes commands from the list, all other code adds at its end.
        """
        collected = self.collected_commands
        amount = len(collected)
        batch = collected[:amount]
        handled = self.handled_messages if get_ident() == self.thread_id else []
        handled_count = len(handled)
        if handled_count:
            batch.append((commands.HANDLED, handled[:handled_count]))
        batch += extra_commands
        if not batch:
            return
        try:
            data, refused = pack_batch(batch), None
        except ValueError as error:  # one of them is too long: the others are sent
            data, refused = _pack_separately(batch), error
        if self.is_ended:
            data = b""
        try:
            self._wire.sendall(data)
            del collected[:amount]
            del handled[:handled_count]
        except OSError:  # the broker's end is closed: the next read learns of that, and nothing more can be sent
            self.is_ended = True
            del collected[:amount]
            del handled[:handled_count]
        except BaseException:
            self._fail_wire()
            raise
        if refused is not None:
            raise refused

    def _fail_wire(self) -> None:
        """Shuts the wire down after a write that may have sent half a batch; the broker then replaces this worker."""
        self.is_abandoned = self.is_ended = True
        try:
            self._wire.shutdown(2)  # SHUT_RDWR: a thread that reads here learns of the end too
        except OSError:
            pass
        if self.on_abandoned is not None:
            self.on_abandoned()

    # Answers. ---------------------------------------------------------------------------------------------------

    def expect_answer(self, call_id: int) -> None:
        """Notes that a thread will wait for the answer to a question. Called before the question is sent."""
        self._answers[call_id] = _PENDING

    def wait_for_answer(self, call_id: int) -> object:
        """Waits for the answer to a question, and returns the answer.

        Raises:
            CommandError: the broker is gone.
        """
        with self._condition:
            while self._answers[call_id] is _PENDING:
                if self.is_ended:
                    raise CommandError(_BROKER_GONE)
                self._read_or_wait()
            return self._answers[call_id]

    def forget_answer(self, call_id: int) -> None:
        """Removes a question and its answer from the table; an answer that comes later is ignored."""
        self._answers.pop(call_id, None)

    def hand_over_reading(self) -> None:
        """Wakes the other waiting threads, so that one reads on; called when an exception has ended a thread's wait."""
        with self._condition:
            if self._reader_thread_id == get_ident():
                self._reader_thread_id = 0
            self._condition.notify_all()
        if self.wake_loop is not None:
            self.wake_loop()

    # Events, for the own thread only. ---------------------------------------------------------------------------

    def wait_for_batch(self) -> "list[Event] | None":
        """Waits for a batch of events, and returns the batch; None: there will be no more."""
        with self._condition:
            while True:
                batch = self.pop_batch()
                if batch is not None or self.is_ended:
                    return batch
                self._read_or_wait()

    def pop_batch(self) -> "list[Event] | None":
        """Returns a batch of events that was read already; None: there is none right now."""
        if self.is_abandoned:
            return None
        if not self._event_backlog and (self._parsed_batches or self._unparsed):
            with self._condition:
                self._parse_received()
                self._event_backlog += self._parsed_batches
                self._parsed_batches = ()
        return self._event_backlog.popleft() if self._event_backlog else None

    def prepend_events(self, events: "list[Event]") -> None:
        """Puts events that were not handled back in front of all others."""
        if events:
            self._event_backlog.appendleft(events)

    def read_available(self) -> None:
        """Reads the bytes that have come, without waiting. Called by the loop when the wire is readable."""
        with self._condition:
            if self._reader_thread_id or self.is_ended:
                return  # a thread that waits for an answer reads, and will wake the loop
            try:
                self._unparsed.append(_receive_available(self._wire))
            except BlockingIOError:
                return  # another thread has read the bytes already
            except OSError:
                self.is_ended = True
            self._parse_received()

    # Reading, with the lock. ------------------------------------------------------------------------------------

    def _read_or_wait(self) -> None:
        """Reads and parses bytes of the wire once; if another thread is reading already, waits for that instead.

        Bytes that were read and not parsed yet are parsed first. Called and left with the lock, which is free while
        this thread waits.
        """
        if self._reader_thread_id:
            self._condition.wait()
            return
        if not self._unparsed or not self._parse_received():
            lock = self._lock
            try:
                self._reader_thread_id = get_ident()
                lock.release()
                self._receive_blocking()
            finally:
                if not self._has_lock():
                    lock.acquire()
                self._reader_thread_id = 0
            self._parse_received()
        if self.wake_loop is not None and (self._parsed_batches or self.is_ended):
            self.wake_loop()

    def _receive_blocking(self) -> None:
        """Waits for bytes on the wire and appends them to `_unparsed`; b"" if the broker has closed its end.

        Sets `is_ended` if the wire is broken. Called without the lock. Bytes are read and kept in one call of C, so
        that no exception can come between the two.
        """
        try:
            self._unparsed.extend(map(self._wire.recv, (READ_BYTES,)))
        except OSError:
            self.is_ended = True

    def _parse_received(self) -> bool:
        """Sorts the bytes read so far into answers and batches of events; returns whether a batch was complete.

        Can be repeated after an exception at any line: answers are stored again, all other state changes in one step.
        """
        unparsed = self._unparsed
        if self._reader_thread_id:
            return False  # that thread is about to add to it, and parses it then
        if unparsed and not unparsed[-1]:
            self.is_ended = True
        count, size = self._measured_size
        if count < len(unparsed):
            size += sum(map(len, unparsed[count:]))
            self._measured_size = (len(unparsed), size)
        batches, rest = split_batches(unparsed, size)
        kept: list[list[Event]] = []
        answers = self._answers
        for batch in batches:
            if answers and any(event[0] == ANSWER for event in batch):
                for event in batch:
                    if event[0] == ANSWER and event[1] in answers:
                        answers[event[1]] = event[2]
                batch = [event for event in batch if event[0] != ANSWER]
            if batch:
                kept.append(batch)
        if rest is not unparsed:
            self._unparsed, self._measured_size, self._parsed_batches = rest, (0, 0), (*self._parsed_batches, *kept)
        self._condition.notify_all()
        return bool(batches)

    # The end. ---------------------------------------------------------------------------------------------------

    def mark_abandoned(self) -> None:
        """Marks this worker as given up: no further handler begins. Called on any thread.

        The broker is gone, or has handed this worker's events to another worker.
        """
        self.is_abandoned = self.is_ended = True
        with self._condition:
            self._condition.notify_all()
        if self.on_abandoned is not None:
            self.on_abandoned()
        if self.wake_loop is not None:
            self.wake_loop()

    def detach_in_child(self) -> None:
        """Stops all writing and reading in a process that was forked from the worker's. Takes no lock."""
        self.is_ended = True
        self.thread_id = 0

    def mark_ended(self) -> None:
        """Marks the worker as ended, and wakes the threads that wait for answers."""
        with self._condition:
            self.is_ended = True
            self.thread_id = 0
            self._condition.notify_all()


def ensure_stack(depth: int) -> None:
    """Raises a RecursionError now if the stack has no room for `depth` nested calls, before anything is half done.

    About 1 µs, once for what is sent or asked (75 µs for a question).

    Raises:
        RecursionError: the stack has no such room.
    """
    if depth:
        ensure_stack(depth - 1)
    else:
        sizes: list[int] = []
        sizes.extend(map(len, ("",)))


def _make_owner_check(lock: object) -> Callable[[], bool]:
    """Returns a function that tells whether the calling thread holds this RLock, by asking the lock itself.

    So a finaliser or signal handler learns that it has interrupted the lock's holder. A flag beside the lock could be
    wrong after an exception between two lines. `Condition` uses the same private method.
    """
    return cast("Callable[[], bool]", attrgetter("_is_owned")(lock))


def _pack_separately(batch: "list[Command]") -> bytes:
    """Packs each command as a batch of its own; returns these joined, without commands that cannot be packed.

    Called when a batch cannot be packed as a whole. The caller that made the command at fault gets the ValueError that
    `write_batch` raises.
    """
    packed: list[bytes] = []
    for command in batch:
        try:
            packed.append(pack_batch([command]))
        except ValueError:
            pass
    return b"".join(packed)


def _receive_available(wire: "socket") -> bytes:
    """Returns up to READ_BYTES bytes that have arrived on a blocking socket, b"" if the peer has closed; never waits.

    Raises:
        BlockingIOError: there are none.
    """
    import socket

    dont_wait = getattr(socket, "MSG_DONTWAIT", 0)
    if not dont_wait:  # Windows
        from select import select

        if not select([wire], [], [], 0)[0]:
            raise BlockingIOError
    return wire.recv(READ_BYTES, dont_wait)
