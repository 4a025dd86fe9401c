"""A chat with rooms, and its page on the same port.

    python -m wsbroker wsbroker.examples.chat --bind :3000        (then open http://127.0.0.1:3000 twice)

A client sends join (room, name), message (text) and leave. The server sends joined (user, room, members), left, and the
events of the client's room: user-joined, message, user-left. All of these are JSON with a "type".

A room is a channel, and the module keeps no state, so the application runs in any number of workers. The token of a
socket holds its user and room; the members of a room are the subscribers of its channel.
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
    """Answers plain HTTP requests: the page for ``/``, else 404."""
    if request.path != "/":
        return HttpResponse(404, {"Content-Type": "text/plain"}, b"there is only /")
    return HttpResponse(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)


def handle_socket_message(data: str | bytes, socket_id: SocketId, token: bytes | None) -> None:
    """Carries out one message of a client: join, message or leave. The next message waits until this returns."""
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
    """Sends user-left to the room of a closed socket. The socket has left its channels; its token names the room."""
    if token:
        user, room = json.loads(token)
        send_to_room(room, type="user-left", user=user)


def join_room(socket_id: SocketId, user: str, room: str) -> None:
    """Subscribes a socket to a room, and tells the room.

    Each user has a channel of their own too, so that any worker can look up the name of a socket in a room.
    """
    set_token(socket_id, json.dumps([user, room]))
    subscribe(socket_id, f"user:{user}")
    subscribe(socket_id, f"room:{room}")
    channels = [name.decode() for member in subscribers(f"room:{room}") for name in subscriptions(member)]
    members = [name.removeprefix("user:") for name in channels if name.startswith("user:")]
    send_json(socket_id, type="joined", user=user, room=room, members=members)
    send_to_room(room, type="user-joined", user=user, but_not=socket_id)


def leave_room(socket_id: SocketId, user: str | None, room: str | None) -> None:
    """Unsubscribes a socket from its room, if any, and then tells the room: the socket gets no `user-left`."""
    if room:
        unsubscribe(socket_id, f"room:{room}")
        unsubscribe(socket_id, f"user:{user}")
        set_token(socket_id, None)
        send_to_room(room, type="user-left", user=user)


def send_json(socket_id: SocketId, **fields: object) -> None:
    """Sends a JSON object to one socket."""
    send(socket_id, json.dumps(fields))


def send_to_room(room: str, but_not: SocketId | None = None, **fields: object) -> None:
    """Sends a JSON object to all sockets of a room, except the socket `but_not`."""
    exclude = () if but_not is None else (but_not,)
    send_to_channel(f"room:{room}", json.dumps({**fields, "room": room}), exclude=exclude)


def is_name(text: str) -> bool:
    """Returns whether a text is short and printable: with its prefix it fits a channel's name of at most 255 bytes."""
    return 1 <= len(text) <= 40 and text.isprintable()


def parse_message(data: str | bytes) -> dict[str, str]:
    """Returns a message as a dict if it is a JSON object of strings, else {}: clients may send anything."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    is_fine = isinstance(message, dict) and all(isinstance(value, str) for value in message.values())
    return message if is_fine else {}
