"""What `benchmarks.cores` measures: handlers that compute for about 1 ms, and one that asks the core."""

import hashlib
import json
import time
from typing import Final

import wsbroker

DOCUMENT: Final = json.dumps({"name": "a" * 40, "values": list(range(100)), "tags": [f"tag-{n}" for n in range(30)]})
BLOCK_BYTES: Final = 1024
"""Not more: hashlib lets the interpreter lock go for more than 2047 bytes at a time."""

_rounds = 1


def compute(rounds: int) -> str:
    """Reads JSON, changes it, writes it and hashes what was written, again and again; returns 64 characters."""
    text = DOCUMENT
    digest = hashlib.sha256()
    for n in range(rounds):
        document = json.loads(text)
        document["values"][n % 100] = n
        text = json.dumps(document)
        digest.update(text[:BLOCK_BYTES].encode())
    return digest.hexdigest()


def ask(socket_id: int) -> str:
    """Times a call of `subscribe`; returns it in µs."""
    start = time.perf_counter()
    wsbroker.subscribe(socket_id, "channel")
    took_us = (time.perf_counter() - start) * 1e6
    wsbroker.unsubscribe(socket_id, "channel")
    return f"{took_us:.1f}"


def handle_worker_start(arg: str | None) -> None:
    """Takes the number of rounds."""
    global _rounds
    _rounds = int(arg or 1)


def handle_socket_message(data: str, socket_id: int) -> None:
    """Computes, or asks."""
    wsbroker.send(socket_id, ask(socket_id) if data == "ask" else compute(_rounds))
