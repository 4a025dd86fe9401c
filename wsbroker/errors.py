"""Every exception the project raises on purpose.

    WSBrokerError
    ├── ProtocolError     the peer broke RFC 6455: carries the close code to answer with
    ├── HandshakeError    the upgrade is refused: carries the HTTP status to answer with
    ├── HandlerError      a handler did something it may not do
    ├── CommandError      a call that cannot be carried out now (no broker runs, wrong thread, stopped)
    ├── WorkerError       a worker cannot be started, or was lost
    ├── EngineError       the link to other nodes failed
    └── ConfigError       a setting, flag or worker spec that cannot work; the message says what to do

CommandError is a RuntimeError too and ConfigError a ValueError, so that callers can catch what they know.
Outcomes that are expected (full, closed, unknown id) are return values, never exceptions.

May import: nothing of ours.
"""


class WSBrokerError(Exception):
    """The root: catches everything this project raises on purpose."""


class ProtocolError(WSBrokerError):
    """The peer broke the WebSocket protocol.

    Args:
        code: the close code to answer with (RFC 6455 section 7.4.1).
        reason: at most 123 bytes of UTF-8, for the Close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class HandshakeError(WSBrokerError):
    """The upgrade request is refused.

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


class HandlerError(WSBrokerError):
    """A handler did something it may not do; the message lists what it may."""


class CommandError(WSBrokerError, RuntimeError):
    """A call that cannot be carried out: no broker is running, it was stopped, or the caller would dead-lock."""


class WorkerError(WSBrokerError):
    """A worker cannot be started or was lost; the message says which one and why."""


class EngineError(WSBrokerError):
    """The link to other nodes failed."""


class ConfigError(WSBrokerError, ValueError):
    """A setting, a flag or a worker spec that cannot work; the message says what was found and what to do."""
