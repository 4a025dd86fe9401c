"""The types of the API: socket ids, channel names, data and close codes, with their limits.

May import: standard library. Must never: hold behaviour that needs a broker, a loop or a compiled module.
"""

import sys
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
elif TYPE_CHECKING:
    from typing_extensions import Buffer
else:  # Python 3.11 has no name for the buffer protocol: this is what annotations show at run time
    Buffer = bytes | bytearray | memoryview

SocketId = NewType("SocketId", int)
"""The number of a socket: starts at 1, only grows, is never reused."""

ChannelName: TypeAlias = str | bytes
"""The name of a channel, 1 to 255 bytes. ``"abc"`` and ``b"abc"`` are the same channel."""

Data: TypeAlias = str | Buffer
"""The data of a message: ``str`` is sent as a text frame; ``bytes``, ``bytearray``, ``memoryview``, ``array.array``,
``mmap.mmap`` and any other object with the buffer protocol as a binary frame, with its bytes in C order."""

CloseCode: TypeAlias = int
"""A WebSocket close code (RFC 6455 section 7.4); `wsbroker.websocket.closing` has names for them."""

MAX_CHANNEL_NAME_BYTES: Final = 255
"""The longest name of a channel, in UTF-8."""
MAX_TOKEN_BYTES: Final = 4096
"""The longest token of a socket."""


def copy_buffer(value: object) -> bytes | None:
    """Returns a copy of the bytes of an object with the buffer protocol; `bytes` themselves are not copied.

    Of several dimensions the last one varies fastest (C order), whatever the memory layout; items of several bytes keep
    their byte order.

    Returns:
        None: the object has no buffer, or its buffer holds pointers or references to Python objects, whose bytes have
            no meaning elsewhere.
    """
    if type(value) is bytes:
        return value
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    with view:
        # PEP 3118: names of fields stand between colons, O is a reference, & begins a pointer, X{} one to a function.
        kinds = "".join(view.format.split(":")[::2])
        return None if any(kind in kinds for kind in "O&X") else view.tobytes()


def is_sendable_close_code(code: int) -> bool:
    """Returns whether a Close frame may carry this code: 1000 to 1003, 1007 to 1014, 3000 to 4999.

    Source: RFC 6455 section 7.4 and IANA's registry; 1004, 1005, 1006 and 1015 are never sent, others up to 2999
    are reserved. `wsbroker.websocket.closing` has the same rule inside the core; a test compares them.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
