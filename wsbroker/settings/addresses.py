"""Addresses to listen on: the grammar of ``bind``, addresses as URLs, and the error texts when binding fails.

May import: `errors`, standard library. Must never: open a socket or ask a name server.

    HOST:PORT       one host name or IPv4 address        127.0.0.1:3000, localhost:3000
    :PORT           all interfaces, IPv4 and IPv6        :3000
    [IPV6]:PORT     an IPv6 address                      [::1]:3000
    unix:/PATH      a Unix socket                        unix:/run/wsbroker.sock
    fd://N          a listening socket that is open      fd://3
    fd://NAME       one that systemd has handed in       fd://wsbroker.socket

Port 0 takes any free port; `Server.addresses` has its number.
"""

import errno
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from wsbroker.errors import ConfigError

EXPECTED_FORMS_TEXT: Final = (
    "HOST:PORT (such as 127.0.0.1:3000), :PORT for all interfaces, [IPV6]:PORT, unix:/PATH, or fd://3 for a socket "
    "that is open"
)
MAX_PORT: Final = 65535
MAX_DESCRIPTOR_DIGITS: Final = 7
# sockaddr_un.sun_path has 108 bytes on Linux and 104 on macOS and the BSDs, with its terminating zero.
MAX_UNIX_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103

# Labels of 1 to 63 characters (RFC 1035 section 2.3.4); underscores are common in container networks.
_HOST_NAME: Final = re.compile(r"(?:\w(?:[\w-]{0,61}\w)?\.)*\w(?:[\w-]{0,61}\w)?\.?")
_FAILURE_PREFIX: Final = "cannot bind to "


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address to listen on: a host and a port.

    Args:
        host: a name or an address without brackets; ``""`` is every interface, IPv4 and IPv6.
        port: 0 to 65535; 0 is any free port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host or "*"
        return f"http://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address; host names but ``localhost`` count as public."""
        name = self.host.lower().removesuffix(".")
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket to listen on, at most MAX_UNIX_PATH_BYTES long."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Always True: only this machine can reach a Unix socket."""
        return True


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that the program which started this process has opened.

    Args:
        name: the number of the socket's descriptor, or the name that systemd gave the socket.
    """

    name: str

    def __str__(self) -> str:
        return f"fd://{self.name}"


Address: TypeAlias = TcpAddress | UnixAddress
"""An address on which a server listens."""
BindAddress: TypeAlias = Address | InheritedSocket
"""An address that `bind` may name."""


def parse_address(text: str) -> BindAddress:
    """Reads one address by the grammar at the top of this module.

    Raises:
        ConfigError: the text is no address; the message says what is expected.
        TypeError: `text` is not a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address must be a str such as '127.0.0.1:3000', not {type(text).__name__}")
    if text.startswith("unix:"):
        return _parse_unix_address(text)
    if text.startswith("fd://"):
        return _parse_inherited_socket(text)
    if "://" in text:
        bare = text.partition("://")[2].rstrip("/")
        raise _address_error(text, f"an address has no scheme; did you mean {bare!r}?")
    if re.fullmatch(r"fd:[0-9]+", text):
        raise _address_error(text, f"did you mean 'fd://{text[3:]}'?")
    if text.isascii() and text.isdigit():
        raise _address_error(text, f"that is a port only; did you mean '127.0.0.1:{text}'?")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise _address_error(text, "the port is missing")
    return TcpAddress(_parse_host(text, host), _parse_port(text, port))


def _list_address_texts(bind: object) -> list[str]:
    """Returns the items of a `bind` argument that is not a single str, as a list; raises TypeError for a wrong type.

    Raises:
        TypeError: `bind` is not several texts; the message suggests what was probably meant.
    """
    if isinstance(bind, bytes | bytearray) or not isinstance(bind, Iterable):
        meant = ""
        if isinstance(bind, int) and not isinstance(bind, bool):
            meant = f"; did you mean ':{bind}' (all interfaces) or '127.0.0.1:{bind}'?"
        elif isinstance(bind, os.PathLike):
            meant = f"; did you mean 'unix:{os.fspath(bind)}'?"
        raise TypeError(f"bind must be a str such as '127.0.0.1:3000', or several, not {type(bind).__name__}{meant}")
    texts = list(bind)
    if len(texts) == 2 and isinstance(texts[0], str) and isinstance(texts[1], int):
        raise TypeError(f"an address is one text, not host and port: did you mean '{texts[0]}:{texts[1]}'?")
    return texts


def parse_addresses(bind: str | Sequence[str]) -> list[BindAddress]:
    """Returns the addresses that a `bind` argument names; raises for the first wrong one.

    Raises:
        ConfigError: there is no address, a text is no address, or an address is named twice.
        TypeError: `bind` is neither a text nor several texts.
    """
    texts = [bind] if isinstance(bind, str) else _list_address_texts(bind)
    if not texts:
        raise ConfigError(f"there is no address to listen on: write {EXPECTED_FORMS_TEXT}")
    addresses: list[BindAddress] = []
    for text in texts:
        address = parse_address(text)
        is_any_port = isinstance(address, TcpAddress) and address.port == 0
        if address in addresses and not is_any_port:
            raise ConfigError(f"{_FAILURE_PREFIX}{text!r}: it is named twice; once is enough")
        addresses.append(address)
    return addresses


def describe_bind_error(address: BindAddress, error: OSError) -> OSError:
    """Returns an error of the same type and number whose text names the address and says what to do.

    Args:
        address: the address that could not be bound.
        error: the system's error, which belongs in the ``__cause__`` of the returned one.
    """
    described = type(error)(error.errno, f"{_FAILURE_PREFIX}{address}: {_bind_advice(address, error)}")
    assert isinstance(described, OSError)
    return described


def bind_error_text(error: OSError, addresses: Sequence[BindAddress]) -> str | None:
    """Returns the error text for an OSError from binding `addresses` at a start; None if another call raised it."""
    if (error.strerror or "").startswith(_FAILURE_PREFIX):
        return error.strerror
    if not isinstance(error, socket.gaierror) and error.errno not in _BIND_ERRNOS:
        return None
    if len(addresses) == 1:
        return describe_bind_error(addresses[0], error).strerror
    return f"{_FAILURE_PREFIX}{', '.join(map(str, addresses))}: {error.strerror or error}"


_BIND_ERRNOS: Final = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
        errno.EAFNOSUPPORT,
    }
)


def group_id_of(group: str, label: str = "unix_group") -> int:
    """Returns the number of a group.

    Args:
        group: the group's name, or its number in decimal digits.
        label: how errors call the setting.

    Raises:
        ConfigError: there is no group of this name.
    """
    if group.isascii() and group.isdigit() and len(group) < 10:
        return int(group)
    try:
        import grp

        return grp.getgrnam(group).gr_gid
    except (ImportError, KeyError, ValueError):
        raise ConfigError(
            f"{label} is {group!r}, and this machine has no group of that name: create the group (groupadd), or write "
            "the name or number of another one"
        ) from None


def _address_error(text: str, problem: str) -> ConfigError:
    """Returns the error for a text of `bind` that is no address: its problem, and the forms that an address has."""
    write = " Write" if problem.endswith("?") else "; write"
    return ConfigError(f"{_FAILURE_PREFIX}{text!r}: {problem}{write} {EXPECTED_FORMS_TEXT}")


def _parse_unix_address(text: str) -> UnixAddress:
    """Returns the address ``unix:/PATH``; raises ConfigError if the path is missing, too long or holds a zero byte."""
    path = text.removeprefix("unix:")
    if not path or "\0" in path:
        raise _address_error(text, "the path is missing" if not path else "a path has no zero bytes")
    size = len(os.fsencode(path))
    if size > MAX_UNIX_PATH_BYTES:
        raise _address_error(
            text, f"its path is {size} bytes long and a Unix socket's has at most {MAX_UNIX_PATH_BYTES}"
        )
    return UnixAddress(path)


def _parse_inherited_socket(text: str) -> InheritedSocket:
    """Returns the address ``fd://N`` or ``fd://NAME``; raises ConfigError if N or NAME is missing or N too large."""
    name = text.removeprefix("fd://").rstrip("/")
    if not name:
        raise _address_error(text, "the number of the descriptor, or the name of the socket, is missing")
    if name.isdigit() and (not name.isascii() or len(name) > MAX_DESCRIPTOR_DIGITS):
        raise _address_error(text, f"{name!r} is not the number of a descriptor")
    return InheritedSocket(str(int(name)) if name.isdigit() else name)


def _parse_host(text: str, host: str) -> str:
    """Returns an address's host without brackets, ``""`` for all interfaces; raises ConfigError if it is no host.

    Args:
        text: the whole address, for errors.
        host: the part before the port's colon.

    Raises:
        ConfigError: `host` is neither an IP address nor a host name.
    """
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise _address_error(text, f"{host[1:-1]!r} is not an IPv6 address") from None
        return host[1:-1]
    if ":" in host:
        raise _address_error(text, "an IPv6 address stands in brackets")
    if not host:
        return ""
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _address_error(text, f"{host!r} is not an IPv4 address") from None
    elif _HOST_NAME.fullmatch(host) is None or not _can_encode_host(host):
        raise _address_error(text, f"{host!r} is not a host name")
    return host


def _can_encode_host(host: str) -> bool:
    """Returns whether a host name can be encoded as `getaddrinfo` does that; asks no name server."""
    try:
        host.encode("idna")  # as `getaddrinfo` does first, which raises an error that is no OSError
    except UnicodeError:
        return False
    return True


def _parse_port(text: str, port: str) -> int:
    """Returns the number of an address's port, 0 to MAX_PORT; raises ConfigError, with the whole address, for others.

    Args:
        text: the whole address, for errors.
        port: the part behind the last colon.
    """
    if not port:
        raise _address_error(text, "the port is missing")
    if not (port.isascii() and port.isdigit()):
        raise _address_error(text, f"{port!r} is not a port number")
    if len(port) > 5 or int(port) > MAX_PORT:
        raise _address_error(text, f"port {port} is over {MAX_PORT}")
    return int(port)


def _bind_advice(address: BindAddress, error: OSError) -> str:
    """Returns why an address could not be bound and what to do, as one line for the error text.

    Args:
        address: the address.
        error: the error that the system has raised.
    """
    if isinstance(address, UnixAddress):
        return _unix_bind_advice(address, error)
    if isinstance(address, InheritedSocket):
        return _system_error_text(error)
    if isinstance(error, socket.gaierror):
        return f"the host name {address.host!r} is unknown; check its spelling, or write an address of this machine"
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {address.port} is in use; stop what listens there, or choose another port (0: any free one)"
        case errno.EADDRNOTAVAIL:
            return f"this machine does not have that address; write one it has, or :{address.port} for all interfaces"
        case errno.EACCES | errno.EPERM:
            return "permission denied; ports below 1024 need privileges, choose a higher one"
        case errno.EAFNOSUPPORT:
            return "this machine does not speak that address family; write an IPv4 address"
    return _system_error_text(error)


def _unix_bind_advice(address: UnixAddress, error: OSError) -> str:
    """Returns why a Unix socket could not be bound and what to do, as one line for the error text.

    Args:
        address: the path of the socket.
        error: the error that the system has raised.
    """
    folder = os.path.dirname(address.path) or "."
    match error.errno:
        case errno.EADDRINUSE:
            return "another server listens there; stop it, or choose another path"
        case errno.EACCES | errno.EPERM:
            return f"permission denied; choose a folder that this user may write to instead of {folder}"
        case errno.ENOENT | errno.ENOTDIR:
            return f"there is no folder {folder}; create it first"
    return _system_error_text(error)


def _system_error_text(error: OSError) -> str:
    """Returns the system's own text for an error, for errors without advice."""
    return error.strerror or str(error)
