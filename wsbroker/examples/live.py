"""The page and the application of the README: every client receives the messages of all clients.

    python -m wsbroker wsbroker.examples.live --bind :3000        (then open http://127.0.0.1:3000 twice)

The page, `live.html`, uses nothing but the browser's `WebSocket`; it reconnects after a restart of the server.
"""

from pathlib import Path

import wsbroker

PAGE = Path(__file__).with_name("live.html").read_bytes()


def handle_http_request(request: wsbroker.HttpRequest) -> wsbroker.HttpResponse:
    """Serves the page for every plain HTTP request."""
    return wsbroker.HttpResponse(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)


def handle_socket_open(request: wsbroker.HttpRequest, socket_id: wsbroker.SocketId) -> None:
    """Subscribes each new client."""
    wsbroker.subscribe(socket_id, "everyone")


def handle_socket_message(data: str | bytes, socket_id: wsbroker.SocketId, token: bytes | None) -> None:
    """Sends each message of a client to all clients."""
    wsbroker.send_to_channel("everyone", data)
