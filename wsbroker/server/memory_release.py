"""Returns freed memory to the system, by `malloc_trim` in a thread, when much was freed.

The C library keeps memory that is freed in the middle of its heap: after a thousand slow clients were closed, the
process is as large as before, and a container counts that. glibc's `malloc_trim` returns such pages to the system;
other libraries (macOS, Windows, musl) do so by themselves, or have no such function.

May import: `guarded_log`. Must never: run `malloc_trim` in the event loop's thread (it takes milliseconds for a
large heap).
"""

import threading
from collections.abc import Callable
from typing import Final

from wsbroker.guarded_log import GuardedLog

logger = GuardedLog(__name__)

MIN_FREED_BYTES: Final = 32 * 1024 * 1024
"""The least freed memory that is worth a trim: the next load needs smaller amounts again."""

MIN_TRIM_INTERVAL_S: Final = 10.0
"""The least time between two trims: during a trim other threads wait for the heap."""


def find_malloc_trim() -> Callable[[], object] | None:
    """Returns a function that calls the C library's `malloc_trim`; None if the library has none."""
    try:
        import ctypes  # loaded late: takes 5 ms and 1 MiB, and most servers never trim

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return lambda: trim(0)


class HeapTrimmer:
    """Returns freed memory to the system, in a thread, when much was freed. To be called by one thread only.

    Args:
        find_trim: returns the function that returns memory to the system, or None if there is none.
    """

    def __init__(self, find_trim: Callable[[], Callable[[], object] | None] = find_malloc_trim) -> None:
        self._find_trim = find_trim
        self._peak_bytes = 0
        self._earliest_trim_s = 0.0
        self._thread: threading.Thread | None = None

    def trim_if_much_was_freed(self, held_bytes: int, peak_bytes: int, now_s: float) -> bool:
        """Begins a trim of the heap if `MIN_FREED_BYTES` were freed since the last trim, and that is long enough ago.

        Args:
            held_bytes: the memory in use now.
            peak_bytes: the most memory in use since the last call.
            now_s: a monotonic time in seconds.

        Returns:
            whether a trim was begun.
        """
        self._peak_bytes = max(self._peak_bytes, peak_bytes, held_bytes)
        freed = self._peak_bytes - held_bytes
        if (
            freed < MIN_FREED_BYTES
            or now_s < self._earliest_trim_s
            or (self._thread is not None and self._thread.is_alive())
        ):
            return False
        self._peak_bytes = held_bytes
        self._earliest_trim_s = now_s + MIN_TRIM_INTERVAL_S
        trim = self._find_trim()
        if trim is None:
            return False
        self._thread = threading.Thread(target=trim, name="wsbroker-memory", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can be started: the memory stays in the heap
            self._thread = None
            return False
        logger.debug("memory given back freed=%d", freed)
        return True
