"""The limit of open file descriptors of this process, and the number of connections that it allows.

May import: standard library. Must never: change the limit, but for `raise_fd_limit`.
"""

import errno
import sys
from typing import Final

UNLIMITED_CONNECTIONS: Final = 1_000_000
"""The limit of connections where files have no limit; tables for more connections would not fit most machines."""

WINDOWS_CONNECTIONS: Final = 10_000
"""The limit of connections on Windows, where a process cannot ask for its limit of open files."""

MAX_FD_LIMIT: Final = 1 << 20
"""The highest limit of open files that `raise_fd_limit` sets: Linux's own default for the hard limit of a service."""


def default_max_connections() -> int:
    """Returns how many connections the soft limit of open files allows, less a reserve.

    The reserve (an eighth, 32 to 1024) is for listeners, the workers' pipes, log files, files that handlers open, and
    for accepting a connection in order to answer it with 503.
    """
    soft = _soft_fd_limit()
    if soft is None:
        return WINDOWS_CONNECTIONS
    reserve = min(max(soft // 8, 32), 1024)
    return min(max(soft - reserve, 1), UNLIMITED_CONNECTIONS)


def fd_warning(max_connections: int | None) -> str | None:
    """Returns a warning if the limit of open files is too low for `max_connections`; None if it is not.

    Args:
        max_connections: the setting; None: it follows the limit of open files.
    """
    soft = _soft_fd_limit()
    room = default_max_connections()
    if max_connections is None or soft is None or max_connections <= room:
        return None
    return (
        f"max_connections is {max_connections}, but this process may open only {soft} files, so about {room} "
        "connections fit: raise the limit (ulimit -n, LimitNOFILE) or lower max_connections"
    )


def shortage_advice(error: BaseException) -> str:
    """Returns ``": raise the limit of open files …"`` if that is what an error is about, "" for any other error."""
    is_shortage = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    return ": raise the limit of open files (ulimit -n, LimitNOFILE)" if is_shortage else ""


def raise_fd_limit() -> None:
    """Raises this process's soft limit of open files to the hard one, at most to `MAX_FD_LIMIT`.

    Called by `run()` and the command line only: a program that uses the package otherwise keeps its limits.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_FD_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_FD_LIMIT)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # macOS says that the hard limit is infinite and refuses it: the soft limit stays
        return


def _soft_fd_limit() -> int | None:
    """Returns how many files this process may open now, its soft limit; None on Windows, which has none.

    Where the system sets no limit, the value is 2 * UNLIMITED_CONNECTIONS.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * UNLIMITED_CONNECTIONS if soft == resource.RLIM_INFINITY else soft
