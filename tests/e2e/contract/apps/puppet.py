"""Does what a message, a request or an upgrade tells it, and answers with what came of it. All handlers are plain.

A message is a place and an expression: ``here subscribe(me, 'news')``. The answer is the value's `repr`, or
``!TypeError: …``. Binary messages come back as they are.
"""

import threading
from urllib.parse import unquote

import wsbroker
from e2e.contract.apps.acting import evaluated, verdict
from wsbroker import HttpRequest, SocketId

state: dict[str, object] = {}
"""Values that a test stores."""
closing: dict[int, str] = {}
"""By socket: the expression that its close handler evaluates."""
started: list[str | None] = []


def handle_worker_start(arg: str | None) -> None:
    started.append(arg)


def handle_socket_open(request: HttpRequest, socket_id: SocketId) -> object:
    _, _, expression = request.query.partition("do=")
    return verdict(unquote(expression), globals(), me=socket_id, request=request) if expression else None


def handle_socket_message(data: str | bytes, socket_id: SocketId, token: bytes | None) -> object:
    if isinstance(data, bytes):
        wsbroker.send(socket_id, data)
        return None
    place, _, expression = data.partition(" ")

    def act() -> None:
        answer = evaluated(expression, globals(), me=socket_id, token=token)
        if place != "tell":
            wsbroker.send(socket_id, answer)

    if place == "thread":
        threading.Thread(target=act).start()
    elif place == "raise":
        verdict(f"raised({expression})", globals())
    else:
        act()
    return expression if place == "return" else None


def handle_socket_close(socket_id: SocketId, token: bytes | None, code: int, reason: str) -> None:
    names = {"me": socket_id, "token": token, "code": code, "reason": reason}
    wsbroker.send_to_channel("closes", repr((socket_id, token, code, reason)))
    expression = closing.pop(socket_id, "")
    if expression:
        verdict(expression, globals(), **names)


def handle_http_request(request: HttpRequest) -> object:
    if request.method != "POST":
        _, _, expression = request.query.partition("do=")
        return verdict(unquote(expression), globals(), request=request) if expression else None
    return evaluated(request.text(), globals(), request=request)
