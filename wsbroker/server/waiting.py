"""Waits of threads for each other, in slices: a signal's handler runs at most `WAIT_SLICE_S` late during such a wait.

A signal that comes between a thread's last check for signals and the beginning of its wait for a lock does not end that
wait. Its handler, which may be what sets the awaited event, would run only after the wait.

May import: standard library.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

WAIT_SLICE_S: Final = 0.5
"""How long a thread waits for a lock at a time."""

_Function = TypeVar("_Function", bound=Callable[..., object])

_waiting_code: Final[set[CodeType]] = {threading._shutdown.__code__}  # type: ignore[attr-defined]
"""Code of the functions in which a thread waits for a server's end; `_shutdown` is where a main thread ends."""


def wait_until_set(event: threading.Event, timeout_s: float | None = None) -> bool:
    """Waits until an event is set, in slices, and returns whether it is set; None: without a limit."""
    return wait_in_slices(event.wait, timeout_s)


def wait_until_done(answer: "Future[Any]", timeout_s: float | None = None) -> bool:
    """Waits until a future has a result, an error or is cancelled, in slices; returns whether it is done."""
    return wait_in_slices(lambda slice_s: _wait_for_future(answer, slice_s), timeout_s)


def wait_in_slices(wait_once: Callable[[float], bool], timeout_s: float | None = None) -> bool:
    """Repeats a short wait until it succeeds or `timeout_s` has passed.

    Args:
        wait_once: waits at most so many seconds; returns whether the awaited condition holds.
        timeout_s: seconds; None: no limit.

    Returns:
        whether the awaited condition holds.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = WAIT_SLICE_S if deadline is None else deadline - time.monotonic()
        if wait_once(max(0.0, min(left_s, WAIT_SLICE_S))):
            return True
        if deadline is not None and left_s <= WAIT_SLICE_S:
            return False


def _wait_for_future(answer: "Future[Any]", seconds: float) -> bool:
    """Waits until a future has a result or an error or is cancelled, `seconds` at most; returns whether it is done."""
    try:
        answer.exception(seconds)
    except TimeoutError:
        return answer.done()
    except CancelledError:
        pass
    return True


def mark_as_waiting(function: _Function) -> _Function:
    """Marks a function in which a thread waits for a server's end, for `is_waiting_in_stack`; a decorator."""
    _waiting_code.add(function.__code__)
    return function


def is_waiting_in_stack(frame: FrameType | None) -> bool:
    """Returns whether a thread with this innermost frame waits for a server's end, or has come to its own end."""
    while frame is not None:
        if frame.f_code in _waiting_code:
            return True
        frame = frame.f_back
    return False
