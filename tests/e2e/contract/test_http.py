"""Plain HTTP on the same port: what handlers are given and may return, and requests that are no proper ones."""

import http.client
import json

import pytest

from kits.contract_kit import ASYNC, ERRORS, Clients, Running, Servers, doing, fresh
from kits.log_records import Log
from kits.raw_peer import PATIENCE_S, request, upgrade
from wsbroker.settings.config import WorkerKind

MAX_BODY = 100_000
MAX_HEAD = 8 * 1024


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, app: str) -> Running:
    """A server with the puppet."""
    return servers.get(app, kind, max_body_size=MAX_BODY, max_head_size=MAX_HEAD)


# What a handler may return. -------------------------------------------------------------------------------------------

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


@pytest.mark.parametrize(
    ("returned", "status", "content_type", "body"),
    [
        ("None", 200, TEXT, b"OK"),
        ("''", 200, BINARY, b""),
        ("'größe'", 200, TEXT, "größe".encode()),
        ("b'\\x00\\xff'", 200, BINARY, b"\x00\xff"),
        ("{}", 200, "application/json", b"{}"),
        ("{'status':404}", 404, BINARY, b""),
        ("{'status':201,'body':'größe'}", 201, TEXT, "größe".encode()),
        ("{'body':b'\\x00','status':299,'headers':{'Content-Type':'a/b'}}", 299, "a/b", b"\0"),
        ("{'status':404,'x':1}", 200, "application/json", b'{"status":404,"x":1}'),
        ("{'body':'x'}", 200, "application/json", b'{"body":"x"}'),
        ("{'a':['ü',1,None,True,1.5]}", 200, "application/json", '{"a":["ü",1,null,true,1.5]}'.encode()),
        ("HttpResponse()", 200, BINARY, b""),
        ("HttpResponse(404)", 404, BINARY, b""),
        ("HttpResponse(201,{'Content-Type':'text/html'},'<p>')", 201, "text/html", b"<p>"),
        ("HttpResponse(299,[('X-A','1')],b'x')", 299, BINARY, b"x"),
        ("HttpResponse.json([1,2])", 200, "application/json", b"[1,2]"),
        ("HttpResponse.json('x',status=422)", 422, "application/json", b'"x"'),
        ("HttpResponse(500,{},bytearray(b'own'))", 500, BINARY, b"own"),
    ],
)
def test_each_kind_of_return_value_is_an_answer(
    clients: Clients, running: Running, returned: str, status: int, content_type: str, body: bytes
) -> None:
    answer = clients.http(running, "GET", doing(returned))
    assert (answer.status, answer.body) == (status, body)
    if body:
        assert answer.headers["content-type"] == content_type
    assert answer.headers["server"] == "wsbroker"
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_content_has_no_body(clients: Clients, running: Running, status: int) -> None:
    answer = clients.http(running, "GET", doing(f"HttpResponse({status},{{'ETag':'\"x\"'}})"))
    assert (answer.status, answer.body, answer.headers["etag"]) == (status, b"", '"x"')
    assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    "returned",
    [
        *["5", "True", "[1]", "object()", "{'a':object()}", "{'a':float('nan')}", "'\\ud800'", "Accept()"],
        *["{'status':'ok'}", "{'status':101}", "{'status':200,'body':{}}", "{'status':200,'headers':{'A':'\\x7f'}}"],
    ],
)
def test_anything_else_is_a_500_and_a_line_in_the_log(
    clients: Clients, running: Running, log: Log, returned: str
) -> None:
    answer = clients.http(running, "GET", doing(returned))
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    assert "handler returned what it may not handler=handle_http_request" in log.text
    assert "it may return HttpResponse, str, bytes, a dict with status, and headers and body" in log.text
    log.forgives("handler returned what it may not handler=handle_http_request")


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_is_a_500_whose_body_tells_nothing(
    clients: Clients, running: Running, log: Log, error: str
) -> None:
    answer = clients.http(running, "GET", doing(f"raised({error})"))
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    assert "Traceback" not in str(answer.headers)
    assert "handler failed handler=handle_http_request" in log.text and error.partition("(")[0] in log.text
    log.forgives("handler failed handler=handle_http_request")
    assert clients.http(running).text == "OK"


CONTROL = "the value of header 'X' has a control character in it; of those only TAB may be"


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ("HttpResponse(200, {'X': 'a\\r\\nSet-Cookie: b'})", CONTROL),
        ("HttpResponse(200, {'X': '\\x00'})", CONTROL),
        ("HttpResponse(200, {'X': '\\x1b[31m'})", CONTROL),
        ("HttpResponse.json({}, headers={'X': '\\x7f'})", CONTROL),
        ("HttpResponse(200, {'X\\n': 'a'})", "not a header name: 'X\\n'"),
        ("HttpResponse(200, {'': 'a'})", "not a header name: ''"),
        ("HttpResponse(99)", "the status of a response is 200 to 599, not 99"),
        ("HttpResponse(101)", "the status of a response is 200 to 599, not 101"),
        ("HttpResponse(600)", "the status of a response is 200 to 599, not 600"),
        ("HttpResponse(204, {}, 'x')", "a response with status 204 has no body (RFC 9110 section 6.4.1)"),
        (
            "HttpResponse(200, {'Transfer-Encoding': 'chunked'})",
            "leave Transfer-Encoding to the server: it knows how it sends the body",
        ),
        (
            "HttpResponse(200, {'Content-Length': '5'}, 'x')",
            "Content-Length '5' contradicts the body of 1 bytes: leave it out",
        ),
    ],
)
@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_response_that_cannot_be_sent_cannot_be_made(
    clients: Clients, running: Running, returned: str, error: str
) -> None:
    assert clients.http(running, "POST", data=returned).text == f"!ValueError: {error}"


def test_without_a_handler_the_answer_is_503(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("echo", kind)
    for method in ("GET", "POST", "PUT"):
        answer = clients.http(running, method, "/x", data=b"x" * 1000)
        assert (answer.status, answer.text) == (503, "No HTTP handler registered")


# What a handler is given. ---------------------------------------------------------------------------------------------


def test_a_handler_sees_the_whole_request(clients: Clients, running: Running) -> None:
    shown = (
        "[request.method, request.url, request.path, request.pathname, request.search, request.query, request.remote, "
        "request.scheme, request.host, request.absolute_url, "
        "request.headers['x-a'], request.headers.get_all('X-A'), request.headers.get('nope'), "
        "len(request.body), request.text() == request.body.decode()]"
    )
    peer = clients.peer(running)
    peer.send(request("POST", "/a%20b/?c=d&e=%20", "X-A: 1", "x-a: 2", body=shown.encode()))
    assert peer.answer().text == repr(
        ["POST", "/a%20b/?c=d&e=%20", "/a%20b/", "/a%20b/", "?c=d&e=%20", "c=d&e=%20"]
        + [
            "127.0.0.1",
            "http",
            "127.0.0.1",
            "http://127.0.0.1/a%20b/?c=d&e=%20",
            "1",
            ["1", "2"],
            None,
            len(shown),
            True,
        ]
    )
    peer.send(request("POST", "/", body=b"[request.search, request.query, request.pathname]"))
    assert peer.answer().text == repr(["", "", "/"])


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("http://a.example:81/x?y=/z", ("a.example:81", "/x?y=/z", "/x", "http://a.example:81/x?y=/z")),
        ("https://a.example", ("a.example", "/", "/", "https://a.example/")),
        ("http://a.example?y", ("a.example", "/?y", "/", "http://a.example/?y")),
        ("http://[::1]:3000/x", ("[::1]:3000", "/x", "/x", "http://[::1]:3000/x")),
        ("/http://a.example/", ("127.0.0.1", *["/http://a.example/"] * 2, "http://127.0.0.1/http://a.example/")),
        ("//a.example/", ("127.0.0.1", *["//a.example/"] * 2, "http://127.0.0.1//a.example/")),
    ],
)
@pytest.mark.one_kind
@pytest.mark.one_app
def test_the_host_is_that_of_an_absolute_target(
    clients: Clients, running: Running, target: str, seen: tuple[str, ...]
) -> None:
    peer = clients.peer(running)
    peer.send(request("POST", target, body=b"(request.host, request.url, request.path, request.absolute_url)"))
    assert peer.answer().text == repr(seen)


def test_an_open_handler_sees_the_host_of_an_absolute_target(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(upgrade("http://a.example:81/x?do=send(me,request.host+request.url[:7])", "Origin: http://a.example:81"))
    assert peer.head().startswith(b"HTTP/1.1 101 ")
    assert peer.text() == "a.example:81/x?do=s"


def test_options_for_the_whole_server_reaches_the_handler(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    for target in ("*", "http://a.example"):
        peer.send(request("OPTIONS", target))
        assert peer.answer().text == "OK"


@pytest.mark.parametrize(
    "target", ["/x#y", "http://u@a.example/", "http://u:p@a.example/", "ftp://a.example/", "*", "a.example:80", "x"]
)
@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_target_that_no_server_answers_is_a_400(clients: Clients, running: Running, target: str) -> None:
    for head in (request("GET", target), upgrade(target)):
        peer = clients.peer(running)
        peer.send(head)
        assert peer.answer().status == 400
        assert peer.rest() == b""


@pytest.mark.parametrize("body", [b'{"a": [1, "\xc3\xbc"]}', b'"\xff"', b"{", b""])
def test_json_is_read_or_a_value_error(servers: Servers, kind: WorkerKind, clients: Clients, body: bytes) -> None:
    running = servers.get("bodies", kind, max_body_size=MAX_BODY)
    answer = clients.http(running, "POST", "/json", data=body)
    try:
        expected = repr(json.loads(body))
    except ValueError as error:
        expected = type(error).__name__
    assert answer.text == expected


def test_text_is_read_in_its_charset(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running = servers.get("bodies", kind, max_body_size=MAX_BODY)

    def text(body: bytes, content_type: str) -> str:
        return clients.http(running, "POST", "/text", data=body, headers={"Content-Type": content_type}).text

    assert text("grün".encode(), "text/plain") == "'grün'"
    assert text("grün".encode("latin-1"), "text/plain; charset=latin-1") == "'grün'"
    assert text(b"\xff", "text/plain") == "UnicodeDecodeError"
    assert text("€".encode("cp1252"), "text/plain; charset=Windows-1252") == "'€'"
    assert text("grün".encode("utf-16"), "text/plain; charset=utf-16") == "'grün'"
    assert text(b"x", "text/plain; charset=nope") == "ValueError"
    for charset in ("punycode", "idna", "utf-7", "unicode_escape", "hex", "gb18030"):
        assert text(b"x" * (MAX_BODY // 2) + b"-" + b"a" * 9, f"text/plain; charset={charset}") == "ValueError"


@pytest.mark.parametrize("size", [0, 1, 65536, MAX_BODY])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_body_arrives_whole(
    servers: Servers, kind: WorkerKind, clients: Clients, size: int, is_chunked: bool
) -> None:
    running = servers.get("bodies", kind, max_body_size=MAX_BODY)
    body = bytes(range(256)) * (size // 256 + 1)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE_S)
    parts = [body[start : min(start + 999, size)] for start in range(0, size, 999)]
    for _ in range(2):
        if is_chunked:
            connection.request("POST", "/echo", iter(parts), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        else:
            connection.request("POST", "/echo", body[:size])
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read() == body[:size]
    connection.close()


def test_any_method_reaches_the_handler(clients: Clients, running: Running) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert clients.http(running, method, doing("request.method")).text == method


# Limits. --------------------------------------------------------------------------------------------------------------


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_body_over_the_limit_is_a_413(clients: Clients, running: Running) -> None:
    assert clients.http(running, "POST", data=b" " * (MAX_BODY - 1) + b"1").text == "1"
    assert clients.http(running, "POST", data=b" " * (MAX_BODY + 1)).status == 413
    announced = clients.peer(running)
    announced.send(request("POST", "/", f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue"))
    assert announced.answer().status == 413
    assert announced.rest() == b""
    chunked = clients.peer(running)
    chunked.send(request("POST", "/", "Transfer-Encoding: chunked"), b"fffff\r\n", b" " * 0xFFFFF)
    assert chunked.answer().status == 413


@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_head_over_the_limit_is_a_431(clients: Clients, running: Running, before: bool) -> None:
    many = [f"X-{number}: {'x' * 100}" for number in range(MAX_HEAD // 100)]
    for lines in (many, [f"X: {'x' * MAX_HEAD}"]):
        peer = clients.peer(running)
        if before:
            peer.send(request("GET"))
            assert peer.answer().text == "OK"
        peer.send(request("GET", "/", *lines))
        assert peer.answer().status == 431
        assert peer.rest() == b""
    peer = clients.peer(running)
    peer.send(request("GET", "/" + "x" * MAX_HEAD))
    assert peer.answer().status == 431
    peer = clients.peer(running)
    peer.send(request("GET", "/", f"X: {'x' * (MAX_HEAD - 500)}"))
    assert peer.answer().status == 200
    peer = clients.peer(running)
    peer.send(upgrade("/", *many))
    assert peer.answer().status == 431


# Connections. ---------------------------------------------------------------------------------------------------------


@pytest.mark.one_kind
@pytest.mark.one_app
def test_an_answer_to_head_has_a_length_and_no_body(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(request("HEAD", "/?do='four'"), request("GET", "/?do='five5'"))
    head = peer.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"Content-Length: 4\r\n" in head
    assert peer.answer().text == "five5"


@pytest.mark.one_kind
@pytest.mark.one_app
def test_a_connection_is_kept_until_somebody_ends_it(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    for number in range(5):
        peer.send(request("POST", body=b"%d" % number))
        assert peer.answer().text == str(number)
    peer.send(request("POST", "/", "Connection: close", body=b"'last'"))
    answer = peer.answer()
    assert (answer.text, answer.headers["connection"]) == ("'last'", "close")
    assert peer.rest() == b""


def test_a_handler_can_end_the_connection(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(request("GET", "/?do=HttpResponse(200,{'Connection':'close'},'bye')"))
    assert peer.answer().text == "bye"
    assert peer.rest() == b""


def test_pipelined_requests_are_answered_in_order(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(*(request("POST", body=b"%d" % number) for number in range(100)))
    assert [peer.answer().text for _ in range(100)] == [str(number) for number in range(100)]


@ASYNC
def test_a_slow_answer_holds_back_only_its_own_connection(clients: Clients, running: Running) -> None:
    gate = fresh("gate").replace(" ", "-")
    slow, other = clients.peer(running), clients.peer(running)
    slow.send(request("GET", f"/?do=waited(gate('{gate}'),lambda:'slow')"), request("POST", body=b"'behind'"))
    other.send(request("POST", body=b"'fast'"))
    assert other.answer().text == "'fast'"
    other.send(request("POST", body=f"gate('{gate}').set()".encode()))
    assert other.answer().text == "None"
    assert [slow.answer().text, slow.answer().text] == ["slow", "'behind'"]


@pytest.mark.one_kind
@pytest.mark.one_app
def test_100_continue_is_sent_when_it_is_waited_for(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    for _ in range(2):
        peer.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 3"))
        assert peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"1+1")
        assert peer.answer().text == "2"
    peer.send(request("POST", "/", "Expect: a miracle", "Content-Length: 3"))
    assert peer.answer().status == 417


@pytest.mark.one_kind
@pytest.mark.one_app
def test_http_1_0_is_served_and_closed(clients: Clients, running: Running) -> None:
    peer = clients.peer(running)
    peer.send(b"GET / HTTP/1.0\r\n\r\n")
    answer = peer.rest()
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n") and answer.endswith(b"\r\n\r\nOK")


H = b"Host: x\r\n"
P = b"POST / HTTP/1.1\r\n" + H
REFUSED = {
    "no request": (b"hello\r\n\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "a folded field": (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),
    "a nul": (b"GET / HTTP/1.1\r\n" + H + b"X: \0\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "two lengths": (P + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "a list of lengths": (P + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (P + b"Content-Length: +3\r\n\r\nabc", 400),
    "a length in hex": (P + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "a length with an underscore": (P + b"Content-Length: 1_0\r\n\r\nabc", 400),
    "length and chunks": (P + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and length": (P + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "an unknown coding": (P + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (P + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "two codings": (P + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a bad chunk size": (P + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a signed chunk size": (P + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n", 400),
    "chunks in 1.0": (
        b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n",
        400,
    ),
    "http 1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 400),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\n" + H + b"\r\n", 501),
}


@pytest.mark.parametrize("before", [b"", request("GET")], ids=["first", "second"])
@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
@pytest.mark.one_kind
@pytest.mark.one_app
def test_what_is_no_proper_request_is_refused_and_never_handled(
    servers: Servers, kind: WorkerKind, clients: Clients, data: bytes, status: int, before: bytes
) -> None:
    """Behind it stands a request that must not be taken for one: whoever reads its length differently would."""
    running = servers.get("counting", kind)
    peer = clients.peer(running)
    count = int(clients.http(running, "GET", "/count").text)
    peer.send(before)
    if before:
        assert peer.answer().status == 200
    peer.send(data, request("GET", "/smuggled"))
    answer = peer.answer()
    assert answer.status == status
    assert answer.headers["connection"] == "close" or b"HTTP/1.0" in data
    assert b"<" not in answer.body
    assert peer.rest() == b""
    assert int(clients.http(running, "GET", "/count").text) == count + bool(before)


def test_a_handler_that_takes_too_long_is_a_504(
    servers: Servers, kind: WorkerKind, app: str, clients: Clients, log: Log
) -> None:
    running = servers.get(app, kind, http_timeout=0.1)
    if app == "puppet" and kind == "inline":  # nothing interrupts a plain handler in the event loop
        answer = clients.http(running, "GET", doing("__import__('time').sleep(0.15)"))
        assert (answer.status, answer.text) == (200, "OK")
        assert "handler took too long in the event loop, everybody waited handler=handle_http_request" in log.text
        log.forgives("handler took too long in the event loop")
        return
    wait = f"gate({fresh('gate')!r}).wait()" if app == "async_puppet" else "next(0 for one in iter(int, 1) if one)"
    answer = clients.http(running, "GET", doing(wait))
    assert (answer.status, answer.text) == (504, "Gateway Timeout")
    assert clients.http(running).text == "OK"
    log.forgives("handler took too long handler=handle_http_request")


def test_a_request_has_the_time_of_requests_and_not_of_messages(
    servers: Servers, kind: WorkerKind, app: str, clients: Clients, log: Log
) -> None:
    running = servers.get(app, kind, handler_timeout=0.02)
    later = "__import__('asyncio').sleep(0.1)" if app == "async_puppet" else "__import__('time').sleep(0.1)"
    assert clients.http(running, "GET", doing(later)).status == 200
    log.forgives("handler took too long in the event loop")
