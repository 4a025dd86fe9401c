"""Descriptors 0, 1 and 2 of a process that was started with some of them closed, as daemons and service managers do.

A socket that gets such a number is written to by whatever prints, and libuv aborts the process when it closes one.

May import: standard library.
"""

import os
import sys
from typing import Final

_STREAM_NAMES: Final = ("stdin", "stdout", "stderr")


def open_standard_streams() -> None:
    """Opens the null device as each of the descriptors 0 to 2 that is closed, and as the stream that is None for it.

    To be called before anything else opens a descriptor. Child processes inherit what was opened.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(number, True)
        name = _STREAM_NAMES[number]
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    os.close(number)
