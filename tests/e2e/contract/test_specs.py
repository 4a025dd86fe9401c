"""Handlers may be given in many ways: by name, as a module, a class or an object; with all arguments or fewer."""

import importlib
from pathlib import Path

import pytest

import wsbroker
from e2e.contract.apps import echo, recorder
from e2e.contract.apps.shapes import Few, Shouting, Typed
from kits.contract_kit import APPS, HERE, ONLY_HERE
from kits.log_records import Log
from kits.raw_peer import Peer, request, text
from wsbroker.pool.kinds.choice import is_free_threaded
from wsbroker.settings.addresses import TcpAddress
from wsbroker.settings.config import WorkerKind

ECHO = APPS + "echo"


NAMED = {
    "a module's name": (ECHO, "hello"),
    "an object's name": (APPS + "recorder:app", "hello"),
    "a class's name": (APPS + "recorder:App", "hello"),
    "a nested name": (APPS + "recorder:Outer.Inner", "hello"),
    "a module": (echo, "hello"),
    "a class": (Shouting, "HELLO"),
    "a derived class": (Typed, "hello"),
}
"""What every interpreter can import, by a name that it has."""


class Unreachable:
    """Holds a class that has another name than it says, as one that is made in a function has."""

    Local = type("Local", (Shouting,), {})


LIVE = {
    "a live object": (
        Shouting(),
        "a live object exists in this interpreter only; register its name ('pkg.mod:obj') instead to use all cores",
    ),
    "an object of a module": (
        recorder.app,
        "a live object exists in this interpreter only; register its name ('pkg.mod:obj') instead to use all cores",
    ),
    "a class without a name": (
        Unreachable.Local,
        f"Local cannot be imported from {__name__}; define it at the top level of a module to use all cores",
    ),
}
"""What exists in this interpreter only, and what is said where that is not enough."""


@pytest.mark.parametrize(("spec", "answer"), NAMED.values(), ids=NAMED)
def test_handlers_may_be_given_in_many_ways(nothing_runs: None, kind: WorkerKind, spec: object, answer: str) -> None:
    with wsbroker.start("127.0.0.1:0", worker_kind=kind, workers=1, worker=spec) as server:
        assert said(server, "hello") == answer


@pytest.mark.parametrize(("spec", "problem"), LIVE.values(), ids=LIVE)
def test_what_has_no_name_runs_in_this_interpreter_only(
    nothing_runs: None, kind: WorkerKind, spec: object, problem: str
) -> None:
    if kind in HERE:
        with wsbroker.start("127.0.0.1:0", worker_kind=kind, worker=spec) as server:
            assert said(server, "hello").lower() == "hello"
    else:
        with pytest.raises(wsbroker.ConfigError) as caught:
            wsbroker.start("127.0.0.1:0", worker_kind=kind, worker=spec)
        assert str(caught.value) == f"worker kind {kind!r} cannot run this worker: {problem}"


def said(server: wsbroker.Server, message: str) -> str:
    """Returns the answer to a message."""
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    peer = Peer((address.host, address.port))
    peer.upgrade(text(message))
    answer = peer.text()
    peer.end()
    return answer


def test_the_registered_worker_is_served(nothing_runs: None, kind: WorkerKind) -> None:
    handle = wsbroker.register_worker(Shouting)
    try:
        with wsbroker.start("127.0.0.1:0", worker_kind=kind, workers=1) as server:
            assert said(server, "hello") == "HELLO"
    finally:
        handle.unregister()


def test_handlers_may_take_fewer_arguments(nothing_runs: None, kind: WorkerKind) -> None:
    with wsbroker.start("127.0.0.1:0", worker=Few, worker_kind=kind, workers=1) as server:
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


CELL = """
import wsbroker
class Chat:
    def handle_socket_message(self, data, socket_id):
        wsbroker.send(socket_id, ANSWER)
"""


def run_cell(answer: str) -> type:
    """Runs the code of a notebook's cell and returns the class that it defines."""
    names: dict[str, object] = {"__name__": "__main__", "ANSWER": answer}
    exec(CELL, names)
    found = names["Chat"]
    assert isinstance(found, type)
    return found


@ONLY_HERE
@pytest.mark.parametrize("is_live", [False, True])
def test_a_cell_that_is_run_again_registers_its_new_definition_unless_a_server_runs_the_old(
    nothing_runs: None, kind: WorkerKind, is_live: bool
) -> None:
    def worker(answer: str) -> object:
        defined = run_cell(answer)
        return defined() if is_live else defined

    handle = wsbroker.register_worker(worker("never served"))
    try:
        for answer in ("first", "second"):
            newest = worker(answer)
            assert wsbroker.register_worker(newest) is handle
            assert handle.spec is newest
            with wsbroker.start("127.0.0.1:0", worker_kind=kind) as server:
                assert said(server, "hello") == answer
                assert wsbroker.register_worker(newest) is handle
                with pytest.raises(RuntimeError) as refused:
                    wsbroker.register_worker(worker("too late"))
                assert "was defined anew" in str(refused.value) and "stop() that server first" in str(refused.value)
                assert said(server, "hello") == answer and handle.spec is newest
    finally:
        handle.unregister()


@ONLY_HERE
def test_a_reloaded_module_is_served_anew_once_the_server_has_stopped(
    nothing_runs: None, kind: WorkerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / f"reloaded_{kind}.py"
    source = CELL.replace("class Chat:", "if True:").replace("self, ", "")
    file.write_text(f"ANSWER = 'hello'{source}", encoding="utf-8")
    module = importlib.import_module(file.stem)
    handle = wsbroker.register_worker(module)
    try:
        for _ in range(2):
            assert wsbroker.register_worker(importlib.reload(module)) is handle
            with wsbroker.start("127.0.0.1:0", worker_kind=kind) as server:
                assert said(server, "hello") == "hello"
                assert wsbroker.register_worker(module) is handle
                with pytest.raises(RuntimeError, match="was defined anew"):
                    wsbroker.register_worker(importlib.reload(module))
    finally:
        handle.unregister()


def test_auto_takes_a_thread_for_a_live_object_and_says_what_to_do(nothing_runs: None, log: Log) -> None:
    with wsbroker.start("127.0.0.1:0", worker=Shouting()) as server:
        assert said(server, "a") == "A"
    assert "workers kind=thread" in log.text
    if is_free_threaded():
        assert "this Python has no lock that keeps threads apart" in log.text
    else:
        assert "register its name ('pkg.mod:obj') instead to use all cores" in log.text
