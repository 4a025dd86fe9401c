"""Data only, base class of `Socket`: the token, and the events that wait for the socket's worker.

A base class of its own, because a socket knows its worker queue: so neither file needs the other's.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mypy_extensions import mypyc_attr, u8


@mypyc_attr(allow_interpreted_subclasses=True)
class SocketInbox:
    """The id, the token and the inbox of one socket."""

    def __init__(self, socket_id: int) -> None:
        self.id: Final = socket_id
        self.token: bytes | None = None
        self.applied_token_number: int = 0
        """number of the last SET_TOKEN command of the socket's own worker that was applied"""
        self.inbox: deque[tuple[object, ...]] | None = None
        """events that wait for the socket's handler, made when the first has to wait"""
        # Last, so that the flags of `Socket` follow: a flag takes one byte beside another one, and eight between two
        # numbers.
        self.is_token_stale = False
        """whether the token was set elsewhere since the socket's worker got it"""
        self.is_discarding_messages = False
        """whether messages read but not yet handled are dropped: the application has closed the socket, or the server
        stops"""
        self.in_flight_units: u8 = 0
        """messages in flight to the worker, in units of the socket's share (`WorkerQueue.count_share_units`)"""
