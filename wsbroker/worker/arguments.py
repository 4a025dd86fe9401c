"""What the calls of the API accept, and its exact form: whatever passes here, the wire carries and a flush can send.

`wsbroker/__init__` has the fast paths (an exact type in range) in line and comes here for everything else, so the
caller gets the error where the mistake is.
"""

from collections.abc import Iterable
from typing import Final

from wsbroker.types import MAX_CHANNEL_NAME_BYTES, MAX_TOKEN_BYTES, copy_buffer, is_sendable_close_code

MAX_SOCKET_ID: Final = 1 << 62
"""Compiled code keeps ids in 64 bits. What is outside 1 to this number is nobody's id."""

NO_SOCKET_ID: Final = 0
"""The id that no socket ever has."""

MAX_REASON_BYTES: Final = 123
"""RFC 6455 section 5.5: a control frame carries 125 bytes, and the close code takes two."""


def _type_name(value: object) -> str:
    return type(value).__name__


def validate_socket_id(value: object, what: str = "socket_id") -> int:
    """Returns an exact id; one that cannot exist becomes `NO_SOCKET_ID`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {_type_name(value)}")
    exact = int.__int__(value)
    return exact if 0 < exact <= MAX_SOCKET_ID else NO_SOCKET_ID


def validate_text(value: str, what: str) -> str:
    """Returns exact text that UTF-8 can carry."""
    exact = value if type(value) is str else str.__str__(value)
    if not exact.isascii():
        encode_utf8(exact, what)
    return exact


def encode_utf8(value: str, what: str) -> bytes:
    """Returns text as UTF-8."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has a lone surrogate at index {error.start}: that is half a character, and UTF-8 cannot carry it"
        ) from None


def validate_data(value: object) -> str | bytes:
    """Returns the exact form of a message, copied if the caller could still change it."""
    if isinstance(value, str):
        return validate_text(value, "data")
    content = copy_buffer(value)
    if content is None:
        raise TypeError(f"data must be str (a text message) or bytes-like (a binary one), not {_type_name(value)}")
    return content


def validate_channel(value: object, what: str = "channel") -> bytes:
    """Returns a channel's name as the broker knows it."""
    if isinstance(value, str):
        name = encode_utf8(str.__str__(value), what)
    elif isinstance(value, bytes):
        name = value if type(value) is bytes else memoryview(value).tobytes()
    else:
        raise TypeError(f"{what} must be str or bytes, not {_type_name(value)}")
    if not 0 < len(name) <= MAX_CHANNEL_NAME_BYTES:
        raise ValueError(f"a channel's name has 1 to {MAX_CHANNEL_NAME_BYTES} bytes, not {len(name)}")
    return name


def validate_copied_channel(value: object, what: str) -> bytes:
    """Returns the name of a channel between which and another one subscribers are copied."""
    if isinstance(value, int):
        raise TypeError(
            f"{what} must be str or bytes, not {_type_name(value)}: copy_subscriptions(from_channel, to_channel) copies "
            "the subscribers of a channel; to give one socket the channels of another one, call "
            "subscribe(socket_id, name) for each name in subscriptions(other_id)"
        )
    return validate_channel(value, what)


def validate_excluded_ids(value: object) -> tuple[int, ...]:
    """Returns the exact ids of whom a publication leaves out."""
    if type(value) is tuple and len(value) == 1:
        only = value[0]
        if type(only) is int and 0 < only <= MAX_SOCKET_ID:
            return value
    if isinstance(value, int):
        raise TypeError("exclude must be an iterable of socket ids: write exclude=(socket_id,), not exclude=socket_id")
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Iterable):
        raise TypeError(f"exclude must be an iterable of socket ids, not {_type_name(value)}")
    return tuple([validate_socket_id(one, "each id in exclude") for one in value])


def validate_token(value: object) -> bytes | None:
    """Returns a token as handlers get it."""
    if value is None:
        return None
    if isinstance(value, str):
        token = encode_utf8(str.__str__(value), "token")
    else:
        content = copy_buffer(value)
        if content is None:
            raise TypeError(f"token must be bytes-like, str or None, not {_type_name(value)}")
        token = content
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"a token has at most {MAX_TOKEN_BYTES} bytes, not {len(token)}")
    return token


def validate_close_code(value: object) -> int:
    """Returns a close code that may be sent."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"code must be an int, not {_type_name(value)}")
    code = int.__int__(value)
    if not is_sendable_close_code(code):
        raise ValueError(
            f"close code {code} cannot be sent: use 1000 to 1003, 1007 to 1014, or your own from 3000 to 4999"
        )
    return code


def validate_reason(value: object) -> str:
    """Returns a reason that fits into a Close frame."""
    if not isinstance(value, str):
        raise TypeError(f"reason must be str, not {_type_name(value)}")
    reason = str.__str__(value)
    size = len(encode_utf8(reason, "reason"))
    if size > MAX_REASON_BYTES:
        raise ValueError(f"a close reason has at most {MAX_REASON_BYTES} bytes of UTF-8, not {size}")
    return reason
