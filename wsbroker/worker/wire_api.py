"""The worker's end of the wire: commands out, events in, answers to whoever asked.

The worker's own thread collects commands in a list and sends them as one batch when its runtime flushes, or when it
asks something. Other threads may hold this port too (a handler's context travels into `asyncio.to_thread`): they send
at once, behind everything that the own thread has collected, so what a handler did before it started them stays before.

Any thread may wait for an answer while the own thread is idle, blocked in a handler, or waiting for an answer itself.
So reading has no owner: of those that wait for something from the wire one reads, hands out answers, keeps events for
the own thread, and wakes the others (a leader and its followers; there is no reader thread to switch to).

A finaliser or a signal handler may call the API between any two lines of this module, on a thread that holds one of
its locks, or that reads. So each lock knows its holder, and the wire its reader: a command made there is left to the
interrupted call to send, and a question, which could only dead-lock, is refused.

Nor may an exception between two lines cost more than the call that it ends: a handler that recurses runs out of stack
here, a signal handler may raise. So a call first makes sure of the stack that it needs (`_ensure_stack`), what is sent is
packed before it is taken off its list, and what was read is kept until all of it was sorted. Where bytes may have left
and nobody knows how many, the wire is given up, and with it this worker (`_fail_wire`).
"""

from collections import deque
from collections.abc import Callable
from itertools import count
from operator import attrgetter
from threading import Condition, RLock, get_ident
from typing import TYPE_CHECKING, Final, cast

from wsbroker.errors import CommandError
from wsbroker.wire import commands
from wsbroker.wire.events import ANSWER
from wsbroker.wire.framing import pack_batch, split_batches
from wsbroker.worker import api as ports
from wsbroker.worker.api import BrokerApi
from wsbroker.worker.interruption import HandlerTimer

if TYPE_CHECKING:
    from socket import socket

    from wsbroker.wire.commands import Command
    from wsbroker.wire.events import Event

FLUSH_BYTES: Final = 64 * 1024
"""Commands that wait for the runtime's flush, roughly; past it they are sent at once."""
COMMAND_BYTES: Final = 32
"""What a command counts for beside its data."""
READ_BYTES: Final = 256 * 1024
STACK_DEPTH: Final = 20
"""Calls within calls that the deepest of these here needs."""
_BROKER_GONE: Final = "the broker has gone away: this worker is ending and has nobody to ask"
_NESTED_CALL: Final = (
    "this is a finaliser or a signal handler that interrupted a call of wsbroker: it cannot ask the broker"
)
MAX_DATA: Final = 1 << 30
"""Longest message that is taken: what a batch can carry is 2 GiB, and a character may be two bytes or more."""


class WireApi(BrokerApi):
    """The port of one worker; made on its thread.

    Args:
        wire: the worker's end; reads and writes block.
        watch: of the worker's handlers.
    """

    __slots__ = (
        "_answers",
        "_event_backlog",
        "_question_ids",
        "_condition",
        "_commands",
        "_handled_messages",
        "_has_lock",
        "_has_nested_commands",
        "_has_write_lock",
        "_lock",
        "_measured_size",
        "_reader_thread_id",
        "_free_bytes",
        "_thread_id",
        "_parsed_batches",
        "_token_numbers",
        "_unparsed",
        "_timer",
        "_wire",
        "_write_lock",
        "on_abandoned",
        "schedule_flush",
        "closing_sockets",
        "is_abandoned",
        "is_ended",
        "is_forked",
        "own_token_numbers",
        "event_queues",
        "running_socket_id",
        "tokens",
        "wake_loop",
    )

    def __init__(self, wire: "socket", watch: HandlerTimer) -> None:
        self._wire = wire
        self._timer = watch
        self._thread_id = get_ident()
        self._commands: list[Command] = []
        self._handled_messages: list[tuple[int, int]] = []
        self._free_bytes = FLUSH_BYTES
        self._write_lock = RLock()
        self._has_write_lock = _make_owner_check(self._write_lock)
        self._has_nested_commands = False
        """Whether a finaliser has left a command to the writer that it interrupted."""
        self._lock = RLock()
        self._has_lock = _make_owner_check(self._lock)
        self._condition = Condition(self._lock)
        self._unparsed: list[bytes] = []
        """What was read and does not stand in the next two yet."""
        self._measured_size = (0, 0)
        """How many pieces of it have been measured, and their bytes. Replaced as a whole, with the lock."""
        self._parsed_batches: tuple[list[Event], ...] = ()
        """Batches of events that were read after those of the backlog. Replaced as a whole, with the lock."""
        self._event_backlog: deque[list[Event]] = deque()
        self._answers: dict[int, object] = {}
        """By the number of the question; `_PENDING`: it has not come."""
        self._reader_thread_id = 0
        """The thread that reads from the wire right now; 0: none."""
        self._question_ids = count(1)
        self._token_numbers = count(1)
        self.is_ended = False
        """The other end is gone, or the worker has ended."""
        self.is_abandoned = False
        """Nobody is interested in this worker any more."""
        self.is_forked = False
        """This process is a child that a handler has forked."""
        self.on_abandoned: Callable[[], None] | None = None
        """Tells the runtime, from any thread, that no further handler is to begin."""
        self.schedule_flush: Callable[[], None] | None = None
        """Makes sure that a flush follows, in a worker with a loop; without one the runtime flushes by itself."""
        self.wake_loop: Callable[[], None] | None = None
        """Tells a worker with a loop, from any thread, that somebody else has read events."""
        self.running_socket_id = 0
        """The socket whose open or message handler is running right now, in this thread."""
        self.event_queues: dict[int, deque[Event] | None] = {}
        """The sockets that have an async handler running, and what waits for its end."""
        self.tokens: dict[int, bytes] = {}
        """The tokens of this worker's sockets, as far as they have one."""
        self.own_token_numbers: dict[int, int] = {}
        """Number of the last own SET_TOKEN of a socket that the core may not have seen yet."""
        self.closing_sockets: set[int] = set()
        """Sockets whose messages are not handled any more, and whose CLOSE has not come yet."""

    # One way. ---------------------------------------------------------------------------------------------------

    def send(self, socket_id: int, data: str | bytes) -> None:
        """Sends to one socket."""
        if get_ident() != self._thread_id:
            self._send_now((commands.SEND, socket_id, data))
            return
        self._commands.append((commands.SEND, socket_id, data))
        self._free_bytes -= len(data) + COMMAND_BYTES
        if self._free_bytes < 0:
            self._make_room(len(data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """Sends to the subscribers of a channel."""
        if get_ident() != self._thread_id:
            self._send_now((commands.PUBLISH, channel, data, exclude))
            return
        self._commands.append((commands.PUBLISH, channel, data, exclude))
        self._free_bytes -= len(data) + COMMAND_BYTES
        if self._free_bytes < 0:
            self._make_room(len(data))

    def subscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Subscribes, one way."""
        self._send_command((commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Unsubscribes, one way."""
        self._send_command((commands.UNSUBSCRIBE, socket_id, channel))

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes) -> None:
        """Subscribes the subscribers of one channel to another one too."""
        self._send_command((commands.COPY_SUBSCRIPTIONS, from_channel, to_channel))

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes a socket; of the one whose handler calls this, no further message is handled."""
        is_own = self.is_handling(socket_id)
        self._send_command((commands.CLOSE, socket_id, code, reason))
        if is_own:
            self.closing_sockets.add(socket_id)

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets a token. That of a socket whose handler is running is cached: its next message sees it at once."""
        is_own = get_ident() == self._thread_id
        if self._has_write_lock():
            self._commands.append((commands.SET_TOKEN, socket_id, token, 0))
            self._has_nested_commands = True
            return
        if self.is_ended and not is_own:
            _forward_to_default((commands.SET_TOKEN, socket_id, token, 0))
            return
        _ensure_stack(STACK_DEPTH)
        watch = self._timer
        armed = watch.armed_call if is_own else None
        try:
            if armed is not None:
                watch.suspend_interruption()
            with self._write_lock:  # so that numbers grow on the wire, and the cache has what is last there
                self._cache_and_send_token(socket_id, token, is_own)
        finally:
            if armed is not None:
                watch.armed_call = armed
                if watch.announced_call is armed:
                    watch.resume_interruption(armed)
        if is_own:
            self._free_bytes -= COMMAND_BYTES
            if self._free_bytes < 0:
                self._make_room(0)

    def _cache_and_send_token(self, socket_id: int, token: bytes | None, is_own: bool) -> None:
        """Caches the change, and numbers it, if the end of a handler of this socket is still to come."""
        if not self.is_handling(socket_id):
            self._send_token_command((commands.SET_TOKEN, socket_id, token, 0), is_own)
            return
        before, seen = self.tokens.get(socket_id), self.own_token_numbers.get(socket_id)
        try:
            number = next(self._token_numbers)
            self.own_token_numbers[socket_id] = number
            self._cache_token(socket_id, token)
            self._send_token_command((commands.SET_TOKEN, socket_id, token, number), is_own)
        except BaseException:
            self._cache_token(socket_id, before)
            if seen is None:
                self.own_token_numbers.pop(socket_id, None)
            else:
                self.own_token_numbers[socket_id] = seen
            raise

    def _send_token_command(self, command: "Command", is_own: bool) -> None:
        if is_own:
            self._commands.append(command)
        else:
            self._write_batch([command])

    def is_handling(self, socket_id: int) -> bool:
        """Whether an open or message handler of this socket is running, so that its end is still to come."""
        return (socket_id == self.running_socket_id != 0) or socket_id in self.event_queues

    def append_command(self, command: "Command", size: int = 0) -> None:
        """Adds a command of the runtime, with so much data; on the own thread only."""
        self._commands.append(command)
        self._free_bytes -= size + COMMAND_BYTES
        if self._free_bytes < 0:
            self._make_room(size)

    def acknowledge_message(self, socket_id: int, cost: int) -> None:
        """Gives the cost of a message back with the next flush; on the own thread only."""
        self._handled_messages.append((socket_id, cost))

    def _send_command(self, command: "Command") -> None:
        if get_ident() != self._thread_id:
            self._send_now(command)
        else:
            self.append_command(command)

    def _make_room(self, size: int) -> None:
        """There is no room: before the first command of a turn of the loop, and after too many."""
        if size > MAX_DATA:
            self._commands.pop()
            raise ValueError(f"a message of {size} is more than a worker can send at once ({MAX_DATA})")
        _ensure_stack(STACK_DEPTH)
        if self.schedule_flush is not None and len(self._commands) == 1 and size < FLUSH_BYTES:
            self.schedule_flush()
            self._free_bytes = FLUSH_BYTES
        else:
            self.flush()

    def flush(self) -> None:
        """Sends what was collected; on the own thread only."""
        watch = self._timer
        armed = watch.armed_call
        try:
            if armed is not None:
                watch.suspend_interruption()
            self._write_collected([])
            self._free_bytes = FLUSH_BYTES if self.schedule_flush is None else 0
        finally:
            if armed is not None:
                watch.armed_call = armed
                if watch.announced_call is armed:
                    watch.resume_interruption(armed)

    def _write_collected(self, last: "list[Command]") -> None:
        """Sends what the own thread has collected, and `last` behind it."""
        if self._has_write_lock():
            self._commands += last
            self._has_nested_commands = True
            return
        with self._write_lock:
            self._write_batch(last)
            while self._has_nested_commands:
                self._has_nested_commands = False
                self._write_batch([])

    def _write_batch(self, last: "list[Command]") -> None:
        """With the write lock: only its holder takes from the list, everybody else adds at its end."""
        collected = self._commands
        amount = len(collected)
        batch = collected[:amount]
        handled = self._handled_messages if get_ident() == self._thread_id else []
        done = len(handled)
        if done:
            batch.append((commands.HANDLED, handled[:done]))
        batch += last
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
            del handled[:done]
        except OSError:  # the broker's end is closed: whoever reads next learns it, and nobody is there to tell more to
            self.is_ended = True
            del collected[:amount]
            del handled[:done]
        except BaseException:
            self._fail_wire()
            raise
        if refused is not None:
            raise refused

    def _fail_wire(self) -> None:
        """Gives the wire up, in which there may be half a batch: the broker replaces this worker, as one that ends."""
        self.is_abandoned = self.is_ended = True
        try:
            self._wire.shutdown(2)  # SHUT_RDWR: whoever reads here learns it too
        except OSError:
            pass
        if self.on_abandoned is not None:
            self.on_abandoned()

    def _send_now(self, command: "Command") -> None:
        """Sends a command of a thread that is not the worker's own; after the worker's end it goes to the broker."""
        if self.is_ended:
            _forward_to_default(command)
            return
        if len(command) > 2 and isinstance(command[2], str | bytes) and len(command[2]) > MAX_DATA:
            raise ValueError(f"a message of {len(command[2])} is more than a worker can send at once ({MAX_DATA})")
        _ensure_stack(STACK_DEPTH)
        self._write_collected([command])

    def send_log_record(self, record: "Command") -> bool:
        """Sends a log record at once, on any thread, also from a finaliser; False: the broker is gone."""
        if self.is_ended:
            return False
        _ensure_stack(STACK_DEPTH)
        watch = self._timer
        armed = watch.armed_call if get_ident() == self._thread_id else None
        try:
            if armed is not None:
                watch.suspend_interruption()
            self._write_collected([record])
        finally:
            if armed is not None:
                watch.armed_call = armed
                if watch.announced_call is armed:
                    watch.resume_interruption(armed)
        return not self.is_ended

    # Questions. -------------------------------------------------------------------------------------------------

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        """Subscribes; True if that changed something."""
        return cast(bool, self._ask_core(commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        """Unsubscribes; True if that changed something."""
        return cast(bool, self._ask_core(commands.UNSUBSCRIBE, socket_id, channel))

    def subscriber_count(self, channel: bytes) -> int:
        """How many sockets are subscribed to a channel."""
        return cast(int, self._ask_core(commands.SUBSCRIBER_COUNT, channel))

    def subscribers(self, channel: bytes) -> list[int]:
        """Their ids in subscription order."""
        return cast("list[int]", self._ask_core(commands.SUBSCRIBERS, channel))

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Returns the channels of a socket, oldest subscription first."""
        return cast("list[bytes]", self._ask_core(commands.SUBSCRIPTIONS, socket_id))

    def channels(self) -> list[bytes]:
        """The channels that have a subscriber."""
        return cast("list[bytes]", self._ask_core(commands.CHANNELS))

    def is_open(self, socket_id: int) -> bool:
        """Whether a socket is in the tables."""
        return cast(bool, self._ask_core(commands.IS_OPEN, socket_id))

    def queued_bytes(self, socket_id: int) -> int:
        """Bytes that wait to be sent to a socket."""
        return cast(int, self._ask_core(commands.QUEUED_BYTES, socket_id))

    def _ask_core(self, question: int, *arguments: object) -> object:
        me = get_ident()
        is_own = me == self._thread_id
        call_id = next(self._question_ids)
        ask = (commands.ASK, call_id, question, *arguments)
        if self.is_ended and not is_own:
            return _forward_to_default(ask)
        if self._reader_thread_id == me or self._has_write_lock() or self._has_lock():
            raise CommandError(_NESTED_CALL)
        _ensure_stack(STACK_DEPTH)
        watch = self._timer
        armed = watch.armed_call if is_own else None
        try:
            if armed is not None:
                watch.suspend_interruption()
            self._answers[call_id] = _PENDING  # before it is sent: from here on whoever reads looks for it
            self._write_collected([ask])
            answer = self._wait_for_answer(call_id)
            if is_own:
                self._free_bytes = FLUSH_BYTES if self.schedule_flush is None else 0
            return answer
        except BaseException:
            self._hand_over_reading()
            raise
        finally:
            self._answers.pop(call_id, None)
            if armed is not None:
                watch.armed_call = armed
                if watch.announced_call is armed:
                    watch.resume_interruption(armed)

    def _wait_for_answer(self, call_id: int) -> object:
        with self._condition:
            while self._answers[call_id] is _PENDING:
                if self.is_ended:
                    raise CommandError(_BROKER_GONE)
                self._read_or_wait()
            return self._answers[call_id]

    def _hand_over_reading(self) -> None:
        """A question was given up, perhaps by whom the others wait for: another one reads on."""
        with self._condition:
            if self._reader_thread_id == get_ident():
                self._reader_thread_id = 0
            self._condition.notify_all()
        if self.wake_loop is not None:
            self.wake_loop()

    # Events. ----------------------------------------------------------------------------------------------------

    def wait_for_batch(self) -> "list[Event] | None":
        """Waits for events; None: there will be no more. On the own thread only."""
        with self._condition:
            while True:
                batch = self.pop_batch()
                if batch is not None or self.is_ended:
                    return batch
                self._read_or_wait()

    def pop_batch(self) -> "list[Event] | None":
        """Returns events that were read already; None: there are none right now. On the own thread only."""
        if self.is_abandoned:
            return None
        if not self._event_backlog and (self._parsed_batches or self._unparsed):
            with self._condition:
                self._parse_received()
                self._event_backlog += self._parsed_batches
                self._parsed_batches = ()
        return self._event_backlog.popleft() if self._event_backlog else None

    def prepend_events(self, events: "list[Event]") -> None:
        """Returns events that were not handled to the front; on the own thread only."""
        if events:
            self._event_backlog.appendleft(events)

    def read_available(self) -> None:
        """Reads what is there without waiting; on the own thread only."""
        with self._condition:
            if self._reader_thread_id or self.is_ended:
                return  # a thread that waits for an answer reads, and will wake the loop
            try:
                self._unparsed.append(_receive_available(self._wire))
            except BlockingIOError:
                return  # somebody has read it already
            except OSError:
                self.is_ended = True
            self._parse_received()

    def _read_or_wait(self) -> None:
        """Reads once, or waits for whoever reads already. Called and left with the lock, which is free meanwhile."""
        if self._reader_thread_id:
            self._condition.wait()
            return
        if not self._unparsed or not self._parse_received():
            lock = self._lock
            try:
                self._reader_thread_id = get_ident()
                lock.release()
                self._read_wire()
            finally:
                if not self._has_lock():
                    lock.acquire()
                self._reader_thread_id = 0
            self._parse_received()
        if self.wake_loop is not None and (self._parsed_batches or self.is_ended):
            self.wake_loop()

    def _read_wire(self) -> None:
        """Waits for bytes. They are read and kept in one call of C, so that no exception can come between the two."""
        try:
            self._unparsed.extend(map(self._wire.recv, (READ_BYTES,)))
        except OSError:
            self.is_ended = True

    def _parse_received(self) -> bool:
        """Sorts what was read; with the lock. Returns whether that was anything.

        It begins anew what was interrupted: answers are put down again, and the rest changes in one step.
        """
        unsorted = self._unparsed
        if self._reader_thread_id:
            return False  # that thread is about to add to it, and sorts it then
        if unsorted and not unsorted[-1]:
            self.is_ended = True
        count, size = self._measured_size
        if count < len(unsorted):
            size += sum(map(len, unsorted[count:]))
            self._measured_size = (len(unsorted), size)
        batches, rest = split_batches(unsorted, size)
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
        if rest is not unsorted:
            self._unparsed, self._measured_size, self._parsed_batches = rest, (0, 0), (*self._parsed_batches, *kept)
        self._condition.notify_all()
        return bool(batches)

    # The sockets of this worker. --------------------------------------------------------------------------------

    def apply_token_event(self, socket_id: int, token: bytes | None, seen: int) -> None:
        """The core says what a token is: an own, newer change that it had not seen yet stays."""
        if self.own_token_numbers.get(socket_id, 0) <= seen:
            self.own_token_numbers.pop(socket_id, None)
            self._cache_token(socket_id, token)

    def drop_socket_state(self, socket_id: int) -> None:
        """Drops all that is kept of a socket that no handler runs for any more."""
        self.closing_sockets.discard(socket_id)
        with self._write_lock:  # a thread that its last handler left behind may be caching its token
            self.tokens.pop(socket_id, None)
            self.own_token_numbers.pop(socket_id, None)

    def _cache_token(self, socket_id: int, token: bytes | None) -> None:
        if token is None:
            self.tokens.pop(socket_id, None)
        else:
            self.tokens[socket_id] = token

    def mark_abandoned(self) -> None:
        """The broker is gone, or has given this worker up: another one handles what is left. From any thread."""
        self.is_abandoned = self.is_ended = True
        with self._condition:
            self._condition.notify_all()
        if self.on_abandoned is not None:
            self.on_abandoned()
        if self.wake_loop is not None:
            self.wake_loop()

    def detach_in_child(self) -> None:
        """In a process that was forked from the worker's: no call gets to the broker.

        If the worker's own thread was it, with a handler, the process ends where that handler ends.
        """
        if get_ident() == self._thread_id:
            self.is_forked = True
            self._timer.mark_forked()
        self.is_ended = True
        self._thread_id = 0

    def mark_ended(self) -> None:
        """The worker has ended: threads that it leaves behind are sent to the broker, where there is one."""
        with self._condition:
            self.is_ended = True
            self._thread_id = 0
            self._condition.notify_all()


_PENDING: Final = object()


def _make_owner_check(lock: object) -> Callable[[], bool]:
    """Whether the caller holds it, whatever has become of the code that took it. `Condition` relies on it too."""
    return cast("Callable[[], bool]", attrgetter("_is_owned")(lock))


def _ensure_stack(levels: int) -> None:
    """Makes sure that there is this much room on the stack: who runs out of it does so here, with nothing half done.

    About 1 µs, once for what is sent or asked (75 µs for a question).

    Raises:
        RecursionError: there is not.
    """
    if levels:
        _ensure_stack(levels - 1)
    else:
        sizes: list[int] = []
        sizes.extend(map(len, ("",)))


def _pack_separately(batch: "list[Command]") -> bytes:
    """A batch for each command that the wire carries."""
    packed: list[bytes] = []
    for command in batch:
        try:
            packed.append(pack_batch([command]))
        except ValueError:
            pass  # whoever has called with it is told
    return b"".join(packed)


def _receive_available(wire: "socket") -> bytes:
    """Reads from a blocking socket what is there.

    Raises:
        BlockingIOError: there is nothing.
    """
    import socket

    dont_wait = getattr(socket, "MSG_DONTWAIT", 0)
    if not dont_wait:  # Windows
        from select import select

        if not select([wire], [], [], 0)[0]:
            raise BlockingIOError
    return wire.recv(READ_BYTES, dont_wait)


def _forward_to_default(command: "Command") -> object:
    """Carries a command or a question of a thread that has outlived its worker to the default port."""
    port = ports.default_api
    if port is None or isinstance(port, WireApi):
        raise CommandError("this worker has ended: a thread that outlives it has no broker to talk to")
    kind, *arguments = command
    is_question = kind == commands.ASK
    if is_question:
        _, kind, *arguments = arguments
    if kind == commands.SET_TOKEN:
        arguments.pop()
    name = API_METHODS[cast(int, kind)]
    if not is_question and name in ("subscribe", "unsubscribe"):
        name += "_nowait"
    return cast("Callable[..., object]", getattr(port, name))(*arguments)


API_METHODS: Final = {
    commands.SEND: "send",
    commands.PUBLISH: "send_to_channel",
    commands.SUBSCRIBE: "subscribe",
    commands.UNSUBSCRIBE: "unsubscribe",
    commands.SET_TOKEN: "set_token",
    commands.COPY_SUBSCRIPTIONS: "copy_subscriptions",
    commands.CLOSE: "close",
    commands.SUBSCRIBER_COUNT: "subscriber_count",
    commands.SUBSCRIBERS: "subscribers",
    commands.SUBSCRIPTIONS: "subscriptions",
    commands.CHANNELS: "channels",
    commands.IS_OPEN: "is_open",
    commands.QUEUED_BYTES: "queued_bytes",
}
"""The port's method for each command and question."""
