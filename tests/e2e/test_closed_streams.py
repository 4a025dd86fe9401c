"""A server whose standard streams were closed before its start, as some service managers do."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes descriptors")

KINDS: Final = ["inline", "process", *(["interpreter"] if sys.version_info >= (3, 13) else [])]
PATIENCE_S: Final = 30.0

APP: Final = """
import sys

def handle_http_request(request):
    print("printed", flush=True)
    print("printed", file=sys.stderr, flush=True)
    sys.stdout.write("written")
    return f"read {sys.stdin.read()!r}"
"""


def answer_of(path: str, process: "subprocess.Popen[bytes]") -> bytes:
    """What a server on a Unix socket answers to a request, once it listens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            try:
                sock.connect(path)
            except OSError:
                time.sleep(0.01)
                continue
            sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(4096), b""))


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_and_stops_cleanly_and_its_handlers_may_print(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)  # the path of a Unix socket has to be short
    command = [sys.executable, "-P", "-m", "wsbroker", "app", "--worker-kind", kind, "--bind", "unix:s"]
    shell = ["sh", "-c", 'exec "$@" 0<&- 1<&- 2<&-', "sh", *command]
    with subprocess.Popen(shell, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        try:
            answer = answer_of("s", process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nread ''"), answer
