"""Fixtures of the contract tests: worker kinds, servers, clients, forked programs and the log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import aiohttp
import pytest

import wsbroker
from kits.contract_kit import ELSEWHERE, KINDS, PUPPETS, Clients, Servers, client_for, until
from kits.forked_programs import Forks
from kits.log_records import Log, recorded
from kits.loop_thread import LoopThread
from wsbroker.settings.config import WorkerKind

REPEATING_PLACES: Final = {
    *("main program", "second thread", "inside the loop"),
    *("open handler", "close handler", "thread of a handler"),
    *("to_thread in an async handler", "executor of an async handler", "async http handler"),
}
"""Places of `test_calls` from where a call takes the same way whether workers are threads or something further away."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks as `full` what repeats a proof: of `one_kind`, of `one_app` (see pyproject.toml), and REPEATING_PLACES."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    length = len(item.name.partition("[")[0])  # so that each kind and each application has its part of them
    for marker, parameter, choices in (("one_kind", "kind", KINDS), ("one_app", "app", PUPPETS)):
        chosen = choices[length % len(choices)]
        if item.get_closest_marker(marker) and parameters.get(parameter, chosen) != chosen:
            item.add_marker(pytest.mark.full)
    place = str(getattr(parameters.get("place"), "name", ""))
    if place in REPEATING_PLACES and parameters.get("kind") in ELSEWHERE:
        item.add_marker(pytest.mark.full)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has tests that use the same server follow each other: a process takes longer to start than most tests."""
    files: dict[Path, int] = {}

    def server_of(item: pytest.Item) -> tuple[object, ...]:
        assert isinstance(item, pytest.Function)
        file = files.setdefault(item.path, len(files))
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        kind = KINDS.index(parameters["kind"]) if "kind" in parameters else -1
        app = str(parameters.get("app", parameters.get("place", "~")))
        return file, kind, app, "running" not in item.fixturenames

    here = Path(__file__).parent
    places = [number for number, item in enumerate(items) if here in item.path.parents]
    in_order = sorted([items[number] for number in places], key=server_of)
    for number, item in zip(places, in_order, strict=True):
        items[number] = item


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> WorkerKind:
    """The kind of worker."""
    return cast(WorkerKind, request.param)


@pytest.fixture(params=PUPPETS, scope="module")
def app(request: pytest.FixtureRequest) -> str:
    """The name of the puppet application: with plain handlers or with async ones."""
    return cast(str, request.param)


@pytest.fixture
def client(kind: WorkerKind, app: str) -> str:
    """The name of the client library for tests that name none; over all kinds and applications each library is used."""
    return client_for(kind, app)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The server that runs, kept from test to test."""
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def client_thread() -> Iterator[tuple[LoopThread, aiohttp.ClientSession]]:
    """The event loop thread in which aiohttp's clients run, and their session."""
    thread = LoopThread("clients")

    async def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())

    made = thread.run(session())
    yield thread, made
    thread.run(made.close())
    thread.end()


@pytest.fixture
def clients(
    request: pytest.FixtureRequest, servers: Servers, client_thread: tuple[LoopThread, aiohttp.ClientSession]
) -> Iterator[Clients]:
    """Makes the clients of one test; checks after the test that no other connection, socket or channel is left."""
    default = request.getfixturevalue("client") if "client" in request.fixturenames else "websockets"
    clients = Clients(*client_thread, default)
    yield clients
    clients.end()
    running = servers.current
    if running is not None and running.server.is_running:
        until(lambda: running.count("connections") == len(running.kept), "a connection is left")
        assert (running.count("sockets"), running.count("channels")) == (len(running.kept), 0)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The process that starts programs by forking."""
    forks = Forks()
    yield forks
    forks.end()


@pytest.fixture
def nothing_runs(servers: Servers) -> Iterator[None]:
    """Stops the shared server for a test that starts servers itself; checks after the test that none runs."""
    servers.stop()
    yield
    with pytest.raises(wsbroker.CommandError):
        wsbroker.channels()


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """The log of this process; fails the test for an error that the test does not forgive, and for a logged secret."""
    with recorded() as log:
        yield log
        log.check()
