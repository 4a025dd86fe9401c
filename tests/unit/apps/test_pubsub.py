"""The built-in application against a fake broker: what every request does, and that none can break it."""

import asyncio
import json
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kits.fake_broker_api import FakeBrokerApi, as_broker
from wsbroker import HttpRequest, HttpResponse, SocketId
from wsbroker.apps import pubsub

ANN, BOB = SocketId(1), SocketId(2)


@pytest.fixture
def broker() -> Iterator[FakeBrokerApi]:
    with as_broker(FakeBrokerApi()) as fake:
        pubsub.handle_worker_start(None)
        yield fake
        pubsub.handle_worker_stop()
        pubsub.handle_worker_start(None)


def tell(broker: FakeBrokerApi, socket_id: SocketId, request: object) -> list[object]:
    """Passes one message to the application and returns the answers that its sender gets."""
    data = request if isinstance(request, str | bytes) else json.dumps(request)
    pubsub.handle_socket_message(data, socket_id, broker.tokens.get(socket_id))
    return broker.pop_sent_messages(socket_id)


def error_of(answers: list[object]) -> str:
    (answer,) = answers
    assert isinstance(answer, dict)
    assert (answer["type"], type(answer["message"])) == ("error", str)
    return str(answer["error"])


def get(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> HttpResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return pubsub.handle_http_request(HttpRequest(method, path, named, body))


def test_a_publisher_that_is_subscribed_gets_the_message_before_the_count(broker: FakeBrokerApi) -> None:
    for socket_id in (BOB, ANN):
        tell(broker, socket_id, {"type": "subscribe", "channel": "c"})
    assert tell(broker, ANN, {"type": "publish", "channel": "c", "data": [1.5, {"é": None}], "id": 0}) == [
        {"type": "message", "channel": "c", "data": [1.5, {"é": None}]},
        {"type": "published", "channel": "c", "delivered": 2, "id": 0},
    ]
    assert broker.sent[BOB] == ['{"type":"message","channel":"c","data":[1.5,{"é":null}]}']


def test_a_publication_without_an_id_has_no_answer(broker: FakeBrokerApi) -> None:
    assert tell(broker, ANN, {"type": "publish", "channel": "c", "data": 1}) == []


@pytest.mark.parametrize("request_id", ["x", "", 0, 1.5, None, False, [1, {"a": 2}], {"a": 1}])
def test_an_id_comes_back_in_every_kind_of_answer(broker: FakeBrokerApi, request_id: object) -> None:
    requests: list[dict[str, object]] = [
        {"type": "subscribe", "channel": "c"},
        {"type": "unsubscribe", "channel": "c"},
        {"type": "publish", "channel": "c", "data": 1},
        {"type": "ping"},
        {"type": "auth"},
        {"type": "subscribe", "channel": ""},
        {"type": None},
    ]
    for request in requests:
        (answer,) = tell(broker, ANN, {**request, "id": request_id})
        assert isinstance(answer, dict)
        assert answer["id"] == request_id


def test_subscribing_and_unsubscribing_twice_is_answered_like_the_first_time(broker: FakeBrokerApi) -> None:
    for _ in range(2):
        assert tell(broker, ANN, {"type": "subscribe", "channel": "c"}) == [{"type": "subscribed", "channel": "c"}]
    assert broker.tables == {b"c": [1]}
    for _ in range(2):
        assert tell(broker, ANN, {"type": "unsubscribe", "channel": "c"}) == [{"type": "unsubscribed", "channel": "c"}]
    assert broker.tables == {b"c": []}


def test_a_socket_at_its_limit_is_told_so_and_keeps_what_it_has(broker: FakeBrokerApi) -> None:
    broker.max_channels = 1
    tell(broker, ANN, {"type": "subscribe", "channel": "a"})
    assert error_of(tell(broker, ANN, {"type": "subscribe", "channel": "b"})) == "too_many_channels"
    assert tell(broker, ANN, {"type": "subscribe", "channel": "a"}) == [{"type": "subscribed", "channel": "a"}]


def test_the_longest_channel_has_255_bytes(broker: FakeBrokerApi) -> None:
    assert tell(broker, ANN, {"type": "subscribe", "channel": "é" * 127 + "x"})[0] == {
        "type": "subscribed",
        "channel": "é" * 127 + "x",
    }
    assert error_of(tell(broker, ANN, {"type": "subscribe", "channel": "é" * 128})) == "bad_channel"


@pytest.mark.parametrize("depth", [100, 900, 5_000, 100_000])
@pytest.mark.parametrize("template", ['{"type":"publish","channel":"c","data":%s}', '{"type":"ping","id":%s}', "%s"])
def test_depth_ends_in_an_answer_whatever_it_is(broker: FakeBrokerApi, template: str, depth: int) -> None:
    tell(broker, ANN, {"type": "subscribe", "channel": "c"})
    pubsub.handle_socket_message(template % ("[" * depth + "]" * depth), ANN, None)
    (answer,) = broker.sent.pop(ANN)
    assert isinstance(answer, str)
    assert '"type":"' in answer


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(),
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("type"), inner),
        ).map(json.dumps),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["subscribe", "unsubscribe", "publish", "ping", "auth"]) | st.text(),
                "channel": st.text() | st.integers() | st.just("\ud800"),
                "data": st.floats() | st.text() | st.just("\udfff"),
                "id": st.floats() | st.text() | st.just(["\ud800"]),
                "secret": st.text() | st.integers(),
            },
        ).map(json.dumps),
    )
)
def test_no_message_raises_and_every_answer_is_strict_json(broker: FakeBrokerApi, data: str | bytes) -> None:
    broker.tables.clear()
    broker.sent.clear()
    if isinstance(data, str) and not _is_text(data):
        return
    pubsub.handle_socket_message(data, ANN, None)
    for answer in broker.sent.pop(ANN, []):
        assert isinstance(answer, str)
        json.loads(answer.encode(), parse_constant=lambda name: pytest.fail(name))


def _is_text(data: str) -> bool:
    try:
        data.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_a_wrong_secret_costs_an_attempt_and_the_right_one_opens(broker: FakeBrokerApi) -> None:
    pubsub.handle_worker_start("s3cret")
    assert error_of(tell(broker, ANN, {"type": "publish", "channel": "c", "data": 1})) == "auth_required"
    assert error_of(tell(broker, ANN, {"type": "auth"})) == "wrong_secret"
    assert error_of(tell(broker, ANN, {"type": "auth", "secret": "\ud800"})) == "wrong_secret"
    assert tell(broker, ANN, {"type": "auth", "secret": "s3cret"}) == [{"type": "authenticated"}]
    assert error_of(tell(broker, ANN, {"type": "auth", "secret": "wrong"})) == "wrong_secret"
    assert tell(broker, ANN, {"type": "subscribe", "channel": "c"}) == [{"type": "subscribed", "channel": "c"}]
    assert broker.closed == {}


def test_the_last_attempt_closes_and_nothing_behind_it_is_looked_at(broker: FakeBrokerApi) -> None:
    pubsub.handle_worker_start("s3cret")
    for _ in range(pubsub.MAX_ATTEMPTS):
        assert broker.closed == {}
        assert error_of(tell(broker, ANN, {"type": "auth", "secret": "guess"})) == "wrong_secret"
    assert broker.closed == {ANN: (1008, "too many wrong secrets")}
    assert tell(broker, ANN, {"type": "auth", "secret": "s3cret"}) == []
    assert broker.tokens[ANN] != pubsub.AUTHENTICATED


def test_the_deadline_ends_with_the_socket_and_with_the_worker(broker: FakeBrokerApi) -> None:
    pubsub.handle_worker_start("s3cret")

    async def scenario() -> None:
        for socket_id in (ANN, BOB):
            await pubsub.handle_socket_open(HttpRequest("GET", "/"), socket_id)
        assert set(pubsub._auth_deadlines) == {ANN, BOB}
        pubsub.handle_socket_close(ANN)
        assert set(pubsub._auth_deadlines) == {BOB}
        pubsub.handle_worker_stop()
        assert pubsub._auth_deadlines == {}

    asyncio.run(scenario())


def test_the_upgrade_may_carry_the_secret(broker: FakeBrokerApi) -> None:
    pubsub.handle_worker_start("s3cret")
    right = HttpRequest("GET", "/", {"Authorization": "Bearer s3cret"})
    wrong = HttpRequest("GET", "/", {"Authorization": "Bearer guess"})
    assert asyncio.run(pubsub.handle_socket_open(right, ANN)) is None
    assert tell(broker, ANN, {"type": "subscribe", "channel": "c"}) == [{"type": "subscribed", "channel": "c"}]
    refusal = asyncio.run(pubsub.handle_socket_open(wrong, BOB))
    assert refusal is not None
    assert (refusal.status, refusal.headers["www-authenticate"]) == (401, "Bearer")
    assert pubsub._auth_deadlines == {}


@pytest.mark.parametrize(
    ("path", "channel"),
    [
        ("/channels/c", "c"),
        ("/channels/a%20b%2fc", "a b/c"),
        ("/channels/a/b", "a/b"),
        ("/channels/a+b", "a+b"),
        ("/channels/%zz", "%zz"),
        ("/channels/c?query=1", "c"),
        ("http://example.org/channels/%F0%9F%94%91", "🔑"),
        ("/channels/" + "%C3%BC" * 127 + "x", "ü" * 127 + "x"),
    ],
)
def test_a_post_publishes_to_the_channel_of_its_path(broker: FakeBrokerApi, path: str, channel: str) -> None:
    tell(broker, ANN, {"type": "subscribe", "channel": channel})
    answer = get(path, "POST", b"{}")
    assert (answer.status, answer.body) == (200, b'{"delivered":1}')
    assert broker.pop_sent_messages(ANN) == [{"type": "message", "channel": channel, "data": {}}]


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://here.example", "here.example", 200),
        ("http://here.example:80", "HERE.example", 200),
        ("https://here.example", "here.example:443", 200),
        ("http://here.example:8080", "here.example", 403),
        ("http://there.example", "here.example", 403),
        ("null", "here.example", 403),
        ("http://[", "here.example", 403),
        ("", "here.example", 403),
    ],
)
def test_a_page_of_another_site_may_not_publish(broker: FakeBrokerApi, origin: str, host: str, status: int) -> None:
    assert get("/channels/c", "POST", b"1", Origin=origin, Host=host).status == status


def test_the_longest_origin_costs_no_time(broker: FakeBrokerApi) -> None:
    """To normalise so many combining characters takes more than a second, for its cost is quadratic."""
    origin = "http://" + "\u0300" * 8000 + "\u0316" * 8000
    start = time.perf_counter()
    assert get("/channels/c", "POST", b"1", Origin=origin, Host="here.example").status == 403
    assert time.perf_counter() - start < 0.5


def test_with_a_secret_a_post_needs_it(broker: FakeBrokerApi) -> None:
    pubsub.handle_worker_start("s3cret")
    assert get("/channels/c", "POST", b"1").status == 401
    assert get("/channels/c", "POST", b"1", Authorization="Bearer guess").status == 401
    assert get("/channels/c", "POST", b"1", Authorization="Bearer s3cret").status == 200
    assert (get("/").status, get("/healthz").body) == (200, b'{"status":"ok","auth":true}')


def test_the_page_needs_nothing_from_elsewhere_and_its_policy_allows_what_is_in_it(broker: FakeBrokerApi) -> None:
    page = get("/")
    html = page.body.decode()
    assert re.findall(r'(?:src|href)="?([^">]*)', html) == ["data:,"]
    assert len(re.findall("<script", html)) == len(re.findall("<style", html)) == 1
    assert re.findall(r"\son\w+=|\sstyle=", html) == []  # not covered by a digest
    assert page.headers["content-security-policy"].count("'sha256-") == 2
    again = get("/", If_None_Match=page.headers["etag"])
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", page.headers["etag"])


def test_every_error_code_is_in_the_description() -> None:
    used = set(re.findall(r'Refused\(\s*"(\w+)"|error(?:"\s*:\s*|=)"(\w+)"', _source()))
    codes = {code for pair in used for code in pair if code}
    assert codes
    assert [code for code in codes if code not in (pubsub.__doc__ or "")] == []


def _source() -> str:
    assert pubsub.__file__ is not None
    with open(pubsub.__file__, encoding="utf-8") as file:
        return file.read().partition('"""\n')[2]
