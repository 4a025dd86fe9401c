"""Which build this is: the version, and whether the core is compiled.

May import: `errors`, light standard library. Must never: import a compiled module (any interpreter may ask).
"""

import importlib.util
import pkgutil
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, Literal

from wsbroker.errors import WSBrokerError

VERSION: Final = "0.2.0"

COMPILED_PACKAGES: Final = ("wsbroker.websocket", "wsbroker.broker", "wsbroker.connections")
"""The packages that mypyc compiles, every module of them but `__init__`."""


def package_version() -> str:
    """Returns the version of the running code, such as ``"0.1.0"``."""
    return VERSION


def core_modules() -> dict[str, str]:
    """Returns every module of the core and the file it is loaded from. Loads none of them."""
    modules: dict[str, str] = {}
    for package in COMPILED_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise WSBrokerError(f"{package} is missing: this installation is damaged, install wsbroker again")
        for found in pkgutil.iter_modules(spec.submodule_search_locations, package + "."):
            module = importlib.util.find_spec(found.name)
            if module is not None and module.origin is not None:
                modules[found.name] = module.origin
    return modules


def core_kind() -> Literal["compiled", "interpreted"]:
    """Returns how the core runs.

    Raises:
        WSBrokerError: some of its modules are compiled and some are not; no good build looks like that.
    Cost: reads the folders of three packages, about a millisecond.
    """
    modules = core_modules()
    compiled = {name for name, file in modules.items() if file.endswith(tuple(EXTENSION_SUFFIXES))}
    if not compiled:
        return "interpreted"
    if len(compiled) == len(modules):
        return "compiled"
    stale = sorted(modules[name] for name in compiled)
    raise WSBrokerError(
        f"a stale build: {len(compiled)} of the {len(modules)} modules of the core are compiled, such as {stale[0]}. "
        "Install wsbroker again; in a checkout, delete the .so or .pyd files under wsbroker/"
    )


def why_interpreted() -> str:
    """Returns why the build left the core interpreted, for a person; "" if it did not, or in a checkout."""
    try:
        return (Path(__file__).parent / "interpreted.txt").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
