"""The smallest application: an echo, and one channel that everybody hears.

    python -m wsbroker wsbroker.examples.basic --bind :3000

Then, in two more terminals, ``python -m wsbroker.examples.test_client``: each sees its own messages come back, and
those of the other.

Handlers are plain functions with the right names, all of them optional. They may take fewer arguments than there
are, in their order, as these two do, and they may be ``async def``.
"""

from wsbroker import HttpRequest, SocketId, send, send_to_channel, subscribe

CHANNEL = "everybody"


def handle_socket_open(request: HttpRequest, socket_id: SocketId) -> None:
    """A client connects. Returning False would refuse it with a 403."""
    # A socket that closes leaves its channels by itself.
    subscribe(socket_id, CHANNEL)


def handle_socket_message(data: str | bytes, socket_id: SocketId) -> None:
    """A message came: `str` from a text frame, `bytes` from a binary one."""
    send(socket_id, data)  # to this socket
    send_to_channel(CHANNEL, data, exclude=[socket_id])  # to everybody else
