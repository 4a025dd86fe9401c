"""Which HTTP connection may parse next, when several have more input than one turn of the event loop allows."""

import asyncio
from typing import Final, Protocol

PARSE_BUDGETS_PER_LOOP_TURN: Final = 4
"""How many connections may use up their budget (`max_lines` lines of heads and chunks) in one turn of the loop; the
others wait for the next turn. So no connection waits longer when 200 send one-byte chunks than when 20 do."""


class ParsingConnection(Protocol):
    """An HTTP connection as the scheduler uses it."""

    def parse_pending_data(self) -> int:
        """Parses pending input within the budget of one loop turn; returns the lines that were parsed."""
        ...

    def close_after_failure(self) -> None:
        """Closes the connection after an exception in the server's own code. Called while the exception is handled."""
        ...


class ParseScheduler:
    """Lets connections with pending input parse in turn, a limited number of lines in each loop turn.

    Args:
        loop: the running loop.
        max_lines: how many lines of heads and chunks one connection may parse in one loop turn.
    """

    __slots__ = ("_currently_parsing", "_is_scheduled", "_loop", "_waiting_connections", "max_lines")

    def __init__(self, loop: asyncio.AbstractEventLoop, max_lines: int) -> None:
        self.max_lines: Final = max_lines
        self._loop = loop
        self._waiting_connections: dict[ParsingConnection, None] = {}
        """Connections with more input than one turn allows, in the order of their turns."""
        self._is_scheduled = False
        self._currently_parsing: ParsingConnection | None = None
        """The connection whose turn it is."""

    def may_parse_chunks(self, connection: ParsingConnection) -> bool:
        """Returns whether a connection may parse a chunked body now: no connection is queued, or this one is next."""
        return not self._waiting_connections or connection is self._currently_parsing

    def schedule_parsing(self, connection: ParsingConnection) -> None:
        """Queues a connection that has more input than this loop turn allows; `parse_pending_data` is called later."""
        self._waiting_connections[connection] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._parse_scheduled)

    def remove_connection(self, connection: ParsingConnection) -> None:
        """Removes a connection that has ended from the queue."""
        self._waiting_connections.pop(connection, None)

    def _parse_scheduled(self) -> None:
        """Has the queued connections parse, oldest first, until the lines allowed in one turn of the loop are used up.

        Closes a connection whose parsing raises. Called by the loop, once in each turn while connections are queued.
        """
        waiting = self._waiting_connections
        budget = PARSE_BUDGETS_PER_LOOP_TURN * self.max_lines
        for _ in range(len(waiting)):
            connection = self._currently_parsing = next(iter(waiting), None)
            if connection is None or budget <= 0:
                break
            del waiting[connection]
            try:
                budget -= 1 + connection.parse_pending_data()
            except Exception:
                connection.close_after_failure()
        self._currently_parsing = None
        self._is_scheduled = bool(waiting)
        if waiting:
            self._loop.call_soon(self._parse_scheduled)
