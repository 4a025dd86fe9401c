"""The servers that are compared: packages, start commands, and what each was told to do."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load.server import Command, build_our_command

APPS: Final = Path(__file__).with_name("apps")
PYTHON: Final = "python"
NODE: Final = "node"
OURS: Final = "wsbroker"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with, and what it needs.

    Args:
        packages: what pip or npm installs for it.
        note: what it was told to do.
        lacks: names of loads that it has nothing for.
    """

    name: str
    title: str
    language: str
    app: str
    packages: Sequence[str]
    note: str
    lacks: Sequence[str] = ()


PEERS: Final = (
    Peer(
        "socketify",
        "socketify (uWebSockets)",
        PYTHON,
        "socketify_app.py",
        ["socketify"],
        "its own topics and `app.publish`, in C++; backpressure limit 1 MiB; idle time-out on, its own loop",
    ),
    Peer(
        "picows",
        "picows",
        PYTHON,
        "picows_app.py",
        ["picows", "uvloop"],
        "a callback for each frame, `transport.send` for each subscriber, bytes not decoded; uvloop",
        ["http"],
    ),
    Peer(
        "websockets",
        "websockets",
        PYTHON,
        "websockets_app.py",
        ["websockets", "uvloop"],
        "`broadcast(…, text=True)` of bytes that are not decoded; uvloop; its pings every 20 s",
        ["http"],
    ),
    Peer(
        "aiohttp",
        "aiohttp",
        PYTHON,
        "aiohttp_app.py",
        ["aiohttp", "uvloop"],
        "`send_control_frame` for each subscriber, encoded once; uvloop; no access log",
    ),
    Peer(
        "starlette",
        "uvicorn + Starlette",
        PYTHON,
        "starlette_app.py",
        ["uvicorn", "starlette", "websockets", "httptools", "uvloop"],
        "`send_text` for each subscriber; uvloop, httptools, `websockets-sansio`; no access log; its pings every 20 s",
    ),
    Peer(
        "ws",
        "ws (Node.js)",
        NODE,
        "ws_app.mjs",
        ["ws"],
        "`send` of one Buffer for each subscriber, as its README broadcasts; no list of clients",
        ["http"],
    ),
)


@dataclass(frozen=True, slots=True)
class Contender:
    """An installed server: how it is started, and which version it is."""

    name: str
    title: str
    version: str
    language: str
    note: str
    command: Command
    lacks: Sequence[str] = ()


def describe_ours(python: str, version: Sequence[str]) -> Contender:
    """Returns WSBroker as a contender, with `benchmarks/load/app.py` and an inline worker."""
    number, core, *_ = [*version, "", ""]
    note = f"the handler is a Python function, called inline; {core}; its pings every 25 s, its limits on"
    command = build_our_command(python, ["--worker-kind", "inline"])
    return Contender(OURS, "WSBroker", number.removeprefix("wsbroker "), PYTHON, note, command)


def build_peer_command(peer: Peer, home: Path) -> Command:
    """Returns the command that starts a peer installed in this folder."""
    if peer.language == NODE:
        # A module is looked for from the folder of the file that imports it: `prepare` has put it there.
        return Command([shutil.which("node") or "node", str(home / "node" / peer.app), "{port}"])
    return Command([str(locate_python(home)), str(APPS / peer.app), "{port}"])


def locate_python(home: Path) -> Path:
    """Returns the path of the Python of the peers' environment."""
    return home / "python" / "bin" / "python"
