"""The functions of `import wsbroker`: what they accept, in which form they pass it on, what they refuse."""

import array
import ctypes
import enum
import mmap
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

import wsbroker
from wsbroker.types import is_sendable_close_code
from wsbroker.websocket import closing
from wsbroker.worker import api as worker_api
from wsbroker.worker.api import BrokerApi

untyped: Any = wsbroker
"""The API for callers that have no type checker."""


class RecordingApi(BrokerApi):
    """Remembers each call with its arguments, and answers questions."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def send(self, socket_id: int, data: str | bytes) -> None:
        self.calls.append(("send", socket_id, data))

    def send_to_channel(self, channel: bytes, data: str | bytes, exclude: tuple[int, ...]) -> None:
        self.calls.append(("send_to_channel", channel, data, exclude))

    def subscribe(self, socket_id: int, channel: bytes) -> bool:
        self.calls.append(("subscribe", socket_id, channel))
        return True

    def unsubscribe(self, socket_id: int, channel: bytes) -> bool:
        self.calls.append(("unsubscribe", socket_id, channel))
        return False

    def subscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        self.calls.append(("subscribe_nowait", socket_id, channel))

    def unsubscribe_nowait(self, socket_id: int, channel: bytes) -> None:
        self.calls.append(("unsubscribe_nowait", socket_id, channel))

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        self.calls.append(("set_token", socket_id, token))

    def copy_subscriptions(self, from_channel: bytes, to_channel: bytes) -> None:
        self.calls.append(("copy_subscriptions", from_channel, to_channel))

    def close(self, socket_id: int, code: int, reason: str) -> None:
        self.calls.append(("close", socket_id, code, reason))

    def subscriber_count(self, channel: bytes) -> int:
        self.calls.append(("subscriber_count", channel))
        return 2 if channel == b"full" else 0

    def subscribers(self, channel: bytes) -> list[int]:
        self.calls.append(("subscribers", channel))
        return [2, 1]

    def subscriptions(self, socket_id: int) -> list[bytes]:
        self.calls.append(("subscriptions", socket_id))
        return [b"a"]

    def channels(self) -> list[bytes]:
        self.calls.append(("channels",))
        return [b"a", b"b"]

    def is_open(self, socket_id: int) -> bool:
        self.calls.append(("is_open", socket_id))
        return True

    def queued_bytes(self, socket_id: int) -> int:
        self.calls.append(("queued_bytes", socket_id))
        return 7


@pytest.fixture
def recorded() -> Iterator[RecordingApi]:
    """The default API for one test."""
    recording = RecordingApi()
    worker_api.set_default_api(recording)
    yield recording
    worker_api.set_default_api(None)


class Text(enum.StrEnum):
    NAME = "name"


class Number(enum.IntEnum):
    SEVEN = 7


class MyBytes(bytes):
    pass


def references() -> object:
    """An object whose buffer has addresses in it."""
    return (ctypes.py_object * 2)()


def mapped(content: bytes) -> mmap.mmap:
    """Anonymous memory with these bytes."""
    memory = mmap.mmap(-1, len(content))
    memory.write(content)
    return memory


def bytes_of(*numbers: int) -> bytes:
    """These 16-bit numbers as they are in memory."""
    return array.array("H", numbers).tobytes()


def exact_types(value: object) -> bool:
    """Whether a call has nothing in it that `marshal` refuses."""
    if type(value) is tuple:
        return all(exact_types(each) for each in value)
    return value is None or type(value) in (str, bytes, int)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: wsbroker.send(7, "é"), ("send", 7, "é")),
        (lambda: wsbroker.send(Number.SEVEN, Text.NAME), ("send", 7, "name")),
        (lambda: wsbroker.send(7, b""), ("send", 7, b"")),
        (lambda: wsbroker.send(7, MyBytes(b"x")), ("send", 7, b"x")),
        (lambda: wsbroker.send(7, bytearray(b"x")), ("send", 7, b"x")),
        (lambda: wsbroker.send(7, memoryview(b"abcdef")[::2]), ("send", 7, b"ace")),
        (lambda: wsbroker.send(7, array.array("H", [1, 515])), ("send", 7, bytes_of(1, 515))),
        (lambda: wsbroker.send(7, mapped(b"in a file")), ("send", 7, b"in a file")),
        (lambda: wsbroker.send(7, memoryview(b"abcdef").cast("B", (2, 3))), ("send", 7, b"abcdef")),
        (lambda: wsbroker.send(7, memoryview(array.array("H", [1, 2, 3]))[::-2]), ("send", 7, bytes_of(3, 1))),
        (lambda: wsbroker.send(7, (ctypes.c_uint16 * 2)(1, 2)), ("send", 7, bytes_of(1, 2))),
        (lambda: wsbroker.send_to_channel("c", array.array("d")), ("send_to_channel", b"c", b"", ())),
        (lambda: wsbroker.set_token(7, array.array("B", b"token")), ("set_token", 7, b"token")),
        (lambda: wsbroker.send(0, "x"), ("send", 0, "x")),
        (lambda: wsbroker.send(-5, "x"), ("send", 0, "x")),
        (lambda: wsbroker.send(1 << 62, "x"), ("send", 1 << 62, "x")),
        (lambda: wsbroker.send((1 << 62) + 1, "x"), ("send", 0, "x")),
        (lambda: wsbroker.send(1 << 100, "x"), ("send", 0, "x")),
        (lambda: wsbroker.send_to_channel("c", "x"), ("send_to_channel", b"c", "x", ())),
        (lambda: wsbroker.send_to_channel("é", b"x"), ("send_to_channel", "é".encode(), b"x", ())),
        (lambda: wsbroker.send_to_channel(b"c", "x", exclude=(3,)), ("send_to_channel", b"c", "x", (3,))),
        (lambda: wsbroker.send_to_channel(Text.NAME, Text.NAME), ("send_to_channel", b"name", "name", ())),
        (lambda: wsbroker.send_to_channel(MyBytes(b"c"), "x"), ("send_to_channel", b"c", "x", ())),
        (
            lambda: wsbroker.send_to_channel("c" * 255, "x", exclude=[Number.SEVEN, -1, 2]),
            ("send_to_channel", b"c" * 255, "x", (7, 0, 2)),
        ),
        (lambda: wsbroker.send_to_channel("c", "x", exclude={3}), ("send_to_channel", b"c", "x", (3,))),
        (lambda: wsbroker.send_to_channel("c", "x", exclude=[]), ("send_to_channel", b"c", "x", ())),
        (lambda: wsbroker.subscribe(7, "c"), ("subscribe", 7, b"c")),
        (lambda: wsbroker.unsubscribe(7, b"c"), ("unsubscribe", 7, b"c")),
        (lambda: wsbroker.subscribe_nowait(Number.SEVEN, Text.NAME), ("subscribe_nowait", 7, b"name")),
        (lambda: wsbroker.unsubscribe_nowait(7, "c"), ("unsubscribe_nowait", 7, b"c")),
        (lambda: wsbroker.set_token(7, None), ("set_token", 7, None)),
        (lambda: wsbroker.set_token(7, "é"), ("set_token", 7, "é".encode())),
        (lambda: wsbroker.set_token(7, bytearray(4096)), ("set_token", 7, bytes(4096))),
        (lambda: wsbroker.copy_subscriptions(Text.NAME, MyBytes(b"c")), ("copy_subscriptions", b"name", b"c")),
        (lambda: wsbroker.copy_subscriptions("é", "é"), ("copy_subscriptions", "é".encode(), "é".encode())),
        (lambda: wsbroker.close(7), ("close", 7, 1000, "")),
        (lambda: wsbroker.close(7, 4999, Text.NAME), ("close", 7, 4999, "name")),
        (lambda: wsbroker.close(7, Number.SEVEN * 500, "é" * 61), ("close", 7, 3500, "é" * 61)),
        (lambda: wsbroker.subscriber_count("c"), ("subscriber_count", b"c")),
        (lambda: wsbroker.has_subscribers("c"), ("subscriber_count", b"c")),
        (lambda: wsbroker.subscribers("c"), ("subscribers", b"c")),
        (lambda: wsbroker.subscriptions(7), ("subscriptions", 7)),
        (lambda: wsbroker.channels(), ("channels",)),
        (lambda: wsbroker.is_open(7), ("is_open", 7)),
        (lambda: wsbroker.queued_bytes(7), ("queued_bytes", 7)),
    ],
)
def test_arguments_arrive_in_their_exact_form(
    recorded: RecordingApi, call: Callable[[], object], expected: tuple[object, ...]
) -> None:
    call()
    assert recorded.calls == [expected]
    assert exact_types(recorded.calls[0])


def test_answers_are_handed_back(recorded: RecordingApi) -> None:
    assert wsbroker.subscribe(7, "c") is True
    assert wsbroker.unsubscribe(7, "c") is False
    assert wsbroker.subscriber_count("full") == 2
    assert wsbroker.has_subscribers("full") is True and wsbroker.has_subscribers("empty") is False
    assert wsbroker.subscribers("c") == [2, 1]
    assert wsbroker.subscriptions(7) == [b"a"]
    assert wsbroker.channels() == [b"a", b"b"]
    assert wsbroker.is_open(7) is True
    assert wsbroker.queued_bytes(7) == 7


def test_what_the_caller_may_still_change_is_copied(recorded: RecordingApi) -> None:
    buffer = bytearray(b"before")
    wsbroker.send(7, buffer)
    wsbroker.send(7, memoryview(buffer))
    wsbroker.set_token(7, buffer)
    memory = mapped(b"before")
    wsbroker.send(7, memory)
    items = array.array("B", b"before")
    wsbroker.send_to_channel("c", items)
    buffer[:] = b"after!"
    memory[:] = b"after!"
    items[0] = 0
    assert [call[2] for call in recorded.calls] == [b"before"] * 5
    buffer.append(0)  # nothing holds it any more
    items.append(0)
    memory.close()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: untyped.send(True, "x"), "socket_id must be an int, not bool"),
        (lambda: untyped.send("7", "x"), "socket_id must be an int, not str"),
        (lambda: untyped.send(7.0, "x"), "socket_id must be an int, not float"),
        (lambda: untyped.send(7, [1, 2]), "must be str (a text message) or bytes-like (a binary one), not list"),
        (lambda: untyped.send(7, references()), "bytes-like (a binary one), not py_object_Array_2"),
        (lambda: untyped.set_token(7, references()), "token must be bytes-like, str or None, not py_object_Array_2"),
        (lambda: untyped.send(7, 3), "data must be str (a text message) or bytes-like (a binary one), not int"),
        (lambda: untyped.send(7, None), "data must be str (a text message) or bytes-like (a binary one), not None"),
        (lambda: untyped.send(7, {"a": 1}), "must be str (a text message) or bytes-like (a binary one), not dict"),
        (lambda: untyped.send_to_channel(3, "x"), "channel must be str or bytes, not int"),
        (lambda: untyped.subscribe(7, bytearray(b"c")), "channel must be str or bytes, not bytearray"),
        (
            lambda: untyped.send_to_channel("c", "x", exclude=7),
            "exclude must be an iterable of socket ids: write exclude=(socket_id,), not exclude=socket_id",
        ),
        (lambda: untyped.send_to_channel("c", "x", exclude=0), "write exclude=(socket_id,)"),
        (
            lambda: untyped.send_to_channel("c", "x", exclude=None),
            "exclude must be an iterable of socket ids, not None",
        ),
        (lambda: untyped.send_to_channel("c", "x", exclude="7"), "exclude must be an iterable of socket ids, not str"),
        (lambda: untyped.send_to_channel("c", "x", exclude=["7"]), "each id in exclude must be an int, not str"),
        (lambda: untyped.send_to_channel("c", "x", exclude=[True]), "each id in exclude must be an int, not bool"),
        (lambda: untyped.set_token(7, 3), "token must be bytes-like, str or None, not int"),
        (lambda: untyped.copy_subscriptions(None, "b"), "from_channel must be str or bytes, not NoneType"),
        (lambda: untyped.copy_subscriptions("a", bytearray(b"b")), "to_channel must be str or bytes, not bytearray"),
        (lambda: untyped.copy_subscriptions(1, 2), "call subscribe(socket_id, name) for each name in subscriptions("),
        (lambda: untyped.close(7, "1000"), "code must be an int, not str"),
        (lambda: untyped.close(7, True), "code must be an int, not bool"),
        (lambda: untyped.close(7, 1000, b"x"), "reason must be str, not bytes"),
        (lambda: untyped.is_open(None), "socket_id must be an int, not NoneType"),
    ],
)
def test_wrong_types_are_type_errors_and_nothing_is_sent(
    recorded: RecordingApi, call: Callable[[], object], text: str
) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert text in str(caught.value)
    assert recorded.calls == []


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: wsbroker.send(7, "ab\ud800"), "data has a lone surrogate at index 2"),
        (lambda: wsbroker.send_to_channel("c", "\udfff"), "data has a lone surrogate at index 0"),
        (lambda: wsbroker.send_to_channel("a\ud800", "x"), "channel has a lone surrogate at index 1"),
        (lambda: wsbroker.send_to_channel("", "x"), "a channel's name has 1 to 255 bytes, not 0"),
        (lambda: wsbroker.send_to_channel(b"", "x"), "a channel's name has 1 to 255 bytes, not 0"),
        (lambda: wsbroker.send_to_channel("x" * 256, "x"), "a channel's name has 1 to 255 bytes, not 256"),
        (lambda: wsbroker.subscribe(7, "é" * 128), "a channel's name has 1 to 255 bytes, not 256"),
        (lambda: wsbroker.subscriber_count(""), "a channel's name has 1 to 255 bytes, not 0"),
        (lambda: wsbroker.copy_subscriptions("", "b"), "a channel's name has 1 to 255 bytes, not 0"),
        (lambda: wsbroker.copy_subscriptions("a", "x" * 256), "a channel's name has 1 to 255 bytes, not 256"),
        (lambda: wsbroker.copy_subscriptions("a", "\ud800"), "to_channel has a lone surrogate at index 0"),
        (lambda: wsbroker.set_token(7, b"x" * 4097), "a token has at most 4096 bytes, not 4097"),
        (lambda: wsbroker.set_token(7, "\ud800"), "token has a lone surrogate"),
        (lambda: wsbroker.close(7, 1005), "code 1005 cannot be sent: use 1000 to 1003, 1007 to 1014, or your own"),
        (lambda: wsbroker.close(7, 2999), "close code 2999 cannot be sent"),
        (lambda: wsbroker.close(7, 1 << 80), "cannot be sent"),
        (lambda: wsbroker.close(7, 1000, "x" * 124), "a close reason has at most 123 bytes of UTF-8, not 124"),
        (lambda: wsbroker.close(7, 1000, "é" * 62), "a close reason has at most 123 bytes of UTF-8, not 124"),
        (lambda: wsbroker.close(7, 1000, "\ud800"), "reason has a lone surrogate"),
    ],
)
def test_bad_values_are_value_errors_and_nothing_is_sent(
    recorded: RecordingApi, call: Callable[[], object], text: str
) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert text in str(caught.value)
    assert recorded.calls == []


def test_the_api_and_the_core_agree_about_close_codes() -> None:
    api = {code for code in range(5100) if is_sendable_close_code(code)}
    core = {code for code in range(5100) if closing.is_sendable(code)}
    assert api == core == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


# Ports. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [lambda: wsbroker.send(1, "x"), wsbroker.channels, lambda: wsbroker.send_to_channel("c", "x")]
)
def test_without_a_broker_a_call_is_a_runtime_error_that_says_what_to_do(call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"call wsbroker\.start\(\), run\(\) or serve\(\) first") as caught:
        call()
    assert isinstance(caught.value, wsbroker.CommandError)


def test_the_api_of_the_context_comes_before_the_default_one(recorded: RecordingApi) -> None:
    own = RecordingApi()

    def in_worker() -> None:
        worker_api.context_api.set(own)
        wsbroker.send(1, "own")
        wsbroker.send_to_channel("c", "own")
        wsbroker.close(1)

    copy_context().run(in_worker)
    wsbroker.send(2, "default")
    thread = threading.Thread(target=wsbroker.send, args=(3, "thread"))
    thread.start()
    thread.join()
    assert [call[0] for call in own.calls] == ["send", "send_to_channel", "close"]
    assert recorded.calls == [("send", 2, "default"), ("send", 3, "thread")]
    assert worker_api.get_default_api() is recorded


def test_a_bare_port_carries_nothing() -> None:
    import inspect

    for name, method in inspect.getmembers(BrokerApi, inspect.isfunction):
        if not name.startswith("_"):
            with pytest.raises(NotImplementedError):
                method(BrokerApi(), *[None] * (len(inspect.signature(method).parameters) - 1))


# The module. ----------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'wsbroker' has no attribute 'sned'"):
        wsbroker.sned  # type: ignore[attr-defined]  # noqa: B018


def test_what_a_program_needs_comes_when_it_is_used() -> None:
    from wsbroker.build import VERSION
    from wsbroker.settings.config import Config

    assert wsbroker.__version__ == VERSION
    assert wsbroker.Config is Config
    assert set(wsbroker.__all__) <= set(dir(wsbroker))
