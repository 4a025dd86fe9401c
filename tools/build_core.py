"""The build hook: compiles the core with mypyc while hatchling makes a wheel.

Why not hatch-mypyc 0.16, which was tried first: it writes the extensions and their shared library beside the sources
and leaves them there, where a stale one silently wins over an edited `.py`; it moves `pyproject.toml` away during the
build, so nothing else may read the tree (two builds, a type check) at that time; and a failed compile, or a machine
without a compiler, is always an error, because a hook in `pyproject.toml` cannot fall back to a pure build. This hook
makes one `mypycify` call in a folder of its own, and one decision:

    WSBROKER_PURE=1               no compile: a pure wheel (`py3-none-any`), the same behaviour, slower
    no C compiler                 a pure wheel, with a warning
    free-threaded below 3.14      a pure wheel, with a warning: what mypyc makes cannot be imported there
    the compile fails             a pure wheel, with a warning and the compiler's words
    the result cannot be imported the same
    WSBROKER_REQUIRE_COMPILED=1   instead of the two warnings: an error

pip hides the output of a build that succeeds, so a pure wheel also carries its reason in `wsbroker/interpreted.txt`;
`wsbroker.build` reads it. An editable install is always interpreted: it runs the sources as they are.

The requirements of the compile (`COMPILE_REQUIREMENTS`) are requested only for a build that will compile: a pure build
needs no mypy, and not every Python has a mypy.

Run as a script (`python tools/build_core.py FOLDER`), this file is the compile itself: in a process of its own, because
mypyc prints its errors and ends the process with `sys.exit`, and because it patches setuptools.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED_PACKAGES: Final = ("wsbroker/websocket", "wsbroker/broker", "wsbroker/connections")
COMPILE_REQUIREMENTS: Final = (
    # The compiler of the core. Its minor version is pinned: each one changes what may be compiled.
    "mypy[mypyc]>=2.4.1,<2.5",
    "setuptools>=65",
    # Types that the compiled packages see while they are checked, and load when they are imported.
    "librt>=0.16,<1",
    "mypy_extensions>=1.1",
)
MYPYC_GROUP: Final = "wsbroker._core"
"""Gives mypyc's shared library its name and place: ``wsbroker/_core__mypyc.*.so``."""


def core_sources(root: Path) -> list[str]:
    """Returns the paths of the modules to compile, relative to `root`: those of the compiled packages but `__init__`.

    An `__init__` of a compiled package holds documentation and no code; a house test checks that.
    """
    found = (path for package in COMPILED_PACKAGES for path in (root / package).rglob("*.py"))
    return sorted(path.relative_to(root).as_posix() for path in found if path.name != "__init__.py")


def is_variable_set(variable: str) -> bool:
    """Returns whether an environment variable is set to a value other than 0."""
    return os.environ.get(variable, "0") not in ("", "0")


class CoreBuildHook(BuildHookInterface[Any]):
    """Adds the compiled core to a wheel, or a file with the reason why the wheel has none."""

    def dependencies(self) -> list[str]:
        """Returns the requirements of a build of the wheel. Called by hatchling before the build."""
        return [] if why_not_to_compile() else list(COMPILE_REQUIREMENTS)

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the core and adds it to the wheel. Called by hatchling before it collects the wheel's files.

        Raises:
            SystemExit: The core was not compiled although WSBROKER_REQUIRE_COMPILED is set.
        """
        if version == "editable":
            return
        self._folder = TemporaryDirectory(prefix="wsbroker-core-")
        folder = Path(self._folder.name)
        problem = why_not_to_compile() or self._run_compile(folder / "lib") or self._check_import(folder / "lib")
        if problem and is_variable_set("WSBROKER_REQUIRE_COMPILED") and not is_variable_set("WSBROKER_PURE"):
            raise SystemExit(f"error: the core was not compiled, and WSBROKER_REQUIRE_COMPILED is set: {problem}")
        if problem:
            for line in ("", "*" * 79, f"The core is NOT compiled: {problem}.", "It works, and is slower.", "*" * 79):
                self.app.display_warning(line)
            (folder / "interpreted.txt").write_text(problem + "\n", encoding="utf-8")
            build_data["force_include"][str(folder / "interpreted.txt")] = "wsbroker/interpreted.txt"
        else:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            for path in (folder / "lib").rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
                build_data["force_include"][str(path)] = path.relative_to(folder / "lib").as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the folder of the compile. Called by hatchling when the wheel is written."""
        if version != "editable":
            self._folder.cleanup()

    def _run_compile(self, target: Path) -> str:
        """Compiles the core into the folder `target`, in a process of its own; returns the error, or ""."""
        command = [sys.executable, "-P", __file__, str(target)]
        done = subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            return ""
        self.app.display_warning(done.stdout)
        errors = [line for line in done.stdout.splitlines() if "error" in line] or done.stdout.splitlines()[-1:]
        return f"its compile failed ({errors[0] if errors else f'exit code {done.returncode}'})"

    def _check_import(self, library: Path) -> str:
        """Imports the compiled modules in a fresh process; returns the error, or ""."""
        with TemporaryDirectory(prefix="wsbroker-import-") as folder:
            shutil.copytree(Path(self.root, "wsbroker"), Path(folder, "wsbroker"))
            shutil.copytree(library, folder, dirs_exist_ok=True)
            command = [sys.executable, "-P", "-c", IMPORT_SCRIPT, folder, *core_modules(Path(self.root))]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            return ""
        self.app.display_warning(done.stdout)
        return f"what its compile made cannot be imported ({(done.stdout.splitlines() or ['a crash'])[-1]})"


IMPORT_SCRIPT: Final = """
import importlib, sys, sysconfig
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    file = importlib.import_module(name).__file__
    if not (file.startswith(sys.argv[1]) and file.endswith(sysconfig.get_config_var("EXT_SUFFIX"))):
        raise ImportError(f"{name} was loaded from {file}")
"""
"""The script of that process. Its arguments are the folder and the names of the modules; all must be compiled."""


def core_modules(root: Path) -> list[str]:
    """Returns the dotted names of the modules to compile: ``["wsbroker.broker.broker", …]``."""
    return [source.removesuffix(".py").replace("/", ".") for source in core_sources(root)]


def why_not_to_compile() -> str:
    """Returns the reason why this machine does not compile the core, or ""."""
    if is_variable_set("WSBROKER_PURE"):
        return "WSBROKER_PURE was set when it was built"
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14):
        return "mypyc supports free-threaded Pythons from 3.14 on"
    return missing_toolchain()


def missing_toolchain() -> str:
    """Returns the part of a C tool chain that this machine lacks, or ""; "" on Windows, where setuptools searches."""
    if sys.platform == "win32":
        return ""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"there was no C compiler ({compiler}) when it was built"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's C headers (Python.h) were not there when it was built"
    return ""


def compile_core(target: Path) -> None:
    """Compiles the core of the tree in the working directory, and puts the extensions below the folder `target`."""
    from setuptools import Distribution  # before mypyc: it looks whether setuptools is there
    from setuptools.command.build_ext import build_ext

    from mypyc.build import mypycify  # isort: skip

    with TemporaryDirectory(prefix="wsbroker-mypyc-") as folder:
        # No configuration file: the compile does not depend on how the tree is linted. `silent`: the core may see
        # types of interpreted modules, whose imports need not be installed here.
        options = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={folder}/cache"]
        extensions = mypycify(
            [*options, *core_sources(Path.cwd())],
            opt_level="3",
            debug_level="0",
            group_name=MYPYC_GROUP,
            target_dir=f"{folder}/c",
        )
        for extension in extensions:
            extension.extra_compile_args.append("-Wno-error")  # mypyc sets -Werror: no reason to fail on a new compiler
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib = str(target)
        command.build_temp = f"{folder}/o"
        command.ensure_finalized()
        command.run()


if __name__ == "__main__":
    compile_core(Path(sys.argv[1]))
