"""Whatever stands in a request: it is accepted, or refused with one of the documented statuses."""

from hypothesis import given
from hypothesis import strategies as st

from wsbroker.errors import HandshakeError
from wsbroker.websocket.handshake import check_upgrade, encode_response_head

NAMES = [
    *["Host", "Upgrade", "Connection", "Origin", "Content-Length", "Transfer-Encoding", "Cookie"],
    *["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"],
]
GOOD = [
    ("Host", "a.example"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]
CHARACTERS = 'aZ09+/=.,;:-_*"\\@[] \t\r\n\0é\xa0€\ud800'
VALUES = st.sampled_from([value for _, value in GOOD]) | st.text(CHARACTERS, max_size=20)
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES) | st.text(CHARACTERS, max_size=5), VALUES), max_size=4)


@given(
    st.sampled_from(["GET", "GET", "GET", "POST"]) | st.text(CHARACTERS, max_size=4),
    st.tuples(st.integers(0, 2), st.integers(0, 2)) | st.just((1, 1)),
    FIELDS.map(lambda fields: GOOD + fields) | FIELDS | st.permutations(GOOD),
    st.sampled_from([(), ("chat",)]),
    st.none() | st.lists(st.text(CHARACTERS, max_size=10), max_size=2).map(tuple),
)
def test_a_request_is_accepted_or_refused_and_never_breaks_anything(
    method: str,
    version: tuple[int, int],
    headers: list[tuple[str, str]],
    subprotocols: tuple[str, ...],
    allowed_origins: tuple[str, ...] | None,
) -> None:
    try:
        upgrade = check_upgrade(method, *version, headers, subprotocols, allowed_origins)
    except HandshakeError as refused:
        assert refused.status in (400, 403, 405, 426)
        assert refused.reason
    else:
        assert (method, upgrade.accept_key) == ("GET", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        assert upgrade.subprotocol in (None, *subprotocols)
        head = encode_response_head(upgrade)
        assert head.count(b"\r\n\r\n") == 1 and head.endswith(b"\r\n\r\n")


@given(st.permutations([*GOOD, ("Cookie", "a=b"), ("Sec-WebSocket-Protocol", "chat")]))
def test_the_order_of_the_fields_does_not_matter(headers: list[tuple[str, str]]) -> None:
    assert check_upgrade("GET", 1, 1, headers, ("chat",), None).subprotocol == "chat"
