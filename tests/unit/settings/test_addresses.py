"""The grammar of --bind, and the error texts when binding fails."""

import errno
import socket

import pytest

from wsbroker.errors import ConfigError
from wsbroker.settings.addresses import (
    MAX_UNIX_PATH_BYTES,
    Address,
    InheritedSocket,
    TcpAddress,
    UnixAddress,
    bind_error_text,
    describe_bind_error,
    parse_address,
    parse_addresses,
)

WRITE = (
    "HOST:PORT (such as 127.0.0.1:3000), :PORT for all interfaces, [IPV6]:PORT, unix:/PATH, or fd://3 for a socket "
    "that is open"
)


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("127.0.0.1:3000", TcpAddress("127.0.0.1", 3000), "http://127.0.0.1:3000"),
        ("localhost:0", TcpAddress("localhost", 0), "http://localhost:0"),
        ("my_service.internal.:80", TcpAddress("my_service.internal.", 80), "http://my_service.internal.:80"),
        ("bücher.example:65535", TcpAddress("bücher.example", 65535), "http://bücher.example:65535"),
        (":3000", TcpAddress("", 3000), "http://*:3000"),
        ("[::1]:3000", TcpAddress("::1", 3000), "http://[::1]:3000"),
        ("[::]:3000", TcpAddress("::", 3000), "http://[::]:3000"),
        ("[fe80::1%eth0]:3000", TcpAddress("fe80::1%eth0", 3000), "http://[fe80::1%eth0]:3000"),
        ("unix:/run/ws.sock", UnixAddress("/run/ws.sock"), "unix:/run/ws.sock"),
        ("fd://3", InheritedSocket("3"), "fd://3"),
        ("fd://003/", InheritedSocket("3"), "fd://3"),
        ("fd://ws.socket", InheritedSocket("ws.socket"), "fd://ws.socket"),
        ("unix:/run/a:b,c.sock", UnixAddress("/run/a:b,c.sock"), "unix:/run/a:b,c.sock"),
    ],
)
def test_an_address_is_read_and_shown_as_a_url(text: str, address: Address, url: str) -> None:
    assert parse_address(text) == address
    assert str(address) == url


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the port is missing; write"),
        ("localhost", "the port is missing; write"),
        ("localhost:", "the port is missing; write"),
        ("[::1]", "the port is missing; write"),
        ("3000", "that is a port only; did you mean '127.0.0.1:3000'? Write"),
        ("http://127.0.0.1:3000/", "an address has no scheme; did you mean '127.0.0.1:3000'? Write"),
        ("localhost:http", "'http' is not a port number; write"),
        ("localhost:-1", "'-1' is not a port number; write"),
        ("localhost:٣", "'٣' is not a port number; write"),
        ("localhost:65536", "port 65536 is over 65535; write"),
        ("localhost:" + "9" * 5000, f"port {'9' * 5000} is over 65535; write"),
        ("::1:3000", "an IPv6 address stands in brackets; write"),
        ("[::g]:3000", "'::g' is not an IPv6 address; write"),
        ("256.0.0.1:80", "'256.0.0.1' is not an IPv4 address; write"),
        ("*:3000", "'*' is not a host name; write"),
        ("a b:3000", "'a b' is not a host name; write"),
        ("a..b:3000", "'a..b' is not a host name; write"),
        ("x" * 64 + ":1", f"'{'x' * 64}' is not a host name; write"),
        ("ü" * 60 + ":1", f"'{'ü' * 60}' is not a host name; write"),
        ("unix:", "the path is missing; write"),
        ("unix:/a\0b", "a path has no zero bytes; write"),
        ("fd:3", "did you mean 'fd://3'? Write"),
        ("fd://", "the number of the descriptor, or the name of the socket, is missing; write"),
        ("fd://12345678", "'12345678' is not the number of a descriptor; write"),
        ("fd://\u0663", "'\u0663' is not the number of a descriptor; write"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_expected(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert str(caught.value) == f"cannot bind to {text!r}: {problem} {WRITE}"


def test_a_unix_path_longer_than_the_system_takes_is_refused() -> None:
    assert parse_address("unix:" + "x" * MAX_UNIX_PATH_BYTES) == UnixAddress("x" * MAX_UNIX_PATH_BYTES)
    path = "ü" * 60
    with pytest.raises(
        ConfigError, match=f"its path is 120 bytes long and a Unix socket's has at most {MAX_UNIX_PATH_BYTES};"
    ):
        parse_address("unix:" + path)


def test_an_address_that_is_no_text_is_a_type_error() -> None:
    wrong: list[str] = [3000]  # type: ignore[list-item]
    with pytest.raises(TypeError) as caught:
        parse_addresses(wrong)
    assert str(caught.value) == "an address must be a str such as '127.0.0.1:3000', not int"


def test_one_address_or_several_are_read_in_order() -> None:
    assert parse_addresses(":80") == [TcpAddress("", 80)]
    assert parse_addresses(["a:0", "a:0", "unix:/x"]) == [TcpAddress("a", 0), TcpAddress("a", 0), UnixAddress("/x")]


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_addresses([])
    assert str(caught.value) == f"there is no address to listen on: write {WRITE}"


def test_an_address_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_addresses(["a:80", ":80", "a:80"])
    assert str(caught.value) == "cannot bind to 'a:80': it is named twice; once is enough"


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("LocalHost.:1", True),
        ("app.localhost:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("unix:/x", True),
        (":1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.168.1.1:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("example.com:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_loopback_is_told_without_asking_a_name_server(text: str, is_loopback: bool) -> None:
    address = parse_address(text)
    assert not isinstance(address, InheritedSocket) and address.is_loopback is is_loopback


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        (
            "127.0.0.1:80",
            OSError(errno.EADDRINUSE, "Address already in use"),
            (
                "cannot bind to http://127.0.0.1:80: port 80 is in use; stop what listens there, "
                "or choose another port (0: any free one)"
            ),
        ),
        (
            ":80",
            PermissionError(errno.EACCES, "Permission denied"),
            "cannot bind to http://*:80: permission denied; ports below 1024 need privileges, choose a higher one",
        ),
        (
            "10.9.8.7:80",
            OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
            (
                "cannot bind to http://10.9.8.7:80: this machine does not have that address; write one it has, "
                "or :80 for all interfaces"
            ),
        ),
        (
            "[::1]:80",
            OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol"),
            "cannot bind to http://[::1]:80: this machine does not speak that address family; write an IPv4 address",
        ),
        (
            "nowhere:80",
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            (
                "cannot bind to http://nowhere:80: the host name 'nowhere' is unknown; check its spelling, "
                "or write an address of this machine"
            ),
        ),
        (
            "a:80",
            OSError(errno.ENOBUFS, "No buffer space available"),
            "cannot bind to http://a:80: No buffer space available",
        ),
        (
            "unix:/run/x",
            OSError(errno.EADDRINUSE, "Address already in use"),
            "cannot bind to unix:/run/x: another server listens there; stop it, or choose another path",
        ),
        (
            "unix:/run/x",
            PermissionError(errno.EACCES, "Permission denied"),
            (
                "cannot bind to unix:/run/x: permission denied; choose a folder that this user may write to "
                "instead of /run"
            ),
        ),
        (
            "unix:/run/no/x",
            FileNotFoundError(errno.ENOENT, "No such file or directory"),
            "cannot bind to unix:/run/no/x: there is no folder /run/no; create it first",
        ),
        (
            "unix:x",
            OSError("odd"),
            "cannot bind to unix:x: odd",
        ),
    ],
)
def test_a_failure_to_bind_names_the_address_and_what_to_do(text: str, error: OSError, line: str) -> None:
    failure = describe_bind_error(parse_address(text), error)
    assert type(failure) is type(error)
    assert failure.errno == error.errno
    assert failure.strerror == line
    assert bind_error_text(failure, []) == line


def test_a_failure_that_names_no_address_is_told_by_its_number() -> None:
    error = OSError(errno.EADDRINUSE, "Address already in use")
    one, two = parse_addresses(["a:1", "b:2"])
    assert bind_error_text(error, [one]) == describe_bind_error(one, error).strerror
    assert bind_error_text(error, [one, two]) == "cannot bind to http://a:1, http://b:2: Address already in use"


def test_an_error_that_has_nothing_to_do_with_binding_is_not_explained_away() -> None:
    assert bind_error_text(OSError(errno.EMFILE, "Too many open files"), parse_addresses("a:1")) is None
    assert bind_error_text(OSError("no number"), parse_addresses("a:1")) is None
