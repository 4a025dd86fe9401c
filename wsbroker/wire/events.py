"""Events: what a worker is told. A batch of them is a list of tuples ``(KIND, …)``."""

from typing import Final, TypeAlias

Event: TypeAlias = tuple[object, ...]

OPEN: Final = 1
"""``(OPEN, socket_id, request_fields)``: run the open handler; answered by the command OPENED."""
MESSAGE: Final = 2
"""``(MESSAGE, socket_id, data, cost)``: a message, `str` or `bytes`; `cost` is given back in HANDLED."""
CLOSE: Final = 3
"""``(CLOSE, socket_id, token, seen, code, reason)``: the socket left the tables; answered by CLOSED. Token fields as
TOKEN."""
HTTP: Final = 4
"""``(HTTP, request_id, request_fields)``: a plain HTTP request; answered by RESPONSE."""
TOKEN: Final = 5
"""``(TOKEN, socket_id, token, seen)``: somebody else set the token. `seen` is the number of the last SET_TOKEN of
this worker for this socket that the core had applied by then: an own one with a higher number is newer and stays."""
ANSWER: Final = 6
"""``(ANSWER, call_id, value)``: what an ASK asked for."""
STOP: Final = 7
"""``(STOP,)``: finish what came before, run `handle_worker_stop`, answer STOPPED, end."""
DROP_UNOPENED: Final = 8
"""``(FORGET, socket_id)``: the socket never opened (refused, or gone before the 101); no close handler runs."""
