"""The slowest calls of handlers: which handler, for which socket, how long. Never what a peer sent, never a token."""

from typing import Final, TypedDict

KEPT: Final = 5


class SlowCall(TypedDict):
    """One call of a handler."""

    handler: str
    socket_id: int
    """0: an HTTP request"""
    seconds: float
    """from the call to its end, what it awaits included"""
    at: float
    """when it ended, in seconds since the Unix epoch"""


class Slowest:
    """The KEPT slowest calls so far."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[tuple[float, str, int, float]] = []

    @property
    def least_s(self) -> float:
        """A call that took no longer than this is not one of them."""
        return self._calls[-1][0] if len(self._calls) == KEPT else 0.0

    def add(self, handler: str, socket_id: int, seconds: float, at: float) -> bool:
        """Takes a call; False: there are enough slower ones."""
        if seconds <= self.least_s:
            return False
        self._calls.append((seconds, handler, socket_id, at))
        self._calls.sort(reverse=True)
        del self._calls[KEPT:]
        return True

    def plain(self) -> list[SlowCall]:
        """All of them, the slowest first."""
        return [
            {"handler": handler, "socket_id": socket_id, "seconds": seconds, "at": at}
            for seconds, handler, socket_id, at in self._calls
        ]
