"""The smallest application: an echo, and one channel to which every client is subscribed.

    python -m wsbroker wsbroker.examples.basic --bind :3000

Then run ``python -m wsbroker.examples.test_client`` in two more terminals: each client receives its own messages and
those of the other client.

Handlers are plain functions with the right names, all of them optional. They may leave out the last arguments, as these
two do, and they may be ``async def``.
"""

from wsbroker import HttpRequest, SocketId, send, send_to_channel, subscribe

CHANNEL = "everybody"


def handle_socket_open(request: HttpRequest, socket_id: SocketId) -> None:
    """Subscribes each new client. (Returning False would refuse the client with a 403.)"""
    # A socket that closes is unsubscribed by the broker.
    subscribe(socket_id, CHANNEL)


def handle_socket_message(data: str | bytes, socket_id: SocketId) -> None:
    """Sends each message to all clients: `str` from a text frame, `bytes` from a binary frame."""
    send(socket_id, data)  # to this socket
    send_to_channel(CHANNEL, data, exclude=[socket_id])  # to all others
