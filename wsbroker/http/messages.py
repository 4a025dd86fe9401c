"""HTTP requests and responses as handlers see them, and what a handler may return.

Plain values: a request is built from a few fields and computes the rest when it is asked for; a response is checked
when it is made, so that whoever sends it does not have to.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from wsbroker.errors import HandlerError
from wsbroker.http.charsets import decode_body
from wsbroker.http.targets import escape_text, split_comma_list, split_target
from wsbroker.types import Data, copy_buffer

HeaderItems: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers as a caller may give them: a mapping, or (name, value) pairs when a name comes several times."""

_TOKEN_CHARACTERS: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters of a token, such as a header's name (RFC 9110 section 5.6.2)."""

_CONTROL_CHARACTERS: Final = frozenset(map(chr, {*range(0x20), *range(0x7F, 0xA0)} - {0x09}))
"""The control characters but for TAB: none of them may be in a field's value (RFC 9110 section 5.5)."""

_RESPONSE_KEYS: Final = frozenset({"status", "headers", "body"})
"""The keys of a dict that spells a response; `status` must be among them."""

_RESERVED_IN_101: Final = frozenset({"upgrade", "connection", "content-length", "transfer-encoding"})
"""Fields of a 101 that are the server's, beside those that begin with ``sec-websocket-``."""

_HTTP_RETURNS_TEXT: Final = (
    "HttpResponse, str, bytes, a dict with status, and headers and body if it has them (sent as that response), "
    "any other dict (sent as JSON, as HttpResponse.json sends every dict) or None (200 OK)"
)
_OPEN_RETURNS_TEXT: Final = (
    "True or None (accept), False (403), an HttpResponse (sent as it is) or an Accept (accept with header fields and "
    "a subprotocol that the client has offered)"
)


def _to_exact_str(text: str) -> str:
    """Turns a subclass of `str` (aiohttp's `istr`, a StrEnum) into what the wire carries."""
    return text if type(text) is str else str.__str__(text)


class Headers(Mapping[str, str]):
    """Header fields: names compare without case, the order and repeated names are kept.

    As a mapping it has each name once, as first written, with its first value; `get_all` and `pairs` have them all.

    Args:
        items: a mapping, or (name, value) pairs.
    """

    __slots__ = ("_by_name", "pairs")

    def __init__(self, items: HeaderItems = ()) -> None:
        # A tuple first: to ask an abstract class whether something is an instance costs 0.3 µs.
        source = items.items() if type(items) is not tuple and isinstance(items, Mapping) else items
        self.pairs: tuple[tuple[str, str], ...] = tuple(
            [(_to_exact_str(name), _to_exact_str(value)) for name, value in source]
        )
        """All (name, value) pairs in their order."""
        self._by_name: dict[str, list[str]] | None = None

    @classmethod
    def _from_checked_pairs(cls, pairs: tuple[tuple[str, str], ...]) -> "Headers":
        """Takes pairs over that are what they should be."""
        found = cls.__new__(cls)
        found.pairs = pairs
        found._by_name = None
        return found

    def _values_by_lower_name(self) -> dict[str, list[str]]:
        index = self._by_name
        if index is None:
            index = {}
            for name, value in self.pairs:
                index.setdefault(name.lower(), []).append(value)
            self._by_name = index
        return index

    def get_all(self, name: str) -> list[str]:
        """Returns every value of a name in its order; [] if there is none."""
        return list(self._values_by_lower_name().get(name.lower(), ()))

    def __getitem__(self, name: str) -> str:
        return self._values_by_lower_name()[name.lower()][0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values_by_lower_name()

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        for name, _ in self.pairs:
            lowered = name.lower()
            if lowered not in seen:
                seen.add(lowered)
                yield name

    def __len__(self) -> int:
        return len(self._values_by_lower_name())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        try:
            theirs = other if isinstance(other, Headers) else Headers(other)
            return self._values_by_lower_name() == theirs._values_by_lower_name()
        except (AttributeError, TypeError):
            return False  # a mapping of something else than text

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


class HttpRequest:
    """A plain HTTP request, or the upgrade request of a socket.

    Args:
        method: ``"GET"``, in capitals.
        target: path and query as they came: ``"/a%20b?c=d"``. A whole URL (the absolute form) is split: its host and
            scheme count then, not those of the other arguments (RFC 9112 section 3.2.2).
        headers: its header fields.
        body: the whole body.
        remote: the peer's address, ``""`` if there is none (a unix socket).
        scheme: ``"http"`` or ``"https"``.
        host: host and port the request was sent to; None: those of the Host header.

    Raises:
        ValueError: the target is none: no path and no URL, with a fragment or user information in it, or ``"*"`` for
            another method than OPTIONS.
    """

    __slots__ = ("_headers", "_host", "_given_headers", "body", "method", "remote", "scheme", "url")

    def __init__(
        self,
        method: str,
        target: str,
        headers: HeaderItems = (),
        body: bytes = b"",
        *,
        remote: str = "",
        scheme: str = "http",
        host: str | None = None,
    ) -> None:
        if target[:1] != "/" or "#" in target:
            target, absolute_scheme, authority = split_target(method, target)
            scheme, host = absolute_scheme or scheme, authority or host
        self.method: str = method
        """``"GET"``, ``"POST"``, …"""
        self.url: str = target
        """Path and query, percent-encoded as they came: ``"/a%20b?c=d"``; ``"*"`` for ``OPTIONS *``."""
        self.body: bytes = body
        """The whole body; ``b""`` if there is none."""
        self.remote: str = remote
        """The peer's address, ``""`` for a unix socket."""
        self.scheme: str = scheme
        """``"http"`` or ``"https"``."""
        self._given_headers = headers
        self._headers: Headers | None = None
        self._host = host

    @property
    def headers(self) -> Headers:
        """The header fields."""
        headers = self._headers
        if headers is None:
            items = self._given_headers
            headers = self._headers = items if isinstance(items, Headers) else Headers(items)
            self._given_headers = headers
        return headers

    @property
    def host(self) -> str:
        """Host and port the request was sent to: ``"example.org:3000"``; ``"localhost"`` if it does not say."""
        return self._host or self.headers.get("host") or "localhost"

    @property
    def absolute_url(self) -> str:
        """The whole URL: ``"http://example.org:3000/a?b=c"``."""
        url = self.url
        return f"{self.scheme}://{self.host}{'' if url == '*' else url}"

    @property
    def path(self) -> str:
        """The path without its query, percent-encoded as it came: ``"/a%20b"``."""
        return self.url.partition("?")[0]

    @property
    def pathname(self) -> str:
        """The same as `path`."""
        return self.url.partition("?")[0]

    @property
    def search(self) -> str:
        """The query with its question mark: ``"?c=d"``; ``""`` if there is none."""
        query = self.url.partition("?")[2]
        return "?" + query if query else ""

    @property
    def query(self) -> str:
        """The query without its question mark: ``"c=d"``; ``""`` if there is none."""
        return self.url.partition("?")[2]

    def head_bytes(self) -> int:
        """Returns how long its header fields are, names and values. Cost: O(fields), without making `headers`."""
        items = self._given_headers
        pairs = items if type(items) is list else self.headers.pairs
        return sum([len(name) + len(value) for name, value in pairs])

    def text(self) -> str:
        """Returns the body as text: in the charset that its Content-Type names, else UTF-8.

        Raises:
            ValueError: the body is not in that charset (a `UnicodeDecodeError`), or the charset is not one of UTF-8,
                UTF-16, ISO-8859-1 (Latin-1), US-ASCII and windows-1250 to windows-1258: decode `body` then.
        """
        return decode_body(self.body, self.headers.get("content-type", ""))

    def json(self) -> object:
        """Returns the body's JSON value.

        Raises:
            ValueError: the body is not JSON (`json.JSONDecodeError`), not Unicode (`UnicodeDecodeError`), or nested too
                deeply.
        """
        import json

        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("the body's JSON is nested too deeply") from None

    def fields(self) -> tuple[object, ...]:
        """Returns the request as the wire carries it: a tuple of plain values for `from_fields`."""
        return (
            _to_exact_str(self.method),
            _to_exact_str(self.url),
            _to_exact_str(self.scheme),
            None if self._host is None else _to_exact_str(self._host),
            _to_exact_str(self.remote),
            self.body if type(self.body) is bytes else bytes(self.body),
            self.headers.pairs,
        )

    @classmethod
    def from_fields(cls, fields: tuple[object, ...]) -> "HttpRequest":
        """Makes the request that `fields` was called on."""
        method, url, scheme, host, remote, body, pairs = fields
        return cls(method, url, pairs, body, remote=remote, scheme=scheme, host=host)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<HttpRequest {self.method} {self.path}>"


_TEXT_TYPE_FIELD: Final = ("Content-Type", "text/plain; charset=utf-8")


def _check_body(body: object) -> bytes:
    if isinstance(body, str):
        return str.encode(body)
    content = copy_buffer(body)
    if content is None:
        raise TypeError(f"the body of a response is str or bytes, not {type(body).__name__}")
    return content


def _check_header_pairs(headers: object) -> tuple[tuple[str, str], ...]:
    """Checks header fields: an injected line break must not get through, whoever sends the response."""
    if type(headers) is tuple and not headers:
        return ()
    if isinstance(headers, Headers):
        items: Iterable[object] = headers.pairs
    elif isinstance(headers, Mapping):
        items = headers.items()
    elif isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        raise TypeError(f"headers are a mapping or (name, value) pairs, not {type(headers).__name__}")
    else:
        items = headers
    pairs: list[tuple[str, str]] = []
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TypeError(f"headers are a mapping or (name, value) pairs; one is {_describe_type(item)}")
        name, value = item
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a header's name and value are str, not {type(name).__name__} and {type(value).__name__}")
        name, value = _to_exact_str(name), _to_exact_str(value)
        if not name or not name.isascii() or name.encode().translate(None, _TOKEN_CHARACTERS):
            raise ValueError(f"not a header name: {name!r}")
        if not value.isprintable() and not _CONTROL_CHARACTERS.isdisjoint(value):
            raise ValueError(f"the value of header {name!r} has a control character in it; of those only TAB may be")
        if not value.isascii():  # it is let through, and sent as UTF-8
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"the value of header {name!r} is not Unicode: it has a lone surrogate in it"
                ) from None
        pairs.append((name, value))
    return tuple(pairs)


class HttpResponse:
    """What is sent for a request.

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
        pairs = _check_header_pairs(headers)
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
        self.headers: Headers = Headers._from_checked_pairs(pairs)
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
        pairs = _check_header_pairs(headers)
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
    """Accepts a socket when an open handler returns it, with header fields and a subprotocol for the 101.

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
        self.headers: Headers = Headers._from_checked_pairs(_check_header_pairs(headers))
        """The further header fields, checked."""
        self.subprotocol: str | None = None if subprotocol is None else _to_exact_str(subprotocol)
        """The subprotocol, or None for the setting's choice."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Accept):
            return NotImplemented
        return (self.headers, self.subprotocol) == (other.headers, other.subprotocol)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Accept, {len(self.headers.pairs)} fields, subprotocol {self.subprotocol!r}>"


def to_http_response(returned: object) -> HttpResponse:
    """Turns what an HTTP handler returned into the response.

    Returns:
        one that is made and checked here, so that nothing of the application's runs or changes after this.

    Raises:
        HandlerError: it may not return that; the message lists what it may.
    """
    try:
        if isinstance(returned, HttpResponse):
            return HttpResponse(returned.status, returned.headers, returned.body)
        if returned is None:
            return HttpResponse(200, (), "OK")
        if isinstance(returned, str | bytes):
            return HttpResponse(200, (), returned)
        if isinstance(returned, dict):
            if "status" in returned and returned.keys() <= _RESPONSE_KEYS:
                return HttpResponse(returned["status"], returned.get("headers", ()), returned.get("body", b""))
            return HttpResponse.json(returned)
    except Exception as error:
        raise _unsendable_return_error("handle_http_request", returned, error, _HTTP_RETURNS_TEXT) from error
    raise HandlerError(f"handle_http_request returned {_describe_type(returned)}; it may return {_HTTP_RETURNS_TEXT}")


def to_open_result(returned: object, request: HttpRequest) -> HttpResponse | Accept | None:
    """Turns what an open handler returned into the verdict: None and an `Accept` accept, a response refuses.

    Args:
        returned: by the handler.
        request: what it was called with; its offers of subprotocols are the only ones that may be chosen.

    Returns:
        a response or an `Accept` that is made and checked here, as by `to_http_response`.

    Raises:
        HandlerError: it may not return that; the message lists what it may.
    """
    if returned is None or returned is True:
        return None
    if returned is False:
        return HttpResponse(403, (), "Forbidden")
    try:
        if isinstance(returned, HttpResponse):
            return HttpResponse(returned.status, returned.headers, returned.body)
        if isinstance(returned, Accept):
            return _check_accept(Accept(returned.headers, returned.subprotocol), request)
    except Exception as error:
        raise _unsendable_return_error("handle_socket_open", returned, error, _OPEN_RETURNS_TEXT) from error
    raise HandlerError(f"handle_socket_open returned {_describe_type(returned)}; it may return {_OPEN_RETURNS_TEXT}")


def _check_accept(accept: Accept, request: HttpRequest) -> Accept:
    """Raises ValueError if the client may not be answered that."""
    for name, _ in accept.headers.pairs:
        lowered = name.lower()
        if lowered in _RESERVED_IN_101 or lowered.startswith("sec-websocket-"):
            hint = ": use its subprotocol" if lowered == "sec-websocket-protocol" else ""
            raise ValueError(f"the header {name!r} of a 101 is the server's{hint}")
    chosen = accept.subprotocol
    if chosen is not None:
        offered = [offer for offer in split_comma_list(request.headers.get_all("sec-websocket-protocol")) if offer]
        if chosen not in offered:
            # Not what was offered instead: it came from the peer.
            said = "offered others" if offered else "offered none"
            raise ValueError(f"the client has not offered the subprotocol {escape_text(chosen)}: it {said}")
    return accept


def _unsendable_return_error(handler: str, returned: object, error: Exception, legal: str) -> HandlerError:
    """The right type, and something in it that cannot be sent: a response can be changed after it was checked."""
    what = f"{type(error).__name__}: {error}"
    return HandlerError(
        f"{handler} returned {_describe_type(returned)} that cannot be sent ({what}); it may return {legal}"
    )


def _describe_type(value: object) -> str:
    """The type of a value, never the value: it may be what a peer sent."""
    name = type(value).__name__
    return f"{'an' if name.startswith(('A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u', 'Http')) else 'a'} {name}"
