"""HTTP responses and acceptances as handlers return them, checked when they are made."""

from typing import Final

from wsbroker.http.headers import HeaderItems, Headers, check_header_pairs, to_exact_str
from wsbroker.types import Data, copy_buffer

_TEXT_TYPE_FIELD: Final = ("Content-Type", "text/plain; charset=utf-8")


def _check_body(body: object) -> bytes:
    """Returns the body of a response as `bytes`: encodes a str as UTF-8, copies a bytes-like object.

    Raises:
        TypeError: the body is neither `str` nor bytes-like.
        ValueError: the `str` has a lone surrogate.
    """
    if isinstance(body, str):
        return str.encode(body)
    content = copy_buffer(body)
    if content is None:
        raise TypeError(f"the body of a response is str or bytes, not {type(body).__name__}")
    return content


class HttpResponse:
    """The response to a request, checked when it is made.

    Args:
        status: 200 to 599.
        headers: a mapping, or (name, value) pairs when a name comes several times (Set-Cookie). Content-Length and
            Transfer-Encoding are the server's business.
        body: ``str`` is sent as UTF-8, as ``text/plain; charset=utf-8`` if no Content-Type is given; any object
            with the buffer protocol as its bytes.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the status is out of range, a header's name is no token, its value has a control character in it
            (other than TAB), it contradicts the body, or a status that has no body (204, 304) comes with one.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int = 200, headers: HeaderItems = (), body: Data = b"") -> None:
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"the status of a response is an int, not {type(status).__name__}")
        status = int.__int__(status)
        if not 200 <= status <= 599:
            raise ValueError(f"the status of a response is 200 to 599, not {status}")
        pairs = check_header_pairs(headers)
        content = _check_body(body)
        if content and status in (204, 304):
            raise ValueError(f"a response with status {status} has no body (RFC 9110 section 6.4.1)")
        has_type = False
        for name, value in pairs:
            lowered = name.lower()
            if lowered == "content-type":
                has_type = True
            elif lowered == "transfer-encoding":
                raise ValueError("leave Transfer-Encoding to the server: it knows how it sends the body")
            elif lowered == "content-length" and value != str(len(content)):
                raise ValueError(f"Content-Length {value!r} contradicts the body of {len(content)} bytes: leave it out")
        if content and isinstance(body, str) and not has_type:
            pairs = (*pairs, _TEXT_TYPE_FIELD)
        self.status: int = status
        """200 to 599."""
        self.headers: Headers = Headers.from_checked_pairs(pairs)
        """The header fields, checked."""
        self.body: bytes = content
        """The body, encoded."""

    @classmethod
    def json(cls, obj: object, status: int = 200, headers: HeaderItems = ()) -> "HttpResponse":
        """Returns a response with `obj` as its JSON body.

        Raises:
            TypeError: `obj` has something in it that JSON has no form for.
            ValueError: it contains itself, NaN or an infinity, or the arguments are wrong as for `HttpResponse`.
        """
        import json

        body = json.dumps(obj, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        pairs = check_header_pairs(headers)
        if not any(name.lower() == "content-type" for name, _ in pairs):
            pairs = (*pairs, ("Content-Type", "application/json"))
        return cls(status, pairs, body)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HttpResponse):
            return NotImplemented
        return (self.status, self.headers, self.body) == (other.status, other.headers, other.body)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<HttpResponse {self.status}, {len(self.body)} bytes>"


class Accept:
    """The acceptance of a socket by its open handler, with header fields and a subprotocol for the 101.

    Args:
        headers: fields of the 101, a mapping or (name, value) pairs: cookies, for example. Upgrade, Connection,
            Content-Length, Transfer-Encoding and all Sec-WebSocket-* are the server's business.
        subprotocol: one that the client has offered (its Sec-WebSocket-Protocol header), whether the setting
            `subprotocols` lists it or not. None: that setting chooses, as if True had been returned.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a header's name is no token, or its value has a control character in it (other than TAB).

    Example:
        ```python
        def handle_socket_open(request, socket_id):
            return wsbroker.Accept(headers={"Set-Cookie": "seen=1; Path=/"}, subprotocol="chat.v2")
        ```
    """

    __slots__ = ("headers", "subprotocol")

    def __init__(self, headers: HeaderItems = (), subprotocol: str | None = None) -> None:
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise TypeError(f"a subprotocol is a str or None, not {type(subprotocol).__name__}")
        self.headers: Headers = Headers.from_checked_pairs(check_header_pairs(headers))
        """The further header fields, checked."""
        self.subprotocol: str | None = None if subprotocol is None else to_exact_str(subprotocol)
        """The subprotocol, or None for the setting's choice."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Accept):
            return NotImplemented
        return (self.headers, self.subprotocol) == (other.headers, other.subprotocol)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Accept, {len(self.headers.pairs)} fields, subprotocol {self.subprotocol!r}>"
