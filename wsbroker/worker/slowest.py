"""The slowest calls of handlers: which handler, for which socket, how long. Never what a peer sent, never a token."""

from typing import Final, TypedDict

KEPT_CALLS: Final = 5


class SlowCall(TypedDict):
    """One call of a handler."""

    handler: str
    socket_id: int
    """0: an HTTP request"""
    seconds: float
    """from the call to its end, what it awaits included"""
    at: float
    """when it ended, in seconds since the Unix epoch"""


class SlowestCalls:
    """The KEPT slowest calls so far."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[tuple[float, str, int, float]] = []

    @property
    def threshold_s(self) -> float:
        """A call that took no longer than this is not one of them."""
        return self._calls[-1][0] if len(self._calls) == KEPT_CALLS else 0.0

    def add_call(self, handler: str, socket_id: int, seconds: float, at: float) -> bool:
        """Takes a call; False: there are enough slower ones."""
        if seconds <= self.threshold_s:
            return False
        self._calls.append((seconds, handler, socket_id, at))
        self._calls.sort(reverse=True)
        del self._calls[KEPT_CALLS:]
        return True

    def to_dicts(self) -> list[SlowCall]:
        """All of them, the slowest first."""
        return [
            {"handler": handler, "socket_id": socket_id, "seconds": seconds, "at": at}
            for seconds, handler, socket_id, at in self._calls
        ]
