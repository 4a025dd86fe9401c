"""The options that a worker is started with: names, time limits, whether a handler's error closes its socket."""

from collections.abc import Mapping
from typing import Final, Literal, cast

TO_THREAD_PREFIX: Final = "wsbroker to_thread"
"""How the names of the threads begin that run `asyncio.to_thread` in the event loops of this interpreter."""


class HandlerOptions:
    """How handlers are run. All values are plain, so that they cross to any kind of worker as a dict.

    Args:
        name: the worker's name, for the log; ``""``: the name of its thread.
        handler_timeout: seconds an open, message or close handler may take, from its call; 0: no limit.
        http_timeout: the same for the HTTP handler.
        worker_hang_timeout: seconds a handler may take to end after its interruption.
        on_handler_error: what happens to the socket of a handler that raised or took too long.
        worker_arg: the argument of `handle_worker_start`.
        owns_interpreter: whether all code of this interpreter belongs to the worker (every wire kind but `thread`):
            then its API is that of all threads, and what is logged goes to the broker.
        log_levels: for such a worker, the levels by the logger's name; see `logs`.
    """

    __slots__ = (
        "handler_timeout",
        "http_timeout",
        "log_levels",
        "name",
        "on_handler_error",
        "owns_interpreter",
        "worker_arg",
        "worker_hang_timeout",
    )

    def __init__(
        self,
        *,
        name: str = "",
        handler_timeout: float = 5.0,
        http_timeout: float = 30.0,
        worker_hang_timeout: float = 3.0,
        on_handler_error: Literal["close", "log"] = "close",
        worker_arg: str | None = None,
        owns_interpreter: bool = False,
        log_levels: "Mapping[str, int] | None" = None,
    ) -> None:
        self.name = name
        self.handler_timeout = handler_timeout or float("inf")
        self.http_timeout = http_timeout or float("inf")
        self.worker_hang_timeout = worker_hang_timeout
        self.on_handler_error = on_handler_error
        self.worker_arg = worker_arg
        self.owns_interpreter = owns_interpreter
        self.log_levels = log_levels or {}

    @classmethod
    def from_mapping(cls, arguments: "Mapping[str, object]") -> "HandlerOptions":
        """Makes options from a mapping of the arguments, as it came to the worker; an unknown name is a `TypeError`."""
        return cls(**cast("dict[str, str]", dict(arguments)))  # type: ignore[arg-type]
