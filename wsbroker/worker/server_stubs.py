"""Stand-ins for `start`, `run`, `serve` and `register_worker` in a worker's own interpreter: no server starts there.

An application's module may hold both its handlers and the lines that start the server. It is imported in each worker:
these names have to be there, must not load the server, and must not start a second server.
"""

from typing import NoReturn

from wsbroker.errors import CommandError


def _raise_called_in_worker(name: str) -> NoReturn:
    """Raises the CommandError that says that a function of the server, of this name, was called in a worker."""
    raise CommandError(
        f"{name}() was called in a worker, where no server can start: put the lines that start the server behind "
        "if __name__ == '__main__': or into a module of their own"
    )


def start(*args: object, **settings: object) -> NoReturn:
    """Raises a CommandError: no server can be started in a worker."""
    _raise_called_in_worker("start")


def run(*args: object, **settings: object) -> NoReturn:
    """Raises a CommandError: no server can be run in a worker."""
    _raise_called_in_worker("run")


def serve(*args: object, **settings: object) -> NoReturn:
    """Raises a CommandError: no server can be run in a worker."""
    _raise_called_in_worker("serve")


class Server:
    """Stands for the class of running servers, of which a worker has none; for annotations."""


class WorkerHandle:
    """Stands for the handle of a registered worker.

    Args:
        spec: the argument of `register_worker`.
    """

    def __init__(self, spec: object) -> None:
        self.spec = spec

    def unregister(self) -> None:
        """Does nothing in a worker."""


def register_worker(worker: object) -> WorkerHandle:
    """Does nothing but return a handle: the server knows its handlers, or this worker would not run."""
    return WorkerHandle(worker)
