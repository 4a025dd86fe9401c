"""Listening: every form of address, and every way in which binding one fails."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kits.front_kit import FakeConnection, FakeConnections, FakePool, Peer, fronting, get, status, upgrade
from wsbroker.errors import ConfigError
from wsbroker.front import listening
from wsbroker.front.front import Front
from wsbroker.settings.addresses import Address, TcpAddress, UnixAddress, parse_addresses
from wsbroker.settings.config import Config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def path() -> Iterator[str]:
    """Returns a path for a Unix socket, short enough for the kernel."""
    with tempfile.TemporaryDirectory(prefix="ws") as folder:
        yield os.path.join(folder, "s")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


async def tcp(host: str, port: int) -> Peer:
    return Peer(*await asyncio.open_connection(host, port))


async def answers(peer: Peer) -> bool:
    await peer.send(get("/", "Connection: close"))
    data = await peer.rest()
    peer.close()
    return data.startswith(b"HTTP/1.1 200 ")


def new_front() -> Front[FakeConnection]:
    return Front(Config.of(), FakeConnections(), FakePool())


async def refused(*bind: str) -> OSError:
    """Returns the error of a front that cannot listen on an address."""
    with pytest.raises(OSError) as seen:
        await new_front().listen(parse_addresses(bind))
    return seen.value


def taken_port() -> tuple[socket.socket, int]:
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


async def test_a_free_port_is_reported() -> None:
    async with fronting() as running:
        assert running.port > 0
        assert await answers(await tcp("127.0.0.1", running.port))


@needs_ipv6
async def test_all_interfaces_are_both_families_on_one_port() -> None:
    for _ in range(10):
        async with fronting(addresses=(TcpAddress("", 0),)) as running:
            assert await answers(await tcp("127.0.0.1", running.port))
            assert await answers(await tcp("::1", running.port))


@needs_ipv6
async def test_families_that_cannot_share_a_free_port_are_reported_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    bind_tcp = listening._bind_tcp_socket

    def never_the_same(family: int, target: tuple[object, ...]) -> socket.socket:
        if family == socket.AF_INET6 and target[1]:
            raise OSError(errno.EADDRINUSE, "taken")
        return bind_tcp(family, target)

    monkeypatch.setattr(listening, "_bind_tcp_socket", never_the_same)
    front = new_front()
    bound = await front.listen([TcpAddress("", 0)])
    assert [address.host for address in bound if isinstance(address, TcpAddress)] == ["0.0.0.0", "::"]
    await front.stop(0)


@needs_ipv6
async def test_an_ipv6_address_is_bound() -> None:
    front = new_front()
    (bound,) = await front.listen(parse_addresses("[::1]:0"))
    assert isinstance(bound, TcpAddress)
    assert (bound.host, str(bound)) == ("::1", f"http://[::1]:{bound.port}")
    assert await answers(await tcp("::1", bound.port))
    await front.stop(0)


async def test_a_host_name_is_bound_with_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        return [(socket.AF_INET, (address, port)) for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(listening, "_resolve_host", two)
    front = new_front()
    (bound,) = await front.listen([TcpAddress("both.example", 0)])
    assert isinstance(bound, TcpAddress) and bound.host == "both.example"
    assert await answers(await tcp("127.0.0.1", bound.port))
    assert await answers(await tcp("127.0.0.2", bound.port))
    await front.stop(0)


async def test_localhost_is_bound() -> None:
    async with fronting(addresses=(TcpAddress("localhost", 0),)) as running:
        assert await answers(await tcp("localhost", running.port))


async def test_several_addresses_are_reported_in_their_order(path: str) -> None:
    front = new_front()
    bound = await front.listen([TcpAddress("127.0.0.1", 0), UnixAddress(path), TcpAddress("127.0.0.2", 0)])
    assert [type(address) for address in bound] == [TcpAddress, UnixAddress, TcpAddress]
    assert bound[1] == UnixAddress(path)
    await front.stop(0)


async def test_a_family_that_this_machine_does_not_speak_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bind_tcp = listening._bind_tcp_socket

    def no_ipv6(family: int, target: tuple[object, ...]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return bind_tcp(family, target)

    monkeypatch.setattr(listening, "_bind_tcp_socket", no_ipv6)
    async with fronting(addresses=(TcpAddress("", 0),)) as running:
        assert await answers(await tcp("127.0.0.1", running.port))
    error = await refused("[::1]:0")
    assert "cannot bind to http://[::1]:0: this machine does not speak that address family" in str(error)


async def test_a_port_in_use_is_said_and_nothing_stays_bound(path: str) -> None:
    sock, port = taken_port()
    with sock:
        error = await refused("127.0.0.1:0", f"unix:{path}", f"127.0.0.1:{port}")
        assert error.errno == errno.EADDRINUSE
        assert f"cannot bind to http://127.0.0.1:{port}: port {port} is in use" in str(error)
        assert not os.path.exists(path)
    front = new_front()
    await front.listen(parse_addresses([f"127.0.0.1:{port}", f"unix:{path}"]))
    await front.stop(0)


async def test_two_fronts_do_not_share_a_port() -> None:
    async with fronting() as running:
        assert (await refused(f"127.0.0.1:{running.port}")).errno == errno.EADDRINUSE
        assert await answers(await tcp("127.0.0.1", running.port))


async def test_one_front_does_not_bind_a_port_twice() -> None:
    sock, port = taken_port()
    sock.close()
    error = await refused(f"127.0.0.1:{port}", f"localhost:{port}")
    assert error.errno == errno.EADDRINUSE
    assert f"cannot bind to http://localhost:{port}: port {port} is in use" in str(error)


async def test_a_port_is_free_again_after_the_stop() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(upgrade())
        assert status(await peer.head()) == 101
        port = running.port
    async with fronting(addresses=(TcpAddress("127.0.0.1", port),)) as running:
        assert running.port == port


async def test_an_address_of_another_machine_is_said() -> None:
    error = await refused("192.0.2.1:0")
    assert error.errno == errno.EADDRNOTAVAIL
    assert "cannot bind to http://192.0.2.1:0: this machine does not have that address" in str(error)


async def test_an_unknown_host_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(listening, "_resolve_host", unknown)
    error = await refused("nosuchhost:80")
    assert isinstance(error, socket.gaierror)
    assert "cannot bind to http://nosuchhost:80: the host name 'nosuchhost' is unknown" in str(error)


async def test_a_port_without_permission_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_permission(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listening, "_bind_tcp_socket", no_permission)
    error = await refused("127.0.0.1:80")
    assert isinstance(error, PermissionError)
    assert "cannot bind to http://127.0.0.1:80: permission denied" in str(error)


async def test_a_unix_socket_is_served_and_removed(path: str) -> None:
    async with fronting(addresses=(UnixAddress(path),)) as running:
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        peer = Peer(*await asyncio.open_unix_connection(path))
        assert await answers(peer)
        assert running.pool.requests[0].remote == ""
        peer = Peer(*await asyncio.open_unix_connection(path))
        running.peers.append(peer)
        await peer.send(upgrade())
        assert status(await peer.head()) == 101
    assert not os.path.exists(path)


async def test_the_file_of_a_dead_server_is_replaced(path: str) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    async with fronting(addresses=(UnixAddress(path),)):
        assert await answers(Peer(*await asyncio.open_unix_connection(path)))
    assert not os.path.exists(path)


async def test_the_file_of_a_live_server_is_left_alone(path: str) -> None:
    async with fronting(addresses=(UnixAddress(path),)):
        error = await refused(f"unix:{path}")
        assert error.errno == errno.EADDRINUSE
        assert f"cannot bind to unix:{path}: another server listens there" in str(error)
        assert await answers(Peer(*await asyncio.open_unix_connection(path)))


async def test_the_file_of_a_live_server_with_a_full_backlog_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = []
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        assert (await refused(f"unix:{path}")).errno == errno.EADDRINUSE
        assert os.path.exists(path)
        for sock in waiting:
            sock.close()


async def test_something_else_at_the_path_is_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    error = await refused(f"unix:{path}")
    assert f"cannot bind to unix:{path}: there is something else than a socket" in str(error)
    assert Path(path).read_text() == "precious"


async def test_a_missing_folder_is_said(path: str) -> None:
    error = await refused(f"unix:{path}/s")
    assert "there is no folder" in str(error) and error.errno == errno.ENOENT


async def test_a_file_that_somebody_else_has_put_there_meanwhile_stays(path: str) -> None:
    async with fronting(addresses=(UnixAddress(path),)):
        os.unlink(path)
        Path(path).write_text("theirs")
    assert Path(path).read_text() == "theirs"


async def test_accepted_connections_do_not_delay_small_writes() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(upgrade())
        await peer.head()
        transport = running.sockets.accepted[0].transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_addresses_without_any_are_nothing() -> None:
    front = new_front()
    none: list[Address] = []
    assert await front.listen(none) == []
    await front.stop(0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it may not be inherited")
async def test_the_kernel_keeps_little_of_what_a_connection_cannot_send() -> None:
    (listener,) = await listening.bind_addresses([TcpAddress("127.0.0.1", 0)])
    with contextlib.closing(listener), socket.socket() as client:
        client.connect(listener.sockets[0].getsockname())
        accepted, _ = listener.sockets[0].accept()
        with accepted:
            assert (
                accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == listening.MAX_KERNEL_UNSENT_BYTES
            )


# Who may connect to a Unix socket. ------------------------------------------------------------------------------------


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@needs_unix
@pytest.mark.parametrize("mask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o600, 0o606, 0o777])
async def test_the_file_of_a_unix_socket_has_the_mode_asked_for(
    path: str, mode: int, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = listening.UnixSocketPermissions.apply_to_file
    before: list[int] = []

    def watched(access: listening.UnixSocketPermissions, path: str) -> None:
        before.append(mode_of(path))
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(path)
        apply(access, path)

    monkeypatch.setattr(listening.UnixSocketPermissions, "apply_to_file", watched)
    with umask(mask):
        (listener,) = await listening.bind_addresses([UnixAddress(path)], mode)
    assert mode_of(path) == mode
    if sys.platform == "linux":
        assert before[0] | mode == mode  # never wider
    listener.close()
    assert not os.path.exists(path)


@needs_unix
async def test_a_group_may_use_a_unix_socket_that_it_is_given(path: str) -> None:
    import grp

    group = os.getgid()
    for name in (str(group), grp.getgrgid(group).gr_name):
        for mode in (None, 0o620):
            (listener,) = await listening.bind_addresses([UnixAddress(path)], mode, name)
            assert (mode_of(path), os.stat(path).st_gid) == (mode or 0o660, group)
            listener.close()


@needs_unix
async def test_a_group_that_is_not_there_or_not_ours_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="^unix_group is 'no such group', and this machine has no group of that name"):
        await listening.bind_addresses([UnixAddress(path)], unix_group="no such group")

    def forbidden(path: str, user: int, group: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", forbidden)
    with pytest.raises(ConfigError, match="^unix_group is '0', but this user may not give a file to that group: it "):
        await listening.bind_addresses([UnixAddress(path)], unix_group="0")
    assert not os.path.exists(path)


@needs_unix
async def test_the_file_of_a_server_that_is_gone_is_no_obstacle_to_its_mode(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    (listener,) = await listening.bind_addresses([UnixAddress(path)], 0o640)
    assert mode_of(path) == 0o640
    listener.close()
