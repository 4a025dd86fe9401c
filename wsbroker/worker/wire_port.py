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
"""

from collections import deque
from collections.abc import Callable
from itertools import count
from threading import Condition, Lock, get_ident
from typing import TYPE_CHECKING, Final, cast

from wsbroker.errors import CommandError
from wsbroker.wire import commands
from wsbroker.wire.events import ANSWER
from wsbroker.wire.framing import Unpacker, pack
from wsbroker.worker import port as ports
from wsbroker.worker.port import Port
from wsbroker.worker.watch import Watch

if TYPE_CHECKING:
    from socket import socket

    from wsbroker.wire.commands import Command
    from wsbroker.wire.events import Event

FLUSH_BYTES: Final = 64 * 1024
"""Commands that wait for the runtime's flush, roughly; past it they are sent at once."""
COMMAND_BYTES: Final = 32
"""What a command counts for beside its data."""
READ_BYTES: Final = 256 * 1024
_GONE: Final = "the broker has gone away: this worker is ending and has nobody to ask"
_NESTED: Final = "this is a finaliser or a signal handler that interrupted a call of wsbroker: it cannot ask the broker"
MAX_DATA: Final = 1 << 30
"""Longest message that is taken: what a batch can carry is 2 GiB, and a character may be two bytes or more."""


class WirePort(Port):
    """The port of one worker; made on its thread.

    Args:
        wire: the worker's end; reads and writes block.
        watch: of the worker's handlers.
    """

    __slots__ = (
        "_asking",
        "_answers",
        "_backlog",
        "_call_ids",
        "_changed",
        "_commands",
        "_handled",
        "_has_more",
        "_holder",
        "_reader",
        "_room",
        "_thread_id",
        "_token_numbers",
        "_unpacker",
        "_watch",
        "_wire",
        "_write_lock",
        "_writer",
        "abandoned",
        "arm",
        "closing",
        "is_abandoned",
        "is_ended",
        "own_tokens",
        "queues",
        "running",
        "tokens",
        "wake",
    )

    def __init__(self, wire: "socket", watch: Watch) -> None:
        self._wire = wire
        self._watch = watch
        self._thread_id = get_ident()
        self._commands: list[Command] = []
        self._handled: list[tuple[int, int]] = []
        self._room = FLUSH_BYTES
        self._write_lock = Lock()
        self._writer = 0
        """The thread that holds it; 0: none."""
        self._has_more = False
        """Whether a finaliser has left a command to the writer that it interrupted."""
        self._changed = Condition(Lock())
        self._holder = 0
        """The thread that holds the lock of `_changed`; 0: none."""
        self._unpacker = Unpacker()
        self._backlog: deque[list[Event]] = deque()
        self._answers: dict[int, object] = {}
        self._asking = 0
        self._reader = 0
        """The thread that reads from the wire right now; 0: none."""
        self._call_ids = count(1)
        self._token_numbers = count(1)
        self.is_ended = False
        """The other end is gone, or the worker has ended."""
        self.is_abandoned = False
        """Nobody is interested in this worker any more."""
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

    def copy_subscriptions(self, source_id: int, target_id: int) -> None:
        """Subscribes the target to what the source is subscribed to."""
        self._tell((commands.COPY_SUBSCRIPTIONS, source_id, target_id))

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """Closes a socket; of the one whose handler calls this, no further message is handled."""
        if self.is_handling(socket_id):
            self.closing.add(socket_id)
        self._tell((commands.CLOSE, socket_id, code, reason))

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets a token. That of a socket whose handler is running is cached: its next message sees it at once."""
        me = get_ident()
        is_own = me == self._thread_id
        if self._writer == me:
            self._commands.append((commands.SET_TOKEN, socket_id, token, 0))
            self._has_more = True
            return
        if self.is_ended and not is_own:
            _forward((commands.SET_TOKEN, socket_id, token, 0))
            return
        armed = self._watch.shield() if is_own else None
        try:
            with self._write_lock:  # so that numbers grow on the wire, and the cache has what is last there
                self._writer = me
                try:
                    command = self._token_command(socket_id, token)
                    if is_own:
                        self._commands.append(command)
                    else:
                        self._write([command])
                finally:
                    self._writer = 0
        finally:
            if is_own:
                self._watch.unshield(armed)
        if is_own:
            self._room -= COMMAND_BYTES
            if self._room < 0:
                self._full(0)

    def _token_command(self, socket_id: int, token: bytes | None) -> "Command":
        """Caches the change, and numbers it, if the end of a handler of this socket is still to come."""
        number = 0
        if self.is_handling(socket_id):
            number = next(self._token_numbers)
            self.own_tokens[socket_id] = number
            self._cache(socket_id, token)
        return commands.SET_TOKEN, socket_id, token, number

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
        if self.arm is not None and len(self._commands) == 1 and size < FLUSH_BYTES:
            self.arm()
            self._room = FLUSH_BYTES
        else:
            self.flush()

    def flush(self) -> None:
        """Sends what was collected; on the own thread only."""
        armed = self._watch.shield()
        try:
            self._write_out([])
        finally:
            self._room = FLUSH_BYTES if self.arm is None else 0
            self._watch.unshield(armed)

    def _write_out(self, last: "list[Command]") -> None:
        """Sends what the own thread has collected, and `last` behind it."""
        me = get_ident()
        if self._writer == me:
            self._commands += last
            self._has_more = True
            return
        with self._write_lock:
            self._writer = me
            try:
                self._write(last)
                while self._has_more:
                    self._has_more = False
                    self._write([])
            finally:
                self._writer = 0

    def _write(self, last: "list[Command]") -> None:
        """With the write lock: only its holder takes from the list, everybody else adds at its end."""
        collected = self._commands
        amount = len(collected)
        batch = collected[:amount]
        del collected[:amount]
        if self._handled and get_ident() == self._thread_id:
            batch.append((commands.HANDLED, self._handled))
            self._handled = []
        batch += last
        if not batch or self.is_ended:
            return
        try:
            self._wire.sendall(pack(batch))
        except OSError:  # the broker's end is closed: whoever reads next learns it, and nobody is there to tell more to
            self.is_ended = True

    def _send_now(self, command: "Command") -> None:
        """Sends a command of a thread that is not the worker's own; after the worker's end it goes to the broker."""
        if self.is_ended:
            _forward(command)
            return
        if len(command) > 2 and isinstance(command[2], str | bytes) and len(command[2]) > MAX_DATA:
            raise ValueError(f"a message of {len(command[2])} is more than a worker can send at once ({MAX_DATA})")
        self._write_out([command])

    def log(self, record: "Command") -> bool:
        """Sends a log record at once, on any thread, also from a finaliser; False: the broker is gone."""
        if self.is_ended:
            return False
        is_own = get_ident() == self._thread_id
        armed = self._watch.shield() if is_own else None
        try:
            self._write_out([record])
        finally:
            if is_own:
                self._watch.unshield(armed)
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
        """What a socket is subscribed to."""
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
        if me in (self._writer, self._holder, self._reader):
            raise CommandError(_NESTED)
        armed = self._watch.shield() if is_own else None
        try:
            with self._changed:
                self._asking += 1  # before it is sent: from here on whoever reads looks for answers
            try:
                self._write_out([ask])
                return self._wait_answer(call_id)
            finally:
                with self._changed:
                    self._asking -= 1
        finally:
            if is_own:
                self._room = FLUSH_BYTES if self.arm is None else 0
                self._watch.unshield(armed)

    def _wait_answer(self, call_id: int) -> object:
        with self._changed:
            self._holder = get_ident()
            try:
                while call_id not in self._answers:
                    if self.is_ended:
                        raise CommandError(_GONE)
                    self._advance()
                return self._answers.pop(call_id)
            finally:
                self._holder = 0

    # Events. ----------------------------------------------------------------------------------------------------

    def next_batch(self) -> "list[Event] | None":
        """Waits for events; None: there will be no more. On the own thread only."""
        with self._changed:
            self._holder = self._thread_id
            try:
                while not self._backlog and not self.is_ended:
                    self._advance()
                return self.take_batch()
            finally:
                self._holder = 0

    def take_batch(self) -> "list[Event] | None":
        """Returns events that were read already; None: there are none right now."""
        return self._backlog.popleft() if self._backlog and not self.is_abandoned else None

    def put_back(self, events: "list[Event]") -> None:
        """Returns events that were not handled to the front; on the own thread only."""
        if events:
            self._backlog.appendleft(events)

    def read_ready(self) -> None:
        """Reads what is there without waiting; on the own thread only."""
        with self._changed:
            if self._reader or self.is_ended:
                return  # a thread that waits for an answer reads, and will wake the loop
            self._holder = self._thread_id
            try:
                self._receive(_recv_ready(self._wire))
            except BlockingIOError:
                return  # somebody has read it already
            except OSError:
                self._receive(b"")
            finally:
                self._holder = 0

    def _advance(self) -> None:
        """Reads once, or waits for whoever reads already. Called and left with the lock, which is free meanwhile."""
        changed = self._changed
        me, self._holder = self._holder, 0
        if self._reader:
            changed.wait()
            self._holder = me
            return
        self._reader = get_ident()
        changed.release()
        try:
            try:
                data = self._wire.recv(READ_BYTES)
            except OSError:
                data = b""
        finally:
            changed.acquire()
            self._holder = me
            self._reader = 0
        self._receive(data)
        if self.wake is not None and (self._backlog or self.is_ended):
            self.wake()

    def _receive(self, data: bytes) -> None:
        """Sorts what was read; with the lock."""
        if not data:
            self.is_ended = True
        for batch in self._unpacker.feed(data):
            if self._asking:
                rest = [event for event in batch if event[0] != ANSWER]
                if len(rest) < len(batch):
                    for event in batch:
                        if event[0] == ANSWER:
                            self._answers[cast(int, event[1])] = event[2]
                    batch = rest
            if batch:
                self._backlog.append(batch)
        self._changed.notify_all()

    # The sockets of this worker. --------------------------------------------------------------------------------

    def token_event(self, socket_id: int, token: bytes | None, seen: int) -> None:
        """The core says what a token is: an own, newer change that it had not seen yet stays."""
        if self.own_tokens.get(socket_id, 0) <= seen:
            self.own_tokens.pop(socket_id, None)
            self._cache(socket_id, token)

    def forget(self, socket_id: int) -> None:
        """Drops all that is kept of a socket that no handler runs for any more."""
        self.closing.discard(socket_id)
        with self._write_lock:  # a thread that its last handler left behind may be caching its token
            self._writer = self._thread_id
            self.tokens.pop(socket_id, None)
            self.own_tokens.pop(socket_id, None)
            self._writer = 0

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

    def end(self) -> None:
        """The worker has ended: threads that it leaves behind are sent to the broker, where there is one."""
        with self._changed:
            self.is_ended = True
            self._thread_id = 0
            self._changed.notify_all()


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
    if port is None or isinstance(port, WirePort):
        raise CommandError("this worker has ended: a thread that outlives it has no broker to talk to")
    kind, *arguments = command
    is_question = kind == commands.ASK
    if is_question:
        _, kind, *arguments = arguments
    if kind == commands.SET_TOKEN:
        arguments.pop()
    name = _METHODS[cast(int, kind)]
    if not is_question and name in ("subscribe", "unsubscribe"):
        name += "_nowait"
    return cast("Callable[..., object]", getattr(port, name))(*arguments)


_METHODS: Final = {
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
