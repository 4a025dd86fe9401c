"""The charsets of a body: a closed list, for the client names them."""

import encodings.aliases
import time

import pytest

from wsbroker.http.charsets import decode_body

LINEAR_S = 1.0
"""Far more than reading a body of one of our charsets takes."""


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        *[(label, "utf-8") for label in ("utf-8", "UTF-8", "utf8", "UTF_8", '"utf-8"', "'utf-8'", " utf-8 ")],
        *[(label, "utf-16") for label in ("utf-16", "UTF16")],
        *[(label, "utf-16-le") for label in ("utf-16le", "UTF-16LE", "utf_16_le")],
        ("UTF-16BE", "utf-16-be"),
        *[(label, "latin-1") for label in ("iso-8859-1", "ISO_8859-1", "latin1", "latin-1", "l1", "ISO8859-1")],
        *[(label, "cp1252") for label in ("windows-1252", "Windows-1252", "cp1252", "x-cp1252")],
        *[(f"windows-{page}", f"cp{page}") for page in range(1250, 1259)],
    ],
)
def test_a_body_is_read_in_the_charset_that_its_type_names(label: str, codec: str) -> None:
    text = "ä ö" if codec in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252") else "a b"
    assert decode_body(text.encode(codec), f"text/plain; a=b; Charset={label}") == text


def test_without_a_charset_a_body_is_utf_8() -> None:
    for content_type in ("", "text/plain", "text/plain;", "text/plain; a=b"):
        assert decode_body("ä".encode(), content_type) == "ä"
        with pytest.raises(UnicodeDecodeError):
            decode_body(b"\xff", content_type)
    assert decode_body(b"a", "text/plain; charset=us-ascii") == "a"
    with pytest.raises(UnicodeDecodeError):
        decode_body("ä".encode(), "text/plain; charset=ascii")


def test_no_other_codec_of_python_is_reached_by_any_of_its_names() -> None:
    ours = {
        "utf_8",
        "utf_16",
        "utf_16_le",
        "utf_16_be",
        "ascii",
        "latin_1",
        *(f"cp{page}" for page in range(1250, 1259)),
    }
    names = {*encodings.aliases.aliases, *encodings.aliases.aliases.values()}
    names |= {"punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "utf_8_sig", "mbcs", "utf_7"}
    others = {name for name in names if encodings.aliases.aliases.get(name, name) not in ours}
    assert len(others) > 100
    for name in others:
        for label in (name, name.replace("_", "-"), name.upper()):
            with pytest.raises(ValueError, match="only UTF-8, UTF-16, ISO-8859-1, US-ASCII and windows-1250"):
                decode_body(b"x", f"text/plain; charset={label}")


def test_a_charset_that_is_refused_is_named_safely() -> None:
    with pytest.raises(ValueError, match="does not read the charset 'nonsense', only UTF-8") as caught:
        decode_body(b"x", "text/plain; charset=nonsense")
    assert "decode the body" in str(caught.value)
    with pytest.raises(ValueError) as caught:
        decode_body(b"x", "text/plain; charset=\x1b[31m\r\n" + "x" * 30_000)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()
    with pytest.raises(ValueError, match="charset '', only"):
        decode_body(b"x", "text/plain; charset=")


def test_a_body_of_the_largest_size_is_read_or_refused_in_no_time() -> None:
    """Punycode took 14 s for 250 KB: the cost was quadratic."""
    body = b"x" * 125_000 + b"-" + b"a" * 125_000
    start = time.perf_counter()
    with pytest.raises(ValueError):
        decode_body(body, "text/plain; charset=punycode")
    for label in ("utf-8", "utf-16", "latin-1", "windows-1258"):
        assert decode_body(body * 4 + b"-" * 4, f"text/plain; charset={label}")
    assert decode_body(b"x", "a" + ";charset=utf-8" * 2000) == "x"
    assert time.perf_counter() - start < LINEAR_S
