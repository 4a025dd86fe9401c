"""Installs the peers into an environment and a folder of their own, never into ours."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.compare.servers import APPS, NODE, Contender, Peer, build_peer_command, locate_python

INSTALL_S: Final = 600.0


def choose_home() -> Path:
    """Returns the folder of the peers unless another is named: in the user's cache, to last."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "wsbroker-benchmarks"


def prepare_peers(peers: Sequence[Peer], home: Path) -> dict[str, str]:
    """Installs peers with their packages; returns why, by name, for those that could not be."""
    problems: dict[str, str] = {}
    home.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        problem = _prepare_node(peer, home) if peer.language == NODE else _prepare_python(peer, home)
        if problem:
            problems[peer.name] = problem
    return problems


def find_contender(peer: Peer, home: Path) -> Contender | str:
    """Returns a peer as it is installed; a text if it is not."""
    version = _read_node_version(peer, home) if peer.language == NODE else _read_python_packages(peer, home)
    if not version:
        return "it is not installed: run with --prepare"
    return Contender(
        peer.name, peer.title, version, peer.language, peer.note, build_peer_command(peer, home), peer.lacks
    )


def read_python_version(home: Path) -> str:
    """Returns the version of the Python that the peers run on; "" if there is none."""
    file = home / "python" / "pyvenv.cfg"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    return fields.get("version", "")


def _prepare_python(peer: Peer, home: Path) -> str:
    """Installs a Python peer into the peers' environment; returns the problem, or ""."""
    if not locate_python(home).exists():
        problem = _run_command([sys.executable, "-m", "venv", str(home / "python")], home)
        if problem:
            return problem
    return _run_command(
        [str(locate_python(home)), "-m", "pip", "install", "--quiet", "--upgrade", *peer.packages], home
    )


def _prepare_node(peer: Peer, home: Path) -> str:
    """Installs a Node.js peer into the peers' folder; returns the problem, or ""."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "there is no node and npm here"
    folder = home / "node"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    shutil.copyfile(APPS / peer.app, folder / peer.app)
    return _run_command([npm, "install", "--silent", "--no-audit", "--no-fund", *peer.packages], folder)


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
    shutil.copyfile(APPS / peer.app, home / "node" / peer.app)
    return str(json.loads(package.read_text(encoding="utf-8"))["version"])
