"""Starts programs, each in a process of its own that begins with everything imported.

Nearly all the time of a short program is Python's own start. See `kits.forked_programs` for who asks.

A request is a line of JSON, and comes with the descriptor that becomes the program's output:
``{"arguments": […], "script": null, "environment": {…}, "folder": "…"}`` is answered with a process id,
``{"wait": id}`` with its exit code or null.
"""

import json
import os
import runpy
import socket
import sys
import traceback
from typing import Any

import wsbroker.apps.pubsub
import wsbroker.cli
import wsbroker.server.node  # noqa: F401

MAX_REQUEST = 1 << 20


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as asking:
        while True:
            line, descriptors, _, _ = socket.recv_fds(asking, MAX_REQUEST, 1)
            if not line:
                return
            request = json.loads(line)
            if "wait" in request:
                found, status = os.waitpid(request["wait"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if found else None
            else:
                answer = os.fork()
                if answer == 0:
                    asking.close()
                    be(descriptors[0], **request)
                os.close(descriptors[0])
            asking.sendall(json.dumps(answer).encode())


def be(output: int, arguments: list[str], script: str | None, environment: dict[str, str], folder: str | None) -> None:
    """Is the program; does not return."""
    code: Any = 70
    try:
        os.setpgid(0, 0)  # a test may signal to all of it
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ.update(environment)
        if folder is not None:
            os.chdir(folder)
        if script is None:
            sys.argv = ["wsbroker", *arguments]
            runpy.run_module("wsbroker", run_name="__main__")
        else:
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finish(code)


def finish(code: Any) -> None:
    """What the interpreter does at the end of a program: waits for its threads, flushes, ends."""
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
