"""Log in over HTTP, get a JWT, authenticate the socket with it; a channel per user.

    pip install 'wsbroker[jwt]'
    python -m wsbroker wsbroker.examples.auth --bind :3000 --worker-arg 'a long random key'

    POST /auth {"user": "ann", "password": "apple"}     → {"token": JWT}
    first message {"type": "auth", "token": JWT}        → {"type": "authenticated", "user": "ann"}
    then {"type": "send", "to": "bob", "text": "hi"}    → every socket of bob: {"type": "message", "from": "ann", …}

A first message that is anything else, or a JWT that is not ours or too old, closes the socket with 1008.
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
    """Runs once in each worker. They all get the same argument, so a JWT of one is good in the others."""
    global _key
    if arg is None:
        logging.getLogger(__name__).warning("no --worker-arg: signing with a key that everybody knows")
    _key = hashlib.sha256((arg or "demo").encode()).digest()  # HS256 wants 32 bytes


def handle_http_request(request: HttpRequest) -> HttpResponse:
    """Trades a name and a password for a JWT."""
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
    """The socket's token is what the broker remembers for us: here, whose socket it is. None: not known yet."""
    message = parse_message(data)
    if token is None:
        authenticate_socket(socket_id, message.get("token", ""))
    elif message.get("type") == "send" and message.get("to") in PASSWORDS:
        news = {"type": "message", "from": token.decode(), "text": message.get("text", "")}
        send_to_channel(f"user:{message['to']}", json.dumps(news))
    else:
        send(socket_id, json.dumps({"type": "error", "message": "send what, and to whom?"}))


def authenticate_socket(socket_id: SocketId, token: str) -> None:
    """Lets the socket in, or closes it."""
    try:
        user = str(jwt.decode(token, _key, algorithms=["HS256"], options={"require": ["exp", "sub"]})["sub"])
    except (jwt.InvalidTokenError, UnicodeError, RecursionError):  # forged, expired, or no token at all
        close(socket_id, 1008, "authenticate first")  # 1008: against the rules; trying again will not help
        return
    set_token(socket_id, user)  # the very next message of this socket comes with it
    subscribe(socket_id, f"user:{user}")  # one user may have many sockets; the channel reaches them all
    send(socket_id, json.dumps({"type": "authenticated", "user": user}))


def parse_message(data: str | bytes) -> dict[str, str]:
    """Returns the JSON object of strings that came, or {} if it is anything else: clients send what they like."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    is_fine = isinstance(message, dict) and all(isinstance(value, str) for value in message.values())
    return message if is_fine else {}
