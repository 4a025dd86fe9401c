"""Signals of the process: the first asks the server to stop, the second does not ask, SIGHUP exchanges the workers."""

import os
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Final

from wsbroker.guarded_log import GuardedLog
from wsbroker import process_exit

if TYPE_CHECKING:
    from wsbroker.running import Server

logger = GuardedLog(__name__)

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SIGHUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)


class Signals:
    """The signals a server has taken, and who handled them before.

    Python-level handlers (not the loop's), so that a handler stuck in pure Python code on the loop's thread cannot keep
    the second signal from being heard.
    """

    def __init__(self, server: "Server", on_second: Callable[["Signals", int], None]) -> None:
        self.server = server
        self.on_second = on_second
        self.interrupts = False
        """Whether the first SIGINT is a KeyboardInterrupt too, for a main loop of the program's own."""
        self.before: dict[int, object] = {}
        self.count = 0
        self.ended = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.ended or self.server._is_forked:  # it has stopped, or is not ours: as if we had never been here
            self.restore()
            signal.raise_signal(number)
            return
        if number == SIGHUP:
            self.server._ask_to_reload()
            return
        self.count += 1
        if self.count == 1:
            self.server._ask_to_stop(None)
            if self.interrupts and number == signal.SIGINT and not self.server._is_awaited_in(frame):
                raise KeyboardInterrupt
        else:
            self.on_second(self, number)

    def restore(self) -> None:
        """Gives the signals back to who handled them before."""
        for number, handler in self.before.items():
            if signal.getsignal(number) is self:
                signal.signal(number, handler)  # type: ignore[arg-type]
        self.before.clear()


def take_signals(server: "Server", on_second: Callable[[Signals, int], None], *, always: bool = False) -> Signals:
    """Takes SIGINT and SIGTERM, those at their defaults or all."""
    signals = Signals(server, on_second)
    signals.interrupts = not always
    for number in (*STOP_SIGNALS, SIGHUP) if always and SIGHUP is not None else STOP_SIGNALS:
        handler = signal.getsignal(number)
        if always or handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(handler, Signals):
            signals.before[number] = signal.SIG_DFL if isinstance(handler, Signals) else handler
            signal.signal(number, signals)
    if isinstance(signals.before.get(signal.SIGINT), int) and signals.before[signal.SIGINT] == signal.SIG_DFL:
        signals.before[signal.SIGINT] = signal.default_int_handler
    return signals


def second_signal_exits(signals: Signals, number: int) -> None:
    """For programs that do nothing else: ends the process."""
    logger.warning("second signal: exiting at once")
    process_exit.exit_now(128 + number)


def second_signal_by_default(signals: Signals, number: int) -> None:
    """For programs that have more to do: what would have happened without the server."""
    signals.restore()
    signal.raise_signal(number)
