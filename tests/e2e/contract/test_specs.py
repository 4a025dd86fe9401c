"""Handlers may be given in many ways: by name, as a module, a class or an object; with all arguments or fewer."""

import pytest

import wsbroker
from e2e.contract.apps import echo, recorder
from e2e.contract.logs import Log
from e2e.contract.peers import Peer, request, text
from e2e.contract_kit import APPS
from wsbroker.addresses import TcpAddress
from wsbroker.config import WorkerKind

ECHO = APPS + "echo"


class Shouting:
    """A class of the main program's."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        wsbroker.send(socket_id, data.upper())


class Typed(wsbroker.Worker):
    """Derived from `Worker`, with one handler overridden."""

    def handle_socket_message(self, data: str | bytes, socket_id: int, token: bytes | None, /) -> None:
        wsbroker.send(socket_id, data)


class Few:
    """Takes fewer arguments than there are."""

    def handle_worker_start(self) -> None: ...

    def handle_socket_open(self) -> bool:
        return True

    def handle_socket_message(self, data: str) -> None:
        wsbroker.send_to_channel("nobody", data)

    def handle_socket_close(self) -> None: ...

    def handle_http_request(self) -> str:
        return "no arguments"


SPECS = {
    "a module's name": (ECHO, "hello"),
    "an object's name": (APPS + "recorder:app", "hello"),
    "a class's name": (APPS + "recorder:App", "hello"),
    "a nested name": (APPS + "recorder:Outer.Inner", "hello"),
    "a module": (echo, "hello"),
    "a class": (Shouting, "HELLO"),
    "a live object": (Shouting(), "HELLO"),
    "a derived class": (Typed, "hello"),
    "an object of a module": (recorder.app, "hello"),
}


@pytest.mark.parametrize(("spec", "answer"), SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("is_registered", [False, True], ids=["given", "registered"])
def test_handlers_may_be_given_in_many_ways(
    nothing_runs: None, kind: WorkerKind, spec: object, answer: str, is_registered: bool
) -> None:
    if kind not in ("inline", "thread") and not isinstance(spec, str):
        pytest.skip("an object of this program exists in its interpreter only")
    handle = wsbroker.register_worker(spec) if is_registered else None
    try:
        with wsbroker.start("127.0.0.1:0", worker_kind=kind, worker=None if is_registered else spec) as server:
            (address,) = server.addresses
            assert isinstance(address, TcpAddress)
            peer = Peer((address.host, address.port))
            peer.upgrade(text("hello"))
            assert peer.text() == answer
            peer.end()
    finally:
        if handle is not None:
            handle.unregister()


def test_handlers_may_take_fewer_arguments(nothing_runs: None, kind: WorkerKind) -> None:
    if kind not in ("inline", "thread"):
        pytest.skip("an object of this program exists in its interpreter only")
    with wsbroker.start("127.0.0.1:0", worker=Few(), worker_kind=kind) as server:
        (address,) = server.addresses
        assert isinstance(address, TcpAddress)
        peer = Peer((address.host, address.port))
        peer.send(request("POST", body=b"x"))
        assert peer.answer().text == "no arguments"
        peer.upgrade(text("hello"))
        peer.send(b"\x88\x80\0\0\0\0")
        assert peer.frame() == (8, b"")
        peer.end()


def test_one_worker_is_registered_and_a_different_one_is_a_value_error(nothing_runs: None) -> None:
    handle = wsbroker.register_worker(ECHO)
    try:
        assert wsbroker.register_worker(ECHO) is handle
        assert handle.spec == ECHO and isinstance(handle, wsbroker.WorkerHandle)
        with pytest.raises(ValueError) as caught:
            wsbroker.register_worker("another")
        assert str(caught.value) == (
            f"{ECHO!r} is registered already, and a server runs one worker (in as many instances as 'workers' says): "
            "put the handlers of 'another' into one module, or unregister the first"
        )
    finally:
        handle.unregister()
    with pytest.raises(RuntimeError) as error:
        wsbroker.start("127.0.0.1:0")
    assert str(error.value) == "no worker is registered: call wsbroker.register_worker('pkg.mod') before start()"
    for nothing in (None, 5, b"x", True):
        with pytest.raises(TypeError):
            wsbroker.register_worker(nothing)


def test_auto_takes_a_thread_for_a_live_object_and_says_what_to_do(nothing_runs: None, log: Log) -> None:
    with wsbroker.start("127.0.0.1:0", worker=Shouting()) as server:
        echoes_upper = Peer((server.addresses[0].host, server.addresses[0].port))  # type: ignore[union-attr]
        echoes_upper.upgrade(text("a"))
        assert echoes_upper.text() == "A"
        echoes_upper.end()
    assert "workers kind=thread" in log.text
    assert "register its name ('pkg.mod:obj') instead to use all cores" in log.text
