"""Runs many commands ``python -m wsbroker …``, each in a process of its own that starts with everything imported.

Nearly all the time of a command that fails is Python's own start. Reads a list of commands as JSON from stdin, writes the
list of their outcomes to stdout.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import wsbroker.apps.pubsub  # noqa: F401
import wsbroker.cli
import wsbroker.node  # noqa: F401


def main() -> None:
    outcomes = [outcome(**command) for command in json.load(sys.stdin)]
    json.dump(outcomes, sys.stdout)


def outcome(arguments: list[str], environment: dict[str, str], folder: str) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of one command."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            run(arguments, environment, folder, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), out.read(), err.read()


def run(arguments: list[str], environment: dict[str, str], folder: str, out: int, err: int) -> None:
    """Is the command; does not return."""
    code: object = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        os.environ.update(environment)
        sys.argv = ["wsbroker", *arguments]
        runpy.run_module("wsbroker", run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 71)


if __name__ == "__main__":
    main()
