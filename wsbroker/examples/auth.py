"""A login over HTTP that answers a JWT, sockets that authenticate with the JWT, and a channel per user.

    pip install 'wsbroker[jwt]'
    python -m wsbroker wsbroker.examples.auth --bind :3000 --worker-arg 'a long random key'

    POST /auth {"user": "ann", "password": "apple"}     → {"token": JWT}
    first message {"type": "auth", "token": JWT}        → {"type": "authenticated", "user": "ann"}
    then {"type": "send", "to": "bob", "text": "hi"}    → every socket of bob: {"type": "message", "from": "ann", …}

Any other first message, and a JWT with a wrong signature or too old, closes the socket with 1008.
"""

import hashlib
import hmac
import json
import logging
import time

from wsbroker import HttpRequest, HttpResponse, SocketId, close, send, send_to_channel, set_token, subscribe

try:
    import jwt
except ModuleNotFoundError as missing:
    raise ImportError("the auth example needs PyJWT: pip install 'wsbroker[jwt]'") from missing

PASSWORDS = {"ann": "apple", "bob": "banana"}  # yours are in a database, and hashed
VALID_S = 3600
_key = b""


def handle_worker_start(arg: str | None) -> None:
    """Derives the key from the worker argument, once in each worker; the argument is the same for all workers."""
    global _key
    if arg is None:
        logging.getLogger(__name__).warning("no --worker-arg: signing with a key that everybody knows")
    _key = hashlib.sha256((arg or "demo").encode()).digest()  # HS256 wants 32 bytes


def handle_http_request(request: HttpRequest) -> HttpResponse:
    """Answers a JWT for a right name and password, else 401."""
    if (request.method, request.path) != ("POST", "/auth"):
        return HttpResponse.json({"error": "there is only POST /auth"}, status=404)
    form = parse_message(request.body)
    user, password = form.get("user", ""), form.get("password", "")
    # compare_digest takes the same time wherever the first wrong letter is.
    is_right = hmac.compare_digest(PASSWORDS.get(user, "").encode(), password.encode(errors="replace"))
    if user not in PASSWORDS or not is_right:
        return HttpResponse.json({"error": "wrong name or password"}, status=401)
    claims = {"sub": user, "exp": int(time.time()) + VALID_S}
    return HttpResponse.json({"token": jwt.encode(claims, _key, algorithm="HS256")})


def handle_socket_message(data: str | bytes, socket_id: SocketId, token: bytes | None) -> None:
    """Authenticates a socket with its first message; delivers its later messages to the channel of a user.

    Args:
        data: The message, JSON.
        socket_id: The socket of the sender.
        token: The sender's name, set by `authenticate_socket`; None before.
    """
    message = parse_message(data)
    if token is None:
        authenticate_socket(socket_id, message.get("token", ""))
    elif message.get("type") == "send" and message.get("to") in PASSWORDS:
        news = {"type": "message", "from": token.decode(), "text": message.get("text", "")}
        send_to_channel(f"user:{message['to']}", json.dumps(news))
    else:
        send(socket_id, json.dumps({"type": "error", "message": "send what, and to whom?"}))


def authenticate_socket(socket_id: SocketId, token: str) -> None:
    """Subscribes a socket to the channel of the JWT's user, or closes the socket if the JWT is not valid."""
    try:
        user = str(jwt.decode(token, _key, algorithms=["HS256"], options={"require": ["exp", "sub"]})["sub"])
    except (jwt.InvalidTokenError, UnicodeError, RecursionError):  # forged, expired, or no token at all
        close(socket_id, 1008, "authenticate first")  # 1008: against the rules; a client must not reconnect
        return
    set_token(socket_id, user)  # the very next message of this socket comes with it
    subscribe(socket_id, f"user:{user}")  # a user may have many sockets; the channel reaches all
    send(socket_id, json.dumps({"type": "authenticated", "user": user}))


def parse_message(data: str | bytes) -> dict[str, str]:
    """Returns a message as a dict if it is a JSON object of strings, else {}: clients may send anything."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    is_fine = isinstance(message, dict) and all(isinstance(value, str) for value in message.values())
    return message if is_fine else {}
