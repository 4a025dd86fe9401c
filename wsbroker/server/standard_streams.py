"""Descriptors 0, 1 and 2 of a process that was started with some of them closed, as daemons and service managers do.

A socket that gets such a number receives everything that is printed, and libuv aborts the process when it closes such
a descriptor.

May import: standard library.
"""

import os
import sys
from typing import Final

_STREAM_NAMES: Final = ("stdin", "stdout", "stderr")


def open_standard_streams() -> None:
    """Opens the null device as every closed descriptor of 0 to 2, and as `sys.stdin` and so on where they are None.

    To be called before anything else opens a descriptor. Child processes inherit the opened descriptors.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # `os.open` returns the lowest free number
        os.set_inheritable(number, True)
        name = _STREAM_NAMES[number]
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    os.close(number)
