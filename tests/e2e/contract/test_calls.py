"""Every call of the API, made from everywhere it may be made, and exactly what it returns and does.

The two sockets that are spoken about belong to two different clients that we did not write.
"""

import array
import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from e2e.contract.apps.acting import evaluated
from kits.contract_kit import Client, Clients, How, Running, Servers, fresh, value_of
from kits.loop_thread import in_a_thread
from wsbroker.settings.config import WorkerKind

Do = Callable[[str], object]
"""Evaluates an expression in some place and returns its value."""


class Place(NamedTuple):
    """A place from which the API is called: its name, the application that runs, and `start` or `serve`."""

    name: str
    app: str
    how: How = "start"

    def __str__(self) -> str:
        """Returns a text by which places that need the same server sort together."""
        return f"{self.how} {self.app} {self.name}"


PLACES = [
    Place("main program", "puppet"),
    Place("second thread", "puppet"),
    Place("message handler", "puppet"),
    Place("thread of a handler", "puppet"),
    Place("open handler", "puppet"),
    Place("close handler", "puppet"),
    Place("http handler", "puppet"),
    Place("async message handler", "async_puppet"),
    Place("to_thread in an async handler", "async_puppet"),
    Place("executor of an async handler", "async_puppet"),
    Place("async http handler", "async_puppet"),
    Place("inside the loop", "puppet", "serve"),
]
WHERE = {
    "message handler": "here",
    "thread of a handler": "thread",
    "async message handler": "here",
    "to_thread in an async handler": "to_thread",
    "executor of an async handler": "executor",
}


@pytest.fixture(params=PLACES, ids=lambda place: place.name, scope="module")
def place(request: pytest.FixtureRequest) -> Place:
    """A place from which the API is called."""
    found = request.param
    assert isinstance(found, Place)
    return found


@pytest.fixture
def running(servers: Servers, kind: WorkerKind, place: Place) -> Running:
    """A server with the application that the place needs."""
    return servers.get(place.app, kind, place.how, max_channels_per_socket=5)


@pytest.fixture
def do(place: Place, running: Running, clients: Clients) -> Do:
    """Returns a function that evaluates an expression in the place and returns the value."""
    if place.name == "main program":
        return lambda expression: value_of(evaluated(expression, {}))
    if place.name == "second thread":
        return lambda expression: in_a_thread(lambda: value_of(evaluated(expression, {})))
    if place.name == "inside the loop":
        thread = running.thread
        assert thread is not None

        async def inside(expression: str) -> object:
            await asyncio.sleep(0)
            return value_of(evaluated(expression, {}))

        return lambda expression: thread.run(inside(expression))
    if place.name.endswith("http handler"):
        return lambda expression: value_of(clients.http(running, "POST", data=expression).text)
    if place.name == "open handler":
        return lambda expression: in_open_handler(clients, running, expression)
    control = clients.borrow(running, "control")
    if place.name == "close handler":
        return lambda expression: in_close_handler(clients, running, control, expression)
    return lambda expression: control.ask(expression, WHERE[place.name])


def in_open_handler(clients: Clients, running: Running, expression: str) -> object:
    """Evaluates an expression in the open handler of a new socket, and returns the value."""
    done = f"evaluated({expression!r}, globals(), me=me)"
    client = clients.opens(running, f"send(me, {done})")
    try:
        return client.answer()
    finally:
        client.close()


def in_close_handler(clients: Clients, running: Running, control: Client, expression: str) -> object:
    """Evaluates an expression in the close handler of a socket; another socket receives the value."""
    client = clients.connect(running, "websockets")
    done = f"send({control.id}, evaluated({expression!r}, globals()))"
    client.ask(f"closing.update({{me: {done!r}}})")
    client.close()
    return control.answer()


@pytest.fixture
def a(clients: Clients, running: Running) -> Client:
    """A socket that the calls are about."""
    return clients.borrow(running, "a", "websockets")


@pytest.fixture
def b(clients: Clients, running: Running) -> Client:
    """A second socket, of another client library."""
    return clients.borrow(running, "b", "aiohttp")


@pytest.fixture
def nobody() -> int:
    """A socket id that was never given."""
    return 1 << 40


@pytest.fixture
def name() -> str:
    """A channel of this test only."""
    return fresh("channel")


def array_of(*numbers: int) -> bytes:
    """Returns 16-bit numbers as bytes in the order of this machine."""
    return array.array("H", numbers).tobytes()


def test_send_sends_text_as_text_and_bytes_as_binary_and_returns_none(do: Do, a: Client, b: Client) -> None:
    assert do(f"send({a.id}, 'grüß dich 🙂')") is None
    assert do(f"send({b.id}, b'\\x00\\xff')") is None
    a.receives("grüß dich 🙂")
    b.receives(b"\x00\xff")
    assert do(f"(send({b.id}, ''), send({b.id}, bytearray(b'x')), send({b.id}, memoryview(b'yz')[1:]))") == (None,) * 3
    b.receives("", b"x", b"z")
    numbers = "__import__('array').array('H', [258, 772])"
    assert do(f"(send({b.id}, {numbers}), set_token({a.id}, {numbers}), is_open({a.id}))") == (None, None, True)
    b.receives(array_of(258, 772))
    assert a.ask("token") == array_of(258, 772)
    a.hears_nothing_else()


def test_send_to_nobody_is_ignored_and_counted(do: Do, running: Running, a: Client, nobody: int) -> None:
    do("True")  # where that needs a socket of its own, it is there now
    before = running.count("unheard")
    ids = (nobody, 0, -1, 1 << 80, -(1 << 80))
    assert do(f"([send(one, 'x') for one in {ids}], is_open({nobody}))") == ([None] * 5, False)
    assert running.count("unheard") >= before + 5  # the puppet's close handler is not always heard either
    gone = a.id
    a.close()
    assert do(f"(send({gone}, b'x'), is_open({gone}))") == (None, False)


def test_send_to_channel_reaches_each_subscriber_once(do: Do, a: Client, b: Client, name: str) -> None:
    assert do(f"send_to_channel({name!r}, 'nobody is there')") is None
    assert do(f"(subscribe({a.id}, {name!r}), subscribe({b.id}, {name!r}), subscribe({a.id}, {name!r}))") == (
        (True, True, False)
    )
    assert do(f"send_to_channel({name!r}, 'one')") is None
    assert do(f"send_to_channel({name.encode()!r}, b'two')") is None
    a.receives("one", b"two")
    b.receives("one", b"two")
    a.hears_nothing_else()
    b.hears_nothing_else()


def test_send_to_channel_leaves_out_whom_exclude_names(do: Do, a: Client, b: Client, name: str, nobody: int) -> None:
    do(f"(subscribe({a.id}, {name!r}), subscribe({b.id}, {name!r}))")
    assert do(f"send_to_channel({name!r}, 'not a', exclude=({a.id},))") is None
    assert do(f"send_to_channel({name!r}, 'not b', exclude=[{b.id}, {b.id}, {nobody}, 0, -5])") is None
    assert do(f"send_to_channel({name!r}, 'none', exclude={{{a.id}, {b.id}}})") is None
    assert do(f"send_to_channel({name!r}, 'all', exclude=iter(()))") is None
    a.receives("not b", "all")
    b.receives("not a", "all")
    a.hears_nothing_else()
    b.hears_nothing_else()


def test_subscribe_and_unsubscribe_say_whether_they_changed_something(do: Do, a: Client, name: str) -> None:
    assert do(f"subscribe({a.id}, {name!r})") is True
    assert do(f"subscribe({a.id}, {name!r})") is False
    assert do(f"subscribe({a.id}, {name.encode()!r})") is False
    assert do(f"unsubscribe({a.id}, {name.encode()!r})") is True
    assert do(f"unsubscribe({a.id}, {name!r})") is False
    assert do(f"(subscriptions({a.id}), has_subscribers({name!r}), channels())") == ([], False, [])
    assert do(f"send_to_channel({name!r}, 'x')") is None
    a.hears_nothing_else()


def test_subscribing_nobody_is_false_and_stores_nothing(do: Do, a: Client, name: str, nobody: int) -> None:
    gone = a.id
    a.close()
    for socket_id in (gone, nobody, 0, -1, 1 << 80):
        assert do(f"(subscribe({socket_id}, {name!r}), unsubscribe({socket_id}, {name!r}))") == (False, False)
        assert do(f"(subscribe_nowait({socket_id}, {name!r}), unsubscribe_nowait({socket_id}, {name!r}))") == (
            None,
            None,
        )
    assert do(f"(subscriber_count({name!r}), subscribers({name!r}), channels())") == (0, [], [])


def test_the_one_way_forms_do_the_same_and_return_none(do: Do, a: Client, name: str) -> None:
    assert do(f"(subscribe_nowait({a.id}, {name!r}), subscriptions({a.id}))") == (None, [name.encode()])
    assert do(f"(subscribe_nowait({a.id}, {name!r}), subscriber_count({name!r}))") == (None, 1)
    assert do(f"(unsubscribe_nowait({a.id}, {name!r}), subscriptions({a.id}))") == (None, [])
    assert do(f"(unsubscribe_nowait({a.id}, {name!r}), subscriber_count({name!r}))") == (None, 0)


def test_a_socket_may_hold_so_many_subscriptions_and_no_more(do: Do, a: Client, running: Running, name: str) -> None:
    before = running.count("subscriptions_refused")
    assert do(f"[subscribe({a.id}, f'{name} {{n}}') for n in range(7)]") == [True] * 5 + [False] * 2
    assert do(f"(subscribe({a.id}, '{name} 0'), len(subscriptions({a.id})), len(channels()))") == (False, 5, 5)
    assert do(f"(subscribe_nowait({a.id}, {name!r}), has_subscribers({name!r}))") == (None, False)
    assert running.count("subscriptions_refused") == before + 3
    assert do(f"(unsubscribe({a.id}, '{name} 3'), subscribe({a.id}, {name!r}))") == (True, True)


def test_who_is_subscribed_to_what_is_told_in_order(do: Do, a: Client, b: Client, name: str) -> None:
    one, two = name.encode() + b" one", name.encode() + b" two"
    assert do(f"(subscriber_count({one!r}), has_subscribers({one!r}), subscribers({one!r}))") == (0, False, [])
    assert do(f"(subscribe({b.id}, {one!r}), subscribe({a.id}, {one!r}), subscribe({b.id}, {two!r}))") == (True,) * 3
    assert do(f"(subscriber_count({one!r}), has_subscribers({one!r}), subscribers({one!r}))") == (2, True, [b.id, a.id])
    assert do(f"(subscriptions({a.id}), subscriptions({b.id}))") == ([one], [one, two])
    assert do("sorted(channels())") == [one, two]
    assert do(f"[type(one) for one in (*subscribers({one!r}), *channels())] == [int, int, bytes, bytes]") is True
    assert do(f"(unsubscribe({b.id}, {one!r}), subscribe({b.id}, {one!r}), subscribers({one!r}))") == (
        (True, True, [a.id, b.id])
    )
    b.close()
    assert do(f"(subscribers({one!r}), subscriber_count({two!r}), subscriptions({b.id}))") == ([a.id], 0, [])


def test_is_open_is_true_until_a_socket_begins_to_close(do: Do, a: Client, b: Client, nobody: int) -> None:
    assert do(f"[is_open(one) for one in ({a.id}, {b.id}, {nobody}, 0, -1, 1 << 80)]") == [True] * 2 + [False] * 4
    a.close()
    assert do(f"(is_open({a.id}), is_open({b.id}))") == (False, True)
    assert do(f"(close({b.id}), is_open({b.id}))") == (None, False)
    assert b.closed_with() == (1000, "")


def test_close_closes_behind_everything_that_was_sent_before(do: Do, a: Client, b: Client, nobody: int) -> None:
    told = f"send({a.id}, 'last')"
    assert do(f"({told}, close({a.id}, 4001, 'good bye 🙂'), send({a.id}, 'too late'), close({a.id}))") == (None,) * 4
    a.receives("last")
    assert a.closed_with() == (4001, "good bye 🙂")
    assert do(f"(close({nobody}), close(0), close(-1, 3000, 'x'))") == (None,) * 3
    assert do(f"close({b.id}, code=1008, reason={'x' * 123!r})") is None
    assert b.closed_with() == (1008, "x" * 123)


def test_set_token_gives_later_handlers_the_token(do: Do, a: Client, b: Client) -> None:
    assert a.ask("token") is None
    assert do(f"(set_token({a.id}, b'\\x00hidden-from-the-log'), is_open({a.id}))") == (None, True)
    assert a.ask("token") == b"\x00hidden-from-the-log"
    assert b.ask("token") is None
    assert do(f"(set_token({a.id}, 'hidden-from-the-log ü'), is_open({a.id}))") == (None, True)
    assert a.ask("token") == "hidden-from-the-log ü".encode()
    assert do(f"(set_token({a.id}, bytearray(4096)), is_open({a.id}))") == (None, True)
    assert a.ask("token") == bytes(4096)
    assert do(f"(set_token({a.id}, None), is_open({a.id}))") == (None, True)
    assert a.ask("token") is None
    assert do(f"(set_token({a.id}, b''), is_open({a.id}))") == (None, True)
    assert a.ask("token") == b""


def test_set_token_of_nobody_is_ignored(do: Do, nobody: int) -> None:
    assert do(f"(set_token({nobody}, b'x'), set_token(0, None), is_open({nobody}))") == (None, None, False)


def test_copy_subscriptions_takes_the_subscribers_there_are_now(do: Do, a: Client, b: Client, name: str) -> None:
    one, two = (f"{name} {number}".encode() for number in range(2))
    do(f"(subscribe({b.id}, {one!r}), subscribe({a.id}, {one!r}), subscribe({a.id}, {two!r}))")
    calls = (
        f"send_to_channel({two!r}, 'before')",
        f"copy_subscriptions({one!r}, {two!r})",
        f"send_to_channel({two!r}, 'both')",
        f"send_to_channel({one!r}, 'source')",
    )
    assert do(f"({', '.join(calls)})") == (None,) * 4
    a.receives("before", "both", "source")
    b.receives("both", "source")
    assert do(f"(subscribers({one!r}), subscribers({two!r}))") == ([b.id, a.id], [a.id, b.id])
    assert do(f"(subscriptions({a.id}), subscriptions({b.id}))") == ([one, two], [one, two])
    assert do(f"(unsubscribe({b.id}, {one!r}), subscriber_count({two!r}))") == (True, 2)  # only once: not followed
    a.hears_nothing_else()
    b.hears_nothing_else()


def test_copy_subscriptions_joins_in_the_order_of_the_source(do: Do, a: Client, b: Client, name: str) -> None:
    one, two = f"{name} 1", f"{name} 2"
    do(f"(subscribe({b.id}, {one!r}), subscribe({a.id}, {one!r}))")
    assert do(f"(copy_subscriptions({one!r}, {two!r}), subscribers({two!r}))") == (None, [b.id, a.id])


def test_copy_subscriptions_of_nobody_or_onto_itself_changes_nothing(do: Do, a: Client, name: str) -> None:
    do(f"(subscribe({a.id}, {name!r}), subscribe({a.id}, 'left'), unsubscribe({a.id}, 'left'))")
    sources = f"('nobody', 'new'), ('left', 'new'), ({name!r}, {name.encode()!r}), ('nobody', 'nobody')"
    assert do(f"[copy_subscriptions(source, target) for source, target in ({sources})]") == [None] * 4
    assert do(f"(channels(), subscribers({name!r}))") == ([name.encode()], [a.id])


def test_copy_subscriptions_leaves_out_and_counts_who_may_have_no_more(
    do: Do, running: Running, a: Client, b: Client, name: str
) -> None:
    before = running.count("subscriptions_refused")
    do(f"[subscribe(one, {name!r}) for one in ({a.id}, {b.id})]")
    assert do(f"[subscribe({a.id}, f'{name} {{number}}') for number in range(4)]") == [True] * 4
    assert do(f"(copy_subscriptions({name!r}, 'to'), subscribers('to'))") == (None, [b.id])
    assert running.count("subscriptions_refused") == before + 1


def test_queued_bytes_is_zero_when_nothing_waits(do: Do, a: Client, nobody: int) -> None:
    assert do(f"(queued_bytes({a.id}), queued_bytes({nobody}), queued_bytes(0))") == (0, 0, 0)


def test_names_of_channels_are_bytes_inside(do: Do, a: Client) -> None:
    assert do(f"subscribe({a.id}, 'größe')") is True
    assert do(f"(subscribe({a.id}, {'größe'.encode()!r}), channels())") == (False, ["größe".encode()])
    assert do(f"(subscribe({a.id}, bytes(range(255))), subscribers(bytes(range(255))))") == (True, [a.id])
    assert do(f"(subscribe({a.id}, 'x' * 255), subscriber_count(b'x' * 255))") == (True, 1)
    assert do(f"subscribe({a.id}, '\\0')") is True


WRONG_TYPES = [
    ("send('1', 'x')", "socket_id must be an int, not str"),
    ("send(True, 'x')", "socket_id must be an int, not bool"),
    ("send(1.0, 'x')", "socket_id must be an int, not float"),
    ("send(None, 'x')", "socket_id must be an int, not NoneType"),
    ("send(1, None)", "data must be str (a text message) or bytes-like (a binary one), not NoneType"),
    ("send(1, 5)", "data must be str (a text message) or bytes-like (a binary one), not int"),
    ("send(1, ['x'])", "data must be str (a text message) or bytes-like (a binary one), not list"),
    ("send_to_channel(1, 'x')", "channel must be str or bytes, not int"),
    ("send_to_channel(None, 'x')", "channel must be str or bytes, not NoneType"),
    ("send_to_channel('a', {})", "data must be str (a text message) or bytes-like (a binary one), not dict"),
    (
        "send_to_channel('a', 'x', exclude=5)",
        "exclude must be an iterable of socket ids: write exclude=(socket_id,), not exclude=socket_id",
    ),
    ("send_to_channel('a', 'x', exclude='5')", "exclude must be an iterable of socket ids, not str"),
    ("send_to_channel('a', 'x', exclude=None)", "exclude must be an iterable of socket ids, not NoneType"),
    ("send_to_channel('a', 'x', exclude=('5',))", "each id in exclude must be an int, not str"),
    ("send_to_channel('a', 'x', (5,))", "send_to_channel() takes 2 positional arguments but 3 were given"),
    ("subscribe('1', 'a')", "socket_id must be an int, not str"),
    ("subscribe(1, 2)", "channel must be str or bytes, not int"),
    ("subscribe(1, bytearray(b'a'))", "channel must be str or bytes, not bytearray"),
    ("unsubscribe(1, None)", "channel must be str or bytes, not NoneType"),
    ("subscribe_nowait(None, 'a')", "socket_id must be an int, not NoneType"),
    ("unsubscribe_nowait(1, ())", "channel must be str or bytes, not tuple"),
    ("set_token(1, 5)", "token must be bytes-like, str or None, not int"),
    ("set_token('1', b'')", "socket_id must be an int, not str"),
    ("copy_subscriptions(None, 'b')", "from_channel must be str or bytes, not NoneType"),
    ("copy_subscriptions('a', 1.5)", "to_channel must be str or bytes, not float"),
    (
        "copy_subscriptions(1, 2)",
        "from_channel must be str or bytes, not int: copy_subscriptions(from_channel, to_channel) copies the "
        "subscribers of a channel; to give one socket the channels of another one, call subscribe(socket_id, name) for "
        "each name in subscriptions(other_id)",
    ),
    ("close('1')", "socket_id must be an int, not str"),
    ("close(1, '1000')", "code must be an int, not str"),
    ("close(1, True)", "code must be an int, not bool"),
    ("close(1, 1000, b'x')", "reason must be str, not bytes"),
    ("subscriber_count(1)", "channel must be str or bytes, not int"),
    ("has_subscribers(None)", "channel must be str or bytes, not NoneType"),
    ("subscribers(1.5)", "channel must be str or bytes, not float"),
    ("subscriptions('a')", "socket_id must be an int, not str"),
    ("is_open(None)", "socket_id must be an int, not NoneType"),
    ("queued_bytes(b'1')", "socket_id must be an int, not bytes"),
]
CODES = "use 1000 to 1003, 1007 to 1014, or your own from 3000 to 4999"
WRONG_VALUES = [
    (
        "send(1, 'ab\\ud800')",
        "data has a lone surrogate at index 2: that is half a character, and UTF-8 cannot carry it",
    ),
    (
        "send_to_channel('a', '\\udfff')",
        "data has a lone surrogate at index 0: that is half a character, and UTF-8 cannot carry it",
    ),
    ("send_to_channel('', 'x')", "a channel's name has 1 to 255 bytes, not 0"),
    ("send_to_channel('x' * 256, 'x')", "a channel's name has 1 to 255 bytes, not 256"),
    ("subscribe(1, b'')", "a channel's name has 1 to 255 bytes, not 0"),
    ("subscribe(1, 'ü' * 128)", "a channel's name has 1 to 255 bytes, not 256"),
    (
        "subscribe(1, '\\ud800')",
        "channel has a lone surrogate at index 0: that is half a character, and UTF-8 cannot carry it",
    ),
    ("unsubscribe(1, '')", "a channel's name has 1 to 255 bytes, not 0"),
    ("subscribe_nowait(1, b'x' * 300)", "a channel's name has 1 to 255 bytes, not 300"),
    ("unsubscribe_nowait(1, '')", "a channel's name has 1 to 255 bytes, not 0"),
    ("subscriber_count('')", "a channel's name has 1 to 255 bytes, not 0"),
    ("has_subscribers(b'')", "a channel's name has 1 to 255 bytes, not 0"),
    ("subscribers('x' * 256)", "a channel's name has 1 to 255 bytes, not 256"),
    ("set_token(1, bytes(4097))", "a token has at most 4096 bytes, not 4097"),
    ("set_token(1, 'ü' * 2049)", "a token has at most 4096 bytes, not 4098"),
    (
        "set_token(1, '\\ud800')",
        "token has a lone surrogate at index 0: that is half a character, and UTF-8 cannot carry it",
    ),
    *[
        (f"close(1, {code})", f"close code {code} cannot be sent: {CODES}")
        for code in (0, -1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536)
    ],
    ("close(1, 1000, 'x' * 124)", "a close reason has at most 123 bytes of UTF-8, not 124"),
    ("close(1, 1000, 'ü' * 62)", "a close reason has at most 123 bytes of UTF-8, not 124"),
    (
        "close(1, 1000, '\\ud800')",
        "reason has a lone surrogate at index 0: that is half a character, and UTF-8 cannot carry it",
    ),
]


def test_a_wrong_argument_is_the_callers_error_and_says_what_is_right(do: Do) -> None:
    expected = [(call, f"!TypeError: {text}") for call, text in WRONG_TYPES]
    expected += [(call, f"!ValueError: {text}") for call, text in WRONG_VALUES]
    calls = [call for call, _ in expected]
    answers = do(f"[evaluated(call, globals()) for call in {calls!r}]")
    assert isinstance(answers, list)
    assert list(zip(calls, answers, strict=True)) == expected


def test_subclasses_and_buffers_are_made_exact(do: Do, a: Client, b: Client) -> None:
    """`marshal` would refuse a whole batch because of one of them."""
    assert do(f"(send({a.id}, Colour.RED), send({a.id}, Text('ü')), send({a.id}, Blob(b'x')))") == (None,) * 3
    a.receives("red", "ü", b"x")
    assert do(f"(subscribe({a.id}, Colour.RED), subscribe({a.id}, b'red'), subscribe({a.id}, Blob(b'b')))") == (
        (True, False, True)
    )
    assert do("(send_to_channel(Colour.RED, Colour.RED), send_to_channel(Blob(b'b'), Text('t')))") == (None, None)
    a.receives("red", "t")
    assert do(f"[subscribe(number, Text('c')) for number in enum.IntEnum('Id', {{'A': {a.id}}})]") == [True]
    assert do(f"send_to_channel('red', 'not b', exclude=(One.ONE, {b.id}))") is None
    assert do(f"(set_token({a.id}, Colour.RED), is_open({a.id}))") == (None, True)
    a.receives("not b")
    assert a.ask("token") == b"red"
    assert do(f"close({b.id}, One.OWN, Colour.RED)") is None
    assert b.closed_with() == (4000, "red")


def test_a_buffer_may_change_as_soon_as_the_call_returns(do: Do, a: Client) -> None:
    changed = f"[(send({a.id}, buffer), buffer.__setitem__(0, 66)) for buffer in [bytearray(b'AAA')]]"
    assert do(changed) == [(None, None)]
    assert do(f"[(set_token({a.id}, buffer), buffer.clear()) for buffer in [bytearray(b'AAA')]]") == [(None, None)]
    assert do(f"is_open({a.id})") is True
    a.receives(b"AAA")
    assert a.ask("token") == b"AAA"
