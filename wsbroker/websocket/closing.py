"""Close codes: which may stand in a Close frame, which this server uses, and what a client should do then.

Source: RFC 6455 section 7.4 and the WebSocket Close Code Number Registry of IANA (1012 to 1014).
"""

from typing import Final

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
INVALID_TEXT: Final = 1007
POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
TLS_FAILED: Final = 1015

USED_CODES: Final[dict[int, tuple[str, bool]]] = {
    NORMAL: ("the application or the client is done", False),
    GOING_AWAY: ("the server shuts down", True),
    PROTOCOL_ERROR: ("the client broke RFC 6455", False),
    INVALID_TEXT: ("a text message was not UTF-8", False),
    POLICY_VIOLATION: ("the application's rules forbid it", False),
    MESSAGE_TOO_BIG: ("a message was over max_message_size", False),
    INTERNAL_ERROR: ("a handler failed", True),
    SERVICE_RESTART: ("the worker of this socket is replaced", True),
    TRY_AGAIN_LATER: ("the client reads too slowly, or the server is overloaded", True),
}
"""All close codes that this server sends by itself: the cause, and whether the client should reconnect (always with a
growing, random delay). Where it should not, a new connection would fail in the same way."""


def should_reconnect(code: int) -> bool:
    """Returns whether a client that gets this close code should connect again, after a random delay.

    False for the application's own codes; True for 1006, a connection that broke without a Close frame.
    """
    if code == ABNORMAL:
        return True
    return code in USED_CODES and USED_CODES[code][1]


def is_sendable(code: int) -> bool:
    """Returns whether an application may close a socket with this code: 1000 to 1003, 1007 to 1014, 3000 to 4999.

    1001 is allowed: the application knows better than we do when it is going away. So are 1010 (meant for clients)
    and 1012 to 1014, which a gateway has to pass on. 1004 has no meaning yet; 1005, 1006 and 1015 only ever describe
    a Close that was not sent and must never stand in a frame.

    Source: RFC 6455 sections 7.4.1 and 7.4.2.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def is_receivable(code: int) -> bool:
    """Returns whether a Close frame from a client may carry this code; any other is a protocol error (1002).

    The same codes are allowed in both directions.
    """
    return is_sendable(code)
