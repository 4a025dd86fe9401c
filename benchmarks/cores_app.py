"""The application of `benchmarks.cores`: a handler that computes for about 1 ms, or asks the core."""

import hashlib
import json
import time
from typing import Final

import wsbroker

DOCUMENT: Final = json.dumps({"name": "a" * 40, "values": list(range(100)), "tags": [f"tag-{n}" for n in range(30)]})
BLOCK_BYTES: Final = 1024
"""Not more: hashlib releases the interpreter lock for more than 2047 bytes at a time."""

_rounds = 1


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


def time_subscribe(socket_id: int) -> str:
    """Times a call of `subscribe`, which asks the core; returns microseconds as text."""
    start = time.perf_counter()
    wsbroker.subscribe(socket_id, "channel")
    took_us = (time.perf_counter() - start) * 1e6
    wsbroker.unsubscribe(socket_id, "channel")
    return f"{took_us:.1f}"


def handle_worker_start(arg: str | None) -> None:
    """Takes the number of rounds from the worker's argument."""
    global _rounds
    _rounds = int(arg or 1)


def handle_socket_message(data: str, socket_id: int) -> None:
    """Answers ``ask`` with the time of a question, and ``E payload`` with the payload after computing."""
    if data == "ask":
        wsbroker.send(socket_id, time_subscribe(socket_id))
    else:
        compute_digest(_rounds)
        wsbroker.send(socket_id, data[2:])
