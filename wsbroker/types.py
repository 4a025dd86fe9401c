"""The nouns of the API, as types.

May import: nothing of ours. Must never: hold behaviour that needs a broker, a loop or a compiled module.
"""

from typing import Final, NewType, TypeAlias

SocketId = NewType("SocketId", int)
"""The number of a socket: starts at 1, only grows, is never reused."""

ChannelName: TypeAlias = str | bytes
"""The name of a channel, 1 to 255 bytes. ``"abc"`` and ``b"abc"`` are the same channel."""

Data: TypeAlias = str | bytes | bytearray | memoryview
"""What a message carries: ``str`` goes out as a text frame, everything else as a binary one."""

CloseCode: TypeAlias = int
"""A WebSocket close code (RFC 6455 section 7.4); the ones we use stand in `wsbroker.websocket.closing`."""

MAX_CHANNEL_NAME_BYTES: Final = 255
MAX_TOKEN_BYTES: Final = 4096


def is_sendable_close_code(code: int) -> bool:
    """Returns whether a Close frame may carry this code: 1000 to 1003, 1007 to 1014, 3000 to 4999.

    Source: RFC 6455 section 7.4 and IANA's registry; 1004, 1005, 1006 and 1015 only ever describe, 2999 and below are
    reserved. `wsbroker.websocket.closing` says the same inside the core; a test compares them.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
