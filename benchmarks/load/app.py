"""The measured application, on the public API. The first letter of a message says what the handler does with it:

    S channel           subscribes, and answers ``K``
    P channel payload   publishes
    E payload           echoes
    C rounds payload    computes so many rounds, all of it under the interpreter lock, then echoes
    A channel           answers how many subscribers a channel has
    T channel           answers how many microseconds a call of `subscribe` took, which asks the broker

A plain request is answered with its query.
"""

import hashlib
import json
import time
from typing import Final

from wsbroker import HttpRequest, send, send_to_channel, subscribe, subscriber_count, unsubscribe

DOCUMENT: Final = json.dumps({"name": "a" * 40, "values": list(range(100)), "tags": [f"tag-{n}" for n in range(30)]})
BLOCK_BYTES: Final = 1024
"""Not more: hashlib releases the interpreter lock for more than 2047 bytes at a time."""


def handle_socket_message(data: str, socket_id: int) -> None:
    """Does what the first letter of a message says. Called for each message."""
    kind = data[0]
    if kind == "P":
        _, channel, payload = data.split(" ", 2)
        send_to_channel(channel, payload)
    elif kind == "E":
        send(socket_id, data[2:])
    elif kind == "S":
        subscribe(socket_id, data[2:])
        send(socket_id, "K")
    elif kind == "C":
        _, rounds, payload = data.split(" ", 2)
        compute_digest(int(rounds))
        send(socket_id, payload)
    elif kind == "A":
        send(socket_id, str(subscriber_count(data[2:])))
    elif kind == "T":
        send(socket_id, f"{time_subscribe_us(socket_id, data[2:]):.1f}")


def handle_http_request(request: HttpRequest) -> str:
    """Answers with the query of the request. Called for each plain request."""
    return request.query


def compute_digest(rounds: int) -> str:
    """Reads JSON, changes it, writes it and hashes what was written, so many times; returns the digest."""
    text = DOCUMENT
    digest = hashlib.sha256()
    for n in range(rounds):
        document = json.loads(text)
        document["values"][n % 100] = n
        text = json.dumps(document)
        digest.update(text[:BLOCK_BYTES].encode())
    return digest.hexdigest()


def time_subscribe_us(socket_id: int, channel: str) -> float:
    """Subscribes a socket to a channel and unsubscribes it; returns the microseconds that `subscribe` took."""
    start_s = time.perf_counter()
    subscribe(socket_id, channel)
    took_s = time.perf_counter() - start_s
    unsubscribe(socket_id, channel)
    return took_s * 1e6
