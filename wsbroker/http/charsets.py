"""The charsets in which a request's body is read as text.

The client names the charset, so the list is closed. Python has some hundred codecs, and the cost of some is quadratic:
250 KB of punycode blocked the event loop for seconds. All codecs used here are linear and run in C.
"""

from typing import Final

from wsbroker.http.targets import escape_text

_CODEC_BY_LABEL: Final[dict[str, str]] = {
    label: codec
    for codec, labels in {
        "utf-8": "utf-8 utf8 unicode-1-1-utf-8",
        "utf-16": "utf-16 utf16",
        "utf-16-le": "utf-16le utf-16-le utf16le",
        "utf-16-be": "utf-16be utf-16-be utf16be",
        "ascii": "us-ascii ascii usascii ansi-x3.4-1968 iso-646.irv:1991 iso646-us",
        "latin-1": "iso-8859-1 iso8859-1 iso88591 iso-8859-1:1987 latin-1 latin1 l1 cp819 ibm819",
        **{f"cp{page}": f"windows-{page} windows{page} cp{page} cp-{page} x-cp{page}" for page in range(1250, 1259)},
    }.items()
    for label in labels.split()
}
"""The charsets of a body that `HttpRequest.text` reads, by their labels in lower case with ``-`` for ``_``."""

_SUPPORTED_CHARSETS_TEXT: Final = "UTF-8, UTF-16, ISO-8859-1, US-ASCII and windows-1250 to windows-1258"


def decode_body(body: bytes, content_type: str) -> str:
    """Decodes a request's body in the charset that its Content-Type field names, or in UTF-8 if the field names none.

    Args:
        body: the whole body.
        content_type: the value of the Content-Type field; ``""`` if the request has none.

    Raises:
        ValueError: the body is not in that charset (a `UnicodeDecodeError`), or the charset is not supported.
    """
    charset = "utf-8"
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip("\"'")
    codec = _CODEC_BY_LABEL.get(charset.lower().replace("_", "-"))
    if codec is None:
        named = escape_text(charset)
        raise ValueError(f"text() does not read the charset {named}, only {_SUPPORTED_CHARSETS_TEXT}: decode the body")
    return body.decode(codec)
