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
here, a signal handler may raise. So a call first makes sure of the stack that it needs (`_reach`), what is sent is
packed before it is taken off its list, and what was read is kept until all of it was sorted. Where bytes may have left
and nobody knows how many, the wire is given up, and with it this worker (`_break`).
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
STACK: Final = 20
"""Calls within calls that the deepest of these here needs."""
_GONE: Final = "the broker has gone away: this worker is ending and has nobody to ask"
_NESTED: Final = "this is a finaliser or a signal handler that interrupted a call of wsbroker: it cannot ask the broker"
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
        "_backlog",
        "_call_ids",
        "_changed",
        "_commands",
        "_handled",
        "_has_lock",
        "_has_more",
        "_is_writing",
        "_lock",
        "_measured",
        "_reader",
        "_room",
        "_thread_id",
        "_sorted",
        "_token_numbers",
        "_unsorted",
        "_watch",
        "_wire",
        "_write_lock",
        "abandoned",
        "arm",
        "closing",
        "is_abandoned",
        "is_ended",
        "is_forked",
        "own_tokens",
        "queues",
        "running",
        "tokens",
        "wake",
    )

    def __init__(self, wire: "socket", watch: HandlerTimer) -> None:
        self._wire = wire
        self._watch = watch
        self._thread_id = get_ident()
        self._commands: list[Command] = []
        self._handled: list[tuple[int, int]] = []
        self._room = FLUSH_BYTES
        self._write_lock = RLock()
        self._is_writing = _ownership(self._write_lock)
        self._has_more = False
        """Whether a finaliser has left a command to the writer that it interrupted."""
        self._lock = RLock()
        self._has_lock = _ownership(self._lock)
        self._changed = Condition(self._lock)
        self._unsorted: list[bytes] = []
        """What was read and does not stand in the next two yet."""
        self._measured = (0, 0)
        """How many pieces of it have been measured, and their bytes. Replaced as a whole, with the lock."""
        self._sorted: tuple[list[Event], ...] = ()
        """Batches of events that were read after those of the backlog. Replaced as a whole, with the lock."""
        self._backlog: deque[list[Event]] = deque()
        self._answers: dict[int, object] = {}
        """By the number of the question; `_PENDING`: it has not come."""
        self._reader = 0
        """The thread that reads from the wire right now; 0: none."""
        self._call_ids = count(1)
        self._token_numbers = count(1)
        self.is_ended = False
        """The other end is gone, or the worker has ended."""
        self.is_abandoned = False
        """Nobody is interested in this worker any more."""
        self.is_forked = False
        """This process is a child that a handler has forked."""
        self.abandoned: Callable[[], None] | None = None
        """Tells the runtime, from any thread, that no further handler is to begin."""
        self.arm: Callable[[], None] | None = None
        """Makes sure that a flush follows, in a worker with a loop; without one the runtime flushes by itself."""
        self.wake: Callable[[], None] | None = None
        """Tells a worker with a loop, from any thread, that somebody else has read events."""
        self.running = 0
        """The socket whose open or message handler is running right now, in this thread."""
        self.queues: dict[int, deque[Event] | None] = {}
        """The sockets that have an async handler running, and what waits for its end."""
        self.tokens: dict[int, bytes] = {}
        """The tokens of this worker's sockets, as far as they have one."""
        self.own_tokens: dict[int, int] = {}
        """Number of the last own SET_TOKEN of a socket that the core may not have seen yet."""
        self.closing: set[int] = set()
        """Sockets whose messages are not handled any more, and whose CLOSE has not come yet."""

    # One way. ---------------------------------------------------------------------------------------------------

    def send(self, socket_id: int, data: str | bytes) -> None:
        """Sends to one socket."""
        if get_ident() != self._thread_id:
            self._send_now((commands.SEND, socket_id, data))
            return
        self._commands.append((commands.SEND, socket_id, data))
        self._room -= len(data) + COMMAND_BYTES
        if self._room < 0:
            self._full(len(data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """Sends to the subscribers of a channel."""
        if get_ident() != self._thread_id:
            self._send_now((commands.PUBLISH, channel, data, exclude))
            return
        self._commands.append((commands.PUBLISH, channel, data, exclude))
        self._room -= len(data) + COMMAND_BYTES
        if self._room < 0:
            self._full(len(data))

    def subscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Subscribes, one way."""
        self._tell((commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """Unsubscribes, one way."""
        self._tell((commands.UNSUBSCRIBE, socket_id, channel))

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes) -> None:
        """Subscribes the subscribers of one channel to another one too."""
        self._tell((commands.COPY_SUBSCRIPTIONS, from_channel, to_channel))

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes a socket; of the one whose handler calls this, no further message is handled."""
        is_own = self.is_handling(socket_id)
        self._tell((commands.CLOSE, socket_id, code, reason))
        if is_own:
            self.closing.add(socket_id)

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets a token. That of a socket whose handler is running is cached: its next message sees it at once."""
        is_own = get_ident() == self._thread_id
        if self._is_writing():
            self._commands.append((commands.SET_TOKEN, socket_id, token, 0))
            self._has_more = True
            return
        if self.is_ended and not is_own:
            _forward((commands.SET_TOKEN, socket_id, token, 0))
            return
        _reach(STACK)
        watch = self._watch
        armed = watch.armed if is_own else None
        try:
            if armed is not None:
                watch.suspend_interruption()
            with self._write_lock:  # so that numbers grow on the wire, and the cache has what is last there
                self._set_token(socket_id, token, is_own)
        finally:
            if armed is not None:
                watch.armed = armed
                if watch.interrupting is armed:
                    watch.resume_interruption(armed)
        if is_own:
            self._room -= COMMAND_BYTES
            if self._room < 0:
                self._full(0)

    def _set_token(self, socket_id: int, token: bytes | None, is_own: bool) -> None:
        """Caches the change, and numbers it, if the end of a handler of this socket is still to come."""
        if not self.is_handling(socket_id):
            self._send_token((commands.SET_TOKEN, socket_id, token, 0), is_own)
            return
        before, seen = self.tokens.get(socket_id), self.own_tokens.get(socket_id)
        try:
            number = next(self._token_numbers)
            self.own_tokens[socket_id] = number
            self._cache(socket_id, token)
            self._send_token((commands.SET_TOKEN, socket_id, token, number), is_own)
        except BaseException:
            self._cache(socket_id, before)
            if seen is None:
                self.own_tokens.pop(socket_id, None)
            else:
                self.own_tokens[socket_id] = seen
            raise

    def _send_token(self, command: "Command", is_own: bool) -> None:
        if is_own:
            self._commands.append(command)
        else:
            self._write([command])

    def is_handling(self, socket_id: int) -> bool:
        """Whether an open or message handler of this socket is running, so that its end is still to come."""
        return (socket_id == self.running != 0) or socket_id in self.queues

    def tell(self, command: "Command", size: int = 0) -> None:
        """Adds a command of the runtime, with so much data; on the own thread only."""
        self._commands.append(command)
        self._room -= size + COMMAND_BYTES
        if self._room < 0:
            self._full(size)

    def handled(self, socket_id: int, cost: int) -> None:
        """Gives the cost of a message back with the next flush; on the own thread only."""
        self._handled.append((socket_id, cost))

    def _tell(self, command: "Command") -> None:
        if get_ident() != self._thread_id:
            self._send_now(command)
        else:
            self.tell(command)

    def _full(self, size: int) -> None:
        """There is no room: before the first command of a turn of the loop, and after too many."""
        if size > MAX_DATA:
            self._commands.pop()
            raise ValueError(f"a message of {size} is more than a worker can send at once ({MAX_DATA})")
        _reach(STACK)
        if self.arm is not None and len(self._commands) == 1 and size < FLUSH_BYTES:
            self.arm()
            self._room = FLUSH_BYTES
        else:
            self.flush()

    def flush(self) -> None:
        """Sends what was collected; on the own thread only."""
        watch = self._watch
        armed = watch.armed
        try:
            if armed is not None:
                watch.suspend_interruption()
            self._write_out([])
            self._room = FLUSH_BYTES if self.arm is None else 0
        finally:
            if armed is not None:
                watch.armed = armed
                if watch.interrupting is armed:
                    watch.resume_interruption(armed)

    def _write_out(self, last: "list[Command]") -> None:
        """Sends what the own thread has collected, and `last` behind it."""
        if self._is_writing():
            self._commands += last
            self._has_more = True
            return
        with self._write_lock:
            self._write(last)
            while self._has_more:
                self._has_more = False
                self._write([])

    def _write(self, last: "list[Command]") -> None:
        """With the write lock: only its holder takes from the list, everybody else adds at its end."""
        collected = self._commands
        amount = len(collected)
        batch = collected[:amount]
        handled = self._handled if get_ident() == self._thread_id else []
        done = len(handled)
        if done:
            batch.append((commands.HANDLED, handled[:done]))
        batch += last
        if not batch:
            return
        try:
            data, refused = pack_batch(batch), None
        except ValueError as error:  # one of them is too long: the others are sent
            data, refused = _packed_singly(batch), error
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
            self._break()
            raise
        if refused is not None:
            raise refused

    def _break(self) -> None:
        """Gives the wire up, in which there may be half a batch: the broker replaces this worker, as one that ends."""
        self.is_abandoned = self.is_ended = True
        try:
            self._wire.shutdown(2)  # SHUT_RDWR: whoever reads here learns it too
        except OSError:
            pass
        if self.abandoned is not None:
            self.abandoned()

    def _send_now(self, command: "Command") -> None:
        """Sends a command of a thread that is not the worker's own; after the worker's end it goes to the broker."""
        if self.is_ended:
            _forward(command)
            return
        if len(command) > 2 and isinstance(command[2], str | bytes) and len(command[2]) > MAX_DATA:
            raise ValueError(f"a message of {len(command[2])} is more than a worker can send at once ({MAX_DATA})")
        _reach(STACK)
        self._write_out([command])

    def log(self, record: "Command") -> bool:
        """Sends a log record at once, on any thread, also from a finaliser; False: the broker is gone."""
        if self.is_ended:
            return False
        _reach(STACK)
        watch = self._watch
        armed = watch.armed if get_ident() == self._thread_id else None
        try:
            if armed is not None:
                watch.suspend_interruption()
            self._write_out([record])
        finally:
            if armed is not None:
                watch.armed = armed
                if watch.interrupting is armed:
                    watch.resume_interruption(armed)
        return not self.is_ended

    # Questions. -------------------------------------------------------------------------------------------------

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        """Subscribes; True if that changed something."""
        return cast(bool, self._ask(commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        """Unsubscribes; True if that changed something."""
        return cast(bool, self._ask(commands.UNSUBSCRIBE, socket_id, channel))

    def subscriber_count(self, channel: bytes) -> int:
        """How many sockets are subscribed to a channel."""
        return cast(int, self._ask(commands.SUBSCRIBER_COUNT, channel))

    def subscribers(self, channel: bytes) -> list[int]:
        """Their ids in subscription order."""
        return cast("list[int]", self._ask(commands.SUBSCRIBERS, channel))

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Returns the channels of a socket, oldest subscription first."""
        return cast("list[bytes]", self._ask(commands.SUBSCRIPTIONS, socket_id))

    def channels(self) -> list[bytes]:
        """The channels that have a subscriber."""
        return cast("list[bytes]", self._ask(commands.CHANNELS))

    def is_open(self, socket_id: int) -> bool:
        """Whether a socket is in the tables."""
        return cast(bool, self._ask(commands.IS_OPEN, socket_id))

    def queued_bytes(self, socket_id: int) -> int:
        """Bytes that wait to be sent to a socket."""
        return cast(int, self._ask(commands.QUEUED_BYTES, socket_id))

    def _ask(self, question: int, *arguments: object) -> object:
        me = get_ident()
        is_own = me == self._thread_id
        call_id = next(self._call_ids)
        ask = (commands.ASK, call_id, question, *arguments)
        if self.is_ended and not is_own:
            return _forward(ask)
        if self._reader == me or self._is_writing() or self._has_lock():
            raise CommandError(_NESTED)
        _reach(STACK)
        watch = self._watch
        armed = watch.armed if is_own else None
        try:
            if armed is not None:
                watch.suspend_interruption()
            self._answers[call_id] = _PENDING  # before it is sent: from here on whoever reads looks for it
            self._write_out([ask])
            answer = self._wait_answer(call_id)
            if is_own:
                self._room = FLUSH_BYTES if self.arm is None else 0
            return answer
        except BaseException:
            self._leave()
            raise
        finally:
            self._answers.pop(call_id, None)
            if armed is not None:
                watch.armed = armed
                if watch.interrupting is armed:
                    watch.resume_interruption(armed)

    def _wait_answer(self, call_id: int) -> object:
        with self._changed:
            while self._answers[call_id] is _PENDING:
                if self.is_ended:
                    raise CommandError(_GONE)
                self._advance()
            return self._answers[call_id]

    def _leave(self) -> None:
        """A question was given up, perhaps by whom the others wait for: another one reads on."""
        with self._changed:
            if self._reader == get_ident():
                self._reader = 0
            self._changed.notify_all()
        if self.wake is not None:
            self.wake()

    # Events. ----------------------------------------------------------------------------------------------------

    def next_batch(self) -> "list[Event] | None":
        """Waits for events; None: there will be no more. On the own thread only."""
        with self._changed:
            while True:
                batch = self.take_batch()
                if batch is not None or self.is_ended:
                    return batch
                self._advance()

    def take_batch(self) -> "list[Event] | None":
        """Returns events that were read already; None: there are none right now. On the own thread only."""
        if self.is_abandoned:
            return None
        if not self._backlog and (self._sorted or self._unsorted):
            with self._changed:
                self._sort()
                self._backlog += self._sorted
                self._sorted = ()
        return self._backlog.popleft() if self._backlog else None

    def put_back(self, events: "list[Event]") -> None:
        """Returns events that were not handled to the front; on the own thread only."""
        if events:
            self._backlog.appendleft(events)

    def read_ready(self) -> None:
        """Reads what is there without waiting; on the own thread only."""
        with self._changed:
            if self._reader or self.is_ended:
                return  # a thread that waits for an answer reads, and will wake the loop
            try:
                self._unsorted.append(_recv_ready(self._wire))
            except BlockingIOError:
                return  # somebody has read it already
            except OSError:
                self.is_ended = True
            self._sort()

    def _advance(self) -> None:
        """Reads once, or waits for whoever reads already. Called and left with the lock, which is free meanwhile."""
        if self._reader:
            self._changed.wait()
            return
        if not self._unsorted or not self._sort():
            lock = self._lock
            try:
                self._reader = get_ident()
                lock.release()
                self._read()
            finally:
                if not self._has_lock():
                    lock.acquire()
                self._reader = 0
            self._sort()
        if self.wake is not None and (self._sorted or self.is_ended):
            self.wake()

    def _read(self) -> None:
        """Waits for bytes. They are read and kept in one call of C, so that no exception can come between the two."""
        try:
            self._unsorted.extend(map(self._wire.recv, (READ_BYTES,)))
        except OSError:
            self.is_ended = True

    def _sort(self) -> bool:
        """Sorts what was read; with the lock. Returns whether that was anything.

        It begins anew what was interrupted: answers are put down again, and the rest changes in one step.
        """
        unsorted = self._unsorted
        if self._reader:
            return False  # that thread is about to add to it, and sorts it then
        if unsorted and not unsorted[-1]:
            self.is_ended = True
        count, size = self._measured
        if count < len(unsorted):
            size += sum(map(len, unsorted[count:]))
            self._measured = (len(unsorted), size)
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
            self._unsorted, self._measured, self._sorted = rest, (0, 0), (*self._sorted, *kept)
        self._changed.notify_all()
        return bool(batches)

    # The sockets of this worker. --------------------------------------------------------------------------------

    def token_event(self, socket_id: int, token: bytes | None, seen: int) -> None:
        """The core says what a token is: an own, newer change that it had not seen yet stays."""
        if self.own_tokens.get(socket_id, 0) <= seen:
            self.own_tokens.pop(socket_id, None)
            self._cache(socket_id, token)

    def drop_socket_state(self, socket_id: int) -> None:
        """Drops all that is kept of a socket that no handler runs for any more."""
        self.closing.discard(socket_id)
        with self._write_lock:  # a thread that its last handler left behind may be caching its token
            self.tokens.pop(socket_id, None)
            self.own_tokens.pop(socket_id, None)

    def _cache(self, socket_id: int, token: bytes | None) -> None:
        if token is None:
            self.tokens.pop(socket_id, None)
        else:
            self.tokens[socket_id] = token

    def abandon(self) -> None:
        """The broker is gone, or has given this worker up: another one handles what is left. From any thread."""
        self.is_abandoned = self.is_ended = True
        with self._changed:
            self._changed.notify_all()
        if self.abandoned is not None:
            self.abandoned()
        if self.wake is not None:
            self.wake()

    def become_child(self) -> None:
        """In a process that was forked from the worker's: no call gets to the broker.

        If the worker's own thread was it, with a handler, the process ends where that handler ends.
        """
        if get_ident() == self._thread_id:
            self.is_forked = True
            self._watch.become_child()
        self.is_ended = True
        self._thread_id = 0

    def end(self) -> None:
        """The worker has ended: threads that it leaves behind are sent to the broker, where there is one."""
        with self._changed:
            self.is_ended = True
            self._thread_id = 0
            self._changed.notify_all()


_PENDING: Final = object()


def _ownership(lock: object) -> Callable[[], bool]:
    """Whether the caller holds it, whatever has become of the code that took it. `Condition` relies on it too."""
    return cast("Callable[[], bool]", attrgetter("_is_owned")(lock))


def _reach(levels: int) -> None:
    """Makes sure that there is this much room on the stack: who runs out of it does so here, with nothing half done.

    About 1 µs, once for what is sent or asked (75 µs for a question).

    Raises:
        RecursionError: there is not.
    """
    if levels:
        _reach(levels - 1)
    else:
        sizes: list[int] = []
        sizes.extend(map(len, ("",)))


def _packed_singly(batch: "list[Command]") -> bytes:
    """A batch for each command that the wire carries."""
    packed: list[bytes] = []
    for command in batch:
        try:
            packed.append(pack_batch([command]))
        except ValueError:
            pass  # whoever has called with it is told
    return b"".join(packed)


def _recv_ready(wire: "socket") -> bytes:
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


def _forward(command: "Command") -> object:
    """Carries a command or a question of a thread that has outlived its worker to the default port."""
    port = ports.default
    if port is None or isinstance(port, WireApi):
        raise CommandError("this worker has ended: a thread that outlives it has no broker to talk to")
    kind, *arguments = command
    is_question = kind == commands.ASK
    if is_question:
        _, kind, *arguments = arguments
    if kind == commands.SET_TOKEN:
        arguments.pop()
    name = METHODS[cast(int, kind)]
    if not is_question and name in ("subscribe", "unsubscribe"):
        name += "_nowait"
    return cast("Callable[..., object]", getattr(port, name))(*arguments)


METHODS: Final = {
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
