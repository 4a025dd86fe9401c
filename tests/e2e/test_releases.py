"""Folders reached by a symbolic link that a deployment switches, and folders that are deleted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from kits.server_process import START_S, ServerProcess, serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")

KINDS: Final = [("process", "app"), *([("interpreter", "./app.py")] if sys.version_info >= (3, 13) else [])]
APP: Final = "import part\ndef handle_http_request(request): return part.RELEASE\n"


class Deployment:
    """Releases of an application, and the link to the current one."""

    def __init__(self, folder: Path) -> None:
        self.releases = folder / "releases"
        self.current = folder / "current"
        self.environment = {"PWD": str(self.current), "PYTHONDONTWRITEBYTECODE": "1"}

    def switch_to(self, release: str) -> None:
        """Puts a release there and switches the link to it, as deployments do; those before are deleted."""
        before = list(self.releases.glob("*"))
        place = self.releases / release
        place.mkdir(parents=True)
        (place / "app.py").write_text(APP)
        (place / "part.py").write_text(f"RELEASE = {release!r}\n")
        new = self.releases.parent / "new"
        new.symlink_to(place)
        new.replace(self.current)
        for folder in before:
            shutil.rmtree(folder)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    deployment = Deployment(tmp_path)
    deployment.switch_to("first")
    return deployment


def answer_of(server: ServerProcess) -> str:
    with urllib.request.urlopen(server.url, timeout=START_S) as response:
        return str(response.read().decode())


@pytest.mark.parametrize(("kind", "app"), KINDS)
def test_a_reload_follows_the_link_to_the_new_release(kind: str, app: str, deployment: Deployment) -> None:
    arguments = (app, "--worker-kind", kind, "--workers", "1")
    with serving(*arguments, folder=deployment.current, environment=deployment.environment) as server:
        assert answer_of(server) == "first"
        deployment.switch_to("second")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line(re.compile("reloaded"), START_S)
        assert answer_of(server) == "second"


def test_a_kind_that_cannot_reload_is_restarted_in_the_new_release(deployment: Deployment) -> None:
    pytest.importorskip("watchfiles")
    arguments = ("app", "--worker-kind=thread", "--reload")
    with serving(*arguments, folder=deployment.current, environment=deployment.environment) as server:
        assert answer_of(server) == "first"
        server.wait_for_line(re.compile("watching for changes"), START_S)
        deployment.switch_to("second")
        server.wait_for_line(re.compile("lead elsewhere"), START_S)
        deadline = time.monotonic() + START_S
        while len(urls := re.findall(r"serving on (\S+)", server.log)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with urllib.request.urlopen(urls[-1], timeout=START_S) as response:
            assert response.read() == b"second"


# Deleted. -------------------------------------------------------------------------------------------------------------


def run_deleted(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts a command in a folder that is deleted before it."""
    folder.mkdir()
    shell = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh"]
    return subprocess.Popen(
        [*shell, sys.executable, "-P", "-m", "wsbroker", "--bind=127.0.0.1:0", *arguments],
        cwd=folder,
        env={**os.environ, "PWD": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


@pytest.mark.parametrize("app", ["app", "./app.py"])
def test_an_application_in_a_deleted_folder_is_a_clear_error(app: str, tmp_path: Path) -> None:
    with run_deleted(tmp_path / "gone", app) as process:
        text, _ = process.communicate(timeout=START_S)
    assert (process.returncode, text) == (
        2,
        "wsbroker: error: the working directory has been deleted: change into one that exists, or name the application "
        "by the absolute path of its file\n",
    )


def test_a_file_elsewhere_is_served_from_a_deleted_folder(deployment: Deployment, tmp_path: Path) -> None:
    app = str(deployment.current / "app.py")
    server = ServerProcess.__new__(ServerProcess)
    server.process = run_deleted(tmp_path / "gone", app, "--worker-kind=inline")
    server._begin_reading()
    try:
        assert answer_of(server) == "first"
        assert server.stop() == 0
    finally:
        server.end()
