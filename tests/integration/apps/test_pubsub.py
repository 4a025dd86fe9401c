"""The built-in application in an event loop: what it does when time passes."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from kits.fake_broker_api import FakeBrokerApi, as_broker
from wsbroker import HttpRequest, SocketId
from wsbroker.apps import pubsub

ANN, BOB = SocketId(1), SocketId(2)


@pytest.fixture
def broker() -> Iterator[FakeBrokerApi]:
    with as_broker(FakeBrokerApi()) as fake:
        yield fake
        pubsub.handle_worker_stop()
        pubsub.handle_worker_start(None)


def test_a_socket_that_does_not_authenticate_in_time_is_closed(broker: FakeBrokerApi) -> None:
    pubsub.handle_worker_start(json.dumps({"secret": "s3cret", "auth_timeout_s": 0.01}))
    upgrade = HttpRequest("GET", "/")

    async def scenario() -> None:
        assert await pubsub.handle_socket_open(upgrade, ANN) is None
        assert await pubsub.handle_socket_open(upgrade, BOB) is None
        pubsub.handle_socket_message(json.dumps({"type": "auth", "secret": "s3cret"}), BOB, None)
        async with asyncio.timeout(10):
            while not broker.closed:
                await asyncio.sleep(0.001)
        # A later deadline than BOB's would have been.
        assert await pubsub.handle_socket_open(upgrade, SocketId(3)) is None
        async with asyncio.timeout(10):
            while 3 not in broker.closed:
                await asyncio.sleep(0.001)

    asyncio.run(scenario())
    assert broker.closed == {1: (1008, "not authenticated in time"), 3: (1008, "not authenticated in time")}
    assert pubsub._auth_deadlines == {}
