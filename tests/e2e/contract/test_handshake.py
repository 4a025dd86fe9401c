"""The upgrade request, byte by byte: who becomes a socket and who is answered what."""

from typing import Final

import pytest

from kits.contract_kit import APPS, Clients, Refused, Running, Servers, doing, until
from kits.log_records import SECRET, Log
from kits.raw_peer import KEY, request, text, upgrade
from wsbroker.settings.config import WorkerKind
from wsbroker.websocket.handshake import ORIGIN_NOT_LISTED, ORIGIN_OF_OTHER_HOST


@pytest.fixture(params=["puppet", "echo"], ids=["open handler", "no open handler"], scope="module")
def app(request: pytest.FixtureRequest) -> str:
    """An application with an open handler, and one without."""
    return str(request.param)


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server."""
    return servers.get(app, kind, subprotocols=("one", "two"))


REFUSED = {
    "no host": (upgrade(drop=("Host",)), 400, "the Host field is missing"),
    "an empty host": (upgrade("/", "Host:", drop=("Host",)), 400, "the Host field does not name a host"),
    "no upgrade to websocket": (upgrade("/", "Upgrade: h2c", drop=("Upgrade",)), None, ""),
    "connection without upgrade": (
        upgrade("/", "Connection: keep-alive", drop=("Connection",)),
        400,
        "the Connection field does not name upgrade",
    ),
    "no connection field": (upgrade(drop=("Connection",)), 400, "the Connection field does not name upgrade"),
    "no version": (upgrade(drop=("Sec-WebSocket-Version",)), 426, "the Sec-WebSocket-Version field must be 13"),
    "version 8": (
        upgrade("/", "Sec-WebSocket-Version: 8", drop=("Sec-WebSocket-Version",)),
        426,
        "the Sec-WebSocket-Version field must be 13",
    ),
    "versions 8 and 13": (
        upgrade("/", "Sec-WebSocket-Version: 8, 13", drop=("Sec-WebSocket-Version",)),
        426,
        "the Sec-WebSocket-Version field must be 13",
    ),
    "no key": (upgrade(drop=("Sec-WebSocket-Key",)), 400, "the Sec-WebSocket-Key field is missing"),
    "two keys": (upgrade("/", f"Sec-WebSocket-Key: {KEY}"), 400, "the Sec-WebSocket-Key field is doubled"),
    "a short key": (
        upgrade("/", "Sec-WebSocket-Key: dGhl", drop=("Sec-WebSocket-Key",)),
        400,
        "the Sec-WebSocket-Key field is not 16 bytes in base64",
    ),
    "a key that is no base64": (
        upgrade("/", f"Sec-WebSocket-Key: {KEY[:-3]}!==", drop=("Sec-WebSocket-Key",)),
        400,
        "the Sec-WebSocket-Key field is not 16 bytes in base64",
    ),
    "a post": (upgrade(method="POST"), 405, "a WebSocket is opened with GET"),
    "http 1.0": (upgrade(version="1.0"), 400, "a WebSocket needs HTTP/1.1"),
    "a body": (upgrade("/", "Content-Length: 5") + b"hello", 400, "a request for a WebSocket has no body"),
    "an empty chunked body": (
        upgrade("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
        "a request for a WebSocket has no body",
    ),
    "another host's page": (upgrade("/", "Origin: https://evil.example"), 403, ORIGIN_OF_OTHER_HOST),
    "a page of nobody": (upgrade("/", "Origin: null"), 403, ORIGIN_OF_OTHER_HOST),
    "a page of the host that the Host field names, not the target": (
        upgrade("http://else.example/", "Origin: http://127.0.0.1"),
        403,
        ORIGIN_OF_OTHER_HOST,
    ),
    "a fragment": (upgrade("/#x"), 400, "the request target has a fragment, which stays with the client"),
    "two origins": (
        upgrade("/", "Origin: http://127.0.0.1", "Origin: http://127.0.0.1"),
        400,
        "the Origin field is doubled",
    ),
}


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize(("data", "status", "body"), REFUSED.values(), ids=REFUSED)
@pytest.mark.one_kind
def test_an_upgrade_that_breaks_the_rules_is_refused_and_closed(
    clients: Clients, running: Running, app: str, data: bytes, status: int | None, body: str, is_first: bool
) -> None:
    peer = clients.peer(running)
    plain = 200 if app == "puppet" else 503
    if not is_first:
        peer.send(request("GET"))
        assert peer.answer().status == plain
    peer.send(data)
    answer = peer.answer()
    if status is None:  # an Upgrade to something that we do not speak is ignored (RFC 9110 section 7.8)
        assert answer.status == plain
        return
    assert answer.status == status
    # aiohttp's parser refuses some of them before we see them: no reason then.
    assert answer.text in (f"{body}\n", f"{status} Bad Request\n")
    if status == 426:
        assert (answer.headers["upgrade"], answer.headers["sec-websocket-version"]) == ("websocket", "13")
    if status == 405:
        assert answer.headers["allow"] == "GET"
    assert "close" in answer.headers.get("connection", "") or b"HTTP/1.0" in data
    assert peer.rest() == b""


ACCEPTED = {
    "as Firefox says it": upgrade("/", "Connection: keep-alive, Upgrade", drop=("Connection",)),
    "in capitals": upgrade("/", "Connection: UPGRADE", "Upgrade: WebSocket", drop=("Connection", "Upgrade")),
    "in two fields": upgrade("/", "Connection: keep-alive", "Connection: upgrade", drop=("Connection",)),
    "with an empty body": upgrade("/", "Content-Length: 0"),
    "from its own page": upgrade("/", "Origin: http://127.0.0.1"),
    "from its own page behind TLS": upgrade("/", "Origin: https://127.0.0.1"),
    "to a whole URL": upgrade("http://127.0.0.1:9/x"),
    "to a whole URL, from its page": upgrade("http://a.example:9/x", "Origin: http://a.example:9"),
    "with unknown extensions": upgrade("/", "Sec-WebSocket-Extensions: permessage-deflate, x-unknown; a=b"),
    "with unknown subprotocols": upgrade("/", "Sec-WebSocket-Protocol: chat, superchat"),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.one_kind
def test_an_upgrade_that_is_only_unusual_is_accepted(clients: Clients, running: Running, data: bytes) -> None:
    peer = clients.peer(running)
    peer.send(data, text("here 1"))
    head = peer.head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Extensions" not in head and b"Sec-WebSocket-Protocol" not in head
    assert peer.text() in ("1", "here 1")


@pytest.mark.one_kind
def test_an_upgrade_that_comes_byte_by_byte_is_the_same(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    for byte in upgrade() + text("here 1"):
        peer.send(bytes([byte]))
    assert peer.head().startswith(b"HTTP/1.1 101 ")
    assert peer.text() in ("1", "here 1")


def test_the_clients_first_known_subprotocol_is_chosen(clients: Clients, running: Running) -> None:
    for offered, chosen in (("two, one", b"two"), ("zero, one", b"one"), ("zero", None), ("ONE", None)):
        peer = clients.peer(running)
        peer.send(upgrade("/", f"Sec-WebSocket-Protocol: {offered}"))
        head = peer.head()
        if chosen is None:
            assert b"Sec-WebSocket-Protocol" not in head
        else:
            assert b"Sec-WebSocket-Protocol: " + chosen + b"\r\n" in head


def test_a_subprotocol_that_nobody_chooses_is_logged_with_what_to_do(
    servers: Servers, kind: WorkerKind, app: str, clients: Clients, log: Log
) -> None:
    running = servers.of(APPS + app, kind, subprotocols=("one", "two"))
    for _ in range(3):
        clients.connect(running, "aiohttp", subprotocols=["zero", SECRET])
    lines = [line for line in log.text.splitlines() if "no subprotocol chosen" in line]
    assert len(lines) == 1 and lines[0].startswith("WARNING wsbroker.front.front: ")
    assert "remote=127.0.0.1 offered=2: " in lines[0] and "Sec-WebSocket-Protocol" in lines[0]
    assert "setting subprotocols" in lines[0] and "Accept(subprotocol=...)" in lines[0]


def test_who_accepts_a_subprotocol_leaves_no_line(
    servers: Servers, kind: WorkerKind, clients: Clients, log: Log
) -> None:
    running = servers.get("puppet", kind, subprotocols=("one", "two"))
    for accept, chosen in (("Accept(subprotocol='zero')", "zero"), ("Accept({'A': 'b'})", "one"), ("None", "one")):
        ann = clients.connect(running, path=doing(accept), subprotocols=["zero", "one"])
        assert ann.subprotocol == chosen
    assert "no subprotocol chosen" not in log.text


ORIGINS: Final[list[tuple[tuple[str, ...], dict[str, bool]]]] = [
    (
        ("https://example.com", "null", "file://", "capacitor://localhost"),
        {
            "file://": True,
            "file://evil": False,
            "capacitor://localhost": True,
            "capacitor://localhost.evil.example": False,
            "chrome-extension://abcdef": False,
            "https://example.com": True,
            "HTTPS://EXAMPLE.COM:443": True,
            "http://example.com": False,
            "https://example.com.evil.example": False,
            "http://127.0.0.1": False,
            "null": True,
        },
    ),
    (("*",), {"https://anything.example": True, "null": True}),
    ((), {"http://127.0.0.1": False}),
]


@pytest.mark.parametrize(("allowed", "origins"), ORIGINS)
@pytest.mark.one_kind
def test_only_allowed_origins_connect(
    servers: Servers, kind: WorkerKind, clients: Clients, allowed: tuple[str, ...], origins: dict[str, bool]
) -> None:
    running = servers.get("echo", kind, allowed_origins=allowed)
    clients.connect(running)  # who names no origin is no browser
    for origin, is_let_in in origins.items():
        if is_let_in:
            clients.connect(running, headers={"Origin": origin})
        else:
            with pytest.raises(Refused) as caught:
                clients.connect(running, headers={"Origin": origin})
            assert (caught.value.status, caught.value.body) == (403, f"{ORIGIN_NOT_LISTED}\n")


@pytest.mark.one_kind
def test_a_refused_origin_is_logged_with_what_to_do(
    servers: Servers, kind: WorkerKind, clients: Clients, log: Log
) -> None:
    running = servers.of(APPS + "echo", kind)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            clients.connect(running, "websockets", headers={"Origin": "https://evil.example"})
        assert (caught.value.status, caught.value.body) == (403, f"{ORIGIN_OF_OTHER_HOST}\n")
    for origin in ("x" * 1000, "\xe9\xa0\x9b[31m"):
        peer = clients.peer(running)
        peer.send(upgrade("/", f"Origin: {origin}"))
        assert peer.answer().text == f"{ORIGIN_OF_OTHER_HOST}\n"
    lines = [line for line in log.text.splitlines() if "upgrade refused" in line]
    host = f"host='{running.authority}'"
    assert [line for line in lines if "evil" in line] == [
        "WARNING wsbroker.front.front: upgrade refused remote=127.0.0.1 status=403 origin='https://evil.example' "
        f"{host}: {ORIGIN_OF_OTHER_HOST}"
    ]
    assert len(lines) == 3 and max(map(len, lines)) < 600 and all(line.isprintable() for line in lines)


@pytest.mark.one_kind
def test_an_upgrade_that_lost_its_upgrade_field_is_told_so(
    servers: Servers, kind: WorkerKind, clients: Clients, log: Log
) -> None:
    running = servers.of(APPS + "echo", kind)
    for lost in (("Upgrade",), ("Upgrade", "Connection")):
        peer = clients.peer(running)
        peer.send(upgrade(drop=lost))
        answer = peer.answer()
        assert answer.status == 503
        assert answer.text.startswith(
            "No HTTP handler registered\nThis was meant to become a WebSocket, but there is no "
        )
        assert "proxy_set_header Upgrade $http_upgrade" in answer.text
    assert clients.http(running).text == "No HTTP handler registered"
    lines = [line for line in log.text.splitlines() if "a WebSocket was meant" in line]
    assert len(lines) == 1 and lines[0].startswith("WARNING wsbroker.front.front: ") and "proxy" in lines[0]


def test_an_http_handler_sees_an_upgrade_that_lost_its_upgrade_field_as_a_plain_request(
    servers: Servers, kind: WorkerKind, clients: Clients, log: Log
) -> None:
    peer = clients.peer(servers.of(APPS + "puppet", kind))
    peer.send(upgrade("/?do=request.method", drop=("Upgrade",)))
    assert peer.answer().text == "GET"
    assert log.text.count("a WebSocket was meant") == 1


@pytest.mark.one_kind
def test_a_connection_too_many_is_a_503(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("echo", kind, max_connections=2)
    first, _ = clients.connect(running), clients.connect(running)
    with pytest.raises(Refused) as caught:
        clients.connect(running)
    assert caught.value.status == 503
    peer = clients.peer(running)
    peer.send(request("GET"))
    answer = peer.answer()
    assert (answer.status, answer.text) == (503, "this server has no room for another connection; try again later\n")
    assert int(answer.headers["retry-after"]) > 0
    assert peer.rest() == b""
    peer.end()
    first.close()
    until(lambda: is_let_in(clients, running), "there is no room")


def is_let_in(clients: Clients, running: Running) -> bool:
    """Returns whether a new connection is accepted, as closed connections are no longer counted."""
    try:
        clients.connect(running)
    except Refused:
        return False
    return True


@pytest.mark.one_kind
def test_who_sends_no_request_head_in_time_is_let_go(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("echo", kind, handshake_timeout=0.1)
    for data in (b"", b"GET / HTTP/1.1\r\n", upgrade()[:-2]):
        peer = clients.peer(running)
        peer.send(data)
        assert b"101" not in peer.rest()
    ann = clients.connect(running)
    ann.send("in time")
    ann.receives("in time")
