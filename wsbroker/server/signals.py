"""Signals of the process. First SIGINT or SIGTERM: graceful stop. SIGHUP: reload the workers.

The second SIGINT or SIGTERM ends the process at once under `run`; under `start` the signal is raised again.
"""

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Final

from wsbroker import process_exit
from wsbroker.guarded_log import GuardedLog
from wsbroker.server.waiting import is_waiting_in_stack
from wsbroker.worker import forks

if TYPE_CHECKING:
    from wsbroker.server.lifecycle import Lifecycle

logger = GuardedLog(__name__)

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SIGHUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)

DUPLICATE_SIGNAL_S: Final = 0.5
"""A signal to stop that comes this soon after the first is the same one: a wrapper passes on what the whole process
group has got already (`timeout`, a shell, `npm`)."""


_stop_signal_at = -math.inf
"""When a signal last requested the stop of a server, by `monotonic`."""


class ServerSignals:
    """The signal handler of one server; remembers the handlers that it replaces.

    A handler of Python's `signal` module, not of the event loop, so that an application's handler that is stuck in pure
    Python code on the loop's thread cannot delay the second signal.

    Args:
        lifecycle: the server to stop or to reload.
        on_second_signal: called with this object and the signal's number for a second signal to stop.
    """

    def __init__(self, lifecycle: "Lifecycle", on_second_signal: Callable[["ServerSignals", int], None]) -> None:
        self.lifecycle: Lifecycle | None = lifecycle
        """None when the server has stopped."""
        self.on_second_signal = on_second_signal
        self.raises_interrupt = False
        """Whether the first SIGINT is a KeyboardInterrupt too, for a main loop of the program's own."""
        self.previous_handlers: dict[int, object] = {}
        """By signal number: the handlers to restore."""
        self.first_signal_at: float | None = None
        """When the first signal to stop came, by `monotonic`."""
        self.is_ended = False
        """Whether the server has stopped, so that signals are passed on to the previous handlers."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles one signal: SIGHUP reloads, the first signal to stop stops, a second calls `on_second_signal`.

        After the server's end the signal is raised again for the previous handlers. Called by Python, on the main
        thread.
        """
        global _stop_signal_at
        lifecycle = self.lifecycle
        if self.is_ended or lifecycle is None:
            if number in STOP_SIGNALS and monotonic() - _stop_signal_at < DUPLICATE_SIGNAL_S:
                return
            self.restore_handlers()
            signal.raise_signal(number)
            return
        if number == SIGHUP:
            lifecycle.request_reload()
            return
        lifecycle.wants_restart = False
        if self.first_signal_at is None:
            self.first_signal_at = _stop_signal_at = monotonic()
            lifecycle.request_stop(None)
            if self.raises_interrupt and number == signal.SIGINT and not is_waiting_in_stack(frame):
                raise KeyboardInterrupt
        elif monotonic() - self.first_signal_at >= DUPLICATE_SIGNAL_S:
            self.on_second_signal(self, number)

    def install_handlers(self, numbers: Iterable[int]) -> None:
        """Installs this handler for these signals; in a forked child the previous handlers are restored."""
        for number in numbers:
            handler = signal.getsignal(number)
            if isinstance(handler, ServerSignals) or (handler is signal.SIG_DFL and number == signal.SIGINT):
                handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            self.previous_handlers[number] = handler
        forks.install_signal_handlers(self.previous_handlers, self, self.restore_handlers)

    def release_server(self) -> None:
        """Drops the reference to the server, which has stopped, so that it is not kept in memory."""
        forks.unregister_child_action(self.restore_handlers)
        self.lifecycle = None

    def restore_after_stop(self) -> None:
        """Restores the previous handlers after the stop, unless duplicates of the stop signal may still come.

        Within `DUPLICATE_SIGNAL_S` of the signal that stopped the server, this handler stays installed and ignores
        those.
        """
        if monotonic() - _stop_signal_at >= DUPLICATE_SIGNAL_S:
            self.restore_handlers()
        else:
            self.is_ended = True
            forks.unregister_child_action(self.restore_handlers)

    def restore_handlers(self) -> None:
        """Restores the previous handlers, except where the program has installed another handler meanwhile."""
        forks.unregister_signals(self.previous_handlers, self.restore_handlers)
        for number, handler in self.previous_handlers.items():
            if signal.getsignal(number) is self:
                signal.signal(number, handler)  # type: ignore[arg-type]
        self.previous_handlers.clear()


def install_server_signals(
    lifecycle: "Lifecycle",
    on_second_signal: Callable[[ServerSignals, int], None],
    *,
    takes_handled_signals: bool = False,
) -> ServerSignals:
    """Installs the handlers of SIGINT, SIGTERM and SIGHUP that stop or reload a server. On the main thread only.

    Args:
        lifecycle: the server to stop or to reload.
        on_second_signal: called for a signal to stop that comes `DUPLICATE_SIGNAL_S` after the first one, or later.
        takes_handled_signals: True: SIGINT and SIGTERM also where the program has handlers of its own for them, and
            SIGHUP unless it is ignored (`nohup` does that, so that the end of a terminal has no effect). False: SIGINT
            and SIGTERM where they have their default handlers.
    """
    signals = ServerSignals(lifecycle, on_second_signal)
    signals.raises_interrupt = not takes_handled_signals
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    numbers: list[int] = []
    for number in STOP_SIGNALS:
        handler = signal.getsignal(number)
        if takes_handled_signals or handler in defaults or isinstance(handler, ServerSignals):
            numbers.append(number)
    if takes_handled_signals and SIGHUP is not None:
        if signal.getsignal(SIGHUP) is signal.SIG_IGN:
            logger.info("SIGHUP is ignored, as it was when the program started (nohup): it does not reload the workers")
        else:
            numbers.append(SIGHUP)
    signals.install_handlers(numbers)
    return signals


def install_program_signals() -> None:
    """Installs handlers of SIGINT and SIGTERM that end the process at once; for the command line.

    They act before its server starts and after that has stopped. Python's own KeyboardInterrupt may be lost while
    modules are imported, in a callback of the import system. And when the server has stopped, a duplicate of the signal
    that has stopped it must not become the exit status.
    """
    numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    forks.install_signal_handlers(numbers, _on_program_signal, _restore_program_signals)


def ignore_duplicates() -> None:
    """Has the system ignore the signals to stop until the process is gone, if a duplicate may still come.

    Called by `atexit` behind the functions of the application: Python gives the signals their default actions back as
    soon as all have run, and a duplicate would become the exit status of a clean stop. If the short rest of the end
    hangs, SIGQUIT and SIGKILL still end the process. Does nothing if the stop signal is older than DUPLICATE_SIGNAL_S,
    or if child processes are left for `multiprocessing` to wait for, which may take long.
    """
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.active_children():
        return
    if monotonic() - _stop_signal_at < DUPLICATE_SIGNAL_S and threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler is _on_program_signal or isinstance(handler, ServerSignals):
                signal.signal(number, signal.SIG_IGN)


def _on_program_signal(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: by the signal itself for SIGTERM, by `os._exit` with status 130 for SIGINT.

    Ignores a duplicate of the signal that stopped the server: one that comes less than DUPLICATE_SIGNAL_S behind it.
    Called by Python, before the command line's server has started and after that has stopped.
    """
    if monotonic() - _stop_signal_at >= DUPLICATE_SIGNAL_S:
        _restore_program_signals()
        if number != signal.SIGINT:
            signal.raise_signal(number)
        process_exit.exit_now(128 + number)


def _restore_program_signals() -> None:
    """Restores Python's default handlers of SIGINT and SIGTERM where `_on_program_signal` is installed.

    Called before SIGTERM or SIGINT ends the process, and in a forked child.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _on_program_signal:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def exit_on_second_signal(signals: ServerSignals, number: int) -> None:
    """Ends the process at once with status 128 + `number`. Called for a second signal in programs that only serve."""
    logger.warning("second signal: exiting at once")
    process_exit.exit_now(128 + number)


def reraise_second_signal(signals: ServerSignals, number: int) -> None:
    """Restores the previous handlers and raises the signal again; for programs that do more than serve.

    Called for a second signal to stop.
    """
    signals.restore_handlers()
    signal.raise_signal(number)
