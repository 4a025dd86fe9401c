"""Listening sockets: TCP, Unix (file, mode and group), inherited. Either all addresses are bound or none.

No connection is accepted before every address is bound; a failure closes the bound sockets, and the error names the
address and the reason.
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
    group_id_of,
)
from wsbroker.settings.open_sockets import address_of, duplicate_sockets

BACKLOG: Final = 4096
"""How many connections the kernel may queue between two turns of the loop (it cuts this to `net.core.somaxconn`)."""

MAX_KERNEL_UNSENT_BYTES: Final = 128 * 1024
"""How many unsent bytes of a connection the kernel accepts (Linux, macOS). Without this limit a socket buffer grows to
4 MiB, which no slow consumer policy sees; and as the kernel accepts more only when a third of that is free, a client
that reads 200 KB/s looks as if it had stopped for seconds (`write_timeout`)."""

_KEEP_FILE_OPTIONS: Final[dict[str, bool]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Since Python 3.13 event loops remove the file of any Unix socket, even if another process owns the file."""

_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_SAME_PORT_TRIES: Final = 16
"""How often a free port of one address family is given back because it is not free in the other family."""

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""Errors that mean that this machine has no such address family."""

_SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
_Target: TypeAlias = tuple[int, _SocketAddress]
"""An address family and an address to bind in it."""


class UnixSocketPermissions:
    """The mode and group of a Unix socket's file, which decide who may connect.

    Args:
        mode: permission bits; None: 0o660 if there is a group, else as the umask says.
        group: name or number of a group; None: the group of the process.

    Raises:
        ConfigError: there is no such group.
    """

    __slots__ = ("_group", "_mode", "_group_id")

    def __init__(self, mode: int | None, group: str | None) -> None:
        self._mode = 0o660 if mode is None and group is not None else mode
        self._group = group
        self._group_id = None if group is None else group_id_of(group)

    def restrict_before_bind(self, sock: socket.socket) -> None:
        """Sets the mode of an unbound socket so that `bind` creates a file that only its owner may use.

        (On Linux the file gets the mode of the socket, less the umask. The umask itself cannot be changed: it is the
        whole process's, and other threads create files meanwhile.) Does nothing on other systems.
        """
        if self._mode is not None:
            try:
                os.fchmod(sock.fileno(), self._mode & 0o600)
            except OSError:
                pass  # elsewhere it is enough that no client can connect before the socket listens

    def apply_to_file(self, path: str) -> None:
        """Sets the group and mode of the file of a bound socket that does not listen yet.

        Raises:
            ConfigError: this user may not give a file to that group.
        """
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
    """The listening sockets of one address.

    Args:
        address: the bound address with its real port.
        sockets: bound and listening sockets.
        more_addresses: further bound addresses, if the families of one name could not get the same free port.
        owns_file: whether `close` removes the file of a Unix socket.
    """

    __slots__ = ("_file_identity", "_asyncio_servers", "address", "more_addresses", "sockets")

    def __init__(
        self,
        address: Address,
        sockets: list[socket.socket],
        more_addresses: Sequence[Address] = (),
        owns_file: bool = True,
    ) -> None:
        self.address = address
        self.more_addresses = more_addresses
        self.sockets = sockets
        self._asyncio_servers: list[asyncio.AbstractServer] = []
        self._file_identity: tuple[int, int] | None = None
        if isinstance(address, UnixAddress) and owns_file:
            status = os.stat(address.path)
            self._file_identity = (status.st_dev, status.st_ino)

    async def start_accepting(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Starts accepting connections on all sockets.

        Args:
            factory: called for each accepted connection; returns its protocol.
        """
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            sock.setblocking(False)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                server = await loop.create_server(factory, sock=sock, backlog=BACKLOG)
            else:
                server = await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG, **_KEEP_FILE_OPTIONS)  # type: ignore[arg-type]
            self._asyncio_servers.append(server)

    def close(self) -> None:
        """Closes the listening sockets, and removes the file of a Unix socket unless it was replaced.

        Accepted connections stay open.
        """
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
    """Binds every address and listens on it, without accepting connections yet.

    Args:
        addresses: the addresses to bind, and inherited sockets to take over.
        unix_mode: permissions of the files of Unix sockets; None: as the umask says.
        unix_group: the group of these files, by name or number; None: the group of the process. With a group,
            `unix_mode` is 0o660 by default.

    Returns:
        one listener for each address, in their order.

    Raises:
        OSError: an address cannot be bound; the text names the address and the remedy. Nothing stays bound.
        ConfigError: there is no such group, or an inherited socket is not a listening one.
    """
    permissions = UnixSocketPermissions(unix_mode, unix_group)
    listeners: list[Listener] = []
    try:
        for address in addresses:
            try:
                listeners.append(await _bind_address(address, permissions))
            except OSError as error:
                raise describe_bind_error(address, error) from error
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def _bind_address(address: BindAddress, permissions: UnixSocketPermissions) -> Listener:
    """Returns a listener for one address: TCP in all its address families, a Unix socket, or an inherited socket.

    Called by `bind_addresses` for each address; the sockets listen, and no connection is accepted yet.
    """
    if isinstance(address, InheritedSocket):
        return _adopt_inherited_socket(address)
    if isinstance(address, UnixAddress):
        return _bind_unix_socket(address, permissions)
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
    """Returns the IPv4 and IPv6 addresses of a host, each once; for an empty host the two wildcard addresses."""
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", address.port)), (socket.AF_INET6, ("::", address.port, 0, 0))]
    targets: list[_Target] = []
    for target in await _resolve_host(address.host, address.port):
        if target[0] in (socket.AF_INET, socket.AF_INET6) and target not in targets:
            targets.append(target)
    return targets


async def _resolve_host(host: str, port: int) -> list[_Target]:
    """Returns all addresses of a host name, with the port, in the order in which the system's resolver gives them."""
    loop = asyncio.get_running_loop()
    entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, cast("_SocketAddress", target)) for family, _, _, _, target in entries]


def _bind_targets(targets: Sequence[_Target], port: int) -> list[socket.socket]:
    """Binds all targets to one port and listens on them.

    Args:
        targets: the addresses to bind; the ports in them are ignored.
        port: the port; 0: the first target gets a free port, the others the same port.

    Returns:
        one socket for each target whose address family this machine has.

    Raises:
        OSError: a target cannot be bound, or this machine has none of the families. No socket stays open.
    """
    sockets: list[socket.socket] = []
    family_error: OSError | None = None
    try:
        for family, target in targets:
            try:
                sock = _bind_tcp_socket(family, (target[0], port, *target[2:]))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                family_error = family_error or error
                continue
            sockets.append(sock)
            port = port or int(sock.getsockname()[1])
        if not sockets:
            raise family_error or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_targets_to_any_port(targets: Sequence[_Target]) -> list[socket.socket]:
    """Binds all targets to one free port and listens on them; returns the sockets.

    After 16 tries without a port that is free for all targets, each target gets a free port of its own.
    """
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
    """Creates a TCP socket of an address family, binds it to the address `target` and listens on it."""
    # The protocol number is given because asyncio checks it before setting TCP_NODELAY on accepted sockets.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows the option lets two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _limit_unsent_bytes(sock)
        sock.bind(target)
        # Two sockets that both have SO_REUSEADDR may bind the same port; for the second one only `listen` fails.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _limit_unsent_bytes(sock: socket.socket) -> None:
    """Limits the unsent bytes that the kernel keeps for each connection accepted by a listening socket.

    Does nothing where the system has no such option (TCP_NOTSENT_LOWAT).
    """
    if _NOTSENT_LOWAT is not None:  # accepted sockets inherit the option
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, MAX_KERNEL_UNSENT_BYTES)


def _adopt_inherited_socket(address: InheritedSocket) -> Listener:
    """Returns a listener on duplicates of an ``fd://`` address's sockets, which another program has opened."""
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


def _bind_unix_socket(address: UnixAddress, permissions: UnixSocketPermissions) -> Listener:
    """Binds a Unix socket with the given permissions and listens on it; replaces the file of a server that is gone.

    Raises:
        OSError: another process listens at the path, or the path cannot be bound. The file is removed again.
        ConfigError: this user may not give the file to the group.
    """
    path = address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    is_bound = False
    try:
        permissions.restrict_before_bind(sock)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale_socket_file(path, error)
            sock.bind(path)
        is_bound = True
        permissions.apply_to_file(path)
        sock.listen(BACKLOG)  # before this call every connection is refused
        return Listener(address, [sock])
    except BaseException:
        sock.close()
        if is_bound:
            os.unlink(path)
        raise


def _remove_stale_socket_file(path: str, in_use_error: OSError) -> None:
    """Removes a Unix socket's file on which no process listens any more; raises OSError if a process may listen.

    Called when `bind` has found the path in use.

    Args:
        path: the path of the file.
        in_use_error: the error that `bind` has raised.

    Raises:
        OSError: `in_use_error` if a process listens at the path, or may listen there; an EEXIST if the file is not a
            socket.
    """
    status = os.lstat(path)
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "there is something else than a socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _unlink_if_same_file(path, (status.st_dev, status.st_ino))
            return
        except OSError:
            # Perhaps not stale: the backlog is full, or this user may not connect.
            raise in_use_error from None
    raise in_use_error


def _unlink_if_same_file(path: str, identity: tuple[int, int]) -> None:
    """Removes the file at a path if it is still the file with the given identity; ignores errors.

    Args:
        path: the file's path.
        identity: the device and inode number of the file to remove.
    """
    try:
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == identity:
            os.unlink(path)
    except OSError:
        pass  # removed already, or this user may not remove it any more
