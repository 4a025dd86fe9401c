"""Gives memory that was freed back to the system.

The C library keeps what is freed in the middle of its heap: after a thousand slow clients were closed, the process is
as large as it was with them, and a container counts that. glibc's `malloc_trim` gives such pages back; where there is
none (macOS, Windows, musl) the library does so by itself, or nothing can be done.

May import: `guarded_log`. Must never: run `malloc_trim` in the event loop's thread (it takes milliseconds for a
large heap).
"""

import threading
from collections.abc import Callable
from typing import Final

from wsbroker.guarded_log import GuardedLog

logger = GuardedLog(__name__)

MIN_FREED_BYTES: Final = 32 * 1024 * 1024
"""Less than this freed is not worth a trim: the next load takes it again."""

MIN_TRIM_INTERVAL_S: Final = 10.0
"""Between two trims: while one runs, other threads wait for the heap."""


def find_malloc_trim() -> Callable[[], object] | None:
    """Returns a call of the C library's `malloc_trim`, None if it has none."""
    try:
        import ctypes  # 5 ms and 1 MiB: most servers never need it

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return lambda: trim(0)


class HeapTrimmer:
    """Trims the heap after much of what was held has been freed. One thread only.

    Args:
        find_trim: returns what gives memory back, which is called in a thread of its own, or None.
    """

    def __init__(self, find_trim: Callable[[], Callable[[], object] | None] = find_malloc_trim) -> None:
        self._find_trim = find_trim
        self._peak_bytes = 0
        self._earliest_trim_s = 0.0
        self._thread: threading.Thread | None = None

    def trim_if_much_was_freed(self, held_bytes: int, peak_bytes: int, now_s: float) -> bool:
        """Takes account of what is held, and begins a trim if WORTH_BYTES of it were freed since the last one.

        Args:
            held_bytes: what is held now.
            peak_bytes: the most that was held since the last call.
            now_s: a monotonic clock.

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
        except RuntimeError:  # no thread to be had: the memory is kept
            self._thread = None
            return False
        logger.debug("memory given back freed=%d", freed)
        return True
