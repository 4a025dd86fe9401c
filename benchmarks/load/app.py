"""The application that is measured, on the public API: ``S channel``, ``P channel payload``, ``E payload``,
``A channel``.

A plain request is answered with its query.
"""

from wsbroker import HttpRequest, send, send_to_channel, subscribe, subscriber_count


def handle_socket_message(data: str, socket_id: int) -> None:
    """Subscribes and answers ``K``, publishes, echoes, or answers how many subscribers a channel has."""
    kind = data[0]
    if kind == "P":
        _, channel, payload = data.split(" ", 2)
        send_to_channel(channel, payload)
    elif kind == "E":
        send(socket_id, data[2:])
    elif kind == "S":
        subscribe(socket_id, data[2:])
        send(socket_id, "K")
    elif kind == "A":
        send(socket_id, str(subscriber_count(data[2:])))


def handle_http_request(request: HttpRequest) -> str:
    """Answers with the query of the request."""
    return request.query
