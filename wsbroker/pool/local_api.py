"""The API of inline handlers and of code outside handlers: applied at once in the loop, queued from other threads.

On the loop's thread a call is one comparison and one call into the core. On any other thread a one-way call is appended
to a list, with one wake-up of the loop for as many calls as come before it runs; a call that asks is appended likewise
and waits, so that a thread's calls are applied in the order in which it made them.

A Python signal handler may interrupt the main thread, and a finaliser any thread, between any two lines of a call made
from there, and make calls of its own. Taking the lock again would dead-lock, and so would waiting while the interrupted
call holds it. So a thread notes that it is inside (`_calling_threads`) before it takes the lock; a one-way call that
the same thread makes meanwhile goes to `_nested_commands`, from where the interrupted call moves it on, and a question
is refused.

On the loop's own thread no call waits, but a signal handler may have interrupted what the answer depends on, so a
question of a signal handler is refused there too. The hot path of inline handlers pays nothing for that: questions are
guarded only while the program has signal handlers of its own, which is checked once a second
(`refresh_signal_handlers`).
"""

import asyncio
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import wraps
from inspect import signature
from threading import get_ident
from types import CodeType, FrameType
from typing import Final, cast

from wsbroker.errors import CommandError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.interfaces import CoreCalls
from wsbroker.wire import commands
from wsbroker.wire.commands import Command
from wsbroker.worker.api import BrokerApi

logger = GuardedLog(__name__)

NO_WORKER: Final = -1
"""The index of a worker's queue, for commands that are not a worker's."""
WAIT_SLICE_S: Final = 0.5
"""Seconds a thread waits for the loop at a time: a signal that comes as a wait begins is handled when the wait ends."""
COMMAND_OVERHEAD_BYTES: Final = 128
"""Bytes a waiting command costs beyond its data, so that a flood of empty commands reaches the limit too."""

NOT_STARTED: Final = "no broker is running: call wsbroker.start() first"
IN_SIGNAL_HANDLER: Final = "a signal handler may not ask the broker: it could be waiting for what it interrupted"
STOPPED: Final = "the broker was stopped: call wsbroker.start() for a new one"


class _PendingQuestion:
    """A question of a thread that waits for the answer."""

    __slots__ = ("answer_lock", "error", "value")

    def __init__(self) -> None:
        self.value: object = None
        """The answer."""
        self.error = ""
        """The text of the CommandError to raise instead; "": there is an answer."""
        self.answer_lock = threading.Lock()
        """Held until the question is answered."""
        self.answer_lock.acquire()


class LocalApi(BrokerApi):
    """The API of the main interpreter.

    Args:
        core: the broker.
        command_bytes: bytes of commands of other threads than the loop's that may wait; then their callers wait.
    """

    __slots__ = (
        "_applying_command_bytes",
        "_apply",
        "_blocked_callers",
        "_calling_threads",
        "_core",
        "_core_methods",
        "_is_wakeup_scheduled",
        "_last_question",
        "_limit_bytes",
        "_listed_command_bytes",
        "_lock",
        "_loop",
        "_loop_thread",
        "_nested_commands",
        "_pending_questions",
        "_publish",
        "_refusal_reason",
        "_send",
        "_signal_codes",
        "_waiting_commands",
    )

    def __init__(self, core: CoreCalls, command_bytes: int) -> None:
        self._loop_thread = 0  # never a thread's: all calls are foreign until `start`, and again after `stop`
        # The core's methods, bound once: the hot path of inline handlers.
        self._send = core.send
        self._publish = core.publish
        self._core = core
        self._core_methods: dict[str, Callable[..., object]] = {
            name: core.publish if kind == commands.PUBLISH else _get_core_method(core, name)
            for kind, name in commands.ONE_WAY_METHODS.items()
        }
        """The core's method for each call, by the name of the call's method of `BrokerApi`."""
        self._signal_codes: frozenset[CodeType] = frozenset()
        self._bind_questions()
        self._apply = core.apply_commands
        self._limit_bytes = command_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calling_threads: set[int] = set()
        """The threads that are between the first and the last line of a call that takes the lock."""
        self._nested_commands: deque[tuple[Command, int]] = deque()
        """Commands, with their cost in bytes, of code that has interrupted such a call on its own thread."""
        # Under the lock:
        self._lock = threading.Lock()
        self._refusal_reason = NOT_STARTED
        """The text of the CommandError that every call raises; "": calls are taken."""
        self._waiting_commands: list[Command] = []
        """Commands of other threads for the loop to apply."""
        self._listed_command_bytes = 0
        """Bytes of memory that the waiting commands cost."""
        self._applying_command_bytes = 0
        """Bytes of memory of the commands that the loop is applying right now."""
        self._pending_questions: dict[int, _PendingQuestion] = {}
        """The questions among the waiting commands, by their ids."""
        self._last_question = 0
        """The id of the last question."""
        self._blocked_callers: list[threading.Lock] = []
        """Locks that callers wait for whose commands found no room; the loop releases them."""
        self._is_wakeup_scheduled = False
        """Whether the loop was told to apply the waiting commands and has not begun to."""

    def _bind_questions(self) -> None:
        """Looks up the core's method for each question, and wraps it if the program has signal handlers of its own.

        Called at the start, and when the program has installed or removed signal handlers.
        """
        for name in commands.QUESTION_METHODS.values():
            self._core_methods[name] = self._guard_against_signals(_get_core_method(self._core, name))

    def _guard_against_signals(self, method: Callable[..., object]) -> Callable[..., object]:
        """Returns `method`, wrapped to raise CommandError when a signal handler of the program calls it.

        Returns `method` itself if the program has no signal handlers of its own.
        """
        codes = self._signal_codes
        if not codes:
            return method

        def guarded_call(*arguments: object) -> object:
            """Calls the core's method; raises CommandError if a signal handler of the program is among the callers."""
            if _is_called_by(codes):
                raise CommandError(IN_SIGNAL_HANDLER)
            return method(*arguments)

        return guarded_call

    def refresh_signal_handlers(self) -> None:
        """Guards the questions if the program has installed signal handlers since. Runs once a second, in the loop."""
        if get_ident() == threading.main_thread().ident:
            codes = _find_signal_codes()
            if codes != self._signal_codes:
                self._signal_codes = codes
                self._bind_questions()

    def start(self) -> None:
        """Begins to accept calls. Called on the loop's thread, with the loop running."""
        me = get_ident()
        self._calling_threads.add(me)
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._refusal_reason = ""
        self._loop_thread = me
        self._leave_call(me)
        self.refresh_signal_handlers()

    def stop(self) -> None:
        """Applies the waiting commands, then refuses every later call with a CommandError. On the loop's thread."""
        self._apply_waiting_commands()
        me = get_ident()
        self._calling_threads.add(me)
        self._loop_thread = 0
        with self._lock:
            self._refusal_reason = STOPPED
        self._leave_call(me)
        self._apply_waiting_commands()  # those that came in between

    @property
    def waiting_bytes(self) -> int:
        """Bytes of commands of other threads that are not applied yet."""
        return self._listed_command_bytes + self._applying_command_bytes

    # What applications call; for all other calls see `_make_direct_call`. -----------------------------------------

    def send(self, socket_id: int, data: str | bytes) -> None:
        """Sends data to one socket."""
        if get_ident() == self._loop_thread:
            self._send(socket_id, data)
        else:
            self._queue_command((commands.SEND, socket_id, data), sys.getsizeof(data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        """Sends data to the subscribers of a channel but those in `exclude`."""
        if get_ident() == self._loop_thread:
            self._publish(channel, data, exclude)
        else:
            self._queue_command((commands.PUBLISH, channel, data, exclude), sys.getsizeof(data) + 40 * len(exclude))

    def send_command(self, command: Command) -> None:
        """Applies a one-way command at once on the loop's thread; queues the command on any other thread."""
        if get_ident() == self._loop_thread:
            kind, *arguments = command
            if kind == commands.SET_TOKEN:
                arguments.pop()  # its number
            self._core_methods[commands.ONE_WAY_METHODS[cast(int, kind)]](*arguments)
        else:
            self._queue_command(command, _measure_data(command))

    def ask_core(self, question: int, *arguments: object) -> object:
        """Asks the core: directly on the loop's thread; any other thread waits until the loop has answered.

        Raises:
            CommandError: no broker is running, or the caller has interrupted another call, or is a signal handler.
        """
        if get_ident() == self._loop_thread:
            return self._core_methods[commands.QUESTION_METHODS[question]](*arguments)
        return self._queue_question(question, *arguments)

    # On other threads. ------------------------------------------------------------------------------------------

    def _queue_command(self, command: Command, size_bytes: int) -> None:
        """Queues a thread's one-way command for the loop; waits while too many bytes of commands wait already.

        A command made by code that has interrupted another call of its thread does not wait: that call queues it at its
        end.

        Args:
            command: the command.
            size_bytes: the memory that its data takes.

        Raises:
            CommandError: no broker is running.
        """
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
            while not blocked.acquire(
                timeout=WAIT_SLICE_S
            ):  # until the loop has applied the waiting commands, or stops
                pass

    def _queue_question(self, *question: object) -> object:
        """Queues a thread's question for the loop, waits for the answer and returns the answer.

        Raises:
            CommandError: no broker is running, the broker has stopped or failed before it answered, or the caller is a
                signal handler or has interrupted another call.
        """
        me = get_ident()
        if me in self._calling_threads:
            raise CommandError("a signal handler or finaliser may not ask the broker from inside another call")
        if me == threading.main_thread().ident and _is_called_by(_find_signal_codes()):
            raise CommandError(IN_SIGNAL_HANDLER)
        pending = _PendingQuestion()
        self._calling_threads.add(me)
        try:
            with self._lock:
                self._raise_if_not_running()
                self._last_question += 1
                self._pending_questions[self._last_question] = pending
                self._append_command((commands.ASK, self._last_question, *question), COMMAND_OVERHEAD_BYTES)
        finally:
            self._leave_call(me)
        while not pending.answer_lock.acquire(timeout=WAIT_SLICE_S):
            pass
        if pending.error:
            raise CommandError(pending.error)
        return pending.value

    def _raise_if_not_running(self) -> None:
        """Raises a CommandError if the broker has not started yet or was stopped.

        Called with the lock; also without it, where that only makes a call fail early.
        """
        if self._refusal_reason:
            raise CommandError(self._refusal_reason)

    def _append_command(self, command: Command, cost: int) -> None:
        """Appends a command to those that wait for the loop; wakes the loop if necessary. Called with the lock.

        Args:
            command: the command.
            cost: its data and overhead, in bytes of memory.

        Raises:
            CommandError: the loop is closed.
        """
        self._waiting_commands.append(command)
        self._listed_command_bytes += cost
        if not self._is_wakeup_scheduled and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._apply_waiting_commands)
            except RuntimeError as error:
                raise CommandError(STOPPED) from error  # its loop was closed without `stop`
            self._is_wakeup_scheduled = True

    def _leave_call(self, thread_id: int) -> None:
        """Marks a thread's call as ended; queues the commands of code, such as a signal handler, that interrupted it.

        Called at the end of every call that takes the lock: in between such code could only add to `_nested_commands`.
        """
        self._calling_threads.discard(thread_id)
        while self._nested_commands:
            self._calling_threads.add(thread_id)
            try:
                with self._lock:
                    while self._nested_commands:
                        self._append_command(*self._nested_commands.popleft())
            finally:
                self._calling_threads.discard(thread_id)

    def _apply_waiting_commands(self) -> None:
        """Applies the waiting commands, answers the questions among them, releases blocked callers. Called in the loop.

        If the core raises, logs that, and gives an error to the questions that are not answered.
        """
        with self._lock:
            batch, self._waiting_commands = self._waiting_commands, []
            questions, self._pending_questions = self._pending_questions, {}
            self._applying_command_bytes, self._listed_command_bytes = self._listed_command_bytes, 0
            self._is_wakeup_scheduled = False
        if batch:
            try:
                for answer in self._apply(NO_WORKER, 0, batch):
                    pending = questions.pop(cast(int, answer[1]))
                    pending.value = answer[2]
                    pending.answer_lock.release()
            except Exception:
                logger.exception("commands of a thread could not be applied commands=%d", len(batch))
        for pending in questions.values():
            pending.error = "the broker could not apply this call or one made just before it; see the log"
            pending.answer_lock.release()
        with self._lock:
            self._applying_command_bytes = 0
            blocked, self._blocked_callers = self._blocked_callers, []
        for waiter in blocked:
            waiter.release()


def _make_direct_call(name: str) -> Callable[..., object]:
    """Returns the method of `LocalApi` for one call: on the loop's thread, a call of the core's method for that call.

    On any other thread the method of `BrokerApi` makes the call's command or question. On the loop's thread that would
    cost 110 to 240 ns more, and one function for any number of arguments 50 ns (benchmarks/micro/test_api.py).

    Args:
        name: the name of the call's method of `BrokerApi`.
    """
    spelled_call = cast("Callable[..., object]", getattr(BrokerApi, name))

    def call_with_one(self: LocalApi, first: object, /) -> object:
        """Makes a call that has one argument."""
        if get_ident() == self._loop_thread:
            return self._core_methods[name](first)
        return spelled_call(self, first)

    def call_with_two(self: LocalApi, first: object, second: object, /) -> object:
        """Makes a call that has two arguments."""
        if get_ident() == self._loop_thread:
            return self._core_methods[name](first, second)
        return spelled_call(self, first, second)

    def call_with_three(self: LocalApi, first: object, second: object, third: object, /) -> object:
        """Makes a call that has three arguments."""
        if get_ident() == self._loop_thread:
            return self._core_methods[name](first, second, third)
        return spelled_call(self, first, second, third)

    def call_with_any(self: LocalApi, *arguments: object) -> object:
        """Makes a call that has any other number of arguments."""
        if get_ident() == self._loop_thread:
            return self._core_methods[name](*arguments)
        return spelled_call(self, *arguments)

    functions: dict[int, Callable[..., object]] = {1: call_with_one, 2: call_with_two, 3: call_with_three}
    argument_count = len(signature(spelled_call).parameters) - 1
    return wraps(spelled_call)(functions.get(argument_count, call_with_any))


for _name in (*commands.ONE_WAY_METHODS.values(), *commands.QUESTION_METHODS.values()):
    if _name not in vars(LocalApi):  # `send` and `send_to_channel` stand there
        setattr(LocalApi, _name, _make_direct_call(_name))


def _get_core_method(core: CoreCalls, name: str) -> Callable[..., object]:
    """Returns the core's method of this name, for the tables of commands and questions."""
    return cast("Callable[..., object]", getattr(core, name))


def _measure_data(command: Command) -> int:
    """Returns the bytes of memory that the data of a one-way command takes; 0 for a command without data."""
    kind = command[0]
    if kind == commands.PUBLISH:
        return sys.getsizeof(command[2]) + 40 * len(cast("tuple[int, ...]", command[3]))
    return sys.getsizeof(command[2]) if kind in (commands.SEND, commands.SET_TOKEN) else 0


def _find_signal_codes() -> frozenset[CodeType]:
    """Returns the code objects of the program's own signal handlers, to find those among the callers of a question.

    Only handlers written in Python have code. The broker's handlers and asyncio's (a `Runner` has one for SIGINT) are
    left out: they ask nothing.
    """
    codes: set[CodeType] = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):
            function = _unwrap_function(handler)
            code = getattr(function, "__code__", None)
            if isinstance(code, CodeType) and str(function.__module__).partition(".")[0] not in ("asyncio", "wsbroker"):
                codes.add(code)
    return frozenset(codes)


def _is_called_by(codes: frozenset[CodeType]) -> bool:
    """Returns whether a function with one of these code objects is among the callers. O(depth of the stack)."""
    if not codes:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def _unwrap_function(handler: Callable[..., object]) -> Callable[..., object]:
    """Returns the function that a call of a signal handler runs first.

    That is the function itself, that of a method or a partial, or `__call__` of the class of another object.
    """
    while True:
        inner = getattr(handler, "__func__", None) or getattr(handler, "func", None)
        if inner is None:
            break
        handler = inner
    if not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return handler
