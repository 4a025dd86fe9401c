"""The servers that are compared: what each is told to do, how it is installed, found and started.

Peers are installed into an environment and a folder of their own, never into ours.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.load.server import Command, build_our_command

APPS: Final = Path(__file__).with_name("apps")
INSTALL_S: Final = 600.0


class Peer(NamedTuple):
    """A server to compare with, and what it needs.

    Args:
        app: the file of its application, in `apps/`.
        packages: what pip, or npm for an application in JavaScript, installs for it.
        note: what it was told to do.
        lacks: names of loads that it has nothing for.
    """

    name: str
    title: str
    app: str
    packages: Sequence[str]
    note: str
    lacks: Sequence[str] = ()

    @property
    def is_node(self) -> bool:
        """Whether the application runs on Node.js."""
        return self.app.endswith(".mjs")


PEERS: Final = (
    Peer(
        "socketify",
        "socketify (uWebSockets)",
        "socketify_app.py",
        ["socketify"],
        "its own topics and `app.publish`, in C++; backpressure limit 1 MiB; idle time-out on, its own loop",
    ),
    Peer(
        "picows",
        "picows",
        "picows_app.py",
        ["picows", "uvloop"],
        "a callback for each frame, `transport.send` for each subscriber, bytes not decoded; uvloop",
        ["http"],
    ),
    Peer(
        "websockets",
        "websockets",
        "websockets_app.py",
        ["websockets", "uvloop"],
        "`broadcast(…, text=True)` of bytes that are not decoded; uvloop; its pings every 20 s",
        ["http"],
    ),
    Peer(
        "aiohttp",
        "aiohttp",
        "aiohttp_app.py",
        ["aiohttp", "uvloop"],
        "`send_frame` for each subscriber, encoded once; uvloop; no access log",
    ),
    Peer(
        "starlette",
        "uvicorn + Starlette",
        "starlette_app.py",
        ["uvicorn", "starlette", "websockets", "httptools", "uvloop"],
        "`send_text` for each subscriber; uvloop, httptools, `websockets-sansio`; no access log; its pings every 20 s",
    ),
    Peer(
        "ws",
        "ws (Node.js)",
        "ws_app.mjs",
        ["ws"],
        "`send` of one Buffer for each subscriber, as its README broadcasts; no list of clients",
        ["http"],
    ),
)


class Contender(NamedTuple):
    """An installed server: how it is started, and which version it is."""

    name: str
    title: str
    version: str
    note: str
    command: Command
    lacks: Sequence[str] = ()


def describe_ours(python: str, version: Sequence[str]) -> Contender:
    """Returns WSBroker as a contender, with `benchmarks/load/app.py` and an inline worker.

    Args:
        version: the lines of ``wsbroker --version``.
    """
    number, core, *_ = [*version, "", ""]
    note = f"the handler is a Python function, called inline; {core}; its pings every 25 s, its limits on"
    command = build_our_command(python, ["--worker-kind", "inline"])
    return Contender("wsbroker", "WSBroker", number.removeprefix("wsbroker "), note, command)


def find_contender(peer: Peer, home: Path) -> Contender | None:
    """Returns a peer as it is installed in this folder; None if it is not."""
    version = _read_node_version(peer, home) if peer.is_node else _read_python_packages(peer, home)
    if not version:
        return None
    if peer.is_node:
        # A module is looked for from the folder of the file that imports it.
        shutil.copyfile(APPS / peer.app, home / "node" / peer.app)
        command = Command([shutil.which("node") or "node", str(home / "node" / peer.app), "{port}"])
    else:
        command = Command([str(_locate_python(home)), str(APPS / peer.app), "{port}"])
    return Contender(peer.name, peer.title, version, peer.note, command, peer.lacks)


def choose_home() -> Path:
    """Returns the folder of the peers unless another is named: in the user's cache, to last."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsbroker-benchmarks"


def install_peer(peer: Peer, home: Path) -> str:
    """Installs a peer with its packages, or newer versions of them; returns the problem, or ""."""
    folder = home / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if peer.is_node:
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        return _run_command(["npm", "install", "--silent", "--no-audit", "--no-fund", *peer.packages], folder)
    python = str(_locate_python(home))
    made = "" if Path(python).exists() else _run_command([sys.executable, "-m", "venv", str(home / "python")], home)
    return made or _run_command([python, "-m", "pip", "install", "--quiet", "--upgrade", *peer.packages], home)


def read_python_version(home: Path) -> str:
    """Returns the version of the Python that the peers run on; "" if there is none."""
    file = home / "python" / "pyvenv.cfg"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition("=")[2].strip() for line in lines if line.startswith("version")), "")


def _locate_python(home: Path) -> Path:
    """Returns the path of the Python of the peers' environment."""
    return home / "python" / "bin" / "python"


def _run_command(command: Sequence[str], folder: Path) -> str:
    """Runs a command in a folder; returns "", or the last line it wrote if it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (said or [f"exit code {done.returncode}"])[-1]


def _read_python_packages(peer: Peer, home: Path) -> str:
    """Returns the versions of a peer's packages; "" unless all are installed."""
    folders = [str(path) for path in (home / "python" / "lib").glob("python3*/site-packages")]
    found = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions(path=folders)}
    if not all(name in found for name in peer.packages):
        return ""
    return " + ".join(found[name] for name in peer.packages if name in peer.title.lower())


def _read_node_version(peer: Peer, home: Path) -> str:
    """Returns the version of a Node.js peer; "" if it is not installed."""
    package = home / "node" / "node_modules" / peer.packages[0] / "package.json"
    if not package.exists() or shutil.which("node") is None:
        return ""
    return str(json.loads(package.read_text(encoding="utf-8"))["version"])
