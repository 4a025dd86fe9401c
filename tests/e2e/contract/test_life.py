"""Starting and stopping in a program: `start`, `serve`, `register_worker`, `Server`, and calls at the wrong time."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType

import pytest

import wsbroker
from e2e.contract.apps import recorder
from kits.contract_kit import APPS, ONLY_HERE, Clients, Running, Servers, until
from kits.log_records import Log
from kits.loop_thread import in_a_thread
from kits.raw_peer import PATIENCE_S, Peer, close_frame, request, text
from wsbroker.settings.addresses import TcpAddress, UnixAddress
from wsbroker.settings.config import WorkerKind

ECHO = APPS + "echo"
NO_BROKER = (
    "no broker is running here: call wsbroker.start(), run() or serve() first, or call this from a handler; "
    "after stop() nobody is there to ask"
)
CALLS = [
    "send(1, 'x')",
    "send_to_channel('a', 'x')",
    "subscribe(1, 'a')",
    "unsubscribe(1, 'a')",
    "subscribe_nowait(1, 'a')",
    "unsubscribe_nowait(1, 'a')",
    "set_token(1, 'x')",
    "copy_subscriptions('a', 'b')",
    "close(1)",
    "subscriber_count('a')",
    "has_subscribers('a')",
    "subscribers('a')",
    "subscriptions(1)",
    "channels()",
    "is_open(1)",
    "queued_bytes(1)",
]


def started(kind: WorkerKind, bind: str | list[str] = "127.0.0.1:0") -> wsbroker.Server:
    """A server that echoes, with one worker."""
    return wsbroker.start(bind, worker=ECHO, worker_kind=kind, workers=1)


def served(kind: WorkerKind, bind: str = "127.0.0.1:0") -> AbstractAsyncContextManager[wsbroker.Server]:
    """A server that echoes, with one worker, in the test's own event loop."""
    return wsbroker.serve(bind, worker=ECHO, worker_kind=kind, workers=1)


def echoes(address: object) -> None:
    """Asserts that a server echoes at this address."""
    if isinstance(address, UnixAddress):
        peer = Peer(address.path)
    else:
        assert isinstance(address, TcpAddress)
        peer = Peer((address.host or "127.0.0.1", address.port))
    peer.upgrade(text("hello"))
    assert peer.text() == "hello"
    peer.end()


# At the wrong time. ---------------------------------------------------------------------------------------------------


def test_a_call_without_a_running_server_is_a_runtime_error(nothing_runs: None, kind: WorkerKind) -> None:
    def are_refused() -> None:
        for call in CALLS:
            with pytest.raises(RuntimeError) as caught:
                eval(f"wsbroker.{call}")
            assert isinstance(caught.value, wsbroker.CommandError)
            assert str(caught.value) == NO_BROKER

    are_refused()
    with started(kind):
        for call in CALLS:
            eval(f"wsbroker.{call}")
    are_refused()
    in_a_thread(are_refused)


@pytest.mark.parametrize("call", CALLS)
def test_in_a_signal_handler_one_may_tell_and_not_ask(servers: Servers, kind: WorkerKind, call: str) -> None:
    servers.get("echo", kind)
    outcome: list[object] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            outcome.append(eval(f"wsbroker.{call}"))
        except RuntimeError as error:
            outcome.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    is_one_way = CALLS.index(call) < 2 or call.startswith(("subscribe_n", "unsubscribe_n", "set_", "copy", "close"))
    if is_one_way:
        assert outcome == [None]
    else:
        (error,) = outcome
        assert isinstance(error, wsbroker.CommandError)
        assert str(error) == "a signal handler may not ask the broker: it could be waiting for what it interrupted"


def test_a_second_start_is_a_runtime_error(nothing_runs: None, kind: WorkerKind) -> None:
    with started(kind) as first:
        with pytest.raises(RuntimeError) as caught:
            started(kind)
        assert str(caught.value) == (
            f"a server runs in this process already: <Server running {first.addresses[0]}>; stop it first"
        )
        with pytest.raises(RuntimeError, match="^a server runs in this process already"):
            wsbroker.run("127.0.0.1:0", worker=ECHO, worker_kind=kind)

        with pytest.raises(RuntimeError, match="^a server runs in this process already"):
            wsbroker.run("127.0.0.1:0")  # although no worker is registered

        async def serve() -> None:
            async with served(kind):
                raise AssertionError("it served")

        with pytest.raises(RuntimeError, match="^a server runs in this process already"):
            asyncio.run(serve())
        echoes(first.addresses[0])
    assert repr(first) == f"<Server stopped {first.addresses[0]}>"


def test_start_after_stop_is_fine(nothing_runs: None, kind: WorkerKind) -> None:
    threads = threading.active_count()
    for _ in range(3):
        server = started(kind)
        echoes(server.addresses[0])
        assert server.is_running
        server.stop()
        server.stop()
        assert not server.is_running
        assert server.wait() is True
    until(lambda: threading.active_count() <= threads, "a thread is left")


# Addresses. Workers know nothing of these, so one kind will do, but for a failure behind their start. -----------------


def test_several_addresses_are_served_at_once(
    nothing_runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with started("thread", ["127.0.0.1:0", "unix:s.sock", "[::1]:0", "localhost:0"]) as server:
        first, second, third, fourth = server.addresses[:4]
        assert isinstance(first, TcpAddress) and first.host == "127.0.0.1" and first.port > 0
        assert str(first) == f"http://127.0.0.1:{first.port}"
        assert second == UnixAddress("s.sock") and str(second) == "unix:s.sock"
        assert isinstance(third, TcpAddress) and third.host == "::1" and str(third) == f"http://[::1]:{third.port}"
        for address in (first, second, third):
            echoes(address)
        assert isinstance(fourth, TcpAddress)
        peer = Peer(("127.0.0.1", fourth.port))
        peer.send(request("GET"))
        assert peer.answer().text == "No HTTP handler registered"
        peer.end()
    assert not (tmp_path / "s.sock").exists()
    with pytest.raises(OSError):
        socket.create_connection((first.host, first.port), 1)


def test_all_interfaces_are_both_families(nothing_runs: None) -> None:
    with started("thread", ":0") as server:
        (address,) = server.addresses
        assert isinstance(address, TcpAddress)
        echoes(TcpAddress("127.0.0.1", address.port))
        echoes(TcpAddress("::1", address.port))
        assert str(address) == f"http://*:{address.port}"


def test_a_socket_file_that_a_dead_server_left_is_replaced(
    nothing_runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("s.sock")
    with started("thread", "unix:s.sock") as server:
        echoes(server.addresses[0])


def test_bind_errors_reach_the_caller_and_leave_nothing_behind(nothing_runs: None, kind: WorkerKind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError) as caught:
            started(kind, ["127.0.0.1:0", f"127.0.0.1:{port}"])
        assert caught.value.strerror == (
            f"cannot bind to http://127.0.0.1:{port}: port {port} is in use; "
            "stop what listens there, or choose another port (0: any free one)"
        )

        async def serve() -> None:
            async with served(kind, f"127.0.0.1:{port}"):
                raise AssertionError("it served")

        with pytest.raises(OSError, match=f"port {port} is in use"):
            asyncio.run(serve())
        with pytest.raises(OSError, match=f"port {port} is in use"):
            wsbroker.run(f"127.0.0.1:{port}", worker=ECHO, worker_kind=kind, workers=1)
    with started(kind, f"127.0.0.1:{port}") as server:
        echoes(server.addresses[0])


@pytest.mark.parametrize(
    ("bind", "error"),
    [
        ("nonsense", "cannot bind to 'nonsense': the port is missing; write "),
        ([], "there is no address to listen on: write "),
        (["127.0.0.1:1", "127.0.0.1:1"], "cannot bind to '127.0.0.1:1': it is named twice; once is enough"),
    ],
)
def test_a_wrong_address_is_a_value_error(nothing_runs: None, bind: str | list[str], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        wsbroker.start(bind, worker=ECHO)
    assert str(caught.value).startswith(error)


# Settings. ------------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_errors_of_the_caller(nothing_runs: None) -> None:
    with pytest.raises(wsbroker.ConfigError) as caught:
        wsbroker.start("127.0.0.1:0", worker=ECHO, max_mesage_size=5)  # type: ignore[call-arg]
    assert str(caught.value) == "there is no setting 'max_mesage_size'; did you mean 'max_message_size'?"
    with pytest.raises(ValueError, match="^max_message_size is 0B, but must be from 1B to 1GiB$"):
        wsbroker.start("127.0.0.1:0", worker=ECHO, max_message_size=0)
    with pytest.raises(TypeError, match=r"^ping_interval must be a number \(seconds\), not str$"):
        wsbroker.start("127.0.0.1:0", worker=ECHO, ping_interval="5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^workers is 2, but worker_kind is inline, and handlers in the event loop"):
        wsbroker.start("127.0.0.1:0", worker=ECHO, worker_kind="inline", workers=2)
    with pytest.raises(wsbroker.ConfigError) as caught:
        wsbroker.start("127.0.0.1:0", worker=ECHO, config=wsbroker.Config(), workers=1)
    assert str(caught.value) == "give 'config' or single settings (workers), not both"
    with pytest.raises(TypeError, match=r"^an address must be a str such as '127.0.0.1:3000', not int$"):
        wsbroker.start([3000], worker=ECHO)  # type: ignore[list-item]


def test_a_config_is_the_same_as_single_settings(nothing_runs: None, kind: WorkerKind) -> None:
    config = wsbroker.Config(worker_kind=kind, workers=1, max_message_size=10)
    with wsbroker.start("127.0.0.1:0", worker=ECHO, config=config) as server:
        (address,) = server.addresses
        assert isinstance(address, TcpAddress)
        peer = Peer((address.host, address.port))
        peer.upgrade(text("x" * 11))
        assert peer.close_frame()[0] == 1009
        peer.end()


# Starting and stopping. -----------------------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file into which the recorder writes its events, also when no socket is left."""
    return tmp_path / "record"


@pytest.mark.parametrize("name", ["App", "AsyncApp"])
def test_a_clean_stop_runs_every_close_handler_and_then_worker_stop(
    nothing_runs: None, kind: WorkerKind, record: Path, name: str
) -> None:
    workers = 1 if kind == "inline" else 2
    with wsbroker.start(
        "127.0.0.1:0", worker=f"{APPS}recorder:{name}", worker_kind=kind, workers=workers, worker_arg=str(record)
    ) as server:
        # They have started before the port opens, and might call everything.
        assert record.read_text().splitlines() == ["start []"] * workers
        (address,) = server.addresses
        assert isinstance(address, TcpAddress)
        peers = [Peer((address.host, address.port)) for _ in range(6)]
        for peer in peers:
            peer.upgrade(text("hello"))
            assert peer.text() == "hello"
        closing = threading.Thread(target=answer_closes, args=(peers,))
        closing.start()
    closing.join(PATIENCE_S)
    lines = record.read_text().splitlines()[workers:]
    assert sorted(lines[: -workers if workers == 1 else None]) == sorted(
        ["close 1001 server shutdown"] * 6 + ([] if workers == 1 else ["stop []"] * workers)
    )
    assert lines[-1] == "stop []"
    assert len(lines) == 6 + workers


def test_a_client_that_answers_no_close_leaves_the_workers_time_to_stop(
    nothing_runs: None, kind: WorkerKind, record: Path
) -> None:
    workers = 1 if kind == "inline" else 2
    server = wsbroker.start(
        "127.0.0.1:0",
        worker=f"{APPS}recorder:App",
        worker_kind=kind,
        workers=workers,
        worker_arg=str(record),
        close_timeout=60,
        shutdown_timeout=2,
    )
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    peer = Peer((address.host, address.port))
    peer.upgrade(text("hello"))
    assert peer.text() == "hello"
    before = time.monotonic()
    server.stop()
    assert 1.4 < time.monotonic() - before < 10
    peer.end()
    lines = record.read_text().splitlines()[workers:]
    assert sorted(lines) == ["close 1001 server shutdown"] + ["stop []"] * workers


def answer_closes(peers: list[Peer]) -> None:
    """Completes the closing handshakes that the server has begun."""
    for peer in peers:
        assert peer.close_frame() == (1001, "server shutdown")
        peer.send(close_frame(1001))
        assert peer.rest() == b""
        peer.end()


@ONLY_HERE
@pytest.mark.parametrize("place", ["message", "http", "open", "close", "async message", "thread"])
def test_stop_in_a_handler_asks_and_returns(nothing_runs: None, kind: WorkerKind, place: str) -> None:
    """The server is such an object, too."""
    recorder.returned.clear()
    server = wsbroker.start("127.0.0.1:0", worker=recorder.Stops(), worker_kind=kind, close_timeout=0.1)
    recorder.server = server
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    peer = Peer((address.host, address.port))
    if place == "http":
        peer.send(request("GET", "/stop"))
    elif place == "open":
        peer.send(b"GET /stop HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        peer.send(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
    elif place == "close":
        peer.upgrade(text("stop at close"), b"\x88\x80\0\0\0\0")
    else:
        peer.upgrade(text(place))
    answering = threading.Thread(target=peer.rest)
    answering.start()
    assert server.wait(PATIENCE_S) is True
    assert recorder.returned == [True]
    peer.socket.shutdown(socket.SHUT_RDWR)
    answering.join(PATIENCE_S)
    peer.end()


@pytest.mark.parametrize("message", ["wait", "wait for ever", "block"])
def test_a_stop_takes_no_longer_than_allowed_whatever_a_handler_does(
    nothing_runs: None, kind: WorkerKind, message: str, tmp_path: Path, log: Log
) -> None:
    """It awaits, or awaits again when it is cancelled, or does not come back from a call."""
    if kind == "inline" and message == "block":
        message = "wait"  # a call that does not come back holds up the event loop, where nobody can stop anything
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    server = wsbroker.start(
        "127.0.0.1:0",
        worker=f"{APPS}recorder:Stuck",
        worker_kind=kind,
        workers=1,
        worker_arg=str(pipe),
        handler_timeout=60,
        shutdown_timeout=0.3,
    )
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    peer = Peer((address.host, address.port))
    peer.upgrade(text(message))
    assert peer.text() == "waiting"
    before = time.monotonic()
    server.stop()
    assert not server.is_running
    assert time.monotonic() - before < 10  # it is 60 without a limit
    assert peer.close_frame() == (1001, "server shutdown")
    peer.end()
    if message == "block" and kind != "process":  # which was killed
        pipe.write_bytes(b"")  # it comes back, and finds that nobody is there
    pipe.unlink()
    log.forgives("did not stop in time", "did not end", "left behind")


def test_stop_now_drops_everything(nothing_runs: None, kind: WorkerKind, log: Log) -> None:
    server = started(kind)
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    peers = [Peer((address.host, address.port)) for _ in range(3)]
    for peer in peers:
        peer.upgrade(text("hello"))
        assert peer.text() == "hello"
    server.stop(0)
    for peer in peers:
        assert peer.rest() in (b"", b"\x88\x11\x03\xe9server shutdown")
        peer.end()
    with pytest.raises(ValueError, match=r"^timeout_s is -1; a stop takes 0 seconds or more$"):
        server.stop(-1)
    log.forgives("did not end")


def test_wait_is_false_while_it_runs(nothing_runs: None, kind: WorkerKind) -> None:
    interval = sys.getswitchinterval()
    with started(kind) as server:
        assert server.wait(0.01) is False
        assert server.wait(0) is False
        with ThreadPoolExecutor(3) as executor:
            waiting = [executor.submit(server.wait) for _ in range(2)] + [executor.submit(server.wait, PATIENCE_S)]
            server.stop()
            assert [one.result(PATIENCE_S) for one in waiting] == [True] * 3
    assert sys.getswitchinterval() == interval  # it was another while the server ran


def test_serve_runs_in_the_programs_loop_and_stops_behind_the_block(
    nothing_runs: None, kind: WorkerKind, tmp_path: Path
) -> None:
    async def main() -> wsbroker.Server:
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with served(kind) as server:
            assert server.is_running
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == signals
            await asyncio.to_thread(echoes, server.addresses[0])
            with pytest.raises(RuntimeError) as caught:
                server.wait()
            assert (
                str(caught.value) == "wait() would block the event loop it waits for: use 'await server.wait_closed()'"
            )
            assert server.statistics()["sockets_opened"] == 1
        assert not server.is_running
        await server.wait_closed()
        async with served(kind) as again:
            again.stop()  # on the loop: asks, and returns
            await again.wait_closed()
            assert not again.is_running
        return server

    interval = sys.getswitchinterval()
    server = asyncio.run(main())
    assert sys.getswitchinterval() == interval
    with pytest.raises(RuntimeError, match="^the server has stopped: there are no statistics any more$"):
        server.statistics()


def test_an_exception_in_the_block_stops_the_server_and_goes_on(nothing_runs: None, kind: WorkerKind) -> None:
    async def main() -> None:
        async with served(kind):
            raise LookupError("in the block")

    with pytest.raises(LookupError, match="in the block"):
        asyncio.run(main())
    with pytest.raises(LookupError, match="in the block"), started(kind):
        raise LookupError("in the block")


def test_a_cancelled_serve_stops_cleanly(nothing_runs: None, kind: WorkerKind) -> None:
    async def main() -> None:
        opened = asyncio.Event()

        async def serve() -> None:
            async with served(kind):
                opened.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_running_server_counts(servers: Servers, kind: WorkerKind, clients: Clients) -> None:
    running: Running = servers.of(ECHO, kind)
    ann = clients.connect(running)
    for number in range(3):
        ann.send(str(number))
        ann.receives(str(number))
    statistics = running.server.statistics()
    found = {name: statistics[name] for name in ("sockets", "sockets_opened", "messages_received", "channels")}
    assert found == {"sockets": 1, "sockets_opened": 1, "messages_received": 3, "channels": 0}
    workers = statistics["workers"]
    assert isinstance(workers, list) and [worker["state"] for worker in workers] == ["running"]
