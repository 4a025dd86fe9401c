"""Checks the arguments of API calls and brings them into their exact form, which the wire and a flush can carry.

`wsbroker/__init__` has the fast paths (an exact type in range) in line and calls this module for all other arguments,
so the caller gets the error where the mistake is.
"""

from collections.abc import Iterable
from typing import Final

from wsbroker.types import MAX_CHANNEL_NAME_BYTES, MAX_TOKEN_BYTES, copy_buffer, is_sendable_close_code

MAX_SOCKET_ID: Final = 1 << 62
"""Compiled code keeps ids in 64 bits. No socket has an id outside 1 to this number."""

NO_SOCKET_ID: Final = 0
"""The id that no socket ever has."""

MAX_REASON_BYTES: Final = 123
"""RFC 6455 section 5.5: a control frame carries 125 bytes, and the close code takes two."""


def _type_name(value: object) -> str:
    """Returns the name of a value's type, for the text of an error."""
    return type(value).__name__


def validate_socket_id(value: object, argument_name: str = "socket_id") -> int:
    """Returns a socket id as an exact `int`; `NO_SOCKET_ID` for a number that cannot be an id.

    Raises:
        TypeError: the value is no `int`, or a `bool`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument_name} must be an int, not {_type_name(value)}")
    exact = int.__int__(value)
    return exact if 0 < exact <= MAX_SOCKET_ID else NO_SOCKET_ID


def validate_text(value: str, argument_name: str) -> str:
    """Returns text as an exact `str`.

    Raises:
        ValueError: the text has a lone surrogate.
    """
    exact = value if type(value) is str else str.__str__(value)
    if not exact.isascii():
        encode_utf8(exact, argument_name)
    return exact


def encode_utf8(value: str, argument_name: str) -> bytes:
    """Returns text as UTF-8.

    Raises:
        ValueError: the text has a lone surrogate.
    """
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{argument_name} has a lone surrogate at index {error.start}: "
            "that is half a character, and UTF-8 cannot carry it"
        ) from None


def validate_data(value: object) -> str | bytes:
    """Returns a message's data as exact `str` or `bytes`, copied if the caller could still change the data.

    Raises:
        TypeError: the value is neither `str` nor has the buffer protocol.
        ValueError: the text has a lone surrogate.
    """
    if isinstance(value, str):
        return validate_text(value, "data")
    content = copy_buffer(value)
    if content is None:
        raise TypeError(f"data must be str (a text message) or bytes-like (a binary one), not {_type_name(value)}")
    return content


def validate_channel(value: object, argument_name: str = "channel") -> bytes:
    """Returns a channel's name as exact `bytes`.

    Raises:
        TypeError: the value is neither `str` nor `bytes`.
        ValueError: the name is empty, too long, or has a lone surrogate.
    """
    if isinstance(value, str):
        name = encode_utf8(str.__str__(value), argument_name)
    elif isinstance(value, bytes):
        name = value if type(value) is bytes else memoryview(value).tobytes()
    else:
        raise TypeError(f"{argument_name} must be str or bytes, not {_type_name(value)}")
    if not 0 < len(name) <= MAX_CHANNEL_NAME_BYTES:
        raise ValueError(f"a channel's name has 1 to {MAX_CHANNEL_NAME_BYTES} bytes, not {len(name)}")
    return name


def validate_copied_channel(value: object, argument_name: str) -> bytes:
    """Returns the name of one of the two channels of `copy_subscriptions`, as `validate_channel` does.

    Raises:
        TypeError: also for an `int`, with a hint: a caller may have meant the subscriptions of a socket.
        ValueError: the name is empty, too long, or has a lone surrogate.
    """
    if isinstance(value, int):
        raise TypeError(
            f"{argument_name} must be str or bytes, not {_type_name(value)}: "
            "copy_subscriptions(from_channel, to_channel) copies the subscribers of a channel; to give one socket the "
            "channels of another one, call subscribe(socket_id, name) for each name in subscriptions(other_id)"
        )
    return validate_channel(value, argument_name)


def validate_excluded_ids(value: object) -> tuple[int, ...]:
    """Returns the ids of the sockets that do not get a publication, as a tuple of exact `int`.

    Raises:
        TypeError: the value is no iterable of `int`.
    """
    if type(value) is tuple and len(value) == 1:
        only = value[0]
        if type(only) is int and 0 < only <= MAX_SOCKET_ID:
            return value
    if isinstance(value, int):
        raise TypeError("exclude must be an iterable of socket ids: write exclude=(socket_id,), not exclude=socket_id")
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Iterable):
        raise TypeError(f"exclude must be an iterable of socket ids, not {_type_name(value)}")
    return tuple([validate_socket_id(each, "each id in exclude") for each in value])


def validate_token(value: object) -> bytes | None:
    """Returns a token as exact `bytes`; None for None, which removes a socket's token.

    Raises:
        TypeError: the value is neither `str` nor has the buffer protocol.
        ValueError: the token is too long, or has a lone surrogate.
    """
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
    """Returns a close code as an exact `int`.

    Raises:
        TypeError: the value is no `int`.
        ValueError: RFC 6455 does not allow to send this code.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"code must be an int, not {_type_name(value)}")
    code = int.__int__(value)
    if not is_sendable_close_code(code):
        raise ValueError(
            f"close code {code} cannot be sent: use 1000 to 1003, 1007 to 1014, or your own from 3000 to 4999"
        )
    return code


def validate_reason(value: object) -> str:
    """Returns a close reason as an exact `str`.

    Raises:
        TypeError: the value is no `str`.
        ValueError: the reason is too long for a Close frame, or has a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"reason must be str, not {_type_name(value)}")
    reason = str.__str__(value)
    size = len(encode_utf8(reason, "reason"))
    if size > MAX_REASON_BYTES:
        raise ValueError(f"a close reason has at most {MAX_REASON_BYTES} bytes of UTF-8, not {size}")
    return reason
