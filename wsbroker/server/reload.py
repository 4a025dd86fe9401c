"""Watches an application's files for `--reload`, and reports when they have changed.

May import: `errors`, `settings.folders`, `pool.kinds.executable`, `pool.kinds.process`, standard library; watchfiles
inside functions only.
"""

import ast
import asyncio
import importlib.util
import marshal
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from wsbroker.errors import ConfigError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.kinds.executable import FROZEN_REASON, find_process_obstacle, is_frozen
from wsbroker.pool.kinds.process import describe_exit, make_child_environment, make_python_command
from wsbroker.settings.folders import sys_path_with_links, working_directory

logger = GuardedLog(__name__)

DEBOUNCE_MS = 400
"""Changes within this time count as one change: editors write a file in several steps."""


LINK_CHECK_INTERVAL_MS = 1000
"""How often to check whether a symbolic link in a folder's path leads to another folder."""

_CHECK_PROGRAM: Final = (
    "import marshal, sys; "
    "sys.path[:], sys.argv[:], spec = marshal.load(sys.stdin.buffer); "
    "from wsbroker.worker.entry import check_main; check_main(spec)"
)
"""The program of the process that loads an application for `find_load_error`. Its data comes through standard input."""


def find_watched_folders(spec: str) -> list[Path]:
    """Returns the folders to watch for an application: those of its top-level package, or the folder of its module.

    Args:
        spec: the application as ``module`` or ``module:object``.
    """
    module = spec.partition(":")[0]
    top = module.partition(".")[0]
    module_spec = importlib.util.find_spec(top)
    if module_spec is not None and module_spec.submodule_search_locations:
        return [Path(folder) for folder in module_spec.submodule_search_locations]
    if module_spec is not None and module_spec.origin is not None and os.path.exists(module_spec.origin):
        return [Path(module_spec.origin).parent]
    return [Path(working_directory())]


def check_reload_available() -> None:
    """Raises ConfigError if this program cannot watch files, or cannot start new code: frozen, or no watchfiles."""
    if is_frozen():
        raise ConfigError(f"--reload is for code in files: {FROZEN_REASON}")
    if find_process_obstacle():
        raise ConfigError(f"--reload restarts the program by its Python interpreter: {find_process_obstacle()}")
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigError("--reload needs the package watchfiles: pip install 'wsbroker[reload]'")


def find_syntax_error(paths: Iterable[str]) -> str | None:
    """Returns file, line and text of the first syntax error in these Python files; None if there is none."""
    for path in sorted(paths):
        try:
            ast.parse(Path(path).read_bytes(), path)
        except SyntaxError as error:
            return f"{path}, line {error.lineno}: {error.msg}"
        except (OSError, ValueError):  # deleted meanwhile, or no text: the import will report that
            continue
    return None


async def find_load_error(spec: str, folder: str) -> str:
    """Loads an application in a process of its own; returns the text of the error, or "" if the application loads.

    The process is killed if the caller is cancelled, as new code may hang, and ends by itself if this process dies. So
    do, on POSIX, the processes that the new code has started meanwhile.

    Args:
        spec: the application as ``module`` or ``module:object``.
        folder: the working directory of the process; the present one if `folder` does not exist any more.
    """
    # A file and no pipe: processes that the new code has started keep a pipe open behind the end of this one.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                make_python_command(_CHECK_PROGRAM, "wsbroker check"),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=folder if os.path.isdir(folder) else None,
                env=make_child_environment(),
                start_new_session=True,  # no signal to the server's group ends this process
            )
        except OSError as error:
            return f"no process can be started to load the new code: {error}"
        start = marshal.dumps([sys_path_with_links(sys.path), sys.argv, spec])
        try:
            status = await asyncio.to_thread(_start_and_wait, process, start)
        finally:
            _kill_with_children(process)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return "" if status == 0 else text or f"loading the handlers failed: {describe_exit(status)}"


def _start_and_wait(process: subprocess.Popen[bytes], start: bytes) -> int:
    """Writes the start data to a process, whose input stays open, and waits for the end; returns the exit status."""
    stdin = process.stdin
    assert stdin is not None
    try:
        stdin.write(start)
        stdin.flush()
    except OSError:
        pass  # the process has ended
    status = process.wait()
    try:
        stdin.close()
    except OSError:
        pass
    return status


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """Kills a process; on POSIX every process of its session's group, also if the process itself has ended."""
    if sys.platform == "win32":
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass  # there is none left


async def watch_python_files(
    folders: list[Path], on_change: Callable[[], Awaitable[None]], on_mistake: Callable[[], None]
) -> None:
    """Calls `on_change` after Python files below the folders have changed, one call at a time, until cancelled.

    Also calls `on_change` after a symbolic link in a folder's path has changed, and then watches the new folder. A
    change that leaves a file with a syntax error is logged, and `on_mistake` is called instead.
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
            is_right = not changes or _check_changed_files({path for _, path in changes})
            if (changes and is_right) or has_moved:
                await on_change()
            elif not is_right:
                on_mistake()
            if has_moved:
                break


def _resolve_folders(folders: Iterable[Path]) -> list[Path]:
    """Returns the watched folders with all symbolic links resolved; an empty list if a folder is missing.

    A folder is missing for a moment while its link is being switched.
    """
    try:
        return [folder.resolve(strict=True) for folder in folders]
    except OSError:
        return []


def _check_changed_files(paths: set[str]) -> bool:
    """Logs the paths of changed Python files and any syntax error in them; returns whether there is no syntax error."""
    logger.info("files changed: %s", ", ".join(sorted(paths)))
    mistake = find_syntax_error(paths)
    if mistake is not None:
        logger.error("not reloaded: %s", mistake)
    return mistake is None
