"""The list of all commands of a worker to the broker: sends, subscriptions, closes, tokens, questions, log records.

A batch is a list of tuples ``(KIND, …)``, which are applied in order. Numbers below FIRST_POOL_COMMAND are applied by
the compiled core; the others are handed to the pool. A command for the pool is made by its `make_…` function and read
by its `read_…` function. The core's commands are made and read in line, as they come once per message or call: SEND and
PUBLISH by the fast paths, the others by `BrokerApi`.
Channels are `bytes`, data is `str` (text frame) or `bytes` (binary frame).
"""

from typing import Final, TypeAlias, cast

Command: TypeAlias = tuple[object, ...]
"""One command: its kind, then the fields that its kind's comment below lists."""

SEND: Final = 1
"""``(SEND, socket_id, data)``"""
PUBLISH: Final = 2
"""``(PUBLISH, channel, data, exclude)``: `exclude` is a tuple of socket ids."""
SUBSCRIBE: Final = 3
"""``(SUBSCRIBE, socket_id, channel)``: one way; as a question in ASK the answer is a bool."""
UNSUBSCRIBE: Final = 4
"""``(UNSUBSCRIBE, socket_id, channel)``: one way; as a question in ASK the answer is a bool."""
SET_TOKEN: Final = 5
"""``(SET_TOKEN, socket_id, token, number)``: `token` is `bytes` or None; `number` grows with each token that a worker
sends and caches. NOT_CACHED: the sender does not cache this one, so its worker is told by TOKEN like any other."""
COPY_SUBSCRIPTIONS: Final = 6
"""``(COPY_SUBSCRIPTIONS, from_channel, to_channel)``: subscribes the subscribers of one channel to another one too."""
CLOSE: Final = 7
"""``(CLOSE, socket_id, code, reason)``: close with a handshake, after everything sent before it."""
ASK: Final = 8
"""``(ASK, call_id, question, *arguments)``: answered with the event ANSWER; questions are SUBSCRIBE, UNSUBSCRIBE and
those from SUBSCRIBER_COUNT on."""
HANDLED: Final = 9
"""``(HANDLED, [(socket_id, cost), …])``: the handlers of messages worth `cost` have ended."""
HANDLER_FAILED: Final = 10
"""``(HANDLER_FAILED, socket_id)``: a handler of this socket raised or ran out of time: close the socket with 1011."""
CLOSE_HANDLED: Final = 11
"""``(CLOSE_HANDLED, socket_id)``: the close handler has run."""

SUBSCRIBER_COUNT: Final = 20
"""question ``(channel) -> int``"""
SUBSCRIBERS: Final = 21
"""question ``(channel) -> list[int]`` in subscription order"""
SUBSCRIPTIONS: Final = 22
"""question ``(socket_id) -> list[bytes]``"""
CHANNELS: Final = 23
"""question ``() -> list[bytes]``"""
IS_OPEN: Final = 24
"""question ``(socket_id) -> bool``"""
QUEUED_BYTES: Final = 25
"""question ``(socket_id) -> int``"""

NOT_CACHED: Final = 0
"""The number in a SET_TOKEN whose token its sender does not cache."""

FIRST_POOL_COMMAND: Final = 32
OPEN_RESULT: Final = 32
"""``(OPEN_RESULT, socket_id, status, headers, body)``: with 101 the socket is accepted, `headers` are further fields of
the 101 and `body` is the subprotocol (``b""``: the settings choose); any other status is sent as the HTTP answer."""
RESPONSE: Final = 33
"""``(RESPONSE, request_id, status, headers, body)``: `headers` is a list of (name, value) pairs, `body` is `bytes`."""
STARTED: Final = 34
"""``(STARTED, names)``: the handlers are imported and `handle_worker_start` has returned; `names` is the list of
handlers found."""
START_FAILED: Final = 35
"""``(START_FAILED, text, detail, is_config_error)``: this worker cannot start; `text` is for the user, `detail` a
traceback for the log, or ""; `is_config_error` says whether the application cannot work (or else its start handler has
raised)."""
STOPPED: Final = 36
"""``(STOPPED,)``: `handle_worker_stop` has returned and nothing more comes."""
COUNTED: Final = 37
"""``(COUNTED, name, amount)``: adds to a statistic of this worker."""
LOG: Final = 38
"""``(LOG, level, logger, message, exception, stack, time_ns, path, line, function, thread, process)``: a log record of
a worker that has an interpreter of its own; numbers are `int`, the others `str`, ``""`` if there is none."""
SLOWEST: Final = 39
"""``(SLOWEST, handler, socket_id, seconds, at)``: one of the slowest calls of a handler so far has ended, at this time
since the epoch."""

ONE_WAY_METHODS: Final = {
    SEND: "send",
    PUBLISH: "send_to_channel",
    SUBSCRIBE: "subscribe_nowait",
    UNSUBSCRIBE: "unsubscribe_nowait",
    SET_TOKEN: "set_token",
    COPY_SUBSCRIPTIONS: "copy_subscriptions",
    CLOSE: "close",
}
"""For each one-way call of an application, the name of its method of `BrokerApi`. The core's has the same name, but for
`publish`, which is the core's `send_to_channel`."""
QUESTION_METHODS: Final = {
    SUBSCRIBE: "subscribe",
    UNSUBSCRIBE: "unsubscribe",
    SUBSCRIBER_COUNT: "subscriber_count",
    SUBSCRIBERS: "subscribers",
    SUBSCRIPTIONS: "subscriptions",
    CHANNELS: "channels",
    IS_OPEN: "is_open",
    QUEUED_BYTES: "queued_bytes",
}
"""For each question, the name of its method of `BrokerApi`; the core's have the same name."""

HeaderPairs: TypeAlias = list[tuple[str, str]]
"""Header fields as (name, value) pairs."""
Answer: TypeAlias = tuple[int, int, HeaderPairs, bytes]
"""The fields of OPEN_RESULT and RESPONSE: id of the socket or request, status, headers, body."""
SlowestFields: TypeAlias = tuple[str, int, float, float]
"""The fields of SLOWEST: handler, socket id, seconds, end of the call in seconds since the epoch."""
LogFields: TypeAlias = tuple[int, str, str, str, str, int, str, int, str, str, int]
"""The fields of LOG, in the order of its comment above."""


def make_open_result(socket_id: int, status: int, headers: HeaderPairs, body: bytes) -> Command:
    """Returns an OPEN_RESULT command."""
    return (OPEN_RESULT, socket_id, status, headers, body)


def read_open_result(command: Command) -> Answer:
    """Returns the fields of an OPEN_RESULT command."""
    return cast("Answer", command[1:])


def make_response(request_id: int, status: int, headers: HeaderPairs, body: bytes) -> Command:
    """Returns a RESPONSE command."""
    return (RESPONSE, request_id, status, headers, body)


def read_response(command: Command) -> Answer:
    """Returns the fields of a RESPONSE command."""
    return cast("Answer", command[1:])


def make_started(names: tuple[str, ...]) -> Command:
    """Returns a STARTED command with the names of the application's handlers."""
    return (STARTED, list(names))


def read_started(command: Command) -> list[str]:
    """Returns the names of the handlers in a STARTED command."""
    return cast("list[str]", command[1])


def make_start_failed(text: str, detail: str, is_config_error: bool) -> Command:
    """Returns a START_FAILED command with a text for the user and a traceback, or ""."""
    return (START_FAILED, text, detail, is_config_error)


def read_start_failed(command: Command) -> tuple[str, str, bool]:
    """Returns the text, the traceback and whether the failure is a ConfigError, of a START_FAILED command."""
    return cast("tuple[str, str, bool]", command[1:])


def make_counted(name: str, amount: int) -> Command:
    """Returns a COUNTED command, which adds `amount` to the statistic `name`."""
    return (COUNTED, name, amount)


def read_counted(command: Command) -> tuple[str, int]:
    """Returns the statistic and the amount in a COUNTED command."""
    return cast("tuple[str, int]", command[1:])


def make_slowest(handler: str, socket_id: int, seconds: float, at: float) -> Command:
    """Returns a SLOWEST command."""
    return (SLOWEST, handler, socket_id, seconds, at)


def read_slowest(command: Command) -> SlowestFields:
    """Returns the fields of a SLOWEST command."""
    return cast("SlowestFields", command[1:])


def make_log(fields: LogFields) -> Command:
    """Returns a LOG command."""
    return (LOG, *fields)


def read_log(command: Command) -> LogFields:
    """Returns the fields of a LOG command."""
    return cast("LogFields", command[1:])
