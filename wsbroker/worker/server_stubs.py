"""What the names of `wsbroker` that belong to the server mean in a worker that has an interpreter of its own.

An application's module may hold both its handlers and the lines that start the server. It is imported in each worker:
these names have to be there, must not load the server, and must not start a second one.
"""

from typing import NoReturn

from wsbroker.errors import CommandError


def _raise_called_in_worker(name: str) -> NoReturn:
    raise CommandError(
        f"{name}() was called in a worker, while it imports the handlers: put the lines that start the server behind "
        "if __name__ == '__main__': or into a module of their own"
    )


def start(*args: object, **settings: object) -> NoReturn:
    """Starts a server: not here."""
    _raise_called_in_worker("start")


def run(*args: object, **settings: object) -> NoReturn:
    """Runs a server: not here."""
    _raise_called_in_worker("run")


def serve(*args: object, **settings: object) -> NoReturn:
    """Serves: not here."""
    _raise_called_in_worker("serve")


class Server:
    """A running server: there is none here."""


class WorkerHandle:
    """What `register_worker` returns.

    Args:
        spec: what was registered.
    """

    def __init__(self, spec: object) -> None:
        self.spec = spec

    def unregister(self) -> None:
        """Does nothing here."""


def register_worker(worker: object) -> WorkerHandle:
    """Does nothing here: the server knows its worker, or this one would not run."""
    return WorkerHandle(worker)
