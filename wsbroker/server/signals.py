"""Signals of the process. First SIGINT or SIGTERM: graceful stop. Second: exit at once. SIGHUP: reload the workers."""

import math
import signal
from collections.abc import Callable, Iterable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Final

from wsbroker import process_exit
from wsbroker.guarded_log import GuardedLog
from wsbroker.worker import forks

if TYPE_CHECKING:
    from wsbroker.server.server import Server

logger = GuardedLog(__name__)

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SIGHUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)

DUPLICATE_SIGNAL_S: Final = 0.5
"""A signal to stop that comes this soon after the first is the same one: a wrapper passes on what the whole process
group has got already (`timeout`, a shell, `npm`)."""


_stop_signal_at = -math.inf
"""When a signal has last asked a server to stop, by `monotonic`."""


class ServerSignals:
    """The signals a server has taken, and who handled them before.

    Python-level handlers (not the loop's), so that a handler stuck in pure Python code on the loop's thread cannot keep
    the second signal from being heard.
    """

    def __init__(self, server: "Server", on_second: Callable[["ServerSignals", int], None]) -> None:
        self.server: Server | None = server
        """None when it has stopped."""
        self.on_second_signal = on_second
        self.raises_interrupt = False
        """Whether the first SIGINT is a KeyboardInterrupt too, for a main loop of the program's own."""
        self.previous_handlers: dict[int, object] = {}
        self.first_signal_at: float | None = None
        """When the first signal to stop came, by `monotonic`."""
        self.is_ended = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        global _stop_signal_at
        server = self.server
        if self.is_ended or server is None:  # as if we had never been here
            if number in STOP_SIGNALS and monotonic() - _stop_signal_at < DUPLICATE_SIGNAL_S:
                return
            self.restore_handlers()
            signal.raise_signal(number)
            return
        if number == SIGHUP:
            server._request_reload()
            return
        server.wants_restart = False
        if self.first_signal_at is None:
            self.first_signal_at = _stop_signal_at = monotonic()
            server._request_stop(None)
            if self.raises_interrupt and number == signal.SIGINT and not server._is_awaited_in_stack(frame):
                raise KeyboardInterrupt
        elif monotonic() - self.first_signal_at >= DUPLICATE_SIGNAL_S:
            self.on_second_signal(self, number)

    def install_handlers(self, numbers: Iterable[int]) -> None:
        """Handles these signals; a process that is forked from this one does not."""
        for number in numbers:
            handler = signal.getsignal(number)
            if isinstance(handler, ServerSignals) or (handler is signal.SIG_DFL and number == signal.SIGINT):
                handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            self.previous_handlers[number] = handler
        forks.install_signal_handlers(self.previous_handlers, self, self.restore_handlers)

    def release_server(self) -> None:
        """Releases the server, which has stopped, so that nothing here keeps it in memory."""
        forks.unregister_child_action(self.restore_handlers)
        self.server = None

    def restore_after_stop(self) -> None:
        """Gives the signals back, the server having stopped; a duplicate of the signal that stopped it is ignored."""
        if monotonic() - _stop_signal_at >= DUPLICATE_SIGNAL_S:
            self.restore_handlers()
        else:
            self.is_ended = True
            forks.unregister_child_action(self.restore_handlers)

    def restore_handlers(self) -> None:
        """Gives the signals back to who handled them before."""
        forks.unregister_signals(self.previous_handlers, self.restore_handlers)
        for number, handler in self.previous_handlers.items():
            if signal.getsignal(number) is self:
                signal.signal(number, handler)  # type: ignore[arg-type]
        self.previous_handlers.clear()


def install_server_signals(
    server: "Server", on_second: Callable[[ServerSignals, int], None], *, always: bool = False
) -> ServerSignals:
    """Takes the signals that stop a server.

    Args:
        server: the one that is asked to stop, or to reload its workers.
        on_second: called for a signal that comes when the stop was asked for already, and not just now.
        always: SIGINT and SIGTERM whoever handles them, and SIGHUP unless it is ignored: `nohup` has done that, so that
            the end of a terminal does nothing. Else SIGINT and SIGTERM where they are at their defaults.
    """
    signals = ServerSignals(server, on_second)
    signals.raises_interrupt = not always
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    numbers: list[int] = []
    for number in STOP_SIGNALS:
        handler = signal.getsignal(number)
        if always or handler in defaults or isinstance(handler, ServerSignals):
            numbers.append(number)
    if always and SIGHUP is not None:
        if signal.getsignal(SIGHUP) is signal.SIG_IGN:
            logger.info("SIGHUP is ignored, as it was when the program started (nohup): it does not reload the workers")
        else:
            numbers.append(SIGHUP)
    signals.install_handlers(numbers)
    return signals


def install_program_signals() -> None:
    """Has SIGINT and SIGTERM end a program that only serves at once, before its server starts and after that has ended.

    Python's own KeyboardInterrupt may be lost while modules are imported, in one of the callbacks of that. And when the
    server has stopped, a duplicate of the signal that has stopped it must not become the exit status.
    """
    numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    forks.install_signal_handlers(numbers, _on_program_signal, _restore_program_signals)


def _on_program_signal(number: int, frame: FrameType | None) -> None:
    if monotonic() - _stop_signal_at >= DUPLICATE_SIGNAL_S:
        _restore_program_signals()
        if number != signal.SIGINT:
            signal.raise_signal(number)
        process_exit.exit_now(128 + number)


def _restore_program_signals() -> None:
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _on_program_signal:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def exit_on_second_signal(signals: ServerSignals, number: int) -> None:
    """For programs that do nothing else: ends the process."""
    logger.warning("second signal: exiting at once")
    process_exit.exit_now(128 + number)


def reraise_second_signal(signals: ServerSignals, number: int) -> None:
    """For programs that have more to do: what would have happened without the server."""
    signals.restore_handlers()
    signal.raise_signal(number)
