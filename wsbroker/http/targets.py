"""Facts about a request's head that need no handler: the form of its target, and whether a WebSocket was meant."""

from collections.abc import Iterable, Mapping
from typing import Final

_HTTP_SCHEME_BY_SCHEME: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""The schemes that an absolute target may have, and the scheme that handlers see for each."""

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HOST_CHARACTERS: Final = frozenset(_LETTERS + "0123456789._~!$&'()*+;=%-")
_ADDRESS_CHARACTERS: Final = frozenset("0123456789ABCDEFabcdef:.")
_DIGITS: Final = frozenset("0123456789")


def split_target(method: str, target: str) -> tuple[str, str, str]:
    """Splits a request target into the origin form, and the scheme and authority of an absolute form.

    Returns:
        the path with its query (``"*"`` for a server-wide OPTIONS), then ``"http"`` or ``"https"``, then host and
        port; the last two are ``""`` for a target that is not in absolute form.

    Raises:
        ValueError: the target has none of the forms that a server answers. The text does not repeat it.

    Source:
        RFC 9112 section 3.2; RFC 9110 section 4.2.4 for user information, which is refused because it is there to
        deceive; section 7.1 for fragments, which no client may send.
    """
    if "#" in target:
        raise ValueError("the request target has a fragment, which stays with the client")
    if target.startswith("/"):
        return target, "", ""
    if target == "*":
        if method != "OPTIONS":
            raise ValueError("the request target '*' is for OPTIONS only")
        return target, "", ""
    scheme, separator, rest = target.partition("://")
    if not separator:
        raise ValueError("the request target is neither a path that begins with '/' nor a whole URL")
    http_scheme = _HTTP_SCHEME_BY_SCHEME.get(scheme.lower())
    if http_scheme is None:
        raise ValueError("the scheme of the request target is not http, https, ws or wss")
    end = min([index for index in (rest.find("/"), rest.find("?")) if index >= 0], default=len(rest))
    authority, path = rest[:end], rest[end:]
    if not _is_valid_authority(authority):
        raise ValueError("the request target does not name a host, or has user information before it")
    if not path:
        path = "*" if method == "OPTIONS" else "/"  # RFC 9112 section 3.2.4
    elif path.startswith("?"):
        path = "/" + path
    return path, http_scheme, authority


def _is_valid_authority(authority: str) -> bool:
    """Returns whether a part of a URL is host and optional port, uri-host [ ":" port ], without user information.

    Only the characters are checked (RFC 3986 section 3.2.2). Written without `re`, whose import takes longer than that
    of this whole package.
    """
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        allowed, is_port = _ADDRESS_CHARACTERS, not port or port.startswith(":")
        port = port[1:]
    else:
        host, bracket, port = authority.partition(":")
        allowed, is_port, bracket = _HOST_CHARACTERS, True, "]"
    return bool(host and bracket) and is_port and allowed.issuperset(host) and _DIGITS.issuperset(port)


def is_websocket_without_upgrade(headers: Mapping[str, str]) -> bool:
    """Returns whether a request without ``Upgrade: websocket`` was meant to become a WebSocket.

    That is so if it has a field of the handshake that a proxy passes on, or ``upgrade`` in Connection but no Upgrade.

    Args:
        headers: the header fields, with case-insensitive names.
    """
    if "sec-websocket-key" in headers or "sec-websocket-version" in headers:
        return True
    connection = headers.get("connection")
    return connection is not None and "upgrade" not in headers and "upgrade" in split_comma_list([connection.lower()])


def split_comma_list(values: Iterable[str]) -> list[str]:
    """Returns the items of a comma-separated list field (RFC 9110 section 5.6.1).

    Args:
        values: the values of all fields of one name, in their order.
    """
    return [item.strip(" \t") for value in values for item in value.split(",")]


def escape_text(text: str, limit: int = 100) -> str:
    """Returns text that came from a peer in a form that a log line or an error may show.

    Args:
        text: the text.
        limit: how many characters are shown; longer text is cut and marked with an ellipsis.

    Returns:
        the text in quotes, with everything escaped that is not printable ASCII.
    """
    return ascii(text) if len(text) <= limit else ascii(text[:limit]) + "…"
