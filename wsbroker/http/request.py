"""HTTP requests as handlers see them: made of a few values; everything else is computed when it is read."""

from wsbroker.http.charsets import decode_body
from wsbroker.http.headers import HeaderItems, Headers, to_exact_str
from wsbroker.http.targets import split_target


class HttpRequest:
    """A plain HTTP request, or the upgrade request of a socket.

    Args:
        method: ``"GET"``, in capitals.
        target: path and query as they came: ``"/a%20b?c=d"``. A whole URL (the absolute form) is split: its host and
            scheme count then, not those of the other arguments (RFC 9112 section 3.2.2).
        headers: the header fields, a mapping or (name, value) pairs.
        body: the whole body.
        remote: the peer's address, ``""`` if there is none (a unix socket).
        scheme: ``"http"`` or ``"https"``.
        host: host and port the request was sent to; None: those of the Host header.

    Raises:
        ValueError: the target is neither a path nor a URL, it has a fragment or user information in it, or it is
            ``"*"`` for another method than OPTIONS.
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
        """Host and port the request was sent to: ``"example.org:3000"``; ``"localhost"`` if it names none."""
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
        """Returns the length of all header fields, names and values, in characters.

        Cost: O(fields), without building `headers`.
        """
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
        """Returns the request as a tuple of plain values, in which form the wire carries it to a worker.

        `from_fields` makes a request of the tuple again.
        """
        return (
            to_exact_str(self.method),
            to_exact_str(self.url),
            to_exact_str(self.scheme),
            None if self._host is None else to_exact_str(self._host),
            to_exact_str(self.remote),
            self.body if type(self.body) is bytes else bytes(self.body),
            self.headers.pairs,
        )

    @classmethod
    def from_fields(cls, fields: tuple[object, ...]) -> "HttpRequest":
        """Creates a request from the tuple that `fields` returned for the original request."""
        method, url, scheme, host, remote, body, pairs = fields
        return cls(method, url, pairs, body, remote=remote, scheme=scheme, host=host)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<HttpRequest {self.method} {self.path}>"
