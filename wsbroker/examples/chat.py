"""A chat with rooms, and its page on the same port.

    python -m wsbroker wsbroker.examples.chat --bind :3000        (then open http://127.0.0.1:3000 twice)

A client sends join (room, name), message (text) and leave. It gets joined (user, room, members), left, and what
happens in its room: user-joined, message, user-left. All of it is JSON with a "type".

A room is a channel, and nothing is kept in the module: it runs in as many workers as you like, whichever of them a
socket is in. What a worker has to know about a socket is in the socket's token, and who is in a room is what the
broker says.
"""

import json
from pathlib import Path

from wsbroker import (
    HttpRequest,
    HttpResponse,
    SocketId,
    send,
    send_to_channel,
    set_token,
    subscribe,
    subscribers,
    subscriptions,
    unsubscribe,
)

PAGE = Path(__file__).with_name("chat.html").read_bytes()


def handle_http_request(request: HttpRequest) -> HttpResponse:
    """Every plain HTTP request comes here; upgrades to WebSocket do not."""
    if request.path != "/":
        return HttpResponse(404, {"Content-Type": "text/plain"}, b"there is only /")
    return HttpResponse(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)


def handle_socket_message(data: str | bytes, socket_id: SocketId, token: bytes | None) -> None:
    """One message of a socket; the next one waits until this returns."""
    user, room = json.loads(token) if token else (None, None)
    match parse_message(data):
        case {"type": "join", "room": new_room, "name": name} if is_name(new_room) and is_name(name):
            leave_room(socket_id, user, room)
            join_room(socket_id, f"{name}#{socket_id}", new_room)
        case {"type": "message", "text": text} if room:
            send_to_room(room, type="message", user=user, text=text)
        case {"type": "leave"} if room:
            leave_room(socket_id, user, room)
            send_json(socket_id, type="left", room=room)
        case _:
            send_json(socket_id, type="error", message="not understood, or not in a room")


def handle_socket_close(socket_id: SocketId, token: bytes | None) -> None:
    """The socket is gone and already out of its channels; only the token still tells where it was."""
    if token:
        user, room = json.loads(token)
        send_to_room(room, type="user-left", user=user)


def join_room(socket_id: SocketId, user: str, room: str) -> None:
    """Enters a room. Each user has a channel too, so that the name can be found by whoever sees the socket."""
    set_token(socket_id, json.dumps([user, room]))
    subscribe(socket_id, f"user:{user}")
    subscribe(socket_id, f"room:{room}")
    channels = [name.decode() for member in subscribers(f"room:{room}") for name in subscriptions(member)]
    members = [name.removeprefix("user:") for name in channels if name.startswith("user:")]
    send_json(socket_id, type="joined", user=user, room=room, members=members)
    send_to_room(room, type="user-joined", user=user, but_not=socket_id)


def leave_room(socket_id: SocketId, user: str | None, room: str | None) -> None:
    """Leaves the room, if in one. First out, then the news: so the leaver does not get `user-left`."""
    if room:
        unsubscribe(socket_id, f"room:{room}")
        unsubscribe(socket_id, f"user:{user}")
        set_token(socket_id, None)
        send_to_room(room, type="user-left", user=user)


def send_json(socket_id: SocketId, **fields: object) -> None:
    send(socket_id, json.dumps(fields))


def send_to_room(room: str, but_not: SocketId | None = None, **fields: object) -> None:
    exclude = () if but_not is None else (but_not,)
    send_to_channel(f"room:{room}", json.dumps({**fields, "room": room}), exclude=exclude)


def is_name(text: str) -> bool:
    """Short and printable: with its prefix it fits a channel's name, which has at most 255 bytes."""
    return 1 <= len(text) <= 40 and text.isprintable()


def parse_message(data: str | bytes) -> dict[str, str]:
    """Returns the message, or {} for anything but a JSON object of strings: clients send what they like."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    is_fine = isinstance(message, dict) and all(isinstance(value, str) for value in message.values())
    return message if is_fine else {}
