"""The tree of exceptions: what catches what, and what the exceptions that carry an answer carry."""

import copy
import pickle
import re

import pytest

from wsbroker import errors
from wsbroker.errors import (
    CommandError,
    ConfigError,
    EngineError,
    HandlerError,
    HandshakeError,
    ProtocolError,
    WorkerError,
    WSBrokerError,
)


def test_the_base_class_catches_every_exception_of_the_tree_in_the_docstring() -> None:
    names = re.findall(r"[├└]── (\w+)", str(errors.__doc__))
    assert names == [name for name in vars(errors) if name.endswith("Error") and name != "WSBrokerError"]
    assert all(issubclass(getattr(errors, name), WSBrokerError) for name in names)


@pytest.mark.parametrize(
    ("kind", "also_caught_as"),
    [
        *[(kind, set()) for kind in (EngineError, HandlerError, HandshakeError, ProtocolError, WorkerError)],
        (CommandError, {RuntimeError}),
        (ConfigError, {ValueError}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_an_exception_is_caught_as_the_built_in_one_that_callers_know_and_as_no_other(
    kind: type[WSBrokerError], also_caught_as: set[type[Exception]]
) -> None:
    assert set(kind.__mro__) - {kind, WSBrokerError, Exception, BaseException, object} == also_caught_as


def test_a_protocol_error_carries_the_close_code_and_reason_to_answer_with() -> None:
    error = ProtocolError(1002, "a reserved bit is set")
    assert (error.code, error.reason, str(error)) == (
        1002,
        "a reserved bit is set",
        "1002 a reserved bit is set",
    )


def test_a_handshake_error_carries_the_response_to_answer_with() -> None:
    error = HandshakeError(426, "no such version", (("Sec-WebSocket-Version", "13"),))
    assert (error.status, error.reason, str(error)) == (426, "no such version", "426 no such version")
    assert error.headers == (("Sec-WebSocket-Version", "13"),)
    assert HandshakeError(400, "no key").headers == ()


@pytest.mark.parametrize(
    "error",
    [ProtocolError(1002, "a reserved bit is set"), HandshakeError(426, "no", (("Upgrade", "websocket"),))],
    ids=lambda error: type(error).__name__,
)
def test_an_error_with_an_answer_can_be_copied_and_pickled(error: WSBrokerError) -> None:
    error.add_note("while reading")
    for made in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(made) is type(error)
        assert (str(made), made.args, vars(made)) == (str(error), error.args, vars(error))
