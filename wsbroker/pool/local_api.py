"""The port of the main interpreter: the way from `wsbroker.send(…)` and its sisters to the core.

On the loop's thread a call is one comparison and one call into the core. On any other thread a one-way call is appended
to a list, with one wake-up of the loop for as many calls as come before it runs; a call that asks is appended likewise
and waits, so that a thread's calls are applied in the order in which it made them.

A Python signal handler may interrupt the main thread, and a finaliser any thread, between any two lines of a call made
from there, and make calls of its own. Taking the lock again would dead-lock, and so would waiting while the interrupted
call holds it. So a thread notes that it is inside (`_calling_threads`) before it takes the lock; a one-way call made meanwhile
by the same thread goes to `_nested_commands`, from where the interrupted one moves it on, and one that asks is refused.

On the loop's own thread nobody waits, but a signal handler may have interrupted what the answer depends on; there too
it is refused. The hot path of inline handlers pays nothing for that: what they ask is guarded only while the program
has signal handlers of its own, which is looked at once a second (`refresh_signal_handlers`).
"""

import asyncio
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import CodeType, FrameType
from typing import Final, ParamSpec, TypeVar, cast

from wsbroker.errors import CommandError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.interfaces import CoreCalls
from wsbroker.wire import commands
from wsbroker.wire.commands import Command
from wsbroker.worker.api import BrokerApi

logger = GuardedLog(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

NO_WORKER: Final = -1
"""The lane of commands that are not a worker's."""
WAIT_SLICE_S: Final = 0.5
"""How long a thread waits for the loop at a time: a signal that comes as a wait begins is handled only when it ends."""
COMMAND_OVERHEAD_BYTES: Final = 128
"""What a waiting command costs beyond its data, so that a flood of empty ones reaches the limit too."""

NOT_STARTED: Final = "no broker is running: call wsbroker.start() first"
IN_SIGNAL_HANDLER: Final = "a signal handler may not ask the broker: it could be waiting for what it interrupted"
STOPPED: Final = "the broker was stopped: call wsbroker.start() for a new one"


class _PendingQuestion:
    """A call that waits for its answer."""

    __slots__ = ("answer_lock", "error", "value")

    def __init__(self) -> None:
        self.value: object = None
        self.error = ""
        self.answer_lock = threading.Lock()
        self.answer_lock.acquire()


class LocalApi(BrokerApi):
    """The port of the main interpreter.

    Args:
        core: the broker.
        command_bytes: commands of other threads than the loop's that may wait, in bytes; then their callers wait.
    """

    __slots__ = (
        "_apply",
        "_blocked_callers",
        "_channels",
        "_close",
        "_limit_bytes",
        "_copy_subscriptions",
        "_core",
        "_calling_threads",
        "_is_open",
        "_is_wakeup_scheduled",
        "_last_question",
        "_listed_command_bytes",
        "_lock",
        "_loop",
        "_loop_thread",
        "_nested_commands",
        "_publish",
        "_pending_questions",
        "_queued_bytes",
        "_refusal_reason",
        "_send",
        "_set_token",
        "_signal_codes",
        "_subscribe",
        "_subscribe_nowait",
        "_subscriber_count",
        "_subscribers",
        "_subscriptions",
        "_applying_command_bytes",
        "_unsubscribe",
        "_unsubscribe_nowait",
        "_waiting_commands",
    )

    def __init__(self, core: CoreCalls, command_bytes: int) -> None:
        self._loop_thread = 0  # never a thread's: all calls are foreign until `start`, and again after `stop`
        # The core's methods, bound once: the hot path of inline handlers.
        self._send = core.send
        self._publish = core.publish
        self._subscribe_nowait = core.subscribe_nowait
        self._unsubscribe_nowait = core.unsubscribe_nowait
        self._set_token = core.set_token
        self._copy_subscriptions = core.copy_subscriptions
        self._close = core.close
        self._core = core
        self._signal_codes: frozenset[CodeType] = frozenset()
        self._bind_questions()
        self._apply = core.apply_commands
        self._limit_bytes = command_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calling_threads: set[int] = set()
        self._nested_commands: deque[tuple[Command, int]] = deque()
        # Under the lock:
        self._lock = threading.Lock()
        self._refusal_reason = NOT_STARTED
        self._waiting_commands: list[Command] = []
        self._listed_command_bytes = 0
        self._applying_command_bytes = 0
        self._pending_questions: dict[int, _PendingQuestion] = {}
        self._last_question = 0
        self._blocked_callers: list[threading.Lock] = []
        self._is_wakeup_scheduled = False

    def _bind_questions(self) -> None:
        """What is asked on the loop's thread: the core's methods, guarded if signal handlers may come from there."""
        core, guarded = self._core, self._guard_against_signals
        self._subscribe = guarded(core.subscribe)
        self._unsubscribe = guarded(core.unsubscribe)
        self._subscriber_count = guarded(core.subscriber_count)
        self._subscribers = guarded(core.subscribers)
        self._subscriptions = guarded(core.subscriptions)
        self._channels = guarded(core.channels)
        self._is_open = guarded(core.is_open)
        self._queued_bytes = guarded(core.queued_bytes)

    def _guard_against_signals(self, ask: Callable[_P, _T]) -> Callable[_P, _T]:
        codes = self._signal_codes
        if not codes:
            return ask

        def guarded_call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            if _is_called_by(codes):
                raise CommandError(IN_SIGNAL_HANDLER)
            return ask(*args, **kwargs)

        return guarded_call

    def refresh_signal_handlers(self) -> None:
        """Notices that the program has taken signals. Called on the loop's thread, once in a while."""
        if get_ident() == threading.main_thread().ident:
            codes = _find_signal_codes()
            if codes != self._signal_codes:
                self._signal_codes = codes
                self._bind_questions()

    def start(self) -> None:
        """Takes calls from here on. On the loop's thread, with the loop running."""
        me = get_ident()
        self._calling_threads.add(me)
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._refusal_reason = ""
        self._loop_thread = me
        self._leave_call(me)
        self.refresh_signal_handlers()

    def stop(self) -> None:
        """Applies what waits, answers who waits, refuses every later call with a CommandError. On the loop's thread."""
        self._apply_waiting_commands()
        me = get_ident()
        self._calling_threads.add(me)
        self._loop_thread = 0
        with self._lock:
            self._refusal_reason = STOPPED
        self._leave_call(me)
        self._apply_waiting_commands()  # what came in between

    @property
    def waiting_bytes(self) -> int:
        """Bytes of commands of other threads that are not applied yet."""
        return self._listed_command_bytes + self._applying_command_bytes

    # What handlers call. ----------------------------------------------------------------------------------------

    def send(self, socket_id: int, data: str | bytes) -> None:
        """See `wsbroker.send`."""
        if get_ident() == self._loop_thread:
            self._send(socket_id, data)
        else:
            self._send_command((commands.SEND, socket_id, data), sys.getsizeof(data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """See `wsbroker.send_to_channel`."""
        if get_ident() == self._loop_thread:
            self._publish(channel, data, exclude)
        else:
            self._send_command((commands.PUBLISH, channel, data, exclude), sys.getsizeof(data) + 40 * len(exclude))

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        """See `wsbroker.subscribe`."""
        if get_ident() == self._loop_thread:
            return self._subscribe(socket_id, channel)
        return cast(bool, self._ask_core(commands.SUBSCRIBE, socket_id, channel))

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        """See `wsbroker.unsubscribe`."""
        if get_ident() == self._loop_thread:
            return self._unsubscribe(socket_id, channel)
        return cast(bool, self._ask_core(commands.UNSUBSCRIBE, socket_id, channel))

    def subscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """See `wsbroker.subscribe_nowait`."""
        if get_ident() == self._loop_thread:
            self._subscribe_nowait(socket_id, channel)
        else:
            self._send_command((commands.SUBSCRIBE, socket_id, channel), 0)

    def unsubscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        """See `wsbroker.unsubscribe_nowait`."""
        if get_ident() == self._loop_thread:
            self._unsubscribe_nowait(socket_id, channel)
        else:
            self._send_command((commands.UNSUBSCRIBE, socket_id, channel), 0)

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """See `wsbroker.set_token`."""
        if get_ident() == self._loop_thread:
            self._set_token(socket_id, token)
        else:
            self._send_command((commands.SET_TOKEN, socket_id, token, 0), sys.getsizeof(token))

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes) -> None:
        """See `wsbroker.copy_subscriptions`."""
        if get_ident() == self._loop_thread:
            self._copy_subscriptions(from_channel, to_channel)
        else:
            self._send_command((commands.COPY_SUBSCRIPTIONS, from_channel, to_channel), 0)

    def close(self, socket_id: int, code: int, reason: str) -> None:
        """See `wsbroker.close`."""
        if get_ident() == self._loop_thread:
            self._close(socket_id, code, reason)
        else:
            self._send_command((commands.CLOSE, socket_id, code, reason), 0)

    def subscriber_count(self, channel: bytes) -> int:
        """See `wsbroker.subscriber_count`."""
        if get_ident() == self._loop_thread:
            return self._subscriber_count(channel)
        return cast(int, self._ask_core(commands.SUBSCRIBER_COUNT, channel))

    def subscribers(self, channel: bytes) -> list[int]:
        """See `wsbroker.subscribers`."""
        if get_ident() == self._loop_thread:
            return self._subscribers(channel)
        return cast(list[int], self._ask_core(commands.SUBSCRIBERS, channel))

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """See `wsbroker.subscriptions`."""
        if get_ident() == self._loop_thread:
            return self._subscriptions(socket_id)
        return cast(list[bytes], self._ask_core(commands.SUBSCRIPTIONS, socket_id))

    def channels(self) -> list[bytes]:
        """See `wsbroker.channels`."""
        if get_ident() == self._loop_thread:
            return self._channels()
        return cast(list[bytes], self._ask_core(commands.CHANNELS))

    def is_open(self, socket_id: int) -> bool:
        """See `wsbroker.is_open`."""
        if get_ident() == self._loop_thread:
            return self._is_open(socket_id)
        return cast(bool, self._ask_core(commands.IS_OPEN, socket_id))

    def queued_bytes(self, socket_id: int) -> int:
        """See `wsbroker.queued_bytes`."""
        if get_ident() == self._loop_thread:
            return self._queued_bytes(socket_id)
        return cast(int, self._ask_core(commands.QUEUED_BYTES, socket_id))

    # On other threads. ------------------------------------------------------------------------------------------

    def _send_command(self, command: Command, size_bytes: int) -> None:
        """Appends a one-way command; waits while too much waits already."""
        me = get_ident()
        cost = size_bytes + COMMAND_OVERHEAD_BYTES
        if me in self._calling_threads:
            self._raise_if_not_running()
            self._nested_commands.append((command, cost))
            return
        while True:
            blocked: threading.Lock | None = None
            self._calling_threads.add(me)
            try:
                with self._lock:
                    self._raise_if_not_running()
                    held_bytes = self._listed_command_bytes + self._applying_command_bytes
                    if held_bytes and held_bytes + cost > self._limit_bytes:
                        blocked = threading.Lock()
                        blocked.acquire()
                        self._blocked_callers.append(blocked)
                    else:
                        self._append_command(command, cost)
            finally:
                self._leave_call(me)
            if blocked is None:
                return
            while not blocked.acquire(timeout=WAIT_SLICE_S):  # until the loop has applied what waits, or stops
                pass

    def _ask_core(self, *question: object) -> object:
        """Appends a question and waits for its answer."""
        me = get_ident()
        if me in self._calling_threads:
            raise CommandError("a signal handler or finaliser may not ask the broker from inside another call")
        if me == threading.main_thread().ident and _is_called_by(_find_signal_codes()):
            raise CommandError(IN_SIGNAL_HANDLER)
        asked = _PendingQuestion()
        self._calling_threads.add(me)
        try:
            with self._lock:
                self._raise_if_not_running()
                self._last_question += 1
                self._pending_questions[self._last_question] = asked
                self._append_command((commands.ASK, self._last_question, *question), COMMAND_OVERHEAD_BYTES)
        finally:
            self._leave_call(me)
        while not asked.answer_lock.acquire(timeout=WAIT_SLICE_S):
            pass
        if asked.error:
            raise CommandError(asked.error)
        return asked.value

    def _raise_if_not_running(self) -> None:
        if self._refusal_reason:
            raise CommandError(self._refusal_reason)

    def _append_command(self, command: Command, cost: int) -> None:
        """Lists a command and has the loop drain, once for all calls until it does. Under the lock."""
        self._waiting_commands.append(command)
        self._listed_command_bytes += cost
        if not self._is_wakeup_scheduled and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._apply_waiting_commands)
            except RuntimeError as error:
                raise CommandError(STOPPED) from error  # its loop was closed without `stop`
            self._is_wakeup_scheduled = True

    def _leave_call(self, me: int) -> None:
        """Ends a call; moves on what was asked meanwhile from inside it."""
        self._calling_threads.discard(me)
        while self._nested_commands:
            self._calling_threads.add(me)
            try:
                with self._lock:
                    while self._nested_commands:
                        self._append_command(*self._nested_commands.popleft())
            finally:
                self._calling_threads.discard(me)

    def _apply_waiting_commands(self) -> None:
        """Applies what waits. On the loop's thread."""
        with self._lock:
            batch, self._waiting_commands = self._waiting_commands, []
            questions, self._pending_questions = self._pending_questions, {}
            self._applying_command_bytes, self._listed_command_bytes = self._listed_command_bytes, 0
            self._is_wakeup_scheduled = False
        if batch:
            try:
                for answer in self._apply(NO_WORKER, 0, batch):
                    asked = questions.pop(cast(int, answer[1]))
                    asked.value = answer[2]
                    asked.answer_lock.release()
            except Exception:
                logger.exception("commands of a thread could not be applied commands=%d", len(batch))
        for asked in questions.values():
            asked.error = "the broker could not apply this call or one made just before it; see the log"
            asked.answer_lock.release()
        with self._lock:
            self._applying_command_bytes = 0
            blocked, self._blocked_callers = self._blocked_callers, []
        for waiter in blocked:
            waiter.release()


def _find_signal_codes() -> frozenset[CodeType]:
    """The code that the program's signal handlers run first, as far as they are written in Python.

    Ours and asyncio's (a `Runner` has one for SIGINT) are left out: they ask nothing.
    """
    found: set[CodeType] = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):
            function = _unwrap_function(handler)
            code = getattr(function, "__code__", None)
            if isinstance(code, CodeType) and str(function.__module__).partition(".")[0] not in ("asyncio", "wsbroker"):
                found.add(code)
    return frozenset(found)


def _is_called_by(codes: frozenset[CodeType]) -> bool:
    """Whether one of these is among the callers. O(depth of the stack)."""
    if not codes:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def _unwrap_function(handler: Callable[..., object]) -> Callable[..., object]:
    """What a call of this handler runs first: a method's function, a partial's, that of an object's `__call__`."""
    while True:
        inner = getattr(handler, "__func__", None) or getattr(handler, "func", None)
        if inner is None:
            break
        handler = inner
    if not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return handler
