"""What a worker is told about how to run handlers."""

from collections.abc import Mapping
from typing import Final, Literal, cast

TO_THREAD_PREFIX: Final = "wsbroker to_thread"
"""What the names of threads begin with in which an event loop of this interpreter runs what shall not block it."""


class HandlerOptions:
    """How handlers are run. Plain values, so that they cross to any kind of worker as a dict.

    Args:
        name: of the worker, for the log; ``""``: that of the thread it runs in.
        handler_timeout: seconds an open, message or close handler may take, from its call; 0: no limit.
        http_timeout: the same for the HTTP handler.
        worker_hang_timeout: seconds a handler may take to end once it was interrupted.
        on_handler_error: what happens to the socket of a handler that raised or took too long.
        worker_arg: what `handle_worker_start` is given.
        owns_interpreter: whether all code of this interpreter belongs to the worker (every wire kind but `thread`):
            then its port is that of all threads, and what is logged goes to the broker.
        log_levels: there, the levels by the logger's name; see `logs`.
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
    def from_mapping(cls, plain: "Mapping[str, object]") -> "HandlerOptions":
        """Makes them from what crossed: a mapping of the arguments. What is not one of them is a `TypeError`."""
        return cls(**cast("dict[str, str]", dict(plain)))  # type: ignore[arg-type]
