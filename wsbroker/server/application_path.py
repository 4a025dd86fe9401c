"""Makes the application that the command line names importable: a module, a module's object, or a file.

May import: `errors`, `settings.folders`, standard library. Must never: import the application.
"""

import importlib.util
import os
import sys

from wsbroker.errors import ConfigError
from wsbroker.settings.folders import absolute_path, working_directory


def find_app(app: str) -> str:
    """Makes an application importable and returns its name for the import, ``module`` or ``module:object``.

    Puts the working directory first on `sys.path`, or the folder of the file if `app` names a file; with their symbolic
    links, so that a reload follows a link that has changed.

    Args:
        app: ``module``, ``module:object``, or a file: ``./chat.py``, ``path/chat.py:obj``. A file is what has a
            separator in it or ends in ``.py``.

    Raises:
        ConfigError: there is no such file, Python could not import it by its name, or the working directory is needed
            and has been deleted.
    """
    path, name = _split_app(app)
    if not _is_file_path(path):
        _put_first_on_path(working_directory())
        return app
    folder, module = _locate_file(path)
    _put_first_on_path(folder)
    _refuse_hidden_module(path, folder, module)
    return f"{module}:{name}" if name else module


def _split_app(app: str) -> tuple[str, str]:
    r"""Splits an application, ``path:object``, into the module or file and the object's name; "" if none is named.

    ``C:\chat.py`` is a file only.
    """
    path, colon, name = app.rpartition(":")
    if colon and path and all(part.isidentifier() for part in name.split(".")):
        return path, name
    return app, ""


def _is_file_path(path: str) -> bool:
    """Returns whether an application is named as a file, not as a module: with a separator or ``.py`` in its path."""
    return path.endswith(".py") or os.sep in path or "/" in path


def _locate_file(path: str) -> tuple[str, str]:
    """Returns the folder and the module name of an application's file; raises ConfigError if it cannot be imported.

    The error is for a missing file, a folder, a name that does not end in ``.py``, or another dot in the name.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{path!r} is a folder: name a file in it, or the package as a module")
    if not os.path.isfile(path):
        similar = f"; did you mean {path + '.py'!r}?" if os.path.isfile(path + ".py") else ""
        where = f" in {working_directory()}" if not os.path.isabs(path) else ""
        raise ConfigError(f"there is no file {path!r}{where}{similar}")
    folder, file = os.path.split(absolute_path(path))
    module, extension = os.path.splitext(file)
    if extension != ".py":
        raise ConfigError(f"{path!r} is not a Python file: its name must end in .py")
    if "." in module:
        raise ConfigError(f"{path!r} cannot be imported, because its name has a dot in it: rename the file")
    return folder, module


def _put_first_on_path(folder: str) -> None:
    """Puts the application's folder first on `sys.path`, in place of the working directory if that is first there.

    ``python -m`` puts the working directory there. So ``python -m wsbroker`` and ``wsbroker`` find the same modules.
    """
    try:
        working_directories = ("", os.getcwd())
    except OSError:  # the working directory has been deleted
        working_directories = ("", "")
    if sys.path and not sys.flags.safe_path and sys.path[0] in working_directories:
        del sys.path[0]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()


def _refuse_hidden_module(path: str, folder: str, module: str) -> None:
    """Raises ConfigError if an import of the module would not load the file, because another module has its name.

    Args:
        path: the file as it was named, for the error.
        folder: the file's folder.
        module: the file's module name, such as ``json`` for ``json.py``.
    """
    loaded = sys.modules.get(module)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec is not None else None
    if origin is None or os.path.realpath(origin) != os.path.realpath(os.path.join(folder, module + ".py")):
        raise ConfigError(
            f"{path!r} cannot be imported, because Python has another module {module!r} "
            f"({origin or 'built in'}): rename the file"
        )
