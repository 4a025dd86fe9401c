"""The shared secret of the pub/sub application: which clients may publish and subscribe.

The secret is compared in constant time and is never logged, nor part of any answer.
"""

import hmac
import json
from typing import Final

AUTH_TIMEOUT_S: Final = 10.0
"""How long a socket may stay without authentication, unless the worker's argument says otherwise."""


class Access:
    """The shared secret, if there is one, and how long a socket may stay without having sent the secret.

    Args:
        arg: the worker's argument: None or "" (no secret), the secret as it is, or JSON ``{"secret": S,
            "auth_timeout_s": SECONDS}`` with at least one of these keys.
    """

    __slots__ = ("_secret", "auth_timeout_s")

    def __init__(self, arg: str | None = None) -> None:
        secret, self.auth_timeout_s = _parse_worker_argument(arg)
        self._secret = None if not secret else _encode_utf8(secret)

    @property
    def has_no_secret(self) -> bool:
        """True if there is no secret, so that all clients may publish and subscribe."""
        return self._secret is None

    def accepts_secret(self, secret: object) -> bool:
        """Returns whether `secret`, any value that a client has sent, is the right one; True if there is no secret."""
        if self._secret is None:
            return True
        if not isinstance(secret, str):
            return False
        try:
            return hmac.compare_digest(_encode_utf8(secret), self._secret)
        except UnicodeEncodeError:
            return False

    def accepts_header(self, authorization: str | None) -> bool | None:
        """Returns whether an ``Authorization`` header holds the secret; None if it has no Bearer token at all."""
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.accepts_secret(credentials.strip())


def _parse_worker_argument(arg: str | None) -> tuple[str | None, float]:
    """Returns the secret (None: there is none) and the authentication timeout in seconds from the worker's argument.

    Args:
        arg: the worker's argument, in one of the forms of `Access`.

    Raises:
        ValueError: the argument is JSON with a value of the wrong type, or with a timeout out of range.
    """
    try:
        options = json.loads(arg or "")
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict) or not options.keys() & {"secret", "auth_timeout_s"}:
        return arg, AUTH_TIMEOUT_S
    secret, timeout_s = options.get("secret"), options.get("auth_timeout_s", AUTH_TIMEOUT_S)
    if secret is not None and not isinstance(secret, str):
        raise ValueError('the worker argument\'s "secret" must be a string')
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < 86400:
        raise ValueError('the worker argument\'s "auth_timeout_s" must be a number of seconds, more than 0')
    return secret, float(timeout_s)


def _encode_utf8(text: str) -> bytes:
    """Returns a text as UTF-8; lone surrogates, which stand for bytes that were not UTF-8, become these bytes again."""
    # Headers and environment variables that are not UTF-8 arrive with their bytes as surrogates.
    return text.encode("utf-8", "surrogateescape")
