"""The exception classes of the API, and when each is raised.

    WSBrokerError
    ├── ProtocolError     a peer broke RFC 6455: carries the close code to answer with
    ├── HandshakeError    an upgrade is refused: carries the HTTP status to answer with
    ├── HandlerError      an application's handler did something that handlers may not do
    ├── CommandError      a call is impossible now (no broker runs, wrong thread, stopped)
    ├── WorkerError       a worker cannot be started, or was lost
    ├── EngineError       the connection to other nodes failed
    └── ConfigError       a setting, flag or worker cannot work; the message says what to do

CommandError is a RuntimeError too and ConfigError a ValueError, so that callers can catch the exceptions they know.
Expected outcomes (full, closed, unknown id) are return values, never exceptions.

May import: standard library.
"""


class WSBrokerError(Exception):
    """The base class of all exceptions that this package raises on purpose."""


class ProtocolError(WSBrokerError):
    """A peer broke the WebSocket protocol.

    Args:
        code: the close code to answer with (RFC 6455 section 7.4.1).
        reason: at most 123 bytes of UTF-8, for the Close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Returns how to copy or pickle the error: the arguments of `__init__`, which `args` does not hold."""
        return type(self), (self.code, self.reason), vars(self)


class HandshakeError(WSBrokerError):
    """An upgrade request is refused.

    Args:
        status: the HTTP status to answer with.
        reason: one line for the body of the answer.
        headers: further response headers.
    """

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.headers = headers

    def __reduce__(self) -> tuple[object, ...]:
        """Returns how to copy or pickle the error: the arguments of `__init__`, which `args` does not hold."""
        return type(self), (self.status, self.reason, self.headers), vars(self)


class HandlerError(WSBrokerError):
    """An application's handler did something that handlers may not do; the message lists what they may do."""


class CommandError(WSBrokerError, RuntimeError):
    """A call is impossible: no broker runs, the server has stopped, or the calling thread would wait for itself."""


class WorkerError(WSBrokerError):
    """A worker cannot be started or was lost; the message names the worker and the reason."""


class EngineError(WSBrokerError):
    """The connection to other nodes failed."""


class ConfigError(WSBrokerError, ValueError):
    """A setting, a flag or a worker cannot work; the message shows the value and says what to do."""
