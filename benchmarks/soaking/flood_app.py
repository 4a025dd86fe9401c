"""What `flood` measures: a handler that computes for a while. Light, for workers that are interpreters too."""

from time import perf_counter
from typing import ClassVar

import wsbroker


class Flooding:
    """The application: ``ping`` is answered at once, ``calm`` ends all computing, anything else computes."""

    seconds: ClassVar[float] = 0.0003
    """How long a message is computed on."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        """Takes its time, as a handler that parses or renders something does."""
        if data == "ping":
            wsbroker.send(socket_id, "pong")
        elif data == "calm":
            Flooding.seconds = 0.0
        else:
            end = perf_counter() + Flooding.seconds
            while perf_counter() < end:
                pass
