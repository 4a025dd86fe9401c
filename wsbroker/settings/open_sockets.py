"""Listening sockets that are open already and handed to this process: by systemd, or as a descriptor (`fd://`).

systemd's protocol, sd_listen_fds(3): `LISTEN_FDS` sockets, from descriptor 3 on, for the process `LISTEN_PID`, with the
names in `LISTEN_FDNAMES`. The variables are removed, so that no child uses the sockets as its own; `restore_for_exec`
sets them again for a program that replaces this one. Any other descriptor can be named by its number.

The descriptors stay open until the process ends: the program that has opened a socket keeps it over restarts, and a
server that is started again uses it again. Listeners use duplicates.

May import: `addresses`, `errors`, standard library. Must never: bind, listen or close what it was given.
"""

import os
import socket
import stat
from collections.abc import Iterable
from typing import Final

from wsbroker.errors import ConfigError
from wsbroker.settings.addresses import Address, BindAddress, InheritedSocket, TcpAddress, UnixAddress

FIRST_DESCRIPTOR: Final = 3
"""The lowest descriptor that systemd hands in."""

_SYSTEMD_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_AF_UNIX: Final[int | None] = getattr(socket, "AF_UNIX", None)
_FILE_TYPE_NAMES: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
}


class SystemdSockets:
    """The listening sockets that systemd has handed to this process, and the variables that said so."""

    def __init__(self) -> None:
        self._saved_variables: dict[str, str] = {}
        self._used_descriptors: set[int] = set()
        self.name_by_descriptor: dict[int, str] = {}
        """By descriptor: the name that systemd gave the socket; "": none."""

    def claim_sockets(self) -> list[InheritedSocket]:
        """Removes systemd's variables from the environment, if they are for this process; returns the handed sockets.

        A second call returns the same sockets.

        Raises:
            ConfigError: the number of sockets in `LISTEN_FDS` cannot be read.
        """
        if "LISTEN_FDS" in os.environ and not explain_pid_mismatch():
            count = _read_socket_count("LISTEN_FDS")
            names = os.environ.get("LISTEN_FDNAMES", "").split(":")
            self.name_by_descriptor = {FIRST_DESCRIPTOR + i: names[i] if i < len(names) else "" for i in range(count)}
            self._saved_variables = {name: os.environ.pop(name) for name in _SYSTEMD_VARIABLES if name in os.environ}
            for number in self.name_by_descriptor:
                _make_uninheritable(number)
        return [InheritedSocket(str(number)) for number in self.name_by_descriptor]

    def descriptors_of(self, address: InheritedSocket) -> list[int]:
        """Returns the descriptors of an ``fd://`` address: one by number, one or several by name.

        Raises:
            ConfigError: no socket has this name.
        """
        self.claim_sockets()
        if address.name.isdigit():
            numbers = [int(address.name)]
        else:
            numbers = [number for number, name in self.name_by_descriptor.items() if name == address.name]
        if not numbers:
            raise _inherited_socket_error(address, self._explain_unknown_name())
        self._used_descriptors.update(numbers)
        return numbers

    def _explain_unknown_name(self) -> str:
        """Returns the error text for an ``fd://NAME`` that no handed socket has: the names that there are, if any."""
        if self.name_by_descriptor:
            named = ", ".join(
                f"{name or 'no name'} (fd://{number})" for number, name in self.name_by_descriptor.items()
            )
            return f"no socket of this name was handed in; there are: {named}"
        return "no socket was handed in by that name: " + (explain_pid_mismatch() or "LISTEN_FDS is not set")

    def all_descriptors(self) -> list[int]:
        """Returns the descriptors of all sockets that were handed in or named by an address, served or not."""
        return [*self._used_descriptors.union(self.name_by_descriptor)]

    def restore_for_exec(self) -> None:
        """Sets the variables again and makes the descriptors inheritable, for a program that replaces this one."""
        os.environ.update(self._saved_variables)
        for number in (*self.name_by_descriptor, *self._used_descriptors):
            try:
                os.set_inheritable(number, True)
            except OSError:
                pass  # closed meanwhile: the new program reports that


systemd_sockets: Final = SystemdSockets()


def explain_pid_mismatch() -> str:
    """Returns why the sockets of `LISTEN_FDS` are not for this process; "" if they are, or the variable is not set."""
    if "LISTEN_FDS" not in os.environ or os.environ.get("LISTEN_PID") == str(os.getpid()):
        return ""
    return (
        f"LISTEN_FDS is for process {os.environ.get('LISTEN_PID') or '(LISTEN_PID is not set)'}, and this is "
        f"{os.getpid()}; a script in between has to start wsbroker with 'exec'"
    )


def check_inherited_sockets(addresses: Iterable[BindAddress]) -> None:
    """Raises ConfigError for the first ``fd://`` address on which no server can listen, or that is named twice."""
    seen: set[int] = set()
    for address in addresses:
        if isinstance(address, InheritedSocket):
            for sock in duplicate_sockets(address):
                sock.close()
            for number in systemd_sockets.descriptors_of(address):
                if number in seen:
                    raise _inherited_socket_error(address, f"descriptor {number} is named twice; once is enough")
                seen.add(number)


def duplicate_sockets(address: InheritedSocket) -> list[socket.socket]:
    """Returns duplicates of the sockets of an ``fd://`` address, which child processes do not inherit.

    Raises:
        ConfigError: they are no listening stream sockets.
    """
    sockets: list[socket.socket] = []
    try:
        for number in systemd_sockets.descriptors_of(address):
            sockets.append(_duplicate_descriptor(address, number))
            _make_uninheritable(number)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def address_of(sock: socket.socket) -> Address:
    """Returns the address on which a socket listens; an abstract Unix address begins with ``@``."""
    name = sock.getsockname()
    if sock.family == _AF_UNIX:
        return UnixAddress(os.fsdecode(name).replace("\0", "@", 1))
    return TcpAddress(str(name[0]), int(name[1]))


def listening_addresses_of(address: BindAddress) -> list[Address]:
    """Returns the addresses on which an ``fd://`` address listens; any other address as a list of itself.

    Raises as `duplicate_sockets`.
    """
    if not isinstance(address, InheritedSocket):
        return [address]
    sockets = duplicate_sockets(address)
    try:
        return [address_of(sock) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _duplicate_descriptor(address: InheritedSocket, number: int) -> socket.socket:
    """Returns a socket on a duplicate of a descriptor; raises ConfigError if that is no listening stream socket.

    Args:
        address: the ``fd://`` address that names the descriptor, for the error.
        number: the descriptor.
    """
    try:
        mode = os.fstat(number).st_mode
    except (OSError, OverflowError):
        raise _inherited_socket_error(
            address, f"descriptor {number} is not open; systemd hands in those from {FIRST_DESCRIPTOR} on"
        ) from None
    if not stat.S_ISSOCK(mode):
        raise _inherited_socket_error(
            address, f"descriptor {number} is {_FILE_TYPE_NAMES.get(stat.S_IFMT(mode), 'something else')}, no socket"
        )
    sock = socket.socket(fileno=os.dup(number))
    problem = _explain_unfit_socket(sock)
    if problem:
        sock.close()
        raise _inherited_socket_error(address, f"descriptor {number} is {problem}")
    return sock


def _explain_unfit_socket(sock: socket.socket) -> str:
    """Returns why a server cannot listen on an inherited socket; "" for a listening TCP or Unix stream socket.

    The text says what the socket is, to stand behind "descriptor 3 is".
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6, _AF_UNIX):
        return "a socket that is neither TCP nor Unix"
    if sock.type != socket.SOCK_STREAM:
        return "no stream socket; a socket unit needs ListenStream="
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "a socket that does not listen; call listen() before, and set Accept=no in a socket unit"
    return ""


def _make_uninheritable(number: int) -> None:
    """Sets a descriptor to be closed in child processes; does nothing if the descriptor is not open."""
    try:
        os.set_inheritable(number, False)
    except OSError:
        pass  # not open: `_duplicate_descriptor` reports that


def _read_socket_count(variable: str) -> int:
    """Returns the number of sockets in an environment variable (LISTEN_FDS); raises ConfigError if it is no number."""
    text = os.environ[variable]
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise ConfigError(f"{variable} is {text!r}, but must be the number of sockets that were handed in")
    return int(text)


def _inherited_socket_error(address: InheritedSocket, problem: str) -> ConfigError:
    """Returns the error for an ``fd://`` address on which no server can listen, because of `problem`."""
    return ConfigError(f"cannot bind to {str(address)!r}: {problem}")
