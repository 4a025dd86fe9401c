"""Whether process and interpreter workers can start: `sys.executable` must be a Python that finds our modules.

A frozen program (PyInstaller, Nuitka, cx_Freeze) is its own `sys.executable`: a worker process would be the whole
program once more, which would start workers in turn. The same holds for a Python embedded in a host program (uWSGI).
Both are recognised by attributes that they set; for a program without such attributes there is `PARENT_VARIABLE`, which
ends the repetition at the first copy.

May import: standard library.
"""

import os
import re
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from typing import Final

PARENT_VARIABLE: Final = "WSBROKER_WORKER_OF"
"""Environment variable set for a worker process, which removes it: the process id of its server. In a copy of the
program that was started in place of the worker it is still set."""

_PYTHON_NAME: Final = re.compile(r"py|ython", re.IGNORECASE)
"""python3.11, pypy3, hython, mayapy: not uwsgi."""

_SHARED_IMPORTERS: Final = ("_frozen_importlib_external", "zipimport")
"""Modules of the importers that every interpreter has."""

FROZEN_REASON: Final = "this program is frozen (PyInstaller, Nuitka, cx_Freeze)"


def is_frozen() -> bool:
    """Returns whether the program and its modules are packed into an executable of their own."""
    if getattr(sys, "frozen", False):
        return True
    compiled = getattr(sys.modules.get("__main__"), "__compiled__", None)  # Nuitka, which leaves sys.frozen unset
    return bool(compiled is not None and getattr(compiled, "standalone", True))


def find_process_obstacle() -> str:
    """Returns why `sys.executable` cannot run a worker process, or "" if it can."""
    if is_frozen():
        return f"{FROZEN_REASON}, and a worker process would start all of it once more"
    python = sys.executable
    advice = "set sys.executable to a Python interpreter before the start"
    if not python:
        return f"this program does not know its Python interpreter (sys.executable is {python!r}); {advice}"
    if not os.access(python, os.X_OK):
        return f"there is no program {python!r} (sys.executable); {advice}"
    if not any(_PYTHON_NAME.search(os.path.basename(path)) for path in (python, os.path.realpath(python))):
        return f"{python!r} (sys.executable) does not look like a Python interpreter; {advice}"
    return ""


def find_interpreter_obstacle() -> str:
    """Returns why a subinterpreter cannot import the handlers, or "" if no reason is known.

    The importer of a frozen program exists in the main interpreter only; the others have `sys.path`.
    """
    spec = PathFinder.find_spec(__package__.partition(".")[0]) if is_frozen() else None
    if not is_frozen() or (spec is not None and type(spec.loader).__module__ in _SHARED_IMPORTERS):
        return ""
    return f"{FROZEN_REASON}, and its modules can be imported in the main interpreter only"


def is_program_copy(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether this process was started as a worker process, but runs the whole program instead."""
    return environment.get(PARENT_VARIABLE) == str(os.getppid())
