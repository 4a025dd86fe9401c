"""Listening sockets that were opened by the program that starts the server: by number, by name, or all of them."""

import fcntl
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

import wsbroker
from kits.server_process import START_S, ServerProcess
from wsbroker.errors import ConfigError
from wsbroker.settings.open_sockets import SystemdSockets, systemd_sockets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors cannot be handed in there")

APP: Final = """
import os
def handle_http_request(request):
    inherited = [name for name in os.environ if name.startswith(("LISTEN_", "WSBROKER_WORKER_"))]
    return f"{inherited} {request.remote!r}"
"""


LAUNCHER: Final = """
import os, sys
names, numbers, *command = sys.argv[1:]
for index, number in enumerate(numbers.split(",")):
    os.dup2(int(number), 3 + index)
    os.close(int(number))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(index + 1), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""
"""A program that hands its sockets to another one as systemd does."""


class Application:
    """An application with one handler."""

    def handle_http_request(self) -> str:
        """Answers ``"served"``."""
        return "served"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a Unix socket, with a short path, and for the application."""
    with tempfile.TemporaryDirectory(prefix="ws") as folder:
        (Path(folder) / "app.py").write_text(APP)
        yield Path(folder)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def unix_socket(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "s"))
    sock.listen()
    return sock


def ask(sock: socket.socket) -> str:
    """Returns the body of a server's answer on this socket, which has the client's address; uses IPv4 where the socket
    accepts both families."""
    name = sock.getsockname()
    is_mapped = sock.family == socket.AF_INET6 and name[0] == "::"
    with socket.socket(socket.AF_INET if is_mapped else sock.family) as client:
        client.settimeout(START_S)
        client.connect(("127.0.0.1", name[1]) if is_mapped else name)
        client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    return body.decode()


class Handed(ServerProcess):
    """A server that gets sockets as from systemd: from descriptor 3 on, with the variables of systemd's protocol."""

    def __init__(self, folder: Path, sockets: Sequence[socket.socket], names: str, *arguments: str) -> None:
        high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 50) for sock in sockets]
        self.command = [sys.executable, "-P", "-m", "wsbroker", "app", *arguments]
        launcher = [sys.executable, "-S", "-c", LAUNCHER, names, ",".join(map(str, high)), *self.command]
        self.process = subprocess.Popen(
            launcher,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            pass_fds=high,
        )
        for number in high:
            os.close(number)
        self._begin_reading()

    def addresses(self) -> str:
        """Waits for the log line with the addresses, and returns them."""
        return self.wait_for_line(re.compile("serving on (.*)"), START_S)[1]


# In this process. -----------------------------------------------------------------------------------------------------


def started(*bind: str) -> wsbroker.Server:
    return wsbroker.start(bind, worker=Application(), worker_kind="inline", handle_signals=False)


def test_a_socket_named_by_its_number_is_served_and_stays_open(tcp: socket.socket) -> None:
    port = tcp.getsockname()[1]
    for _ in range(2):  # it is there for another server afterwards
        with started(f"fd://{tcp.fileno()}") as server:
            assert str(server.addresses[0]) == f"http://127.0.0.1:{port}"
            assert ask(tcp) == "served"
            assert not os.get_inheritable(tcp.fileno())
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_the_file_of_a_unix_socket_that_was_handed_in_is_not_removed(folder: Path) -> None:
    with unix_socket(folder) as sock:
        with started(f"fd://{sock.fileno()}") as server:
            assert str(server.addresses[0]) == f"unix:{folder}/s"
            assert ask(sock) == "served"
        assert (folder / "s").is_socket()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
def test_an_abstract_address_is_shown() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0wsbroker {os.getpid()}")
        sock.listen()
        with started(f"fd://{sock.fileno()}") as server:
            assert str(server.addresses[0]) == f"unix:@wsbroker {os.getpid()}"
            assert ask(sock) == "served"


def refusal(*bind: str) -> str:
    with pytest.raises(ConfigError) as caught:
        started(*bind)
    return str(caught.value)


def test_what_no_server_can_listen_on_is_refused(tcp: socket.socket, folder: Path) -> None:
    def of(number: int) -> str:
        text = refusal(f"fd://{number}")
        prefix = f"cannot bind to 'fd://{number}': descriptor {number} is "
        assert text.startswith(prefix)
        return text.removeprefix(prefix)

    assert of(7777) == "not open; systemd hands in those from 3 on"
    with open(folder / "app.py") as file:
        assert of(file.fileno()) == "a file, no socket"
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        does_not_listen = "a socket that does not listen; call listen() before, and set Accept=no in a socket unit"
        assert of(ours.fileno()) == of(idle.fileno()) == does_not_listen
        assert of(datagrams.fileno()) == "no stream socket; a socket unit needs ListenStream="
    number = tcp.fileno()
    twice = refusal(f"fd://{number}", ":0", f"fd://0{number}")
    assert twice == f"cannot bind to 'fd://0{number}': it is named twice; once is enough"
    assert refusal("fd://web") == (
        "cannot bind to 'fd://web': no socket was handed in by that name: LISTEN_FDS is not set"
    )


def test_the_variables_are_believed_only_if_they_are_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    for pid in ("", "1"):
        monkeypatch.setenv("LISTEN_PID", pid)
        assert SystemdSockets().claim_sockets() == []
        assert os.environ["LISTEN_FDS"] == "2"
    assert refusal("fd://web") == (
        f"cannot bind to 'fd://web': no socket was handed in by that name: LISTEN_FDS is for process 1, and this is "
        f"{os.getpid()}; a script in between has to start wsbroker with 'exec'"
    )
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "two")
    with pytest.raises(ConfigError, match="^LISTEN_FDS is 'two', but must be the number of sockets that were handed"):
        SystemdSockets().claim_sockets()
    assert systemd_sockets.name_by_descriptor == {}


def test_the_variables_are_taken_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:web"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("wsbroker.settings.open_sockets._make_uninheritable", lambda number: None)
    monkeypatch.setattr(os, "set_inheritable", lambda number, inheritable: None)
    handed = SystemdSockets()
    assert [str(address) for address in handed.claim_sockets()] == ["fd://3", "fd://4", "fd://5"]
    assert handed.name_by_descriptor == {3: "web", 4: "web", 5: ""}
    assert not variables.keys() & os.environ.keys()
    handed.restore_for_exec()
    assert variables.items() <= os.environ.items()


# On the command line. -------------------------------------------------------------------------------------------------


def test_all_that_was_handed_in_is_served_if_nobody_says_what_to_bind(tcp: socket.socket, folder: Path) -> None:
    both = socket.has_dualstack_ipv6()
    family, anywhere = (socket.AF_INET6, "::") if both else (socket.AF_INET, "127.0.0.1")
    second = socket.create_server((anywhere, 0), family=family, dualstack_ipv6=both)
    with second, unix_socket(folder) as unix:
        server = Handed(folder, [tcp, second, unix], "", "--worker-kind=process", "--workers=1")
        try:
            ports = tcp.getsockname()[1], second.getsockname()[1]
            host = "[::]" if both else "127.0.0.1"
            assert server.addresses() == f"http://127.0.0.1:{ports[0]}, http://{host}:{ports[1]}, unix:{folder}/s"
            assert ask(tcp) == "[] '127.0.0.1'"  # the worker's environment has no such variables
            assert ask(second) == "[] '127.0.0.1'"
            assert ask(unix) == "[] ''"
            assert server.stop() == 0
        finally:
            server.end()
        assert (folder / "s").is_socket()


def test_a_name_may_stand_for_several_and_others_are_left_alone(tcp: socket.socket, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second, socket.create_server(("127.0.0.1", 0)) as other:
        server = Handed(folder, [tcp, other, second], "web:admin:web", "--worker-kind=inline", "--bind=fd://web")
        try:
            urls = [f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (tcp, second)]
            assert server.addresses() == ", ".join(urls)
            assert server.stop() == 0
        finally:
            server.end()


def test_they_are_there_again_after_a_restart(tcp: socket.socket, folder: Path) -> None:
    pytest.importorskip("watchfiles")
    server = Handed(folder, [tcp], "web", "--worker-kind=inline", "--reload")
    try:
        server.wait_for_line(re.compile("watching for changes"), START_S)
        assert ask(tcp) == "[] '127.0.0.1'"
        (folder / "app.py").write_text("def handle_http_request(request): return 'changed'\n")
        server.wait_for_line(re.compile("lifecycle: stopped"), START_S)
        assert ask(tcp) == "changed"  # it waits in the socket until the new program takes it
        assert server.stop() == 0
    finally:
        server.end()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--bind=fd://wev"],
            "--bind: cannot bind to 'fd://wev': no socket of this name was handed in; there are: web (fd://3)",
        ),
        (
            ["--bind=fd://9"],
            "--bind: cannot bind to 'fd://9': descriptor 9 is not open; systemd hands in those from 3 on",
        ),
        (
            ["--bind=fd://3", "--bind=fd://web"],
            "--bind: cannot bind to 'fd://web': descriptor 3 is named twice; once is enough",
        ),
    ],
)
def test_a_wrong_name_or_number_is_a_usage_error(
    arguments: list[str], text: str, tcp: socket.socket, folder: Path
) -> None:
    server = Handed(folder, [tcp], "web", *arguments)
    assert server.process.wait(START_S) == 2
    server.end()
    assert server.log == f"wsbroker: error: {text}\n"
