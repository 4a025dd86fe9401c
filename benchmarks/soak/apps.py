"""The applications of `joins` and `flood`: light modules, because workers that are interpreters import them too."""

from time import perf_counter
from typing import ClassVar

import wsbroker


class Joining:
    """Joins or leaves channels: ``join a,b,c`` and ``leave a,b,c`` are answered with how many were joined or left."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        """Changes the subscriptions one by one; the broker answers each call exactly."""
        verb, _, names = data.partition(" ")
        change = wsbroker.subscribe if verb == "join" else wsbroker.unsubscribe
        wsbroker.send(socket_id, str(sum([change(socket_id, name) for name in names.split(",")])))


class Computing:
    """Answers ``ping`` at once, stops all computing after ``calm``, and computes on every other message."""

    compute_s: ClassVar[float] = 0.0003

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        """Keeps a core busy for `compute_s`, as a handler that parses or renders something does."""
        if data == "ping":
            wsbroker.send(socket_id, "pong")
        elif data == "calm":
            Computing.compute_s = 0.0
        else:
            end_s = perf_counter() + Computing.compute_s
            while perf_counter() < end_s:
                pass
