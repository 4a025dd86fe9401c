"""The list of all events from the broker to a worker: opens, messages, closes, HTTP requests, tokens, answers.

A batch is a list of tuples ``(KIND, …)``.
"""

from typing import Final, TypeAlias

Event: TypeAlias = tuple[object, ...]
"""One event: its kind, then the fields that its kind's comment below lists."""

OPEN: Final = 1
"""``(OPEN, socket_id, request_fields)``: run the open handler; answered by the command OPEN_RESULT."""
MESSAGE: Final = 2
"""``(MESSAGE, socket_id, data, cost)``: a message, `str` or `bytes`; `cost` is given back in HANDLED."""
CLOSE: Final = 3
"""``(CLOSE, socket_id, token, seen, code, reason)``: the socket left the tables; answered by CLOSE_HANDLED. Token
fields as in TOKEN."""
HTTP: Final = 4
"""``(HTTP, request_id, request_fields)``: a plain HTTP request; answered by RESPONSE."""
TOKEN: Final = 5
"""``(TOKEN, socket_id, token, seen)``: the token was set, but not by this worker. `seen` is the number of this worker's
last SET_TOKEN for this socket that the core had applied by then: a token of its own with a higher number is newer."""
ANSWER: Final = 6
"""``(ANSWER, call_id, value)``: the answer to the question in an ASK."""
STOP: Final = 7
"""``(STOP,)``: finish what came before, run `handle_worker_stop`, answer STOPPED, end."""
DROP_UNOPENED: Final = 8
"""``(DROP_UNOPENED, socket_id)``: the socket never opened (refused, or gone before the 101); no close handler runs."""
