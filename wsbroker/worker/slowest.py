"""Keeps the slowest calls of handlers: which handler, which socket, how long; no message and no token is kept."""

from typing import Final, TypedDict

KEPT_CALLS: Final = 5
"""How many calls are kept."""


class SlowCall(TypedDict):
    """One call of a handler."""

    handler: str
    """The handler's name."""
    socket_id: int
    """The socket; 0: an HTTP request."""
    seconds: float
    """From the call to its end, with what the handler awaits."""
    at: float
    """When the call ended, in seconds since the Unix epoch."""


class SlowestCalls:
    """The `KEPT_CALLS` slowest calls so far, of one worker."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[tuple[float, str, int, float]] = []

    @property
    def threshold_s(self) -> float:
        """Seconds: a call that took no longer is not one of the slowest."""
        return self._calls[-1][0] if len(self._calls) == KEPT_CALLS else 0.0

    def add_call(self, handler: str, socket_id: int, seconds: float, at: float) -> bool:
        """Adds a call if it is one of the slowest so far; returns whether it is."""
        if seconds <= self.threshold_s:
            return False
        self._calls.append((seconds, handler, socket_id, at))
        self._calls.sort(reverse=True)
        del self._calls[KEPT_CALLS:]
        return True

    def to_dicts(self) -> list[SlowCall]:
        """Returns the kept calls as dicts, the slowest first."""
        return [
            {"handler": handler, "socket_id": socket_id, "seconds": seconds, "at": at}
            for seconds, handler, socket_id, at in self._calls
        ]
