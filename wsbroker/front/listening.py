"""Listening sockets: made here rather than by the loop, so that all of several addresses are bound or none.

Nothing is accepted before every address is bound; a failure closes what was bound and says which address and why.
"""

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, cast

from wsbroker.errors import ConfigError
from wsbroker.settings.addresses import (
    Address,
    BindAddress,
    InheritedSocket,
    TcpAddress,
    UnixAddress,
    describe_bind_error,
)
from wsbroker.settings.open_sockets import address_of, duplicate_sockets

BACKLOG: Final = 4096
"""Connections the kernel holds for us between two turns of the loop (cut to `net.core.somaxconn`)."""

MAX_KERNEL_UNSENT_BYTES: Final = 128 * 1024
"""Of what a connection is given, how much the kernel takes before it can be sent (Linux, macOS). Without this limit a
socket grows to 4 MiB there, where no slow consumer policy sees them; and as the kernel asks for more only when a third
of that is free, a client that reads 200 KB/s looks as if it had stopped for seconds (`write_timeout`)."""

_KEEP_FILE_OPTIONS: Final[dict[str, bool]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Event loops remove the file of any Unix socket since Python 3.13, also of one that is somebody else's."""

_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_SAME_PORT_TRIES: Final = 16
"""How often a free port of one family is given back because the other family does not have it free."""

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
_Target: TypeAlias = tuple[int, _SocketAddress]
"""A family and an address of it."""


class UnixSocketPermissions:
    """Who may connect to a Unix socket: the mode and group of its file.

    Args:
        mode: permission bits; None: 0o660 if there is a group, else as the umask says.
        group: name or number of a group; None: that of the process.

    Raises:
        ConfigError: there is no such group.
    """

    __slots__ = ("_group", "_mode", "_group_id")

    def __init__(self, mode: int | None, group: str | None) -> None:
        self._mode = 0o660 if mode is None and group is not None else mode
        self._group = group
        self._group_id = None if group is None else group_id_of(group)

    def restrict_before_bind(self, sock: socket.socket) -> None:
        """Has a socket that is not bound yet get a file that only its owner may use, where the system can do that.

        On Linux the file's mode is that of the socket, less the umask. The umask itself is for the whole process, and
        other threads make files meanwhile.
        """
        if self._mode is not None:
            try:
                os.fchmod(sock.fileno(), self._mode & 0o600)
            except OSError:
                pass  # elsewhere it is enough that nobody can connect before the socket listens

    def apply_to_file(self, path: str) -> None:
        """Gives the file of a socket that does not listen yet its group and mode."""
        if self._group_id is not None:
            try:
                os.chown(path, -1, self._group_id)
            except PermissionError as error:
                raise ConfigError(
                    f"unix_group is {self._group!r}, but this user may not give a file to that group: it has to be a "
                    "member of it"
                ) from error
        if self._mode is not None:
            os.chmod(path, self._mode)


class Listener:
    """The sockets of one address that was asked for.

    Args:
        address: with the real port.
        sockets: bound and listening.
        also: further addresses, where the families of one name could not get the same free port.
        owns_file: whether the file of a Unix socket is removed at the end.
    """

    __slots__ = ("_file_identity", "_asyncio_servers", "address", "more_addresses", "sockets")

    def __init__(
        self, address: Address, sockets: list[socket.socket], also: Sequence[Address] = (), owns_file: bool = True
    ) -> None:
        self.address = address
        self.more_addresses = also
        self.sockets = sockets
        self._asyncio_servers: list[asyncio.AbstractServer] = []
        self._file_identity: tuple[int, int] | None = None
        if isinstance(address, UnixAddress) and owns_file:
            found = os.stat(address.path)
            self._file_identity = (found.st_dev, found.st_ino)

    async def start_accepting(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Starts accepting; each connection gets a protocol from `factory`."""
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            sock.setblocking(False)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                server = await loop.create_server(factory, sock=sock, backlog=BACKLOG)
            else:
                server = await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG, **_KEEP_FILE_OPTIONS)  # type: ignore[arg-type]
            self._asyncio_servers.append(server)

    def close(self) -> None:
        """Stops accepting and removes a Unix socket's file, if it is still ours. Connections stay."""
        for server in self._asyncio_servers:
            server.close()
        self._asyncio_servers.clear()
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        if self._file_identity is not None and isinstance(self.address, UnixAddress):
            _unlink_if_same_file(self.address.path, self._file_identity)
            self._file_identity = None


async def bind_addresses(
    addresses: Sequence[BindAddress], unix_mode: int | None = None, unix_group: str | None = None
) -> list[Listener]:
    """Binds every address and listens, without accepting yet.

    Args:
        addresses: what to bind, or to take over.
        unix_mode: permissions of the file of a Unix socket; None: as the umask says.
        unix_group: its group, by name or number; None: that of the process. With a group, `unix_mode` is 0o660 by
            default.

    Raises:
        OSError: one of them cannot be bound; its text names the address and says what to do. Nothing stays bound.
        ConfigError: there is no such group, or an open socket that is none to listen on.
    """
    access = UnixSocketPermissions(unix_mode, unix_group)
    listeners: list[Listener] = []
    try:
        for address in addresses:
            try:
                listeners.append(await _bind_address(address, access))
            except OSError as error:
                raise describe_bind_error(address, error) from error
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def _bind_address(address: BindAddress, access: UnixSocketPermissions) -> Listener:
    if isinstance(address, InheritedSocket):
        return _adopt_inherited_socket(address)
    if isinstance(address, UnixAddress):
        return _bind_unix_socket(address, access)
    targets = await _resolve_targets(address)
    if address.port:
        sockets = _bind_targets(targets, address.port)
    else:
        sockets = _bind_targets_to_any_port(targets)
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    if len(set(ports)) == 1:
        return Listener(TcpAddress(address.host, ports[0]), sockets)
    bound = [TcpAddress(str(sock.getsockname()[0]), port) for sock, port in zip(sockets, ports, strict=True)]
    return Listener(bound[0], sockets, bound[1:])


async def _resolve_targets(address: TcpAddress) -> list[_Target]:
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", address.port)), (socket.AF_INET6, ("::", address.port, 0, 0))]
    targets: list[_Target] = []
    for target in await _resolve_host(address.host, address.port):
        if target[0] in (socket.AF_INET, socket.AF_INET6) and target not in targets:
            targets.append(target)
    return targets


async def _resolve_host(host: str, port: int) -> list[_Target]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, cast("_SocketAddress", target)) for family, _, _, _, target in found]


def _bind_targets(targets: Sequence[_Target], port: int) -> list[socket.socket]:
    """Binds all targets to one port (0: the first gets any, the others the same).

    A family that this machine does not speak is left out, as long as another is there.
    """
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    try:
        for family, target in targets:
            try:
                sock = _bind_tcp_socket(family, (target[0], port, *target[2:]))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                refused = refused or error
                continue
            sockets.append(sock)
            port = port or int(sock.getsockname()[1])
        if not sockets:
            raise refused or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_targets_to_any_port(targets: Sequence[_Target]) -> list[socket.socket]:
    for _ in range(_SAME_PORT_TRIES):
        try:
            return _bind_targets(targets, 0)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    sockets: list[socket.socket] = []
    try:
        for target in targets:
            sockets += _bind_targets([target], 0)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_tcp_socket(family: int, target: tuple[object, ...]) -> socket.socket:
    # The protocol number is given because asyncio looks for it before it sets TCP_NODELAY on what it accepts.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it lets two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _limit_unsent_bytes(sock)
        sock.bind(target)
        # Two sockets that both have SO_REUSEADDR may bind the same port; who comes second learns it only here.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _limit_unsent_bytes(sock: socket.socket) -> None:
    if _NOTSENT_LOWAT is not None:  # inherited by what it accepts
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, MAX_KERNEL_UNSENT_BYTES)


def _adopt_inherited_socket(address: InheritedSocket) -> Listener:
    sockets = duplicate_sockets(address)
    try:
        for sock in sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                _limit_unsent_bytes(sock)
        first, *others = [address_of(sock) for sock in sockets]
        return Listener(first, sockets, others, owns_file=False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


def group_id_of(group: str) -> int:
    """Returns the number of a group, which is named or is a number already.

    Raises:
        ConfigError: there is none of this name.
    """
    if group.isascii() and group.isdigit() and len(group) < 10:
        return int(group)
    try:
        import grp

        return grp.getgrnam(group).gr_gid
    except (ImportError, KeyError, ValueError):
        raise ConfigError(f"unix_group is {group!r}, and this machine has no group of that name") from None


def _bind_unix_socket(address: UnixAddress, access: UnixSocketPermissions) -> Listener:
    path = address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    is_bound = False
    try:
        access.restrict_before_bind(sock)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale_socket_file(path, error)
            sock.bind(path)
        is_bound = True
        access.apply_to_file(path)
        sock.listen(BACKLOG)  # until here every connection is refused
        return Listener(address, [sock])
    except BaseException:
        sock.close()
        if is_bound:
            os.unlink(path)
        raise


def _remove_stale_socket_file(path: str, in_use: OSError) -> None:
    """Removes the socket file of a server that is gone.

    Raises:
        OSError: `in_use` if somebody listens there, or another one if the path is no socket.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is something else than a socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _unlink_if_same_file(path, (found.st_dev, found.st_ino))
            return
        except OSError:
            # Not stale as far as we can tell: its backlog is full, or we may not connect.
            raise in_use from None
    raise in_use


def _unlink_if_same_file(path: str, identity: tuple[int, int]) -> None:
    """Unlinks `path` if it is still the file with that device and inode number."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == identity:
            os.unlink(path)
    except OSError:
        pass  # gone already, or no longer ours to remove
