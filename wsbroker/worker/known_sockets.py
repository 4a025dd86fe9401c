"""A worker's record of its sockets: cached tokens, which have a handler running, which are closing.

The runtimes read the attributes for each message; `wire_api` changes them when a handler sets a token or closes its own
socket. Everything but `drop_socket` is called with the write lock of `wire_io`, or on the worker's own thread.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import RLock

    from wsbroker.wire.events import Event


class KnownSockets:
    """The sockets of one worker, as far as the worker has to remember something of them.

    Args:
        write_lock: the lock of the wire's writer; a thread that sets a token holds it.
    """

    __slots__ = (
        "_write_lock",
        "closing_sockets",
        "event_queues",
        "own_token_numbers",
        "running_socket_id",
        "tokens",
    )

    def __init__(self, write_lock: "RLock") -> None:
        self._write_lock = write_lock
        self.running_socket_id = 0
        """The id of the socket whose open or message handler is running right now on the worker's own thread; 0: none.
        Async handlers that have awaited once are not counted here: see `event_queues`."""
        self.event_queues: dict[int, deque[Event] | None] = {}
        """The ids of the sockets that have an async handler running, with the events that wait for its end."""
        self.tokens: dict[int, bytes] = {}
        """The tokens of the worker's sockets, by socket id; a socket without a token has no entry."""
        self.own_token_numbers: dict[int, int] = {}
        """By socket id: the number of this worker's last SET_TOKEN that the core may not have applied yet."""
        self.closing_sockets: set[int] = set()
        """The ids of sockets whose messages are not handled any more, and whose CLOSE event has not come yet."""

    def has_running_handler(self, socket_id: int) -> bool:
        """Returns whether an open or message handler of this socket is running, so that its end is still to come."""
        return (socket_id == self.running_socket_id != 0) or socket_id in self.event_queues

    def cache_own_token(self, socket_id: int, token: bytes | None, number: int, send: Callable[[], None]) -> None:
        """Caches a token that this worker sets, and sends the command; takes the change back if `send` raises.

        Args:
            socket_id: the socket, which has a handler running.
            token: its new token; None: it has no token any more.
            number: of the SET_TOKEN command; grows from each to the next.
            send: sends that command.
        """
        previous_token, previous_number = self.tokens.get(socket_id), self.own_token_numbers.get(socket_id)
        try:
            self.own_token_numbers[socket_id] = number
            self.store_token(socket_id, token)
            send()
        except BaseException:
            self.store_token(socket_id, previous_token)
            if previous_number is None:
                self.own_token_numbers.pop(socket_id, None)
            else:
                self.own_token_numbers[socket_id] = previous_number
            raise

    def apply_token_event(self, socket_id: int, token: bytes | None, seen_number: int) -> None:
        """Stores the token that the broker has sent for a socket, unless this worker has set a newer token meanwhile.

        Args:
            socket_id: the socket.
            token: its token in the core.
            seen_number: the number of this worker's last SET_TOKEN for the socket that the core had applied by then.
        """
        if self.own_token_numbers.get(socket_id, 0) <= seen_number:
            self.own_token_numbers.pop(socket_id, None)
            self.store_token(socket_id, token)

    def store_token(self, socket_id: int, token: bytes | None) -> None:
        """Stores the token of a socket; None: removes the token."""
        if token is None:
            self.tokens.pop(socket_id, None)
        else:
            self.tokens[socket_id] = token

    def drop_socket(self, socket_id: int) -> None:
        """Drops everything that is kept of a socket, once its last handler has ended."""
        self.closing_sockets.discard(socket_id)
        with self._write_lock:  # a thread that the last handler has started may be caching a token
            self.tokens.pop(socket_id, None)
            self.own_token_numbers.pop(socket_id, None)
