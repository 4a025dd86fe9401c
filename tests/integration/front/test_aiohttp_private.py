"""The private names of aiohttp that the front uses. A failure here means: read `aiohttp_private.py` again."""

import ast
import asyncio
import gc
import inspect
import re
import textwrap
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler

import wsbroker.front
from kits.front_kit import FakeConnections, FakePool, fronting, get, upgrade
from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import OVERRIDDEN_NAMES, PRIVATE_NAMES, HttpProtocol
from wsbroker.front.connection_resources import ConnectionResources
from wsbroker.front.conversion import CompleteResponse
from wsbroker.front.front import Front
from wsbroker.front.http_connection import HttpConnection
from wsbroker.front.message_slicer import MessageSlicer
from wsbroker.settings.config import Config

pytestmark = pytest.mark.anyio

FRONT = Path(wsbroker.front.__file__).parent


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def slots_of(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in getattr(base, "__slots__", ())}


@pytest.mark.parametrize("name", PRIVATE_NAMES + OVERRIDDEN_NAMES)
def test_aiohttp_still_has_the_private_name(name: str) -> None:
    assert name in slots_of(RequestHandler) or callable(getattr(RequestHandler, name, None)), (
        f"aiohttp's RequestHandler no longer has {name}: see wsbroker/front/aiohttp_private.py"
    )


def test_the_list_of_private_names_is_what_the_code_uses() -> None:
    tree = ast.parse((FRONT / "aiohttp_private.py").read_text())
    protocol = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "HttpProtocol")
    own = {node.name for node in ast.walk(protocol) if isinstance(node, ast.FunctionDef)} - set(OVERRIDDEN_NAMES)
    own |= set(HttpProtocol.__slots__)
    used = {
        node.attr
        for node in ast.walk(protocol)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert sorted(name for name in used - own if name.startswith("_")) == sorted(PRIVATE_NAMES)


def test_nothing_else_in_the_front_uses_a_private_name_of_aiohttp() -> None:
    private = {name for name in slots_of(RequestHandler) | set(dir(RequestHandler)) if name.startswith("_")}
    for path in FRONT.glob("*.py"):
        if path.name == "aiohttp_private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
                is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
                assert is_own, f"{path.name}:{node.lineno} looks into another object: {node.attr}"
                assert path.name not in ("http_connection.py", "request_reader.py") or node.attr not in private, (
                    f"{path.name}:{node.lineno} {node.attr}"
                )


def test_aiohttp_calls_what_we_override_by_these_names() -> None:
    for name in ("handle_error", "start", "eof_received", "pause_writing", "resume_writing"):
        assert callable(getattr(RequestHandler, name))
    assert list(inspect.signature(RequestHandler.handle_error).parameters) == [
        "self",
        "request",
        "status",
        "exc",
        "message",
    ]
    assert {"_message", "_version"} <= set(web.BaseRequest.ATTRS)


def test_aiohttp_asks_a_response_for_nothing_but_what_ours_has() -> None:
    asked: set[str] = set()
    for method in (RequestHandler.start, RequestHandler.finish_response, RequestHandler._handle_request):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "resp":
                asked.add(node.attr)
    assert asked == {"prepare", "write_eof", "keep_alive"}
    assert all(hasattr(CompleteResponse, name) for name in asked)


async def parsed(data: bytes, **limits: int) -> object:
    """Returns what the parser makes of some bytes: the error, or the head."""
    protocol = HttpProtocol(web.Server(_unused), asyncio.get_running_loop(), 75, limits.get("max_head_bytes", 8190))
    messages, _ = protocol.parse_slice(data)
    found = messages[0][0]
    return getattr(found, "exc", found)


async def _unused(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("not called")


async def test_errors_about_size_are_told_from_others() -> None:
    long_line = await parsed(get("/" + "a" * 2000), max_head_bytes=1024)
    long_field = await parsed(get("/", "X: " + "a" * 2000), max_head_bytes=1024)
    many = await parsed(get("/", *["X: y"] * (aiohttp_private.MAX_HEADERS + 1)), max_head_bytes=65536)
    assert isinstance(long_line, LineTooLong) and isinstance(long_field, LineTooLong)
    assert isinstance(many, BadHttpMessage)
    for error in (long_line, long_field, many):
        assert aiohttp_private.is_size_error(error)
    bad = await parsed(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
    assert isinstance(bad, BadHttpMessage)
    assert not aiohttp_private.is_size_error(bad)


class FakeTransport(asyncio.Transport):
    """A transport that records the calls of its protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reads = True
        self.is_closed = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    def get_write_buffer_size(self) -> int:
        return 0


async def test_detach_leaves_no_reference_in_any_slot() -> None:
    sockets, pool = FakeConnections(), FakePool()
    front = Front(Config.of(), sockets, pool)
    connection = HttpConnection(front.resources, front)
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.parse_slice(upgrade())
    assert connection.detach_transport() == (transport, b"")
    plain = (
        int,
        float,
        str,
        bytes,
        bool,
        type(None),
        asyncio.AbstractEventLoop,
        Front,
        ConnectionResources,
        MessageSlicer,
    )
    loggers = {"logger", "access_log", "access_logger"}
    held = {
        name for name in slots_of(HttpConnection) - loggers if not isinstance(getattr(connection, name, None), plain)
    }
    assert {name for name in held if getattr(connection, name)} == set(), "these slots keep something alive"
    front.resources.head_deadlines.clear()


async def test_detach_resumes_reading_that_was_paused() -> None:
    front = Front(Config.of(), FakeConnections(), FakePool())
    connection = HttpConnection(front.resources, front)
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.stop_reading()
    connection.stop_reading()
    assert not transport.reads
    connection.detach_transport()
    assert transport.reads
    assert not transport.is_closed
    front.resources.head_deadlines.clear()


def live_protocol_count() -> int:
    return sum(1 for thing in gc.get_objects() if isinstance(thing, RequestHandler))


@pytest.mark.parametrize("before", [b"", get("/first"), get("/1") + get("/2")], ids=["first", "second", "third"])
@pytest.mark.parametrize("is_asked", [False, True], ids=["no open handler", "open handler"])
async def test_aiohttps_objects_are_gone_one_turn_after_the_upgrade(before: bytes, is_asked: bool) -> None:
    async with fronting() as running:
        if is_asked:
            running.pool.opener = accept_slowly
        peer = await running.connect()
        tasks = asyncio.all_tasks()
        gc.collect()
        gc.disable()  # references alone must do
        try:
            await peer.send(before + upgrade())
            for _ in range(before.count(b"GET")):
                await peer.answer()
            assert b" 101 " in await peer.head()
            for _ in range(3):  # a task of aiohttp's, its parent, and the turn after
                await asyncio.sleep(0)
            assert live_protocol_count() == 0
            assert asyncio.all_tasks() == tasks
        finally:
            gc.enable()


async def accept_slowly(_: object) -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)


async def test_a_detached_connection_survives_the_end_of_aiohttps_task() -> None:
    async with fronting() as running:
        peer = await running.connect()
        await peer.send(get() + upgrade() + b"early")
        await peer.answer()
        await peer.head()
        connection = running.sockets.accepted[0]
        assert await connection.has_received(5) == b"early"
        await peer.send(b"more")
        assert await connection.has_received(9) == b"earlymore"
        assert connection.transport is not None and not connection.transport.is_closing()
