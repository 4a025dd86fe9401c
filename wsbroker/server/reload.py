"""Watching an application's files, for `--reload`.

May import: `errors`, `folders`, `pool.executable`, standard library; watchfiles only when it is needed.
"""

import ast
import importlib.util
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from wsbroker.errors import ConfigError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.kinds.executable import FROZEN_REASON, find_process_obstacle, is_frozen
from wsbroker.settings.folders import working_directory

logger = GuardedLog(__name__)

DEBOUNCE_MS = 400
"""Changes that come this close together are one: editors write a file in several steps."""


LINK_CHECK_INTERVAL_MS = 1000
"""How often to see whether a folder is another one by now, because a symbolic link leads elsewhere."""


def find_watched_folders(spec: str) -> list[Path]:
    """Returns what to watch for an application: the folder its module is in, or that of its top-level package."""
    module = spec.partition(":")[0]
    top = module.partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is not None and found.submodule_search_locations:
        return [Path(place) for place in found.submodule_search_locations]
    if found is not None and found.origin is not None and os.path.exists(found.origin):
        return [Path(found.origin).parent]
    return [Path(working_directory())]


def check_reload_available() -> None:
    """Raises a ConfigError if files cannot be watched, or their new code could not be started."""
    if is_frozen():
        raise ConfigError(f"--reload is for code in files: {FROZEN_REASON}")
    if find_process_obstacle():
        raise ConfigError(f"--reload restarts the program by its Python interpreter: {find_process_obstacle()}")
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigError("--reload needs the package watchfiles: pip install 'wsbroker[reload]'")


def find_syntax_error(paths: Iterable[str]) -> str | None:
    """Returns what is wrong with the first file that Python could not read, or None."""
    for path in sorted(paths):
        try:
            ast.parse(Path(path).read_bytes(), path)
        except SyntaxError as error:
            return f"{path}, line {error.lineno}: {error.msg}"
        except (OSError, ValueError):  # gone already, or no text: its import will tell
            continue
    return None


async def watch_python_files(folders: list[Path], on_change: Callable[[], Awaitable[None]]) -> None:
    """Calls `on_change` after Python files below the folders have changed, one call at a time, until cancelled.

    So it does after a symbolic link in the path of a folder leads elsewhere, and watches the folder that it leads to.
    """
    from watchfiles import PythonFilter, awatch

    while True:
        logger.info("watching for changes folders=%s", ", ".join(str(folder) for folder in folders))
        targets = _resolve_folders(folders)
        async for changes in awatch(
            *folders,
            watch_filter=PythonFilter(),
            debounce=DEBOUNCE_MS,
            rust_timeout=LINK_CHECK_INTERVAL_MS,
            yield_on_timeout=True,
        ):
            has_moved = _resolve_folders(folders) not in (targets, [])
            if has_moved:
                logger.info("folders lead elsewhere: %s", ", ".join(map(str, _resolve_folders(folders))))
            if (changes and _check_changed_files({path for _, path in changes})) or has_moved:
                await on_change()
            if has_moved:
                break


def _resolve_folders(folders: Iterable[Path]) -> list[Path]:
    """Returns where folders lead to; nothing if one is not there, as a link that is being switched may be."""
    try:
        return [folder.resolve(strict=True) for folder in folders]
    except OSError:
        return []


def _check_changed_files(paths: set[str]) -> bool:
    """Logs which files have changed, and returns whether Python can read them."""
    logger.info("files changed: %s", ", ".join(sorted(paths)))
    mistake = find_syntax_error(paths)
    if mistake is not None:
        logger.error("not reloaded: %s", mistake)
    return mistake is None
