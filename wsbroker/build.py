"""The version of this build, and whether its core is compiled.

May import: `errors`, light standard library. Must never: import a compiled module, because any interpreter may import
this one.
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
    """Returns the file of every module of the compiled packages, by the module's name, without loading any module."""
    modules: dict[str, str] = {}
    for package in COMPILED_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise WSBrokerError(f"{package} is missing: this installation is damaged, install wsbroker again")
        for module_info in pkgutil.iter_modules(spec.submodule_search_locations, package + "."):
            module = importlib.util.find_spec(module_info.name)
            if module is not None and module.origin is not None:
                modules[module_info.name] = module.origin
    return modules


def core_kind() -> Literal["compiled", "interpreted"]:
    """Returns whether the core runs compiled or interpreted.

    Raises:
        WSBrokerError: only some modules of the core are compiled: the build is stale.
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
    """Returns the reason why the core was not compiled when this package was built; "" if it was, or in a checkout."""
    try:
        return (Path(__file__).parent / "interpreted.txt").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
