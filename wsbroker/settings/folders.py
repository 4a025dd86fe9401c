"""The working directory as the user named it, with its symbolic links, so that a reload follows a switched link.

A deployment switches a symbolic link (`current`) from one release to the next. The system reports the working directory
with all links resolved, so that a reload would load the old release again; the shell's `PWD` keeps the links.

May import: `errors`, standard library.
"""

import os
from collections.abc import Sequence

from wsbroker.errors import ConfigError


def working_directory() -> str:
    """Returns the path of the working directory with its symbolic links: `PWD`, if that is the same folder.

    Raises:
        ConfigError: the folder has been deleted.
    """
    named = os.environ.get("PWD", "")
    try:
        return named if os.path.isabs(named) and os.path.samefile(named, ".") else os.getcwd()
    except OSError:
        pass  # the folder of PWD, or the working directory, does not exist
    try:
        return os.getcwd()
    except OSError as error:
        raise ConfigError(
            "the working directory has been deleted: change into one that exists, or name the application by the "
            "absolute path of its file"
        ) from error


def absolute_path(path: str) -> str:
    """Returns the absolute path of an existing file with its symbolic links; raises as `working_directory`.

    A ``..`` behind a link means the folder above the link's target, so it stays in the path where the path without it
    would name another file.
    """
    joined = path if os.path.isabs(path) else os.path.join(working_directory(), path)
    plain = os.path.normpath(joined)
    return plain if os.path.exists(plain) and os.path.samefile(plain, joined) else joined


def sys_path_with_links(sys_path: Sequence[str]) -> list[str]:
    """Returns `sys.path` with every entry for the working directory replaced by its path with symbolic links.

    Python itself enters the path with all links resolved.
    """
    try:
        physical, named = os.getcwd(), working_directory()
    except (OSError, ConfigError):
        return list(sys_path)
    return [named if entry in ("", physical) else entry for entry in sys_path]
