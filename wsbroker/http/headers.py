"""Header fields: the mapping that handlers read, and the check of fields that are going to be sent."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

HeaderItems: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers as a caller may give them: a mapping, or (name, value) pairs when a name comes several times."""

_TOKEN_CHARACTERS: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters of a token, such as a header's name (RFC 9110 section 5.6.2)."""

_CONTROL_CHARACTERS: Final = frozenset(map(chr, {*range(0x20), *range(0x7F, 0xA0)} - {0x09}))
"""The control characters but for TAB: none of them may be in a field's value (RFC 9110 section 5.5)."""


def to_exact_str(text: str) -> str:
    """Converts an instance of a subclass of `str` (aiohttp's `istr`, a StrEnum) into a plain `str`.

    `marshal`, which packs requests for the workers, refuses subclasses.
    """
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
            [(to_exact_str(name), to_exact_str(value)) for name, value in source]
        )
        """All (name, value) pairs in their order."""
        self._by_name: dict[str, list[str]] | None = None

    @classmethod
    def from_checked_pairs(cls, pairs: tuple[tuple[str, str], ...]) -> "Headers":
        """Creates `Headers` from pairs of plain `str` that have been checked already, without copying the pairs."""
        headers = cls.__new__(cls)
        headers.pairs = pairs
        headers._by_name = None
        return headers

    def _values_by_lower_name(self) -> dict[str, list[str]]:
        """Returns the values of all header fields, by name in lower case; builds the dict at the first call."""
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


def check_header_pairs(headers: object) -> tuple[tuple[str, str], ...]:
    """Checks the header fields of a response before it is sent, so that no field can inject a line break.

    Args:
        headers: a mapping, or an iterable of (name, value) pairs, as an application gave it.

    Returns:
        the (name, value) pairs as plain `str`, in their order.

    Raises:
        TypeError: `headers` is neither of the two, or a name or a value is not a `str`.
        ValueError: a name is not a token, or a value has a control character other than TAB or a lone surrogate.
    """
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
            raise TypeError(f"headers are a mapping or (name, value) pairs; one is {describe_type(item)}")
        name, value = item
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a header's name and value are str, not {type(name).__name__} and {type(value).__name__}")
        name, value = to_exact_str(name), to_exact_str(value)
        if not name or not name.isascii() or name.encode().translate(None, _TOKEN_CHARACTERS):
            raise ValueError(f"not a header name: {name!r}")
        if not value.isprintable() and not _CONTROL_CHARACTERS.isdisjoint(value):
            raise ValueError(f"the value of header {name!r} has a control character in it; of those only TAB may be")
        if not value.isascii():  # allowed, and sent as UTF-8
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"the value of header {name!r} is not Unicode: it has a lone surrogate in it"
                ) from None
        pairs.append((name, value))
    return tuple(pairs)


def describe_type(value: object) -> str:
    """Returns the name of a value's type with its article, for an error text: ``"an int"``.

    The value itself is never shown, because it may have come from a peer.
    """
    name = type(value).__name__
    return f"{'an' if name.startswith(('A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u', 'Http')) else 'a'} {name}"
