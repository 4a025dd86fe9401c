"""The built-in application, served without APP, with clients that we did not write."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import websockets

from kits.server_process import ServerProcess, serving, shared
from kits.websocket_clients import PATIENCE_S, Connect, with_aiohttp, with_websockets

SECRET = "päss wörd"
CLIENTS = [pytest.param(with_websockets, id="websockets"), pytest.param(with_aiohttp, id="aiohttp")]


@pytest.fixture(scope="module")
def _open() -> Iterator[ServerProcess]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def _locked() -> Iterator[ServerProcess]:
    with serving(environment={"WSBROKER_SECRET": SECRET}) as server:
        yield server


@pytest.fixture
def server(_open: ServerProcess) -> Iterator[ServerProcess]:
    """The built-in application as it is."""
    yield from shared(_open)


@pytest.fixture
def locked(_locked: ServerProcess) -> Iterator[ServerProcess]:
    """The built-in application with a secret."""
    yield from shared(_locked)


def test_two_clients_subscribe_publish_and_unsubscribe(server: ServerProcess) -> None:
    async def scenario() -> None:
        url = server.websocket_url
        async with with_websockets(url) as ann, with_aiohttp(url) as bob:
            await ann.ask({"type": "subscribe", "channel": "news"})
            await ann.ask({"type": "subscribe", "channel": "news", "id": 7})
            await bob.ask({"type": "publish", "channel": "news", "data": {"a": [1, None, "ü"]}, "id": "b1"})
            await ann.hear()
            await bob.ask({"type": "subscribe", "channel": "news"})
            await bob.say({"type": "publish", "channel": "news", "data": "both", "id": "b2"})
            await bob.hear()
            await bob.hear()
            await ann.hear()
            await bob.ask({"type": "publish", "channel": "news", "data": "without an id"})
            await ann.hear()
            await ann.ask({"type": "unsubscribe", "channel": "news"})
            await ann.ask({"type": "unsubscribe", "channel": "news", "id": None})
            await bob.say({"type": "publish", "channel": "news", "data": None, "id": [3]})
            await bob.hear()
            await bob.hear()
            await ann.ask({"type": "ping"})
            await bob.ask({"type": "ping", "id": 1.5})

        def message(data: object) -> object:
            return {"type": "message", "channel": "news", "data": data}

        assert ann.transcript == [
            {"type": "subscribed", "channel": "news"},
            {"type": "subscribed", "channel": "news", "id": 7},
            message({"a": [1, None, "ü"]}),
            message("both"),
            message("without an id"),
            {"type": "unsubscribed", "channel": "news"},
            {"type": "unsubscribed", "channel": "news", "id": None},
            {"type": "pong"},
        ]
        assert bob.transcript == [
            {"type": "published", "channel": "news", "delivered": 1, "id": "b1"},
            {"type": "subscribed", "channel": "news"},
            message("both"),
            {"type": "published", "channel": "news", "delivered": 2, "id": "b2"},
            message("without an id"),
            message(None),
            {"type": "published", "channel": "news", "delivered": 1, "id": [3]},
            {"type": "pong", "id": 1.5},
        ]

    asyncio.run(scenario())


WRONG: list[tuple[object, str]] = [
    (b'{"type":"ping"}', "not_text"),
    ("", "not_json"),
    ("{", "not_json"),
    ('\ufeff{"type":"ping"}', "not_json"),
    ('{"type":"publish","channel":"c","data":NaN}', "not_json"),
    ('{"type":"publish","channel":"c","data":[-Infinity]}', "not_json"),
    ('{"type":"publish","channel":"c","data":{"a":1e999}}', "bad_data"),
    ('{"type":"publish","channel":"c","data":' + "9" * 5000 + "}", "not_json"),
    (r'{"type":"publish","channel":"c","data":["\ud800"]}', "bad_data"),
    (r'{"type":"publish","channel":"c","data":{"\udfff":1}}', "bad_data"),
    ('{"type":"publish","channel":"c"}', "bad_data"),
    (r'{"type":"publish","channel":"\ud800","data":1}', "bad_channel"),
    ('{"type":"publish","channel":7,"data":1}', "bad_channel"),
    ('{"type":"subscribe"}', "bad_channel"),
    ('{"type":"subscribe","channel":""}', "bad_channel"),
    ('{"type":"subscribe","channel":null}', "bad_channel"),
    (json.dumps({"type": "subscribe", "channel": "é" * 128}), "bad_channel"),
    ('{"type":"unsubscribe","channel":["c"]}', "bad_channel"),
    ("[]", "bad_request"),
    ("7", "bad_request"),
    ("{}", "bad_request"),
    ('{"type":["ping"]}', "bad_request"),
    ('{"type":"dance"}', "bad_request"),
    (r'{"type":"ping","id":"\ud800"}', "bad_id"),
    ('{"type":"ping","id":1e999}', "bad_id"),
]
DEEP = '{"type":"publish","channel":"c","id":1,"data":' + "[" * 30000 + "]" * 30000 + "}"


@pytest.mark.parametrize("connect", CLIENTS)
def test_what_is_wrong_is_answered_and_the_socket_stays_open(server: ServerProcess, connect: Connect) -> None:
    async def scenario() -> None:
        async with connect(server.websocket_url) as ann:
            for request, code in WRONG:
                answer = await ann.ask(request)
                assert (answer["type"], answer["error"]) == ("error", code), request
                assert set(answer) == {"type", "error", "message"}
            # How deep JSON may be nested is up to Python's parser, which takes this from 3.14 on.
            answer = await ann.ask(DEEP)
            assert answer.get("error") == "not_json" or (answer["type"], answer["delivered"]) == ("published", 0)
            answer = await ann.ask({"type": "dance", "id": {"a": 1}})
            assert (answer["error"], answer["id"]) == ("bad_request", {"a": 1})
            assert await ann.ask({"type": "subscribe", "channel": "é" * 127}) == {
                "type": "subscribed",
                "channel": "é" * 127,
            }

    asyncio.run(scenario())
    assert "Traceback" not in server.log


def test_a_socket_at_its_limit_of_subscriptions_is_told_so() -> None:
    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as ann:
            for channel in ("a", "b", "a"):
                assert (await ann.ask({"type": "subscribe", "channel": channel}))["type"] == "subscribed"
            assert (await ann.ask({"type": "subscribe", "channel": "c"}))["error"] == "too_many_channels"
            await ann.ask({"type": "unsubscribe", "channel": "a"})
            assert (await ann.ask({"type": "subscribe", "channel": "c"}))["type"] == "subscribed"

    with serving("--max-channels-per-socket", "2") as server:
        asyncio.run(scenario(server))


def test_a_post_publishes_json_if_it_is_that_and_text_otherwise(server: ServerProcess) -> None:
    bodies: list[tuple[bytes, object]] = [
        (b'{"a": [1]}', {"a": [1]}),
        (b"null", None),
        (b"", ""),
        (b"hello", "hello"),
        ("grüß".encode(), "grüß"),
        (b"NaN", "NaN"),
        (b'"\\ud800"', '"\\ud800"'),
        (b"[" * 30000, "[" * 30000),
    ]

    async def scenario() -> None:
        async with aiohttp.ClientSession(server.url) as session:

            async def post(path: str, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
                # A raw path: aiohttp would else decode %2F and the like.
                async with session.post(path, data=body, headers=headers) as answer:
                    assert answer.content_type == "application/json"
                    return answer.status, await answer.json()

            assert await post("/channels/nobody", b"1") == (200, {"delivered": 0})
            async with with_websockets(server.websocket_url) as ann, with_aiohttp(server.websocket_url) as bob:
                for each in (ann, bob):
                    await each.ask({"type": "subscribe", "channel": "a b/ü"})
                for body, data in bodies:
                    assert await post("/channels/a%20b%2F%C3%BC", body) == (200, {"delivered": 2})
                    message = {"type": "message", "channel": "a b/ü", "data": data}
                    assert await ann.hear() == message
                    assert await bob.hear() == message
            status, answer = await post("/channels/c", b"\xff")
            assert (status, answer["error"]) == (400, "not_utf8")
            for name in ("", "x" * 256, "%FF"):
                status, answer = await post(f"/channels/{name}", b"1")
                assert (status, answer["error"]) == (400, "bad_channel"), name
            status, answer = await post("/channels/c", b"1", Origin="https://elsewhere.example")
            assert (status, answer["error"]) == (403, "bad_origin")
            assert (await post("/channels/c", b"1", Origin=server.url))[0] == 200

    asyncio.run(scenario())


def test_get_and_head_serve_the_page_and_the_health(server: ServerProcess) -> None:
    async def scenario() -> None:
        async with aiohttp.ClientSession(server.url) as session:
            async with session.get("/") as page:
                body = await page.read()
                assert (page.status, page.content_type, page.charset) == (200, "text/html", "utf-8")
                assert "default-src 'none'" in page.headers["Content-Security-Policy"]
                assert page.headers["Cache-Control"] == "no-cache"
                assert b"WSBroker" in body
            async with session.head("/") as head:
                assert (head.status, await head.read()) == (200, b"")
                assert head.headers["Content-Length"] == str(len(body))
            async with session.get("/", headers={"If-None-Match": page.headers["ETag"]}) as same:
                assert (same.status, await same.read()) == (304, b"")
            async with session.get("/healthz") as health:
                assert (health.status, await health.json()) == (200, {"status": "ok", "auth": False})
            async with session.head("/healthz") as head:
                assert (head.status, await head.read()) == (200, b"")

    asyncio.run(scenario())


def test_other_methods_are_405_and_other_paths_404(server: ServerProcess) -> None:
    refused = [
        ("POST", "/", 405, "GET, HEAD"),
        ("DELETE", "/healthz", 405, "GET, HEAD"),
        ("GET", "/channels/c", 405, "POST"),
        ("OPTIONS", "/channels/c", 405, "POST"),
        ("GET", "/channels", 404, None),
        ("GET", "/favicon.ico", 404, None),
        ("POST", "/other", 404, None),
    ]

    async def scenario() -> None:
        async with aiohttp.ClientSession(server.url) as session:
            for method, path, status, allowed in refused:
                async with session.request(method, path) as answer:
                    assert (answer.status, answer.headers.get("Allow")) == (status, allowed), (method, path)
                    assert set(await answer.json()) == {"error", "message"}

    asyncio.run(scenario())


@pytest.mark.parametrize("connect", CLIENTS)
def test_with_a_secret_a_socket_has_to_come_up_with_it(locked: ServerProcess, connect: Connect) -> None:
    async def scenario(server: ServerProcess) -> None:
        async with connect(server.websocket_url) as ann:
            await ann.ask({"type": "ping"})
            for request in ("subscribe", "unsubscribe", "publish"):
                await ann.ask({"type": request, "channel": "c", "data": 1, "id": request})
            await ann.ask({"type": "auth", "secret": "wrong", "id": 1})
            await ann.ask({"type": "auth", "secret": 7})
            await ann.ask({"type": "auth", "secret": SECRET, "id": 2})
            await ann.ask({"type": "subscribe", "channel": "c"})
        errors = [(each.get("error"), each.get("id")) for each in ann.transcript if isinstance(each, dict)]
        assert errors == [
            (None, None),
            ("auth_required", "subscribe"),
            ("auth_required", "unsubscribe"),
            ("auth_required", "publish"),
            ("wrong_secret", 1),
            ("wrong_secret", None),
            (None, 2),
            (None, None),
        ]
        assert ann.transcript[-2:] == [{"type": "authenticated", "id": 2}, {"type": "subscribed", "channel": "c"}]

    asyncio.run(scenario(locked))
    assert SECRET not in locked.log


def test_three_wrong_secrets_close_the_socket_and_a_fourth_is_not_looked_at(locked: ServerProcess) -> None:
    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as eve:
            for secret in ("a", "b", "c", SECRET):
                await eve.say({"type": "auth", "secret": secret})
            assert [(await eve.hear())["error"] for _ in range(3)] == ["wrong_secret"] * 3
            assert await eve.be_closed() == (1008, "too many wrong secrets")

    asyncio.run(scenario(locked))


def test_the_secret_may_come_with_the_upgrade_and_a_wrong_one_is_refused_there(locked: ServerProcess) -> None:
    async def scenario(server: ServerProcess) -> None:
        url = server.websocket_url
        async with with_websockets(url, {"Authorization": f"Bearer {SECRET}"}) as ann:
            assert (await ann.ask({"type": "subscribe", "channel": "c"}))["type"] == "subscribed"
        async with with_aiohttp(url, {"Authorization": f"Basic {SECRET}"}) as bob:
            assert (await bob.ask({"type": "subscribe", "channel": "c"}))["error"] == "auth_required"
        with pytest.raises(websockets.InvalidStatus) as refusal:
            async with with_websockets(url, {"Authorization": "Bearer secret"}):
                pass
        assert refusal.value.response.status_code == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as other_refusal:
            async with with_aiohttp(url, {"Authorization": "Bearer "}):
                pass
        assert other_refusal.value.status == 401

    asyncio.run(scenario(locked))


def test_a_socket_that_does_not_authenticate_in_time_is_closed_and_one_that_did_is_not() -> None:
    async def scenario(server: ServerProcess) -> None:
        url = server.websocket_url
        async with with_websockets(url) as ann, with_aiohttp(url) as late:
            await ann.ask({"type": "auth", "secret": "s3cret"})
            started = time.monotonic()
            assert await late.be_closed() == (1008, "not authenticated in time")
            assert time.monotonic() - started < 8  # not the default of 10 s
            assert (await ann.ask({"type": "ping"}))["type"] == "pong"

    with serving("--secret", "s3cret", "--handshake-timeout", "1") as server:
        asyncio.run(scenario(server))


def test_with_a_secret_a_post_needs_it_and_page_and_health_do_not(locked: ServerProcess) -> None:
    async def scenario(server: ServerProcess) -> None:
        async with aiohttp.ClientSession(server.url) as session:
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
                async with session.post("/channels/c", data=b"1", headers=header) as answer:
                    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
                    assert (await answer.json())["error"] == "auth_required"
            async with session.post("/channels/c", data=b"1", headers={"Authorization": f"bearer {SECRET}"}) as answer:
                assert (answer.status, await answer.json()) == (200, {"delivered": 0})
            async with session.get("/") as page:
                assert page.status == 200
            async with session.get("/healthz") as health:
                assert await health.json() == {"status": "ok", "auth": True}

    asyncio.run(scenario(locked))


def test_a_secret_that_looks_like_json_is_a_secret() -> None:
    secret = '{"secret":"other"}'

    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as ann:
            assert (await ann.ask({"type": "auth", "secret": "other"}))["error"] == "wrong_secret"
            assert await ann.ask({"type": "auth", "secret": secret}) == {"type": "authenticated"}

    with serving("--secret", secret) as server:
        asyncio.run(scenario(server))


def test_the_working_directory_does_not_replace_the_built_in_application(tmp_path: Path) -> None:
    (tmp_path / "pubsub.py").write_text("raise SystemExit('not me')\n")

    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as ann:
            assert await ann.ask({"type": "ping"}) == {"type": "pong"}

    with serving(folder=tmp_path) as server:
        asyncio.run(scenario(server))


def test_sockets_are_told_when_the_server_stops() -> None:
    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as ann, with_aiohttp(server.websocket_url) as bob:
            await ann.ask({"type": "ping"})
            await bob.ask({"type": "ping"})
            stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
            assert (await ann.be_closed())[0] == 1001
            assert (await bob.be_closed())[0] == 1001
            async with asyncio.timeout(PATIENCE_S):
                assert await stopping == 0

    with serving() as server:
        asyncio.run(scenario(server))
        assert re.search(r"serving on http://127\.0\.0\.1:\d+", server.log)
